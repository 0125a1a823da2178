"""What commits cost and how fresh they leave the store: a live stream of 2,000 events a second.

    python -m benchmarks.commits

The log releases each event at its moment. Event → durable is the time from there to the commit that
holds it, known for every event. The share of commits is that of the time from the beginning of the
first commit to that of the last one that the clock asked for.
Before the clock starts, every item has been learned once: what is written then is known by number.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Event as Flag
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from benchmarks.batches import batch_of
from benchmarks.run import worker
from benchmarks.stream import zipf
from benchmarks.verdict import Report, run_benchmark
from consumers.embeddings import EmbeddingWorker, Totals
from consumers.eventlog.contract import Slice
from consumers.metrics import WorkerMetrics
from streaming import learners
from streaming.events import EventBatch

RATE = 2000.0  # events a second
USERS = 50_000


class PacedLog:
    """An `EventLog` of one source that releases its events at a steady rate, or all at once.

    Attributes:
        commits: (moment, next offset) of each commit, seconds since 1970.
    """

    SOURCE = "paced"

    def __init__(self, events: EventBatch) -> None:
        self._events, self._next = events, 0
        self._open_from, self._rate, self._begun = 0, 0.0, 0.0
        self.commits: list[tuple[float, int]] = []

    @property
    def repeatable(self) -> bool:
        """True: the events are held."""
        return True

    @property
    def ended(self) -> bool:
        """Whether all events were taken."""
        return self._next >= len(self._events)

    def pace(self, first: int, rate: float) -> None:
        """Release the events from `first` on, `rate` a second; those before are there already."""
        self._open_from, self._rate, self._begun = first, rate, time.time()

    def released(self) -> NDArray[np.float64]:
        """Moments of release of the events from the first paced one on."""
        return self._begun + np.arange(1, len(self._events) - self._open_from + 1) / self._rate

    def sources(self) -> list[str]:
        """The one source."""
        return [self.SOURCE]

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on from this offset."""
        self._next = positions.get(self.SOURCE, 0)

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """What is released by now; waits for the next event, no longer than the timeout."""
        if self._rate:
            due = self._begun + (self._next - self._open_from + 1) / self._rate
            time.sleep(max(0.0, min(timeout_s, due - time.time())))
            there = self._open_from + int((time.time() - self._begun) * self._rate)
        else:
            there = len(self._events)
        first, last = self._next, min(self._next + max_events, there, len(self._events))
        if last <= first:
            return None
        self._next = last
        arrived = self._begun + (last - self._open_from) / self._rate if self._rate else time.time()
        return Slice(self.SOURCE, first, last, self._events.part(first, last), [], arrived)

    def lag(self) -> dict[str, int | None]:
        """Events not taken yet."""
        return {self.SOURCE: len(self._events) - self._next}

    def committed(self, positions: Mapping[str, int]) -> None:
        """Note when which events became durable."""
        self.commits.append((time.time(), positions[self.SOURCE]))

    def close(self) -> None:
        """Nothing is open."""


class _Commit(NamedTuple):
    """A commit: when it began, on the monotonic clock, and the seconds it took."""

    begun_s: float
    took_s: float


class _Watch:
    """Notes each commit of a worker."""

    def __init__(self) -> None:
        self.commits: list[_Commit] = []
        self._seconds = 0.0

    def __call__(self, totals: Totals) -> None:
        if totals.commits > len(self.commits):
            took = totals.commit_seconds - self._seconds
            self.commits.append(_Commit(time.monotonic() - took, took))
            self._seconds = totals.commit_seconds

    def share(self) -> float | None:
        """Share of the time in commits, from the beginning of the first to that of the last but one.

        The interval that pays for a commit comes after it. The last commit is the one at the end.
        """
        due = self.commits[:-1]
        if len(due) < 3:
            return None
        return sum(commit.took_s for commit in due[:-1]) / (due[-1].begun_s - due[0].begun_s)


def stream(items: int, events: int, seed: int = 1) -> tuple[EventBatch, int]:
    """(events, first measured one): every item once, then clicks of 50,000 users on items by Zipf's law."""
    rng = np.random.default_rng(seed)
    item = np.concatenate([rng.permutation(items), zipf(rng, items, 1.0, events)])
    return batch_of(zipf(rng, USERS, 0.8, items + events), item), items


def live(learner: str, items: int, seconds: float, rate: float = RATE) -> dict[str, Any]:
    """Share of commits and event → durable, at `rate` events a second."""
    events, first = stream(items, int(rate * seconds))
    with worker(learner, PacedLog(events.part(0, first))) as before:
        before.run(Flag())
        paced, watch = PacedLog(events), _Watch()
        paced.pace(first, rate)
        _watched(before, paced, watch).run(Flag())
        return {
            "learner": learner,
            "items": items,
            "events_per_second": rate,
            "commits": len(paced.commits),
            "share": watch.share(),
            "rows_known": {"users": before.learned.users.held, "items": before.learned.items.count},
            **durable(paced, first),
        }


def durable(log: PacedLog, first: int) -> dict[str, float]:
    """Quantiles of event → durable over all paced events, in seconds."""
    moments = np.array([moment for moment, _ in log.commits])
    ends = np.array([end for _, end in log.commits])
    released = log.released()
    commit = np.searchsorted(ends, np.arange(first, first + len(released)), side="right")
    waited = moments[commit] - released
    p50, p99 = np.quantile(waited, [0.5, 0.99])
    return {"durable_p50_s": float(p50), "durable_p99_s": float(p99), "durable_max_s": float(waited.max())}


def at_full_speed(learner: str, items: int, events: int) -> dict[str, Any]:
    """Share of commits while a backlog is learned as fast as it can be."""
    batch, first = stream(items, events)
    with worker(learner, PacedLog(batch.part(0, first))) as before:
        before.run(Flag())
        watch = _Watch()
        totals = _watched(before, PacedLog(batch), watch).run(Flag())
        return {
            "learner": learner,
            "items": items,
            "events_per_second": totals.events / totals.seconds,
            "share": watch.share(),
        }


def _watched(before: EmbeddingWorker, log: PacedLog, watch: _Watch) -> EmbeddingWorker:
    """A worker that goes on with what another one learned."""
    metrics = WorkerMetrics(CollectorRegistry()).of("v")
    return EmbeddingWorker(before.learned, log, dead_letters=None, metrics=metrics, observe=watch)


def measure(quick: bool) -> Report:
    """The default learner at three numbers of items, live and at full speed; bpr beside it."""
    report = Report({"live": [], "full_speed": []})
    sizes = ((50, 2.0),) if quick else ((1_000, 30.0), (20_000, 40.0), (200_000, 60.0))
    for learner in [name for name in ("softmax", "bpr") if name in learners.names()]:
        for items, seconds in sizes:
            if learner != "softmax" and items > 20_000:
                continue
            found = live(learner, items, seconds)
            report.figures["live"].append(found)
            _judge(report, found)
            if learner == "softmax":
                backlog = at_full_speed(
                    learner, items, 2000 if quick else 2_500_000 if items <= 20_000 else 1_000_000
                )
                report.figures["full_speed"].append(backlog)
                note = f"{backlog['events_per_second']:,.0f} events/s"
                what = f"{learner}, {items:,} items, backlog: share of time in commits"
                report.at_most(what, backlog["share"], 0.1, note)
    return report


def _judge(report: Report, found: dict[str, Any]) -> None:
    what = f"{found['learner']}, {found['items']:,} items, 2,000 events/s"
    report.at_most(f"{what}: share of time in commits", found["share"], 0.1, f"{found['commits']} commits")
    bound = 1.0 if found["items"] <= 20_000 else None
    note = f"p50 {found['durable_p50_s']:.3f}, max {found['durable_max_s']:.3f}"
    report.at_most(f"{what}: event → durable, p99, s", found["durable_p99_s"], bound, note)


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("commits", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
