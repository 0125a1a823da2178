"""`freshet versions fork`, `promote`, `rollback`, `retire`, `log`, `delete`, and the states of versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.ledger import Ledger
from state.release_file import Released
from state.releases import Releases
from state.versions import Registry, Version
from tests.consumers.commandline import Freshet
from tests.consumers.test_control import running
from tests.consumers.worked import append, everything, learn, lines, made

SMALL = {"dimension": 4, "negatives": 3, "recent": 100, "history": 5, "context": 2, "start": 2}


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str]) -> Freshet:
    return Freshet(bare / "home", capsys)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return append(tmp_path / "a.jsonl", lines(50, seed=1))


@pytest.fixture
def taught(freshet: Freshet, path: Path) -> Version:
    version = made(freshet.home, name="a")
    learn(version, path)
    return version


def state(freshet: Freshet, name: str, *words: str) -> str:
    return str(freshet.json("versions", "show", name, *words)["state"])


def test_fork_through_a_running_worker_begins_with_what_it_had_learned(freshet: Freshet, path: Path) -> None:
    version = made(freshet.home, name="a")
    with running(version, path):
        told = freshet.json("versions", "fork", "a", "b", "--set", "evaluation_rate=0.5", "--why", "try it")
        assert (told["version"], told["from"], told["event"]) == ("b", "a", 45)
        assert told["changed"] == "evaluation_rate 0.2 → 0.5" and told["paused_s"] < 30
        other = Registry(freshet.home).get("b")
        with version.reading() as store:
            assert Ledger.read(store).number == 45  # the worker committed before
    learn(other, append(path, lines(100, seed=1, start=50)))
    freshet("versions", "verify", "b")
    shown = freshet.json("versions", "show", "b")
    assert shown["events"] == 135 and shown["lineage"][0]["source"] == "a"
    assert "fork of a at event 45" in freshet("versions", "show", "b")
    report = freshet.json("versions", "rebuild", "b")
    assert (report["equal"], report["records"]) == (True, 100)
    assert freshet.json("versions", "log", "b")[-1]["why"] == "try it"


def test_fork_while_learning_goes_on_as_if_it_had_learned_all_itself(freshet: Freshet, path: Path) -> None:
    version, plain = made(freshet.home, "softmax", "a", **SMALL), made(freshet.home, "softmax", "c", **SMALL)
    append(path, lines(150, seed=1, start=50))
    with running(version, path, events=100) as reached:
        assert reached.wait(60)
        freshet("versions", "fork", "a", "b")
        append(path, lines(100, seed=1, start=200))
    for each in (version, Registry(freshet.home).get("b"), plain):
        learn(each, path)
    whole = everything(plain.store_path)
    assert everything(version.store_path) == whole
    forked = everything(Registry(freshet.home).get("b").store_path)
    del forked[b"mlineage"]
    assert forked == whole


def test_fork_without_a_worker_is_made_here_and_its_source_stays_as_it_was(
    freshet: Freshet, taught: Version
) -> None:
    before = everything(taught.store_path)
    assert "a as it was after event 45" in freshet("versions", "fork", "a", "b")
    assert everything(taught.store_path) == before


def test_fork_that_cannot_be_is_refused_and_leaves_nothing(freshet: Freshet, taught: Version) -> None:
    made(freshet.home, name="new")
    assert "cannot carry this: half_life" in freshet(
        "versions", "fork", "a", "b", "--set", "half_life=9", code=2
    )
    assert "already" in freshet("versions", "fork", "a", "new", code=1)
    assert "cannot name a version" in freshet("versions", "fork", "a", "../b", code=1)
    assert "learned nothing" in freshet("versions", "fork", "new", "b", code=1)
    assert 'Did you mean "a"?' in freshet("versions", "fork", "aa", "b", code=1)
    assert {p.name for p in (freshet.home / "versions").iterdir()} == {"a", "new"}


def test_rebuild_of_a_fork_whose_beginning_is_gone_says_so(freshet: Freshet, taught: Version) -> None:
    freshet("versions", "fork", "a", "b")
    snapshots = freshet.home / "versions" / "b" / "snapshots"
    (snapshots / "000000000045").rename(snapshots / "gone")
    assert 'as a fork of "a" after event 45' in freshet("versions", "rebuild", "b", code=1)


def test_states_of_a_version_from_new_to_retired(freshet: Freshet, path: Path) -> None:
    version = made(freshet.home, name="a")
    assert state(freshet, "a") == "new"
    learn(version, path)
    append(path, lines(100, seed=1, start=50))
    bound = ("--set", "versions.ready_behind=99")
    assert state(freshet, "a", *bound) == "catching up"
    assert freshet.json("versions", "show", "a")["behind"] == 100
    assert "still catching up: 100 records behind" in freshet("versions", "promote", "a", *bound, code=1)
    assert state(freshet, "a") == "ready"
    freshet("versions", "promote", "a")
    assert state(freshet, "a", *bound) == "serving"
    freshet("versions", "fork", "a", "b")
    freshet("versions", "promote", "b")
    freshet("versions", "retire", "a")
    assert state(freshet, "a") == "retired"
    rows = {row["name"]: row["state"] for row in freshet.json("versions", "list")}
    assert rows == {"a": "retired", "b": "serving"}


def test_version_whose_log_cannot_be_asked_is_ready_and_says_so(
    freshet: Freshet, taught: Version, path: Path
) -> None:
    path.unlink()
    assert state(freshet, "a") == "ready"
    assert "does not tell how far it is behind" in freshet("versions", "show", "a")


def test_promote_rollback_and_retire_stand_in_the_log_with_their_reasons(
    freshet: Freshet, taught: Version
) -> None:
    made(freshet.home, name="new")
    assert "learned nothing yet" in freshet("versions", "promote", "new", code=1)
    freshet("versions", "promote", "a", "--why", "the first")
    told = freshet.json("versions", "promote", "new", "--why", "brave", "--force", "no time")
    assert told == {"champion": "new", "replaced": ["a"]}
    assert freshet.json("versions", "rollback") == {"champion": "a", "replaced": []}
    freshet("versions", "retire", "new", "--why", "bad")
    log = freshet.json("versions", "log")
    assert [(e["what"], e["version"], e["why"]) for e in log] == [
        ("promote", "a", "the first"),
        ("promote", "new", "brave; forced: no time"),
        ("rollback", "a", ""),
        ("retire", "new", "bad"),
    ]
    assert [e["what"] for e in freshet.json("versions", "log", "new", "-n", "1")] == ["retire"]
    assert "forced: no time" in freshet("versions", "log")
    assert "none to go back to" in freshet("versions", "rollback", code=1)
    assert "no champion" in freshet("versions", "rollback", "--to-none")


def test_log_of_a_home_without_decisions_says_so(freshet: Freshet) -> None:
    assert "nothing was decided" in freshet("versions", "log")


def test_version_with_a_damaged_spec_is_listed_and_can_be_deleted(freshet: Freshet, taught: Version) -> None:
    broken = made(freshet.home, name="broken")
    (broken.path / "spec.toml").write_text("learner = 3")
    rows = {row["name"]: row for row in freshet.json("versions", "list")}
    assert (rows["broken"]["state"], rows["a"]["state"]) == ("damaged", "ready")
    assert "warning: broken:" in freshet.err
    assert "broken" in freshet("versions", "list")
    assert [row["version"] for row in freshet.json("lag")] == ["a"]
    freshet("versions", "delete", "broken", "--yes")
    assert Registry(freshet.home).names() == ["a"]


def test_version_that_serves_is_kept_and_a_deleted_one_is_forgotten(
    freshet: Freshet, taught: Version
) -> None:
    freshet("versions", "fork", "a", "b")
    freshet("versions", "promote", "a")
    freshet("versions", "promote", "b")
    assert "is the champion and cannot be deleted" in freshet("versions", "delete", "b", "--yes", code=1)
    freshet("versions", "delete", "a", "--yes", "--why", "old")
    released: Released = Releases(freshet.home).read()
    assert released.replaced == () and released.history[-1].why == "old"
