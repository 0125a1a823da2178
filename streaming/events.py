"""Events in columns: decoded records enter, arrays for the kernels leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ids:
    """N ids as spans of one buffer: id k is `data[start[k]:end[k]]`, UTF-8."""

    data: NDArray[np.uint8]
    start: NDArray[np.int64]  # (N,)
    end: NDArray[np.int64]  # (N,)

    @classmethod
    def of(cls, names: Sequence[bytes]) -> Ids:
        """These ids, one behind the other in a new buffer."""
        ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        starts = np.zeros(len(names), np.int64)
        starts[1:] = ends[:-1]
        return cls(np.frombuffer(b"".join(names) or b"\0", np.uint8), starts, ends)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, k: int) -> str:
        return self.data[self.start[k] : self.end[k]].tobytes().decode()

    def part(self, first: int, last: int) -> Ids:
        """Ids first … last - 1, without a copy."""
        return Ids(self.data, self.start[first:last], self.end[first:last])


@dataclass(frozen=True, slots=True)
class EventBatch:
    """N events of one partition in offset order.

    Attributes:
        offsets: position in the partition, strictly ascending.
        ts: event time in microseconds since 1970.
        values: the event's `value` (a rating, an amount), 1 by default.
        weights: weight of the event's type; below 0 is negative feedback.
    """

    users: Ids
    items: Ids
    offsets: NDArray[np.int64]  # (N,)
    ts: NDArray[np.int64]  # (N,)
    values: NDArray[np.float32]  # (N,)
    weights: NDArray[np.float32]  # (N,)

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, first: int, last: int) -> EventBatch:
        """Events first … last - 1, without a copy."""
        return EventBatch(
            self.users.part(first, last),
            self.items.part(first, last),
            self.offsets[first:last],
            self.ts[first:last],
            self.values[first:last],
            self.weights[first:last],
        )


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be an event.

    Attributes:
        offset: position in the partition; the line of a text file is offset + 1.
        reason: one sentence: what was expected, what came.
        raw: the record's first bytes (at most 1,000).
        length: bytes of the whole record, where `raw` holds only its start.
        line: line of the file at which the record starts, where lines have numbers.
        whole: all of the record's bytes, where the log keeps them and `raw` holds only its start.
        key: the record's key, where the log has keys.
    """

    offset: int
    reason: str
    raw: bytes
    length: int | None = None
    line: int | None = None
    whole: bytes | None = None
    key: bytes | None = None
