"""`freshet versions compare`: on the same events, since the fork; and how to get events in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.versions import Registry
from tests.consumers.commandline import Freshet
from tests.consumers.worked import append, learn, lines, made


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str]) -> Freshet:
    return Freshet(bare / "home", capsys)


def test_versions_of_one_seed_are_compared_on_the_events_that_both_evaluated(
    freshet: Freshet, tmp_path: Path
) -> None:
    a = made(freshet.home, name="a", evaluation_rate=0.5)
    b = made(freshet.home, name="b", evaluation_rate=0.25, half_life=20)
    path = append(tmp_path / "a.jsonl", lines(400, seed=1))
    learn(a, path)
    learn(b, append(path, lines(100, seed=1, start=400)))
    told = freshet.json("versions", "compare", "a", "b")
    overall = told["segments"]["overall"]["hr@10"]
    assert told["events"] == overall["events"] == pytest.approx(90, abs=30)
    assert overall["low"] <= overall["difference"] <= overall["high"]
    parts = told["segments"]
    assert parts["new_user"]["hr@10"]["events"] + parts["returning_user"]["hr@10"]["events"] == told["events"]
    assert told["since"] == {}
    assert "of returning users" in freshet("versions", "compare", "a", "b", "--measure", "ndcg@20")
    same = freshet.json("versions", "compare", "a", "a")["segments"]["overall"]["mrr@20"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)


def test_fork_is_compared_on_what_came_after_it_only(freshet: Freshet, tmp_path: Path) -> None:
    a = made(freshet.home, name="a", evaluation_rate=0.5)
    path = append(tmp_path / "a.jsonl", lines(200, seed=1))
    learn(a, path)
    freshet("versions", "fork", "a", "b")
    assert "no evaluated event in common" in freshet("versions", "compare", "a", "b", code=1)
    append(path, lines(200, seed=1, start=200))
    learn(a, path)
    learn(Registry(freshet.home).get("b"), path)
    told = freshet.json("versions", "compare", "b", "a")
    assert told["since"] == {str(path): 200}
    assert told["events"] == pytest.approx(90, abs=25)
    assert told["segments"]["overall"]["hr@20"]["difference"] == 0


def test_versions_without_events_in_common_say_how_to_get_them(freshet: Freshet, tmp_path: Path) -> None:
    path = append(tmp_path / "a.jsonl", lines(200, seed=1))
    for name, given in (("a", {}), ("seed", {"seed": 2}), ("other", {}), ("blind", {"evaluation_rate": 0.0})):
        version = made(freshet.home, name=name, **given)
        learn(version, append(tmp_path / "b.jsonl", lines(200, seed=2)) if name == "other" else path)
    made(freshet.home, name="new")
    # Two seeds may draw the same events by chance; what each drew is a fifth.
    assert "Let both learn from the same one" in freshet("versions", "compare", "a", "other", code=1)
    assert "evaluation_rate = 0" in freshet("versions", "compare", "a", "blind", code=1)
    assert "learned nothing yet" in freshet("versions", "compare", "a", "new", code=1)
    assert 0 < freshet.json("versions", "compare", "a", "seed")["events"] < 20
