"""A process whose children die while they change versions: jobs enter, how each ended leaves.

A child counts what it asks of the file system (Python's audit events) and the writes and checkpoints of
stores, and kills itself with SIGKILL at the one that the job names. Nothing of this stands in the code
that is tested.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any

import msgspec

import consumers.control_commands
from consumers.control import Control, ask
from consumers.control_commands import Command, Holder
from consumers.eventlog.files import FilesLog
from state.forks import fork, forked_spec
from state.releases import Releases
from state.rocksdb import RocksStore
from state.versions import Registry
from streaming.routing import Route, divided
from streaming.rules import EventRules
from tests.consumers.worked import worker_on
from tests.crash.forking import Forking, live, log_errors_only

_COUNTED = ("open", "os.", "shutil.", "fcntl.", "store.")


class Job(msgspec.Struct):
    """One change.

    Attributes:
        what: one of CHANGES.
        kill_at: number of the counted event at which the child dies; 0 for none.
            The count goes to HOME/count.
    """

    what: str
    home: str
    kill_at: int = 0


class Fate:
    """Counts events, and kills this process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.count, self._kill_at = 0, kill_at

    def __call__(self, event: str, _: Any = None) -> None:
        if event.startswith(_COUNTED):
            self.count += 1
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def fork_b(home: Path, **given: float) -> None:
    """Fork a to b, through a's worker where one runs."""
    registry = Registry(home)
    source = registry.get("a")
    spec = forked_spec(source, given)
    fork(registry, source, "b", spec, lambda _: ask(source, "fork", name="b", asker=os.getpid()))
    Releases(home).note("fork", "b", "of a")


def promote_b(home: Path) -> None:
    """Promote b over a."""
    Releases(home).promote("b", "better")


def route_both(home: Path) -> None:
    """Divide users between a and b."""
    Releases(home).set_route(Route("s", divided({"a": 0.5, "b": 0.5})), "halves")


def delete_b(home: Path) -> None:
    """Delete b."""
    with Releases(home).deleting("b"):
        Registry(home).delete("b")


def work_a(home: Path) -> None:
    """A worker of a that dies when it has made the checkpoint of a fork, before it answers."""
    made: Command = consumers.control_commands.COMMANDS["fork"]

    def dies(holder: Holder, arguments: Mapping[str, Any]) -> dict[str, Any]:
        made(holder, arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    consumers.control_commands.COMMANDS["fork"] = dies
    version = Registry(home).get("a")
    with version.open() as store:
        log = FilesLog([str(home / "a.jsonl")], EventRules(), follow=True)
        with Control(Holder(version, store, lambda: worker.learned)) as control:
            worker = worker_on(version, store, log, control=control)
            worker.run(Flag())


CHANGES: dict[str, Callable[[Path], None]] = {
    "fork": partial(fork_b, evaluation_rate=0.5),
    "fork alike": fork_b,
    "promote": promote_b,
    "route": route_both,
    "delete": delete_b,
    "work": work_a,
}


def change(job: Job) -> None:
    """Do a change, unless it is killed."""
    fate = Fate(job.kill_at)
    _watch_stores(fate)
    sys.addaudithook(fate)
    CHANGES[job.what](Path(job.home))
    count = fate.count
    Path(job.home, "count").write_text(str(count))


def _watch_stores(fate: Fate) -> None:
    """Count the store's own steps, which Python does not see."""
    write, checkpoint = RocksStore.write, RocksStore.checkpoint

    def counted_write(
        self: RocksStore, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()
    ) -> None:
        fate("store.write")
        write(self, puts, deletes)
        fate("store.written")

    def counted_checkpoint(self: RocksStore, path: Path) -> None:
        fate("store.checkpoint")
        checkpoint(self, path)
        fate("store.checkpointed")

    RocksStore.write, RocksStore.checkpoint = counted_write, counted_checkpoint  # type: ignore[method-assign]


def serve() -> None:
    """Fork for each job of standard input, and say how it ended."""
    log_errors_only()
    for line in sys.stdin.buffer:
        job = msgspec.json.decode(line, type=Job)
        child = os.fork()
        if child == 0:
            live(partial(change, job))
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


class Changer(Forking):
    """The process that forks children which change versions, as a context."""

    module = "tests.crash.changing"

    def end(self) -> bool:
        """Wait for a change to end; whether it was killed.

        Raises:
            RuntimeError: it neither finished nor was killed; what it said stands on standard error.
        """
        code = self.answer()
        if code not in (0, -signal.SIGKILL):
            raise RuntimeError(f"the change ended with {code}, expected 0 or SIGKILL")
        return bool(code)

    def run(self, what: str, home: Path, kill_at: int = 0) -> bool:
        """Do a change to its end; whether it was killed."""
        self.send(Job(what, str(home), kill_at))
        return self.end()


if __name__ == "__main__":
    serve()
