"""A process that runs workers which die: jobs enter as lines of JSON, how each ended leaves.

The process loads and compiles everything once and forks for each job. The child is the worker over
real files and a real RocksDB; it kills itself with SIGKILL at a numbered step of the commit, or is
killed from outside at a moment that nobody chose. Nothing of this stands in the worker's own code:
its store, its dead letters and its log are wrapped here.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any, NamedTuple

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

import state.learned
from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.files import FilesLog
from consumers.metrics import WorkerMetrics
from consumers.pace import Pace
from state import erasure
from state.erasure_list import add_erasure, read_erasures
from state.learned import Learned
from state.ledger import Source
from state.memory import MemoryStore
from state.rocksdb import RocksStore
from state.spec import read_spec
from state.versions import Version
from streaming.events import EventBatch, Ids
from streaming.rules import EventRules
from tests.crash.forking import Forking, live, log_errors_only

STEPS = (
    "before_dead_letters",  # nothing of the commit was done
    "after_dead_letters",  # the dead letters are durable, nothing else
    "batch_half_built",
    "batch_built",  # and not written
    "after_write",  # rows and offsets are durable, nobody was told
    "before_told",
    "after_told",
)


class Job(msgspec.Struct):
    """One run of a worker.

    Attributes:
        version: directory of the version.
        step, commit: die at this step of the commit of this number, from 1; "" for never.
        moment_s: be killed from outside so many seconds after the start.
        every: events between commits.
        check_events: events between two looks at what has expired.
        warm: compile what the version needs first, for this job and those after it.
        forget: a user to be forgotten, in the place of learning.
    """

    version: str
    files: list[str]
    step: str = ""
    commit: int = 1
    moment_s: float | None = None
    every: int = 50
    batch: int = 32
    user_cache: int = 25
    check_events: int = 128
    warm: bool = False
    forget: str = ""


class Fate:
    """Kills this process when the step of the commit is reached."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._commit = 0

    def begin(self) -> None:
        self._commit += 1

    def reached(self, step: str) -> None:
        if step == self._job.step and self._commit == self._job.commit:
            os.kill(os.getpid(), signal.SIGKILL)


class DyingStore(RocksStore):
    fate: Fate

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        if hasattr(self, "fate"):  # not the first write, of the format
            super().write(self._counted(puts), deletes)
            self.fate.reached("after_write")
        else:
            super().write(puts, deletes)

    def _counted(self, puts: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for number, pair in enumerate(puts):
            if number == 5:
                self.fate.reached("batch_half_built")
            yield pair
        self.fate.reached("batch_built")


class DyingLetters(DeadLetters):
    fate: Fate

    def sync(self) -> None:
        self.fate.begin()
        self.fate.reached("before_dead_letters")
        super().sync()
        self.fate.reached("after_dead_letters")


class DyingTold:
    """Before an event log among the bases: dies when it is told of a commit."""

    fate: Fate

    def committed(self, positions: Mapping[str, int]) -> None:
        self.fate.reached("before_told")
        super().committed(positions)  # type: ignore[misc]  # of the log
        self.fate.reached("after_told")


class DyingLog(DyingTold, FilesLog):
    pass


def forget(job: Job) -> None:
    """The part of `freshet forget` that is durable: the list, then the store."""
    version = _version(job)
    add_erasure(version.home, "user", job.forget, 2**62)
    fate = Fate(job)
    store = DyingStore(version.store_path)
    store.fate = fate
    fate.begin()
    fate.reached("after_list")
    with store:
        erasure.forget(Learned(version.spec, store, user_cache=job.user_cache), read_erasures(version.home))


def _version(job: Job) -> Version:
    path = Path(job.version)
    return Version(path.name, path, read_spec(path / "spec.toml"))


def files(job: Job, sources: Sequence[Source]) -> DyingLog:
    """The job's files, as a log."""
    units = {s.name: s.time_unit for s in sources if s.time_unit}
    return DyingLog(job.files, EventRules(), time_units=units)


def work(job: Job, opened: Callable[[Job, Sequence[Source]], Any] = files) -> None:
    """The worker, as `freshet work` puts it together, over the log that `opened` gives."""
    vars(state.learned)["CHECK_EVENTS"] = job.check_events
    version, fate = _version(job), Fate(job)
    store = DyingStore(version.store_path)
    store.fate = fate
    with store:
        learned = Learned(version.spec, store, user_cache=job.user_cache)
        log = opened(job, learned.ledger.sources)
        letters = DyingLetters(version.dead_letters_path)
        log.fate = letters.fate = fate
        EmbeddingWorker(
            learned,
            log,
            dead_letters=letters,
            metrics=WorkerMetrics(CollectorRegistry()).of(version.name),
            pace=Pace(events=job.every),
            batch_events=job.batch,
            confirm=getattr(log, "confirm", None),
            erasures=partial(read_erasures, version.home),
        ).run(Flag())
        log.close()
        letters.close()


def warm(job: Job) -> None:
    """Load the compiled kernels into this process, so that its children need not."""
    spec = read_spec(Path(job.version) / "spec.toml")
    ids = Ids(np.frombuffer(b"abc", np.uint8), np.arange(3), np.arange(1, 4))
    ones = np.ones(3, np.float32)
    store = MemoryStore()
    for _ in range(2):
        learned = Learned(spec, store, user_cache=3)
        events = EventBatch(ids, ids, np.arange(3), np.arange(3), ones, ones)
        learned.make_room(events)
        learned.learn(learned.resolve(events, learned.ledger.partition("warm")))
        learned.ledger.record(0, learned.ledger.number - 3, learned.ledger.number)
        learned.commit()


def serve(work: Callable[[Job], None]) -> None:
    """Fork for each job of standard input, and say how it ended."""
    log_errors_only()
    for line in sys.stdin.buffer:
        job = msgspec.json.decode(line, type=Job)
        if job.warm:
            warm(job)
        started = time.monotonic()
        closes_at_death, held = os.pipe()
        child = os.fork()
        if child == 0:
            live(partial(forget if job.forget else work, job))
        os.close(held)
        ended, _, _ = select.select([closes_at_death], [], [], job.moment_s)
        if not ended:
            os.kill(child, signal.SIGKILL)
        os.close(closes_at_death)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "seconds": time.monotonic() - started}), flush=True)


class End(NamedTuple):
    """How a run ended: exit code, below 0 the signal; wall seconds."""

    code: int
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was killed with SIGKILL."""
        return self.code == -signal.SIGKILL


class Driver(Forking):
    """The process that forks workers, as a context."""

    module = "tests.crash.driver"

    def run(self, job: Job) -> End:
        """Run a worker to its end.

        Raises:
            RuntimeError: it neither finished nor was killed; what it said stands on standard error.
        """
        self.send(job)
        answer: dict[str, Any] = self.answer() or {"code": 1, "seconds": 0}
        end = End(answer["code"], answer["seconds"])
        if end.code != 0 and not end.killed:
            raise RuntimeError(f"the worker ended with {end.code}, expected 0 or SIGKILL: {job}")
        return end


if __name__ == "__main__":
    serve(work)
