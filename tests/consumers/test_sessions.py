from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from consumers.sessions import SessionWorker
from state.sequences_directory import sequences_of
from state.store import Store
from state.versions import Version
from tests.consumers.sequenced import follow, softmax
from tests.consumers.worked import everything


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and what was not written is lost."""


class Dying:
    """A store in whose n-th write the process dies."""

    def __init__(self, store: Store, write: int, step: str, die: Any) -> None:
        self._store, self._left, self._step, self._die = store, write, step, die

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        self._left -= 1
        pairs = list(puts)
        if not self._left and self._step == "before":
            self._die()
        self._store.write(pairs, deletes)
        if not self._left and self._step == "after":
            self._die()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def raise_killed() -> None:
    raise Killed


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(version: Version, path: Path, write: int, step: str, die: Any) -> None:
    follow(version, path, commit_s=0, wrap=lambda store: Dying(store, write, step, die))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Path, dict[bytes, bytes]]:
    """A version, its events, and what its sequences hold where nobody disturbs their worker."""
    home = tmp_path_factory.mktemp("sessions")
    path = home / "events.jsonl"
    version = softmax(home / "home", path)
    follow(version, path, commit_s=0)
    return version, path, begin_anew(version)


def begin_anew(version: Version) -> dict[bytes, bytes]:
    """Take the sequences away; returns what they held."""
    directory = sequences_of(version)
    held = everything(directory.store_path)
    directory.path.rename(version.path / f"kept-{len(list(version.path.iterdir()))}")
    return held


@pytest.mark.parametrize("step", ["before", "after"])
def test_kill_at_any_commit_leaves_offsets_weights_and_embeddings_that_agree(
    world: tuple[Version, Path, dict[bytes, bytes]], step: str
) -> None:
    version, path, expected = world
    for write in (1, 2, 5, 8):
        with pytest.raises(Killed):
            run_and_die(version, path, write, step, raise_killed)
        follow(version, path, commit_s=0)
        assert begin_anew(version) == expected


@pytest.mark.skipif(
    "FRESHET_CRASH_COUNT" not in os.environ, reason="compiles all of JAX in a process of its own"
)
def test_real_kill_leaves_no_trace(world: tuple[Version, Path, dict[bytes, bytes]]) -> None:
    version, path, expected = world
    process = get_context("spawn").Process(target=run_and_die, args=(version, path, 4, "before", kill))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    follow(version, path, commit_s=0)
    assert begin_anew(version) == expected


def test_steps_are_those_that_the_events_ask_for(world: tuple[Version, Path, dict[bytes, bytes]]) -> None:
    version, path, _ = world
    found: list[SessionWorker] = []
    follow(version, path, commit_s=0, look=found.append)
    counts, training = found[0].sequences.counts, found[0].training
    assert counts.due == training.steps > 10
    assert (counts.left_out, training.dropped, counts.restored) == (0, 0, 0)
    assert found[0].sequences.ledger.number == 360
    assert (found[0]._refresh.compilations, training.step.compilations) == (1, 1)
    begin_anew(version)


def test_who_makes_room_comes_back_as_they_were(world: tuple[Version, Path, dict[bytes, bytes]]) -> None:
    version, path, expected = world
    follow(version, path, commit_s=0, limit=20)
    held = begin_anew(version)
    assert {key for key in held if key[:1] == b"u"} == {key for key in expected if key[:1] == b"u"}
    with_history = [key for key in held if key[:1] == b"u" and len(held[key]) == len(expected[key])]
    assert len(with_history) == sum(key[:1] == b"u" for key in held)
