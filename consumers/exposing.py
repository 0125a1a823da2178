"""Lists that were served enter; they leave into the log of exposures, off the path of requests.

The log is Kafka's topic `exposures`, keyed by user, or segments in HOME/exposures. A list is offered once
its answer was sent, so a kill may lose the newest exposures, but none is claimed that was not served.
Nothing is sent again from here: the producer is idempotent, so a list stands there once or not at all.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue
from threading import Event as Flag
from threading import Thread
from typing import Any, NamedTuple

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter

from consumers.posting import DurableLog, Posted
from state.answer_forms import Recommended
from state.experiments import Experiments
from streaming.errors import FreshetError

logger = structlog.get_logger()

EXPOSURES = "exposures"  # the directory in a home directory
WAITING = 8192  # lists that wait to be written
_GROUP = 1024  # lists that are written at one go


class Shown(msgspec.Struct, frozen=True):
    """What stands in an answer that an experiment counts: the id of the exposure, for events to name.

    Attributes:
        exposure: null where no experiment runs, or the list could not be noted.
    """

    exposure: str | None


class ExposureRecord(msgspec.Struct, frozen=True):
    """A line of the log; `ts` in microseconds since 1970, positions from 0."""

    id: str
    user: str
    experiment: str
    arm: str
    version: str
    items: list[str]
    positions: list[int]
    scores: list[float]
    ts: int


class Served(NamedTuple):
    """A list that is about to be sent."""

    id: str
    user: str
    experiment: str
    version: str
    items: list[Recommended]
    ts: int


class ExposureMetrics:
    """What the server reports of exposures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.written = Counter(
            "freshet_exposures",
            "Served lists that became durable in the log of exposures.",
            ["arm"],
            registry=registry,
        )
        self.dropped = Counter(
            "freshet_exposures_dropped",
            "Served lists that were not noted: too many were waiting (full), or the log did not take them "
            "(refused).",
            ["reason"],
            registry=registry,
        )
        for reason in ("full", "refused"):
            self.dropped.labels(reason)  # there from the start: an increase from nothing would not show


class Exposing:
    """Notes served lists while an experiment runs, from one thread.

    Args:
        log: closed with this.
        now: seconds since 1970.
    """

    def __init__(
        self,
        log: DurableLog,
        experiments: Experiments,
        metrics: ExposureMetrics,
        *,
        waiting: int = WAITING,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._log, self._experiments, self._metrics, self._now = log, experiments, metrics, now
        self._waiting: Queue[Served | None] = Queue(waiting)
        self._closing = Flag()
        self._thread = Thread(target=self._run, name="exposures", daemon=True)
        self._thread.start()

    def of(self, user: str, version: str, items: list[Recommended]) -> Served | None:
        """The exposure that an answer makes; None where no experiment counts it, or it cannot be noted."""
        trial = self._experiments.running()
        if trial is None or version not in trial.shares:
            return None
        if self._waiting.full():
            self._metrics.dropped.labels("full").inc()
            return None
        return Served(uuid.uuid4().hex, user, trial.name, version, items, int(self._now() * 1e6))

    def sent(self, served: Served) -> None:
        """The answer was sent: note the list. Never waits."""
        try:
            self._waiting.put_nowait(served)
        except Full:
            self._metrics.dropped.labels("full").inc()

    def close(self) -> None:
        """Write what waits, then end; once the log refuses some of it, the rest is not tried."""
        self._closing.set()
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = refused = False
        while not ended:
            group = [self._waiting.get()]
            try:
                while len(group) < _GROUP:
                    group.append(self._waiting.get_nowait())
            except Empty:
                pass  # all that waits is in the group
            ended = None in group
            lists = [one for one in group if one is not None]
            if refused and self._closing.is_set():
                # A log out of reach takes seconds to refuse, and whoever closes this waits.
                self._metrics.dropped.labels("refused").inc(len(lists))
            else:
                refused = not self._write(lists)
        self._log.close()

    def _write(self, group: Sequence[Served]) -> bool:
        """Write lists; whether the log took all of them."""
        if not group:
            return True
        try:
            results = self._log.append([[_posted(one)] for one in group])
        except Exception as error:
            # The thread must live on for the next; what was lost is counted and logged.
            logger.exception("exposures_not_written", lists=len(group), reason=str(error))
            self._metrics.dropped.labels("refused").inc(len(group))
            return False
        refused: FreshetError | None = None
        for one, error_of_one in zip(group, results, strict=True):
            if error_of_one is None:
                self._metrics.written.labels(one.version).inc()
            else:
                refused = error_of_one
                self._metrics.dropped.labels("refused").inc()
        if refused is not None:
            logger.warning("exposures_refused", lists=len(group), reason=str(refused))
        return refused is None


def _posted(one: Served) -> Posted:
    record = ExposureRecord(
        one.id,
        one.user,
        one.experiment,
        one.version,
        one.version,
        [item.item for item in one.items],
        list(range(len(one.items))),
        [item.score for item in one.items],
        one.ts,
    )
    return Posted(one.user.encode("utf-8", "surrogatepass"), msgspec.json.encode(record))


def background(exposing: Exposing, served: Served) -> Any:
    """What Starlette runs once the answer was sent."""
    from starlette.background import BackgroundTask

    async def note() -> None:
        exposing.sent(served)

    return BackgroundTask(note)
