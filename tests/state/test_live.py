"""Live tables: whole rows while they change, growth, users that left memory, workers that die."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from state.answers import Answers, answers_of
from state.arena import DONE
from state.learned import Learned
from state.live import SHARED_MEMORY, LiveArena, LiveTables, discard, sweep
from state.live_rows import copy_rows
from state.reader import Reader
from state.spec import new_spec
from state.versions import Registry, Version
from streaming.errors import StoreError
from streaming.events import EventBatch
from streaming.kernels import kernel, release
from streaming.learners.contract import Field, Rows, touch
from streaming.learners.model import new_rows
from tests.state.streams import batch, lively

WAIT_S = 60.0


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + WAIT_S
    while True:
        with suppress(StoreError):  # of tables that change all the time, as where their worker stalls
            if condition():
                return
        assert time.monotonic() < until
        time.sleep(0.01)


@kernel
def stir(rows: Rows, done: NDArray[np.int64], first: int, events: int) -> None:
    """Events that each set all floats of a row to their number."""
    for number in range(first, first + events):
        slot = number % rows.floats.shape[0]
        touch(rows.touched, slot, number)
        for k in range(rows.floats.shape[1]):
            rows.floats[slot, k] = number
        release()
        done[0] = number


def test_row_is_read_whole_while_it_changes(tmp_path: Path) -> None:
    arena = LiveArena(tmp_path, "mine")
    rows = arena.keep("items", new_rows((Field("vector", 64),), 4))
    arena.publish()
    tables, to = LiveTables(tmp_path), new_rows((Field("vector", 64),), 4)
    seen = Rows(*(tables.arrays[f"items.{name}"] for name in Rows._fields))
    done, slots = arena.head[DONE : DONE + 1], np.arange(4)
    theirs = tables.head[DONE : DONE + 1]
    number, stop = 1, threading.Event()

    def write() -> None:
        nonlocal number
        while not stop.is_set():
            stir(rows, done, number, 1000)
            number += 1000

    writer = threading.Thread(target=write)
    writer.start()
    values, again, until = set(), 0, time.monotonic() + WAIT_S
    try:
        while (len(values) < 20 or not again) and time.monotonic() < until:
            copied = copy_rows(seen, slots, theirs, to, 0)
            again += copied < len(slots)
            for i in range(copied):
                assert (to.floats[i] == to.floats[i, 0]).all()
                values.add(float(to.floats[i, 0]))
    finally:
        stop.set()
        writer.join()
    assert len(values) >= 20
    assert again  # the race was one
    assert copy_rows(seen, slots, theirs, to, 0) == 4
    assert to.floats.max() == number - 1
    tables.close()
    arena.close()


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="this system has no /dev/shm")
def test_tables_in_memory_are_read_while_the_worker_lives_and_leave_nothing(tmp_path: Path) -> None:
    arena = LiveArena(tmp_path, "mine", SHARED_MEMORY)
    large = arena.zeros("large", (50_000, 16), np.float32)  # large enough for huge pages
    arena.publish()
    tables = LiveTables(tmp_path)
    assert Path(tables.run).is_relative_to(SHARED_MEMORY)
    large[49_999] = 7
    assert (tables.arrays["large"][49_999] == 7).all()
    larger = arena.grown("large", large, 100_000)
    arena.publish()
    larger[49_999] = 8
    assert (tables.arrays["large"][49_999] == 7).all()  # what a reader has stays as it was
    assert tables.refresh()
    assert (tables.arrays["large"][49_999] == 8).all()
    assert tables.alive
    arena.close()
    assert not tables.alive
    assert not Path(tables.run).exists()
    tables.close()


def test_sweep_removes_what_dead_workers_left_in_memory(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    memory.mkdir()
    (gone, kept), runs = [tmp_path / name for name in ("gone", "kept")], []
    for path in (gone, kept):
        arena = LiveArena(path, "mine", memory)
        arena.publish()
        tables = LiveTables(path)
        runs.append(Path(tables.run))
        tables.close()
        arena._held.close()  # as a kill does
    shutil.rmtree(gone)
    sweep(memory)
    assert [run.exists() for run in runs] == [False, True]


@pytest.fixture
def version(tmp_path: Path) -> Version:
    spec = new_spec("softmax", {"dimension": 8, "negatives": 5, "history": 10, "context": 5})
    return Registry(tmp_path).create("mine", spec)


@pytest.fixture
def reader(version: Version) -> Iterator[Reader]:
    made = Reader(version)
    yield made
    made.close()


def learn(learned: Learned, events: EventBatch) -> None:
    while len(events):
        part = events.part(0, learned.part(events))
        if not learned.make_room(part):
            learned.commit()
            learned.make_room(part)
        learned.learn(learned.resolve(part, 0))
        events = events.part(len(part), len(events))


class Learning:
    """A version that learns in this process, its tables live."""

    def __init__(self, version: Version, user_cache: int | None = None) -> None:
        self.arena = LiveArena(version.live_path, version.identity)
        self.store = version.open()
        self.learned = Learned(version.spec, self.store, user_cache=user_cache, arena=self.arena)

    def learn(self, n: int, **how: Any) -> None:
        learn(self.learned, lively(n, **how))

    def close(self) -> None:
        self.learned.commit()
        self.store.close()
        self.arena.close()


def same(reader: Reader, answers: Answers, users: list[str]) -> None:
    for user in users:
        assert reader.ask(lambda a, u=user: a.recommend(u, 5)) == answers.recommend(user, 5)  # type: ignore[misc]
        assert reader.ask(lambda a, u=user: a.embedding("user", u)) == answers.embedding("user", user)  # type: ignore[misc]
        items = [one.item for one in answers.recommend(user, 3, include_recent=True).items]
        assert reader.ask(lambda a, u=user, i=items: a.score(u, i)) == answers.score(user, items)  # type: ignore[misc]
    item = answers.recommend(users[0], 1).items[0].item
    assert reader.ask(lambda a: a.embedding("item", item)) == answers.embedding("item", item)
    assert reader.ask(lambda a: a.similar("item", item, 5)) == answers.similar("item", item, 5)


def test_answers_before_any_commit_are_those_of_the_learning_process(
    version: Version, reader: Reader
) -> None:
    learning = Learning(version)
    learning.learn(400)
    same(reader, Answers("mine", learning.learned), ["user-1", "user-20"])
    assert reader.origin.kind == "live"
    assert reader.origin.worker
    learning.close()
    assert not reader.origin.worker


def test_growing_tables_are_followed(version: Version, reader: Reader) -> None:
    learning = Learning(version)
    learn(learning.learned, batch(["a"], ["x"]))
    assert reader.ask(lambda a: a.recommend("b", 5)).items[0].item == "x"
    many = [f"i{k}" for k in range(3000)]
    learn(learning.learned, batch([f"u{k}" for k in range(3000)], many, first=1))
    same(reader, Answers("mine", learning.learned), ["u5", "u2999"])
    learning.close()


def test_user_who_left_memory_is_read_from_the_store(version: Version, reader: Reader) -> None:
    learning = Learning(version, user_cache=20)
    for k in range(0, 100, 10):
        users = [f"u{k + j}" for j in range(10)]
        learn(learning.learned, batch(users, [f"i{j}" for j in range(10)], first=k))
        learning.learned.commit()
    here = learning.learned.users.ids.slot_of
    assert here("u0") < 0 <= here("u99")
    same(reader, Answers("mine", learning.learned), ["u0", "u99", "u50"])
    assert reader.ask(lambda a: a.recommend("nobody", 3)).represented_by == "popularity"
    learning.close()


def test_without_live_tables_the_store_answers(version: Version, reader: Reader) -> None:
    learning = Learning(version)
    learning.learn(200)
    learning.close()
    discard(version.live_path)
    with answers_of(version) as answers:
        same(reader, answers, ["user-1"])
    assert reader.origin.kind == "store"


def test_restored_version_is_not_answered_from_tables_of_before(version: Version, reader: Reader) -> None:
    learning = Learning(version)
    learning.learn(100)
    learning.learned.commit()
    number = version.snapshot(learning.store, 3)
    learning.learn(300, seed=2)
    learning.close()
    assert reader.ask(lambda a: a.learned.ledger.number) == 400
    version.restore(number)
    eventually(lambda: reader.ask(lambda a: a.learned.ledger.number) == 100)


_WORKER = """
import sys, time
from pathlib import Path
from state.versions import Registry
from tests.state.test_live import Learning
learning = Learning(Registry(Path(sys.argv[1])).get("mine"))
learning.learn(200)
learning.learned.commit()
print("durable", flush=True)
k = 2
while True:
    learning.learn(50, seed=k)
    learning.arena.beat()
    k += 1
"""


def test_killed_worker_leaves_its_tables_and_the_next_one_is_followed(
    version: Version, reader: Reader
) -> None:
    home = version.path.parent.parent

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _WORKER, str(home)]
        made = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert made.stdout is not None
        assert made.stdout.readline() == "durable\n"
        return made

    first = start()
    try:
        number = reader.ask(lambda a: a.learned.ledger.number)
        eventually(lambda: reader.ask(lambda a: a.learned.ledger.number) > number)
        before = reader.live
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    asked = [reader.ask(lambda a, u=f"user-{k}": a.recommend(u, 10)) for k in range(60)]  # type: ignore[misc]
    assert all(len(one.items) == 10 for one in asked)
    origin = reader.origin
    assert not origin.worker
    eventually(lambda: reader.origin.age_s > origin.age_s)
    second = start()
    try:
        eventually(lambda: reader.ask(lambda a: a.version) == "mine" and reader.live is not before)
        assert reader.origin.worker
    finally:
        os.kill(second.pid, signal.SIGKILL)
        second.wait()
    for made in (first, second):
        assert made.stdout is not None
        made.stdout.close()
