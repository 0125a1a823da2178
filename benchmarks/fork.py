"""How long a fork of a million rows holds up the worker that goes on learning.

    python -m benchmarks.fork

A version learns 980,000 users and 20,000 items (64 floats each), then 2,000 events a second. Meanwhile
another process forks it, three times, as `freshet versions fork` does. The pause is the longest time from
one turn of the worker's loop to the next while the fork is made: the commit that comes before, the
checkpoint, and what the other process takes from the machine. Before each fork the longest turn of as
many seconds without one is noted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.batches import batch_of
from benchmarks.commits import RATE, PacedLog
from benchmarks.run import worker
from benchmarks.stream import zipf
from benchmarks.verdict import Report, run_benchmark
from consumers.control import Control
from consumers.control_commands import Holder
from consumers.embeddings import EmbeddingWorker, Totals
from consumers.metrics import WorkerMetrics
from state.versions import Registry

USERS, ITEMS, FORKS = 980_000, 20_000, 3
SECONDS = 300.0  # of events at most; the run ends with the last fork
QUIET_S = 3.0


class _Turns:
    """Notes when each turn of a worker's loop ended."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def __call__(self, _: Totals) -> None:
        self.moments.append(time.perf_counter())

    def longest_s(self, begun: float, ended: float) -> float:
        """The longest turn that began or ended between two moments."""
        moments = np.array(self.moments)
        touched = (moments[1:] >= begun) & (moments[:-1] <= ended)
        return float(np.diff(moments)[touched].max(initial=0.0))


def pauses(learner: str, users: int, items: int, forks: int, rate: float = RATE) -> dict[str, Any]:
    """Forks of a version that has this many rows, beside its worker."""
    rng = np.random.default_rng(1)
    n = int(SECONDS * rate)
    user = np.concatenate([rng.permutation(users), rng.integers(0, users, n)])
    item = np.concatenate([np.arange(users) % items, zipf(rng, items, 1.0, n)])
    events = batch_of(user, item)
    with (
        tempfile.TemporaryDirectory(prefix="freshet-bench-") as place,
        worker(learner, PacedLog(events.part(0, users)), home=Path(place)) as before,
    ):
        before.run(Flag())
        version = Registry(Path(place)).get("v")
        paced, turns, stop = PacedLog(events), _Turns(), Flag()
        metrics = WorkerMetrics(CollectorRegistry()).of("v")
        with Control(Holder(version, before.learned.store, lambda: before.learned)) as control:
            live = EmbeddingWorker(
                before.learned, paced, dead_letters=None, metrics=metrics, observe=turns, control=control
            )
            paced.pace(users, rate)
            thread = Thread(target=live.run, args=(stop,))
            thread.start()
            try:
                found = [_fork(Path(place), f"fork-{k}", turns) for k in range(forks)]
            finally:
                stop.set()
                thread.join()
        rows = {"users": users, "items": before.learned.items.count}
    return {"learner": learner, "rows": rows, "events_per_second": rate, "forks": found}


def _fork(home: Path, name: str, turns: _Turns) -> dict[str, float]:
    """Fork through the worker, from another process; seconds."""
    quiet = _longest(turns, lambda: time.sleep(QUIET_S))
    code = "import sys; from consumers.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "versions", "fork", "v", name, "--home", str(home)]
    begun = time.perf_counter()
    paused = _longest(turns, lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
    return {
        "whole_s": time.perf_counter() - begun,
        "longest_turn_s": paused,
        "longest_turn_without_s": quiet,
    }


def _longest(turns: _Turns, work: Callable[[], object]) -> float:
    """The longest turn while something is done."""
    begun = time.perf_counter()
    work()
    ended = time.perf_counter()
    while turns.moments[-1] < ended:  # the turn in which it ended
        time.sleep(0.01)
    return turns.longest_s(begun, ended)


def measure(quick: bool) -> Report:
    """Forks of a million rows of bpr, the embedding learner whose own work is least."""
    found = pauses("bpr", 2_000 if quick else USERS, 500 if quick else ITEMS, 1 if quick else FORKS)
    report = Report(found)
    rows, forks = sum(found["rows"].values()), found["forks"]
    quiet = max(fork["longest_turn_without_s"] for fork in forks)
    whole = max(fork["whole_s"] for fork in forks)
    note = f"longest turn without a fork {quiet:.3f} s; the command took up to {whole:.1f} s"
    what = f"fork of {rows:,} rows at {RATE:,.0f} events/s: worker paused, s"
    report.at_most(what, max(fork["longest_turn_s"] for fork in forks), 1.0, note)
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("fork", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
