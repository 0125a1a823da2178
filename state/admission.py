"""Admission: an id gets a row once it was seen often enough; until then only a decaying count."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from state.arena import PRIVATE
from state.ids import IdArrays, IdTable, find, insert, move, remove
from state.ledger import sealed, unsealed
from state.store import Store
from streaming.events import Ids
from streaming.kernels import hash_bytes, kernel

_COUNT = struct.Struct("<dQ")
_FORGOTTEN = 0.25  # a count that decayed below this is dropped


@kernel
def _admit(
    ids: IdArrays,
    count: NDArray[np.float64],
    number: NDArray[np.int64],
    used: int,
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    asks: NDArray[np.bool_],
    before: int,
    threshold: float,
    half_life: float,
    admitted: NDArray[np.bool_],
) -> int:
    """Count each asking event; admitted[i] = its id was seen `threshold` times. Returns the slots used."""
    for i in range(start.shape[0]):
        if not asks[i]:
            continue
        id_hash = hash_bytes(data, start[i], end[i])
        slot = find(ids, data, start[i], end[i], id_hash)
        if slot < 0:
            slot = used
            used += 1
            insert(ids, slot, data, start[i], end[i], id_hash)
            count[slot] = 0.0
        now = before + i + 1
        if count[slot] < threshold:
            count[slot] = count[slot] * 2.0 ** ((number[slot] - now) / half_life) + 1.0
            number[slot] = now
        # Once reached it stays reached until the end of the batch, when the id has its row.
        admitted[i] = count[slot] >= threshold
    return used


@kernel
def _discard(
    ids: IdArrays,
    count: NDArray[np.float64],
    number: NDArray[np.int64],
    used: int,
    slots: NDArray[np.int64],
) -> int:
    """Take slots out, the highest first; the last one in use moves into each gap. Returns the slots used."""
    for slot in slots:
        remove(ids, slot)
        used -= 1
        if slot != used:
            move(ids, used, slot)
            count[slot], number[slot] = count[used], number[used]
    return used


class Admission:
    """Counts of the ids of one kind that have no row yet.

    Args:
        kind: b"u" or b"i".
        threshold: decayed count at which an id gets its row; 1 admits all at once.
        half_life: events after which an occurrence counts half; it also bounds how many are kept.
    """

    def __init__(self, kind: bytes, threshold: float, half_life: float) -> None:
        self.threshold, self._half_life = threshold, half_life
        self._prefix = b"c" + kind
        self._used = 0
        self.ids = IdTable(1024)
        self._count = np.zeros(1024, np.float64)
        self._number = np.zeros(1024, np.int64)
        self._gone: set[bytes] = set()

    def admit(self, ids: Ids, asks: NDArray[np.bool_], before: int) -> NDArray[np.bool_]:
        """Which of the asking events belong to an id that gets a row now.

        Args:
            before: number of the event before the first.
        """
        if self.threshold <= 1.0:
            return asks
        wanted = self._used + int(asks.sum())
        size = self._count.shape[0]
        while size < wanted:
            size *= 2
        self.ids.make_room(size, int((ids.end - ids.start).sum()))
        if size > self._count.shape[0]:
            self._count = PRIVATE.grown("count", self._count, size)
            self._number = PRIVATE.grown("number", self._number, size)
        admitted = np.zeros(len(ids), np.bool_)
        self._used = _admit(
            self.ids.arrays,
            self._count,
            self._number,
            self._used,
            ids.data,
            ids.start,
            ids.end,
            asks,
            before,
            self.threshold,
            self._half_life,
            admitted,
        )
        self._drop(np.flatnonzero(self._count[: self._used] >= self.threshold))
        return admitted

    def sweep(self, number: int) -> None:
        """At fixed event numbers: drop counts that decayed to nothing."""
        used = slice(0, self._used)
        decayed = self._count[used] * 2.0 ** ((self._number[used] - number) / self._half_life)
        self._drop(np.flatnonzero(decayed < _FORGOTTEN))

    def discard(self, names: Sequence[bytes]) -> None:
        """Drop the counts of ids, where there are any."""
        slots = self.ids.slots_of(Ids.of(names))
        self._drop(np.unique(slots[slots >= 0]).astype(np.int64))

    def _drop(self, slots: NDArray[np.int64]) -> None:
        if not len(slots):
            return
        self._gone.update(self.ids.id_of(slot) for slot in slots.tolist())
        self._used = _discard(self.ids.arrays, self._count, self._number, self._used, slots[::-1])

    def puts(self, committed: int) -> Iterator[tuple[bytes, bytes]]:
        """Counts that changed after event `committed`."""
        for slot in np.flatnonzero(self._number[: self._used] > committed).tolist():
            value = _COUNT.pack(self._count[slot], self._number[slot])
            yield self._prefix + self.ids.id_of(slot), sealed(value)

    def deletes(self) -> Iterator[bytes]:
        """Counts that are no longer kept; the same id may be counted anew, `puts` comes after."""
        yield from (self._prefix + name for name in sorted(self._gone))

    def committed(self) -> None:
        """What `puts` and `deletes` gave is durable."""
        self._gone.clear()

    def restore(self, store: Store) -> None:
        """Read the counts of a store."""
        kept = list(store.scan(self._prefix))
        self._used = len(kept)
        size = max(1024, 2 * self._used)
        self.ids = IdTable(size)
        self._count = PRIVATE.grown("count", self._count, size)
        self._number = PRIVATE.grown("number", self._number, size)
        self.ids.insert(np.arange(self._used), [key[len(self._prefix) :] for key, _ in kept])
        for slot, (key, value) in enumerate(kept):
            self._count[slot], self._number[slot] = _COUNT.unpack(unsealed(key, value))
