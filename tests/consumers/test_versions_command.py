"""`freshet versions`: each command does what it says, and its JSON has the form that others build on."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consumers.cli import main
from consumers.control import worker_of
from state.versions import Registry, Version
from tests.consumers.worked import append, everything, learn, lines, made, spoil

ROOT = Path(__file__).parents[2]


class Freshet:
    """The command line with a home; answers as JSON."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home, self._capsys = home, capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        ended = main(["versions", *words, "--home", str(self.home)])
        self.said = self._capsys.readouterr()
        assert ended == code, self.said
        return self.said.out if code == 0 else self.said.out + self.said.err

    def json(self, *words: str, code: int = 0) -> Any:
        self(*words, "--json", code=code)
        return json.loads(self.said.out)


@pytest.fixture
def freshet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Freshet:
    return Freshet(tmp_path / "home", capsys)


@pytest.fixture
def taught(freshet: Freshet, tmp_path: Path) -> Version:
    """A version that learned 270 events, and refused 22 of 300 records."""
    version = made(freshet.home)
    learn(version, append(tmp_path / "a.jsonl", lines(300, seed=1)))
    return version


def test_created_version_has_the_settings_that_were_given(freshet: Freshet) -> None:
    freshet("create", "mine", "--learner", "popularity", "--set", "half_life=50", "--set=users_live_s=30d")
    freshet("create", "other", "--learner", "popularity", "--set", "items_live_s=3600", "--set", "seed=7")
    spec = freshet.json("show", "mine")["spec"]
    assert (spec["learner"], spec["options"]["half_life"], spec["users_live_s"]) == (
        "popularity",
        50,
        30 * 86_400,
    )
    spec = freshet.json("show", "other")["spec"]
    assert (spec["items_live_s"], spec["seed"], spec["admit_users"]) == (3600, 7, 1)


def test_default_learner_is_softmax(freshet: Freshet) -> None:
    freshet("create", "mine")
    assert freshet.json("show", "mine")["learner"] == "softmax"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "half_live=3"], 'Did you mean "half_life"'),
        (["--set", "half_life"], "must be followed by key=value"),
        (["--set", "half_life=much"], 'must be a number, got "much"'),
        (["--set", "users_live_s=30q"], "users_live_s must be a number"),
        (["--set", "seed=-1"], "seed"),
        (["--learner", "popularty"], 'Did you mean "popularity"'),
    ],
)
def test_setting_that_cannot_be_makes_no_version(freshet: Freshet, words: list[str], message: str) -> None:
    learner = [] if "--learner" in words else ["--learner", "popularity"]
    assert message in freshet("create", "mine", *learner, *words, code=2)
    assert freshet.json("list") == []


def test_name_that_is_taken_is_refused(freshet: Freshet) -> None:
    freshet("create", "mine", "--learner", "popularity")
    assert "already" in freshet("create", "mine", code=1)


def test_list_shows_each_version_and_names_a_damaged_one(freshet: Freshet, taught: Version) -> None:
    assert "no versions yet" in Freshet(freshet.home / "empty", freshet._capsys)("list")
    made(freshet.home, name="new")
    broken = made(freshet.home, name="broken")
    broken.open().close()
    (broken.store_path / "CURRENT").write_text("nothing\n")
    rows = {row["name"]: row for row in freshet.json("list")}
    assert {name: row["state"] for name, row in rows.items()} == {
        "broken": "damaged",
        "mine": "ready",
        "new": "new",
    }
    assert rows["mine"]["events"] == 270 and rows["mine"]["watermark"] == "2023-11-15T03:11:20Z"
    assert rows["mine"]["bytes"] > 0 and "warning: broken:" in freshet.said.err
    assert "popularity" in freshet("list")


def test_show_has_the_form_that_others_build_on(freshet: Freshet, taught: Version, tmp_path: Path) -> None:
    shown = freshet.json("show", "mine")
    keys = everything(Path(shown["store"]))
    assert (shown["name"], shown["state"], shown["learner"]) == ("mine", "ready", "popularity")
    assert shown["offsets"] == {str(tmp_path / "a.jsonl"): 300}
    assert shown["rows"] == {
        "users": sum(key.startswith(b"u") for key in keys),
        "items": sum(key.startswith(b"i") for key in keys),
    }
    assert (shown["events"], shown["learned"], shown["dead_letters"]) == (270, 270, 22)
    assert shown["prequential"]["overall"]["events"] > 0
    assert shown["worker"] is None and shown["snapshots"] == []
    for word in ("mine", "ready", "0 records behind", "a.jsonl = 300", "hit rate at 10"):
        assert word in freshet("show", "mine")


def test_show_of_a_new_version_has_the_same_keys(freshet: Freshet, taught: Version) -> None:
    made(freshet.home, name="new")
    new = freshet.json("show", "new")
    assert new.keys() == freshet.json("show", "mine").keys()
    assert (new["state"], new["offsets"], new["rows"]) == ("new", {}, {"users": 0, "items": 0})


def test_unknown_version_is_an_error(freshet: Freshet, taught: Version) -> None:
    for command in ("show", "delete", "verify", "rebuild", "snapshot", "restore"):
        assert 'Did you mean "mine"?' in freshet(command, "mime", code=1)


def test_delete_without_a_terminal_wants_yes(
    freshet: Freshet, taught: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert "--yes" in freshet("delete", "mine", code=2)
    assert Registry(freshet.home).names() == ["mine"]
    freshet("delete", "mine", "--yes")
    assert Registry(freshet.home).names() == []


@pytest.mark.parametrize(("answer", "left"), [("y", []), ("n", ["mine"]), ("", ["mine"])])
def test_delete_asks_on_a_terminal(
    freshet: Freshet, taught: Version, monkeypatch: pytest.MonkeyPatch, answer: str, left: list[str]
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(ours, "w") as person, os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        person.write(answer + "\n")
        person.flush()
        freshet("delete", "mine", code=1 if left else 0)
    assert "Delete mine" in freshet.said.err
    assert Registry(freshet.home).names() == left


def test_verify_and_rebuild_of_a_whole_version(freshet: Freshet, taught: Version) -> None:
    report = freshet.json("verify", "mine")
    assert report["problems"] == [] and report["problem_count"] == 0 and report["events"] == 270
    shown = freshet.json("show", "mine")["rows"]
    assert report["rows"] == shown
    assert f"{shown['users']} users" in freshet("verify", "mine")
    report = freshet.json("rebuild", "mine")
    assert (report["equal"], report["replaced"], report["records"], report["differences"]) == (
        True,
        False,
        300,
        [],
    )
    assert "all are equal to the byte" in freshet("rebuild", "mine")


def test_snapshot_is_kept_checked_and_restored(freshet: Freshet, taught: Version, tmp_path: Path) -> None:
    kept = everything(taught.store_path)
    assert freshet.json("snapshot", "mine") == {"version": "mine", "snapshot": 270, "snapshots": [270]}
    learn(taught, append(tmp_path / "a.jsonl", lines(100, seed=1, start=300)))
    assert "snapshot 360 is kept" in freshet("snapshot", "mine")
    assert freshet.json("show", "mine")["snapshots"] == [270, 360]
    key = spoil(taught.snapshot_path(270), b"u")
    report = freshet.json("verify", "mine", "--snapshot", "270", code=1)
    assert report["problems"][0]["key"] == key.decode()
    spoil(taught.snapshot_path(270), b"u")
    freshet("verify", "mine", "--snapshot", "270")
    assert "360" in freshet("restore", "mine")
    assert "270" in freshet("restore", "mine", "--snapshot", "270")
    assert everything(taught.store_path) == kept
    assert freshet.json("rebuild", "mine", "--from-snapshot", "270")["records"] == 0
    assert "Snapshots: 270, 360" in freshet("restore", "mine", "--snapshot", "5", code=1)
    assert '"latest"' in freshet("restore", "mine", "--snapshot", "new", code=2)


def test_what_was_never_learned_or_kept_is_an_error(freshet: Freshet) -> None:
    made(freshet.home)
    assert "nothing to keep" in freshet("snapshot", "mine", code=1)
    assert "no snapshots" in freshet("restore", "mine", code=1)
    assert "no store here yet" in freshet("verify", "mine", code=1)


def test_commands_reach_the_version_while_its_worker_runs(
    freshet: Freshet, taught: Version, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FRESHET_")}
    code = "import sys; from consumers.cli import main; sys.exit(main(sys.argv[1:]))"
    words = ["work", "mine", "--from", str(tmp_path / "a.jsonl"), "--follow", "--home", str(freshet.home)]
    words += ["--set", "worker.metrics_port=none"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], env={**environment, "PYTHONPATH": str(ROOT)}
    ) as worker:
        try:
            while worker_of(taught) is None:
                assert worker.poll() is None
            shown = freshet.json("show", "mine")
            assert (shown["state"], shown["worker"], shown["events"]) == ("ready", worker.pid, 270)
            assert freshet.json("snapshot", "mine")["snapshot"] == 270
            freshet("verify", "mine")
            freshet("rebuild", "mine")
            assert "another process holds" in freshet("restore", "mine", code=1)
            assert "another process holds" in freshet("delete", "mine", "--yes", code=1)
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(120) == 0
    assert freshet.json("show", "mine")["worker"] is None
