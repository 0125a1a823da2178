"""How fast `freshet outcomes` joins, what it holds meanwhile, and how soon an event is durable in its store.

    python -m benchmarks.joining

From the logs of a home directory to RocksDB, in one process, as the command does it: 20 % of the records are
lists of 10 items that were served, the others events of the metric, up to 5 s out of the order of time; half
of the users who are served have been seen by no list before. Events of other types cost less. Then events
come at 2,000 a second: an event is durable at the first commit that holds it.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import msgspec
import numpy as np
from prometheus_client import CollectorRegistry

from benchmarks.verdict import Report, run_benchmark, timed
from consumers.eventlog.segments import EVENTS, Segments
from consumers.exposing import EXPOSURES, ExposureRecord
from consumers.outcomes import Outcomes
from consumers.outcomes_logs import segment_logs
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store
from state.experiments import Experiments, Trial
from streaming.experiments import Design
from streaming.joining import SECOND
from streaming.routing import divided
from streaming.rules import EventRules

RATE = 2000  # records a second of event time
WINDOW_S = 120
LATENESS_S = 60
_BEGIN = 1_795_000_000 * SECOND
_SHARES = {"champion": 0.9, "challenger": 0.1}
_PIECE = 10_000  # lines that are appended at one go
_EVERY_S = 0.05  # between two pieces of the events that come


def begun(home: Path, since_us: int) -> None:
    """An experiment of two versions; nothing steers a route for it."""
    design = Design().state()
    trial = Trial("exp", _SHARES, "purchase", design, "salt", WINDOW_S * SECOND, LATENESS_S * SECOND)
    experiments = Experiments(home)
    experiments.create(trial)
    experiments.begin_phase("exp", since_us, _SHARES, divided(_SHARES))


def write(home: Path, count: int, users: int, seed: int = 1) -> None:
    """Both logs, each up to 5 s out of the order of time."""
    rng = np.random.default_rng(seed)
    ts = _BEGIN + np.arange(count) * (SECOND // RATE) + rng.integers(0, 5 * SECOND, count)
    served, number, first = (
        rng.random(count) < 0.2,
        rng.integers(0, users, count),
        rng.integers(0, 1000, count),
    )
    shown, happened = [], []
    for k, (moment, user, item) in enumerate(zip(ts.tolist(), number.tolist(), first.tolist(), strict=True)):
        if served[k]:
            arm = "challenger" if user % 10 == 0 else "champion"
            items = [f"item{n}" for n in range(item, item + 10)]
            scores = (1.0 / np.arange(1, 11)).tolist()
            shown.append(
                ExposureRecord(
                    f"{k:032x}", f"user{user}", "exp", arm, arm, items, list(range(10)), scores, moment
                )
            )
        else:
            happened.append(
                {"user": f"user{user}", "item": f"item{item % 20}", "type": "purchase", "ts": moment}
            )
    for log, records in ((EXPOSURES, shown), (EVENTS, happened)):
        segments = Segments(home / log)
        for start in range(0, len(records), _PIECE):
            segments.append([msgspec.json.encode(one) for one in records[start : start + _PIECE]])


class Watched(Outcomes):
    """Notes when which offset of the log of events became durable, and how many users were held at most."""

    commits: list[tuple[float, int]]
    held: int

    def commit(self) -> None:
        """As `freshet outcomes` does."""
        super().commit()
        self.commits.append((time.time(), self._logs[1].position[1]))
        self.held = max(self.held, self.joiner.held)


@contextmanager
def joiner(home: Path) -> Iterator[Watched]:
    """The joiner of the experiment over the logs of a home."""
    with opened_store(home, "exp") as store:
        metrics = OutcomeMetrics(CollectorRegistry())
        made = Watched(home, "exp", store, EventRules(), metrics, partial(segment_logs, home))
        made.commits, made.held = [], 0
        with closing(made):
            yield made


def joined(home: Path, report: Report, count: int, users: int) -> None:
    """Join what lies in the logs."""
    begun(home, _BEGIN)
    write(home, count, users)
    gc.collect()
    read = 0
    with joiner(home) as outcomes:

        def work() -> None:
            nonlocal read
            read = outcomes.run(Flag(), until_end=True)

        took = timed(work)
        entered, most = outcomes.verdict()["users"], outcomes.held
    report.figures |= {"records": read, "users_entered": entered, "window_s": WINDOW_S}
    note = f"{read:,} records, {entered:,} users entered; logs, join and RocksDB"
    report.at_least("records joined, a second", read / took.wall, 50_000, note)
    report.at_least("records joined, a second of processor time", read / took.cpu, 50_000)
    # Users exposed within a window and the allowed lateness, those with an event just before, and the lines
    # by which one log is read ahead of the other.
    late = LATENESS_S + 25
    bound = RATE * (0.2 * (WINDOW_S + late) + 0.8 * late)
    report.at_most("users held at most", float(most), bound, f"a window of {WINDOW_S} s, {RATE:,} records/s")


def behind(home: Path, report: Report, seconds: float) -> None:
    """Join what comes, and see how far behind the events it is."""
    begun(home, int(time.time() * SECOND))
    stop, sent = Flag(), list[tuple[float, int]]()

    def come() -> None:
        segments, length, k = Segments(home / EVENTS), 0, 0
        until = time.time() + seconds
        while time.time() < until:
            now = time.time()
            lines = []
            for _ in range(int(RATE * _EVERY_S)):
                event: dict[str, Any] = {"user": f"user{k}", "item": "tea", "type": "purchase"}
                lines.append(msgspec.json.encode({**event, "ts": int(now * SECOND)}))
                length += len(lines[-1]) + 1
                k += 1
            segments.append(lines)
            sent.append((now, length))
            time.sleep(max(0.0, now + _EVERY_S - time.time()))
        stop.set()

    with joiner(home) as outcomes:
        thread = Thread(target=come)
        thread.start()
        outcomes.run(stop)
        thread.join()
    times, lengths = (np.array(column) for column in zip(*outcomes.commits, strict=True))
    events, ends = (np.array(column) for column in zip(*sent, strict=True))
    # `finish` commits, so that what came last is durable then, too.
    place = np.searchsorted(lengths, ends)
    held = place < len(lengths)
    lags = times[place[held]] - events[held]
    p99 = float(np.quantile(lags, 0.99))
    report.at_most("event to durable in the joiner's store, p99, s", p99, 1.0, f"{RATE:,} events a second")
    report.beside("… median, s", float(np.median(lags)))


def measure(quick: bool) -> Report:
    """Records a second, users held against those that the window lets one expect, and seconds behind."""
    count, users, seconds = (20_000, 10_000, 2.0) if quick else (1_000_000, 1_000_000, 30.0)
    report = Report()
    for work in (partial(joined, count=count, users=users), partial(behind, seconds=seconds)):
        with tempfile.TemporaryDirectory(prefix="freshet-joining-") as directory:
            work(Path(directory), report)
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("joining", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
