"""The demonstration: a simulated stream enters, two versions learn it live, what can be seen of it leaves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event as Flag
from typing import Any

import numpy as np

from consumers.demo_workers import opened_learned, opened_worker
from consumers.embeddings import POLL_S
from consumers.eventlog.contract import Slice
from consumers.eventlog.simulated import SimulatorLog
from consumers.metrics import WorkerMetrics
from consumers.settings import Settings
from state.answers import recommend
from state.learned import Learned
from state.reasons import in_words
from state.releases import Releases
from state.spec import new_spec
from state.versions import Registry, Version
from streaming.simulator import SimulatorOptions

LEARNERS = {"demo": "softmax", "demo-popularity": "popularity"}
EVALUATED = 0.05  # share of the events that are ranked before they are learned
_KEPT = 200  # newest freshness figures


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A recommendation with the reason why it is there."""

    item: str
    score: float
    why: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What the demonstration shows at one moment.

    Attributes:
        events: learned so far, in earlier runs too.
        events_per_second: over the last seconds.
        freshness_p50_s, freshness_p99_s: event → durable, of the newest slices.
        hit_rate: HR@10 by learner, each event predicted before it was learned; over the newest
            evaluated events and over all.
        best: HR@10 of a ranking by the simulator's true probabilities, over the events of this run.
        new_users: users whose first event this was; their HR@10 at that first event.
        curve: HR@10 of the default learner along the stream.
    """

    events: int
    events_per_second: float
    freshness_p50_s: float
    freshness_p99_s: float
    hit_rate: dict[str, dict[str, float]]
    best: float
    new_users: int
    new_user_hit_rate: float
    items: int
    curve: list[float]
    user: str
    recommendations: list[Suggestion]


class Demo:
    """Two versions, the default learner and popularity, that learn the same simulated stream.

    Args:
        rate: simulated events a second, None for as many as can be learned.
        more: events after which the stream ends, beyond those of earlier runs; None for never.
    """

    def __init__(
        self, settings: Settings, metrics: WorkerMetrics, *, seed: int, rate: float | None, more: int | None
    ) -> None:
        registry = Registry(settings.home)
        self._open = ExitStack()
        versions = {learner: _version(registry, name, learner) for name, learner in LEARNERS.items()}
        learned = {
            learner: opened_learned(version, settings, self._open) for learner, version in versions.items()
        }
        begun = min(known.ledger.number for known in learned.values())
        limit = None if more is None else begun + more
        self.log = SimulatorLog(SimulatorOptions(seed=seed), rate=rate, limit=limit)
        releases = Releases(settings.home)
        if releases.read().champion is None:
            releases.promote("demo", "the demonstration's default learner")
        self._metrics = {learner: metrics.of(version.name) for learner, version in versions.items()}
        self._workers = {
            name: opened_worker(version, learned[name], self.log, settings, self._metrics[name], self._open)
            for name, version in versions.items()
        }
        self._oracle_hits = self._oracle_events = 0
        self._freshness: deque[float] = deque(maxlen=_KEPT)
        self._recent: deque[tuple[float, int]] = deque(maxlen=64)
        self._user = ""

    @property
    def learned(self) -> Learned:
        """The version with the default learner."""
        return self._workers["softmax"].learned

    def run(self, stop: Flag, look: Callable[[], None]) -> None:
        """Learn until told to stop or the stream ends; `look` is called after each slice."""
        for worker in self._workers.values():
            worker.begin()
        self.log.seek({self.log.source: self._first_offset()})
        while not (stop.is_set() or self.log.ended):
            before = time.perf_counter()
            found = self.log.poll(1024, POLL_S)
            for seen in self._metrics.values():
                seen.observe_turn()
            if found is not None:
                self._take(found, time.perf_counter() - before)
            for worker in self._workers.values():
                worker.learned.arena.beat()
            look()
        for worker in self._workers.values():
            worker.commit()
        self._note_freshness()

    def _first_offset(self) -> int:
        """Where both versions stand: one that is ahead after a kill skips what it has."""
        return min(w.learned.ledger.sources[0].next_offset for w in self._workers.values())

    def _take(self, found: Slice, polled_s: float) -> None:
        for worker in self._workers.values():
            has = worker.learned.ledger.sources[0].next_offset
            if has < found.next_offset:
                worker.take(_from(found, has), polled_s)
            worker.commit_if_due()
            worker.answer()
        ranks = self.log.oracle_ranks(found.first, found.next_offset)
        self._oracle_hits += int((ranks < 10).sum())
        self._oracle_events += len(ranks)
        self._recent.append((time.monotonic(), self.learned.ledger.number))
        self._user = found.events.users[len(found.events) - 1]
        self._note_freshness()

    def _note_freshness(self) -> None:
        totals = self._workers["softmax"].totals
        self._freshness.extend(totals.freshness_s)
        totals.freshness_s = []

    def picture(self) -> Picture:
        """What there is to see now."""
        summaries = {name: w.learned.prequential.summary() for name, w in self._workers.items()}
        windows = {name: w.learned.prequential.window() for name, w in self._workers.items()}
        fresh = np.array(self._freshness or [float("nan")])
        (first, begun), (last, now) = (
            (self._recent[0], self._recent[-1]) if self._recent else ((0.0, 0), (0.0, 0))
        )
        default = summaries["softmax"]
        return Picture(
            events=self.learned.ledger.number,
            events_per_second=(now - begun) / (last - first) if last > first else 0.0,
            freshness_p50_s=float(np.quantile(fresh, 0.5)),
            freshness_p99_s=float(np.quantile(fresh, 0.99)),
            hit_rate={
                name: {"recent": windows[name]["hr@10"], "all": summaries[name]["overall"]["hr@10"]}
                for name in summaries
            },
            best=self._oracle_hits / max(1, self._oracle_events),
            new_users=self.learned.ledger.new_users,
            new_user_hit_rate=default["segments"]["new_user"]["hr@10"],
            items=self.learned.items.count,
            curve=default["curve"]["hr@10"],
            user=self._user,
            recommendations=self._suggestions(),
        )

    def _suggestions(self) -> list[Suggestion]:
        if not self._user:
            return []
        found = recommend(self.learned, self._user, 5)
        return [Suggestion(item, score, in_words(reasons)) for item, score, reasons in found]

    def close(self) -> None:
        """Release the stores."""
        self._open.close()


def _version(registry: Registry, name: str, learner: str) -> Version:
    """The version of that name, made where it is not there."""
    if name in registry.names():
        return registry.get(name)
    return registry.create(name, new_spec(learner, {"evaluation_rate": EVALUATED}))


def _from(found: Slice, offset: int) -> Slice:
    """The part of a slice from an offset on."""
    if offset <= found.first:
        return found
    skip = int((found.events.offsets < offset).sum())
    rest = found.events.part(skip, len(found.events))
    return Slice(found.source, offset, found.next_offset, rest, found.bad, found.arrived)


def summary(picture: Picture, seconds: float) -> dict[str, Any]:
    """The picture as plain data."""
    return {
        "events": picture.events,
        "seconds": round(seconds, 2),
        "events_per_second": round(picture.events_per_second, 1),
        "freshness_seconds": {"p50": picture.freshness_p50_s, "p99": picture.freshness_p99_s},
        "hit_rate_at_10": {**picture.hit_rate, "best_possible": picture.best},
        "new_users": picture.new_users,
        "new_user_hit_rate_at_10": picture.new_user_hit_rate,
        "items": picture.items,
        "user": picture.user,
        "recommendations": picture.recommendations,
    }
