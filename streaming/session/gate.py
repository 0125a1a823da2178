"""The gate: ranks of events by the plain and by the sequence embedding enter, which is served leaves.

For each event, before it is learned, d = g(corrected rank) − g(plain rank) with g(r) = 1 / log2(r + 2).
By history length, exponentially decaying sums give the mean of d and its standard error. A correction is
let in where the mean lies `open_at` standard errors and the margin above 0, and shut out where it has
fallen to `close_at` standard errors; between the two, and for `rest` events after a change, all stays as
it is, so that noise does not make it flap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel

EDGES = (1, 2, 3, 5, 9, 17, 33)  # shortest history of each bucket
BUCKETS = len(EDGES)
_WEIGHT, _SQUARES_OF_WEIGHTS, _SUM, _SQUARES = 0, 1, 2, 3


class Rule(NamedTuple):
    """When the gate moves.

    half_life: events of a bucket after which they count half.
    margin: least mean gain.
    open_at, close_at: standard errors above 0 where it opens, and where it closes.
    least: events of a bucket before it may open.
    rest: events of a bucket after a change before the next one.
    """

    half_life: float = 4000.0
    margin: float = 0.0005
    open_at: float = 2.0
    close_at: float = 0.0
    least: int = 200
    rest: int = 500


class Record(NamedTuple):
    """What the gate has seen."""

    sums: NDArray[np.float64]  # (BUCKETS, 4) decayed: Σ w, Σ w², Σ w d, Σ w d²
    events: NDArray[np.int64]  # (BUCKETS,)
    changed: NDArray[np.int64]  # (BUCKETS,) events at the last change
    changes: NDArray[np.int64]  # (BUCKETS,)
    open: NDArray[np.bool_]  # (BUCKETS,)


@kernel
def bucket_of(length: int) -> int:
    """Bucket of a history length: 1, 2, 3–4, 5–8, 9–16, 17–32, more; −1 for none.

    >>> [bucket_of(n) for n in (0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 33, 1000)]
    [-1, 0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 6]
    """
    if length >= 3:
        return 2 + (length >= 5) + (length >= 9) + (length >= 17) + (length >= 33)
    return length - 1


@kernel
def gain(rank: float) -> float:
    """1 / log2(rank + 2), 0 for a miss."""
    return 1.0 / np.log2(rank + 2.0) if rank < np.inf else 0.0


@kernel
def compare(record: Record, rule: Rule, bucket: int, plain: float, corrected: float) -> None:
    """Count one event in its bucket, and open or shut it."""
    d = gain(corrected) - gain(plain)
    kept = 2.0 ** (-1.0 / rule.half_life)
    sums = record.sums
    sums[bucket, _WEIGHT] = kept * sums[bucket, _WEIGHT] + 1.0
    sums[bucket, _SQUARES_OF_WEIGHTS] = kept * kept * sums[bucket, _SQUARES_OF_WEIGHTS] + 1.0
    sums[bucket, _SUM] = kept * sums[bucket, _SUM] + d
    sums[bucket, _SQUARES] = kept * sums[bucket, _SQUARES] + d * d
    record.events[bucket] += 1
    events = record.events[bucket]
    if events < rule.least or (record.changes[bucket] > 0 and events - record.changed[bucket] < rule.rest):
        return
    mean = sums[bucket, _SUM] / sums[bucket, _WEIGHT]
    error = standard_error(record, bucket)
    if record.open[bucket]:
        change = mean < rule.close_at * error
    else:
        change = mean > max(rule.open_at * error, rule.margin)
    if change:
        record.open[bucket] = not record.open[bucket]
        record.changed[bucket] = events
        record.changes[bucket] += 1


@kernel
def standard_error(record: Record, bucket: int) -> float:
    """Of the decayed mean: √(variance · Σ w² / (Σ w)²)."""
    weight = record.sums[bucket, _WEIGHT]
    mean = record.sums[bucket, _SUM] / weight
    variance = max(record.sums[bucket, _SQUARES] / weight - mean * mean, 0.0)
    return float(np.sqrt(variance * record.sums[bucket, _SQUARES_OF_WEIGHTS]) / weight)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a bucket of the gate stands.

    Attributes:
        shortest: history from which on the bucket counts.
        gain, error: mean of d and its standard error; 0 where nothing was compared.
        reason: in words, why it is open or shut.
    """

    shortest: int
    open: bool
    gain: float
    error: float
    events: int
    changes: int
    reason: str


class Gate:
    """Prequential comparison of the corrected with the plain ranking, by history length."""

    def __init__(self, rule: Rule | None = None) -> None:
        self.rule = rule or Rule()
        self.record = Record(
            sums=np.zeros((BUCKETS, 4)),
            events=np.zeros(BUCKETS, np.int64),
            changed=np.zeros(BUCKETS, np.int64),
            changes=np.zeros(BUCKETS, np.int64),
            open=np.zeros(BUCKETS, np.bool_),
        )

    def compare(self, length: int, plain: float, corrected: float) -> None:
        """Count an event of a user with this many events before; one with none is not compared."""
        bucket = bucket_of(length)
        if bucket >= 0:
            compare(self.record, self.rule, bucket, plain, corrected)

    def serves(self, length: int) -> bool:
        """Whether a user with a history of this length is served the sequence embedding."""
        bucket = bucket_of(length)
        return bucket >= 0 and bool(self.record.open[bucket])

    def standings(self) -> list[Standing]:
        """Where each bucket stands, the shortest histories first."""
        return [self._standing(bucket) for bucket in range(BUCKETS)]

    def _standing(self, bucket: int) -> Standing:
        record, events = self.record, int(self.record.events[bucket])
        opened, mean, error = bool(record.open[bucket]), 0.0, 0.0
        if events:
            mean = float(record.sums[bucket, _SUM] / record.sums[bucket, _WEIGHT])
            error = standard_error(record, bucket)
        measured = f"gain {mean:+.4f} ± {error:.4f} over {events:,} events"
        if events < self.rule.least:
            reason = f"shut: {events:,} of {self.rule.least:,} events compared"
        elif opened:
            reason = f"open: {measured}"
        else:
            reason = (
                f"shut: {measured}, {self.rule.open_at:g} standard errors and {self.rule.margin:g} wanted"
            )
        return Standing(EDGES[bucket], opened, mean, error, events, int(record.changes[bucket]), reason)

    def state(self) -> dict[str, Any]:
        """All of it, for the store."""
        return {"rule": self.rule._asdict(), **{k: v.tolist() for k, v in self.record._asdict().items()}}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Gate:
        """The gate that `state` gave."""
        gate = cls(Rule(**state["rule"]))
        for name, array in gate.record._asdict().items():
            array[...] = state[name]
        return gate
