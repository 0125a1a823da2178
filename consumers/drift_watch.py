"""What a version learns enters, batch by batch; figures of quality, norms and drift leave, at commits.

All of it together may cost the worker three parts in a hundred of its speed (`benchmarks/drift.py`), so
each batch costs a few operations on whole arrays, and what is read off the tables is a small sample.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import structlog
from numpy.typing import NDArray

from state.live import LiveArena
from streaming.drift import SIGNALS, Alarm, DriftMonitor
from streaming.evaluation import SEGMENTS

if TYPE_CHECKING:
    from consumers.metrics import WorkerMetrics
    from state.learned import Learned
    from streaming.learners.contract import Field, Rows
    from streaming.learners.loop import Batch, Outcome

logger = structlog.get_logger()

SAMPLED = 512  # rows of each kind whose norms are read at a commit
QUANTILES = (0.5, 0.9, 0.99)
_EVERY = 16  # of the events' rows, for drift of norms
_APART_S = 1.0  # between two readings of the tables, however often is committed
_VECTOR = "vector"


class DriftWatch:
    """The watch over one version in one worker; call it with each batch and its outcome."""

    def __init__(self, families: WorkerMetrics, version: str, learned: Learned) -> None:
        self._learned, self._version = learned, version
        self._monitor = DriftMonitor()
        self._columns = {
            "user": _columns(learned.layout.user),
            "item": _columns(learned.layout.item),
        }
        self.live = isinstance(learned.arena, LiveArena)  # whether other processes see what is learned
        self._due = 0.0
        families.info.labels(version, learned.spec.learner).set(1)
        self._watermark = families.watermark.labels(version)
        self._version_events = families.version_events.labels(version)
        self._version_bad = families.version_bad.labels(version)
        self._pending = families.pending.labels(version)
        self._recent_loss = families.recent_loss.labels(version)
        self._alarms = {signal: families.drift_alarms.labels(version, signal) for signal in SIGNALS}
        self._new = {kind: families.new_ids.labels(version, kind) for kind in ("user", "item")}
        self._evaluated = [families.evaluated.labels(version, segment) for segment in SEGMENTS]
        self._hits = [
            (k, i, families.hits.labels(version, s, k)) for i, s in enumerate(SEGMENTS) for k in (10, 20)
        ]
        self._norms = {
            (kind, q): families.norm.labels(version, kind, q)
            for kind, columns in self._columns.items()
            if columns is not None
            for q in QUANTILES
        }
        # What the store counted before this worker began is no event of this worker's counters.
        self._told_new = self._counted_new()
        self._told_segments = learned.prequential.segments.copy()

    def __call__(self, batch: Batch, outcome: Outcome) -> None:
        """A batch was learned."""
        monitor = self._monitor
        alarms = monitor.observe_losses(outcome.loss) + monitor.observe_ranks(outcome.rank)
        users, items = self._learned.users.rows, self._learned.items.rows
        for kind, rows, slots in (("user", users, batch.user), ("item", items, batch.item)):
            norms = self._norms_of(kind, rows, slots[::_EVERY])
            if norms is not None:
                alarms += monitor.observe_norms(kind, norms)
        for alarm in alarms:
            self._tell(alarm)
        self._pending.set(self._learned.pending)

    def report(self) -> None:
        """A commit is durable: bring counters in step, and read a sample of the tables now and then."""
        learned = self._learned
        self._pending.set(learned.pending)
        self._version_events.set(learned.ledger.number)
        self._version_bad.set(learned.ledger.bad)
        self._watermark.set(learned.ledger.watermark)
        for kind, now in self._counted_new().items():
            self._new[kind].inc(max(0, now - self._told_new[kind]))
            self._told_new[kind] = now
        self._report_ranks()
        if self._monitor.recent_loss is not None:
            self._recent_loss.set(self._monitor.recent_loss)
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _APART_S
            self._report_norms()

    def _counted_new(self) -> dict[str, int]:
        return {"user": self._learned.ledger.new_users, "item": self._learned.items.next_serial}

    def _report_ranks(self) -> None:
        segments = self._learned.prequential.segments
        more = segments - self._told_segments
        for counter, row in zip(self._evaluated, more, strict=True):
            counter.inc(int(row.sum()))
        for k, segment, counter in self._hits:
            counter.inc(int(more[segment, : 2 * k].sum()))  # bin b holds rank b / 2
        self._told_segments = segments.copy()

    def _report_norms(self) -> None:
        users, items = self._learned.users, self._learned.items
        slots = _sampled(users.capacity)
        held = slots[users.ids.arrays.length[slots] > 0]
        for kind, rows, chosen in (("user", users.rows, held), ("item", items.rows, _sampled(items.count))):
            norms = self._norms_of(kind, rows, chosen)
            if norms is not None and len(norms):
                for q, value in zip(QUANTILES, np.quantile(norms, QUANTILES).tolist(), strict=True):
                    self._norms[kind, q].set(value)

    def _norms_of(self, kind: str, rows: Rows, slots: NDArray[np.integer]) -> NDArray[np.float32] | None:
        """Norms of the vectors in these slots, -1 left out; None where rows have no vector."""
        columns = self._columns[kind]
        if columns is None:
            return None
        vectors = rows.floats[slots[slots >= 0], columns]
        norms: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
        return norms

    def _tell(self, alarm: Alarm) -> None:
        self._alarms[alarm.signal].inc()
        logger.warning(
            "drift_found",
            version=self._version,
            signal=alarm.signal,
            expected=round(alarm.expected, 4),
            found=round(alarm.found, 4),
            event_number=self._learned.ledger.number,
        )


def _columns(fields: tuple[Field, ...]) -> slice | None:
    """Where the vector lies in a row's floats, None where there is none."""
    first = 0
    for field in fields:
        if field.name == _VECTOR:
            return slice(first, first + field.width)
        first += field.width
    return None


def _sampled(count: int) -> NDArray[np.int64]:
    """Evenly spaced slots, SAMPLED of them or all."""
    return (
        np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(np.int64))
        if count
        else np.zeros(0, np.int64)
    )
