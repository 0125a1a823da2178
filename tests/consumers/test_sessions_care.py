from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event as Flag

import pytest

from consumers.control import Control
from consumers.control_commands import Holder
from consumers.eventlog.files import FilesLog
from consumers.pace import Pace
from consumers.sessions_care import shown_sequences
from state.reader import Reader
from state.sequences_directory import sequences_of
from state.versions import Registry, Version
from tests.consumers.commandline import Freshet
from tests.consumers.sequenced import follow, softmax, worker_on
from tests.consumers.worked import RULES, append, everything, learn, lines


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Path]:
    """A version and its sequences, after 270 events each."""
    home = tmp_path_factory.mktemp("care")
    path = home / "events.jsonl"
    version = softmax(home / "home", path, n=300)
    follow(version, path)
    return version, path


def held(version: Version) -> dict[bytes, bytes]:
    return everything(sequences_of(version).store_path)


def freshet_of(version: Version, capsys: pytest.CaptureFixture[str]) -> Freshet:
    return Freshet(version.home, capsys)


def in_all(path: Path) -> int:
    """Events of a file of which one line in ten is none."""
    return 9 * len(path.read_text().splitlines()) // 10


def events_of(version: Version) -> int | None:
    shown = shown_sequences(version)
    return shown["events"] if shown is not None else None


def test_fork_goes_on_from_the_sequences_of_its_source(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = followed
    freshet_of(version, capsys)("versions", "fork", version.name, "other")
    other = Registry(version.home).get("other")
    assert held(other) == held(version)
    before = events_of(version)
    follow(other, append(path, lines(50, seed=5)))
    assert (events_of(other), events_of(version)) == (in_all(path), before)


def test_restore_brings_back_what_was_kept_beside_the_snapshot(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = followed
    before = held(version)
    freshet_of(version, capsys)("versions", "snapshot", version.name)
    append(path, lines(100, seed=2))
    learn(version, path)
    follow(version, path)
    assert held(version) != before
    freshet_of(version, capsys)("versions", "restore", version.name)
    assert held(version) == before
    with sequences_of(version).open():
        pass
    assert held(version) == before


def test_sequences_of_a_store_that_was_replaced_begin_anew(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = followed
    (version.path / "identity").write_text("another\n")
    assert events_of(version) is None
    follow(version, path)
    assert events_of(version) == in_all(path)


def test_versions_show_says_where_the_gate_stands(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, _ = followed
    shown = freshet_of(version, capsys).json("versions", "show", version.name)["sequences"]
    assert [one["history"] for one in shown["gate"]] == [1, 2, 3, 5, 9, 17, 33]
    assert shown["gate"][0]["reason"] == "shut: 0 of 200 events compared"
    assert "gate from 33 items" in freshet_of(version, capsys)("versions", "show", version.name)


def test_version_whose_sequences_are_followed_is_neither_deleted_nor_restored(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, _ = followed
    with sequences_of(version).open():
        for words in (("delete", version.name, "--yes"), ("restore", version.name)):
            said = freshet_of(version, capsys)("versions", *words, code=1)
            assert "another process holds this store" in said


def test_forgotten_user_is_in_no_row_and_in_no_remembered_example(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = followed
    assert b"uu3" in held(version) and any(key[:1] == b"x" for key in held(version))
    freshet_of(version, capsys)("forget", "user", "u3", "--purge")
    after = held(version)
    assert b"uu3" not in after and not any(key[:1] == b"x" for key in after)
    for file in sequences_of(version).store_path.iterdir():
        assert b"uu3" not in file.read_bytes().replace(b"u30", b"")
    follow(version, append(path, lines(20, seed=9)))
    freshet_of(version, capsys)("forget", "item", "i3")
    follow(version, append(path, lines(20, seed=9)))
    names = {value for key, value in held(version).items() if key[:1] == b"n"}
    assert b"i3" not in names and b"i4" in names


def test_running_worker_forgets_and_makes_checkpoints_between_two_commits(
    followed: tuple[Version, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = followed
    directory, stop = sequences_of(version), Flag()
    with ExitStack() as held_open:
        store = held_open.enter_context(directory.open())
        log = held_open.enter_context(closing(FilesLog([str(path)], RULES, follow=True)))
        reader = held_open.enter_context(closing(Reader(version)))
        pool = held_open.enter_context(ThreadPoolExecutor(1))
        held_open.callback(stop.set)  # before the pool waits for its thread
        worker = worker_on(version, store, log, reader=reader, pace=Pace(1e9, 1e9))
        control = held_open.enter_context(Control(Holder(directory, store, lambda: worker.sequences)))
        worker._control = control
        running = pool.submit(worker.run, stop)
        freshet_of(version, capsys)("versions", "fork", version.name, "third")
        freshet_of(version, capsys)("forget", "user", "u1")
        stop.set()
        running.result(60.0)
    third = Registry(version.home).get("third")
    assert events_of(third) == events_of(version) and events_of(third) is not None
    assert b"uu1" not in held(version) and b"uu1" not in held(third)
