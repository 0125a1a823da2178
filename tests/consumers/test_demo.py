"""The demonstration, run for real on its embedded default."""

from __future__ import annotations

import io
import json
from pathlib import Path
from threading import Event as Flag

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from consumers.cli import main
from consumers.demo import Demo
from consumers.metrics import WorkerMetrics
from consumers.screen import line, screen
from consumers.settings import Settings
from state.versions import Registry


def demo(home: Path, more: int) -> Demo:
    return Demo(Settings(home=home), WorkerMetrics(CollectorRegistry()), seed=1, rate=None, more=more)


def run(shown: Demo) -> None:
    try:
        shown.run(Flag(), lambda: None)
    finally:
        shown.close()


def test_demo_beats_popularity_and_stays_below_the_best_possible(tmp_path: Path) -> None:
    shown = demo(tmp_path, 20_000)
    run(shown)
    picture = shown.picture()
    rates = {name: of["all"] for name, of in picture.hit_rate.items()}
    assert picture.events == 20_000
    assert rates["popularity"] < 0.5 * rates["softmax"] < 0.5 * picture.best
    assert picture.freshness_p99_s > 0
    assert picture.new_users > 100
    assert len(picture.recommendations) == 5
    assert any("because of item-" in suggestion.why for suggestion in picture.recommendations)


def test_demo_goes_on_where_it_was_when_started_again(tmp_path: Path) -> None:
    run(demo(tmp_path / "twice", 1500))
    run(demo(tmp_path / "twice", 1500))
    run(demo(tmp_path / "once", 3000))
    contents = []
    for name in ("twice", "once"):
        version = Registry(tmp_path / name).get("demo")
        with version.reading() as store:
            contents.append(dict(store.scan(b"")))
    assert contents[0] == contents[1]


def test_demo_screen_shows_figures_and_recommendations(tmp_path: Path) -> None:
    shown = demo(tmp_path, 2000)
    run(shown)
    picture = shown.picture()
    console = Console(width=100, record=True, file=io.StringIO(), markup=False)
    console.print(screen(picture, 3.0, "off", "home"))
    text = console.export_text()
    assert "2,000 events" in text and "best possible" in text and picture.recommendations[0].item in text
    assert "2,000 events" in line(picture)


def test_demo_command_ends_by_itself_and_prints_a_summary(
    tmp_path: Path, bare: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prometheus_client.REGISTRY", CollectorRegistry())  # others have a worker, too
    assert (
        main(["--home", str(tmp_path), "demo", "--events", "1500", "--rate", "0", "--no-server", "--json"])
        == 0
    )
    summary = json.loads(capsys.readouterr().out)
    assert summary["events"] == 1500
    assert set(summary["hit_rate_at_10"]) == {"softmax", "popularity", "best_possible"}


@pytest.mark.parametrize("arguments", [["--events", "0"], ["--rate", "-1"]])
def test_demo_refuses_impossible_numbers(
    arguments: list[str], tmp_path: Path, bare: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--home", str(tmp_path), "demo", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err
