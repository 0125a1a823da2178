"""A running worker takes commands from its own user, at a commit boundary, and never waits for a client."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pytest

from consumers import control as control_module
from consumers.control import Control, ask, worker_of
from consumers.control_commands import COMMANDS, Holder
from consumers.embeddings import Totals
from consumers.eventlog.files import FilesLog
from state.spec import new_spec
from state.versions import Registry, Version
from streaming.errors import StoreFullError, StoreLockedError, UsageError, VersionError
from streaming.rules import EventRules
from tests.consumers.worked import append, everything, learn, lines, made, worker_on


@contextmanager
def running(version: Version, path: Path, events: int = 0) -> Iterator[Flag]:
    """A worker in a thread that follows a file; the flag is set once it has learned that many events."""
    stop, reached = Flag(), Flag()

    def observe(totals: Totals) -> None:
        if totals.events >= events:
            reached.set()

    with version.open() as store:
        log = FilesLog([str(path)], EventRules(), follow=True)
        control = Control(Holder(version, store, lambda: worker.learned))
        worker = worker_on(version, store, log, commit=10**9, control=control, observe=observe)
        thread = Thread(target=worker.run, args=(stop,))
        with control:
            thread.start()
            try:
                yield reached
            finally:
                stop.set()
                thread.join()
        log.close()


@pytest.fixture
def version(tmp_path: Path) -> Version:
    return made(tmp_path / "home")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return append(tmp_path / "a.jsonl", lines(50, seed=1))


def note(version: Version) -> dict[str, object]:
    told: dict[str, object] = json.loads((version.path / "worker.json").read_text())
    return told


def test_snapshot_through_a_running_worker_holds_what_it_had_learned(
    version: Version, path: Path, tmp_path: Path
) -> None:
    with running(version, path, events=270) as reached:
        assert worker_of(version) == os.getpid()
        first = ask(version, "snapshot", keep=5)
        assert first["snapshot"] == 45  # of 50 records one in ten is no event
        append(path, lines(250, seed=1, start=50))
        assert reached.wait(60)
        assert ask(version, "snapshot", keep=5) == {"snapshot": 270, "snapshots": [45, 270]}
    assert worker_of(version) is None and not (version.path / "worker.json").exists()
    plain = made(tmp_path / "other")
    learn(plain, path)
    learned = everything(version.store_path)
    assert learned == everything(plain.store_path)
    assert everything(version.snapshot_path(270)) == learned


def test_command_is_done_here_when_no_worker_runs(version: Version, path: Path) -> None:
    learn(version, path)
    assert ask(version, "snapshot", keep=5) == {"snapshot": 45, "snapshots": [45]}


def test_command_fails_when_another_process_holds_the_store_and_does_not_listen(version: Version) -> None:
    with version.open(), pytest.raises(StoreLockedError):
        ask(version, "snapshot", keep=5)


def test_errors_travel_with_their_kind_and_the_worker_goes_on(
    version: Version, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(holder: Holder, arguments: object) -> dict[str, object]:
        raise StoreFullError("no space is left")

    monkeypatch.setitem(COMMANDS, "fill", full)
    with running(version, path):
        with pytest.raises(StoreFullError, match="no space is left"):
            ask(version, "fill")
        with pytest.raises(UsageError, match=r'no command "snapshots". Did you mean "snapshot"'):
            ask(version, "snapshots")
        with pytest.raises(UsageError, match="cannot have these arguments"):
            ask(version, "snapshot", keep="many")
        assert ask(version, "snapshot", keep=5)["snapshot"] == 45


def test_client_that_does_not_ask_holds_nobody_up(version: Version, path: Path) -> None:
    with running(version, path), ExitStack() as clients:
        for sent in (b"", b'{"command": "snap', b"x" * 200_000, b"[1, 2]\n", b"{}\n", b"\xff\n"):
            idle = clients.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(note(version)["socket"]))
            idle.settimeout(60)
            try:
                idle.sendall(sent)
            except (BrokenPipeError, ConnectionResetError):
                assert len(sent) > 100_000  # the worker hung up
            if sent.endswith(b"\n"):
                assert json.loads(clients.enter_context(idle.makefile()).readline())["kind"] == "UsageError"
        assert ask(version, "snapshot", keep=5)["snapshot"] == 45


def test_client_learns_that_the_worker_ended_before_it_answered(version: Version) -> None:
    with version.open() as store:
        control = Control(Holder(version, store, lambda: pytest.fail("not asked for")))
        failures: list[Exception] = []

        def client() -> None:
            try:
                ask(version, "snapshot", keep=5)
            except VersionError as error:
                failures.append(error)

        thread = Thread(target=client)
        thread.start()
        while not control.waiting():
            pass
        control.close()
        thread.join()
    assert "ended before it answered" in str(failures[0])


def test_socket_lies_in_a_directory_that_only_its_user_may_enter(version: Version) -> None:
    with version.open() as store, Control(Holder(version, store, lambda: pytest.fail("not asked for"))):
        address = Path(str(note(version)["socket"]))
        assert address.parent.stat().st_mode & 0o777 == 0o700
        assert address.parent.stat().st_uid == os.getuid()
    assert not address.parent.exists()


def test_socket_path_stays_short_when_the_directory_for_temporary_files_is_deep(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with version.open() as store, Control(Holder(version, store, lambda: pytest.fail("not asked for"))):
        assert worker_of(version) == os.getpid()
        assert len(str(note(version)["socket"])) <= 100
    assert not list(deep.iterdir())


def test_note_of_a_killed_worker_is_recognised_and_replaced(version: Version, path: Path) -> None:
    learn(version, path)
    directory = Path(tempfile.mkdtemp(prefix="freshet-"))
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(directory / "worker.sock"))
    dead.close()
    (version.path / "worker.json").write_text(
        json.dumps({"pid": 99999999, "socket": str(directory / "worker.sock")})
    )
    assert worker_of(version) is None
    assert ask(version, "snapshot", keep=5)["snapshot"] == 45
    with running(version, path):
        assert note(version)["pid"] == os.getpid()
        assert not directory.exists()


def test_note_that_names_another_file_removes_nothing(version: Version, path: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (version.path / "worker.json").write_text(json.dumps({"pid": 1, "socket": str(precious)}))
    with running(version, path):
        assert precious.read_text() == "kept"


def test_worker_that_takes_no_connections_is_there_and_takes_no_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = Registry(tmp_path).create("mine", new_spec("popularity", {}))
    monkeypatch.setattr(control_module, "_CONNECT_S", 0.1)
    path = tmp_path / "stopped.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        (version.path / "worker.json").write_text(json.dumps({"pid": 7, "socket": str(path)}))
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))  # fills the queue of a worker that does not look at it
            assert worker_of(version) == 7
            with pytest.raises(VersionError, match="SIGSTOP"):
                ask(version, "snapshot", keep=1)
