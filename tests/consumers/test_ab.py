"""The A/B demonstration, run for real: a server of its own, two workers, the joiner, simulated users."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from consumers.ab_picture import save_picture
from consumers.ab_progress import Look, Progress, Truth
from consumers.ab_screen import bar, line, screen
from consumers.ab_setting import arms_of, trial_of
from consumers.cli import main
from consumers.eventlog.segments import EVENTS, Segments
from state.experiments import Experiments, Phase, Trial
from state.releases import Releases
from streaming.experiments import Design, Experiment, summary


def test_demo_serves_users_and_concludes_by_itself(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = bare / "home"
    monkeypatch.setattr("consumers.ab.WARM_UP", 2_000)
    words = ["demo", "--ab", "--events", "70", "--json", "--home", str(home), "--set", "serve.port=0"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["experiment"], found["challenger"], found["events"]) == ("ab-1", "worse", 70)
    assert sum(arm["lists"] for arm in found["arms"].values()) == 70
    assert sum(found["records"][name] for name in found["records"] if name.endswith("exposures")) == 70
    assert found["users"] == sum(arm["users"] for arm in found["arms"].values())
    trial = Experiments(home).get("ab-1")
    assert (trial.state, trial.winner) == ("concluded", found["winner"])
    assert Releases(home).read().route is None
    assert main(["--home", str(home), "demo", "--ab", "--seed", "2"]) == 1
    assert "Give it the seed of then" in capsys.readouterr().err


def test_demo_keeps_simulated_users_out_of_a_log_of_others(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = bare / "home"
    Segments(home / EVENTS).append([b'{"user": "ann", "item": "tea", "ts": 1700000000000000}'])
    assert main(["--home", str(home), "demo", "--ab", "--events", "5"]) == 2
    assert "simulated users must not be mixed with others" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ab", "--no-server"], "leave --no-server out"),
        (["--plot", "x.png"], "--plot belongs to --ab"),
        (["--ab", "--plot", "x.txt"], "--plot must name a file"),
    ],
)
def test_demo_refuses_options_that_do_not_go_together(
    words: list[str], said: str, bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(bare / "home"), "demo", *words]) == 2
    assert said in capsys.readouterr().err


def shown() -> tuple[Progress, Trial]:
    """A run in which the challenger was shown to be worse."""
    shares = dict.fromkeys(arms_of("worse"), 0.5)
    trial = trial_of("worse", ["ab-4", "mine"])
    found: dict[str, Any] = {**summary(Experiment(Design(**trial.design), shares)), "records": {}}
    challenger = found["challengers"][trial.arms[1]]
    challenger |= {"verdict": "worse", "decided_at_users": 200}
    challenger["guardrail"] |= {"state": "acted", "at_users": 300}
    out = dict(zip(trial.arms, (1.0, 0.0), strict=True))
    progress = Progress(900, 900, truth={arm: Truth(450, 0.3) for arm in trial.arms}, verdict=found)
    progress.looks += [
        Look(0, None, None, None, 0.5, "undecided", "watching"),
        Look(100, -0.3, None, 0.9, 0.5, "undecided", "watching"),
        Look(200, -0.4, -0.6, -0.2, 0.5, "worse", "watching"),
        Look(300, -0.4, -0.5, -0.3, 0.0, "worse", "acted"),
    ]
    ended = (Phase(1, shares, ()), Phase(2, out, ()))
    return progress, Trial(trial.name, shares, trial.metric, trial.design, "s", 1, 1, phases=ended)


def test_screen_shows_the_interval_narrow_and_the_guardrail_act() -> None:
    progress, trial = shown()
    console = Console(width=110, record=True, file=io.StringIO(), markup=False)
    console.print(screen(progress, trial, "worse", 3.0, "http://127.0.0.1:1", "home"))
    text = console.export_text()
    assert trial.name == "ab-5" and "ab-5: a challenger that is truly worse" in text
    assert "-40.0% (-50% … -30%)" in text and "acted" in text
    widths = [bar(look).plain.count("─") for look in progress.looks]
    assert widths[0] == 0 and widths[1] > widths[2] > widths[3]
    assert "guardrail acted   share 0%" in line(progress, trial)


def test_picture_is_written_the_same_again(tmp_path: Path) -> None:
    progress, trial = shown()
    for name in ("one.svg", "two.svg"):
        save_picture(progress, trial, "worse", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert "the guardrail acts" in (tmp_path / "one.svg").read_text()


def test_picture_of_a_run_in_which_nobody_entered_is_empty(tmp_path: Path) -> None:
    progress, trial = shown()
    progress.looks = progress.looks[:1]
    save_picture(progress, trial, "worse", tmp_path / "none.svg")
    assert "lift of the challenger" in (tmp_path / "none.svg").read_text()
