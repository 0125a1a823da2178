"""Users in memory: ids enter, slots of their rows leave; a write-back cache over the store.

Users are held up to a bound: those whose newest event is longest ago make room, and come back from
the store when they are seen again, bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from state.admission import Admission
from state.arena import COMPLETE, OLDEST, PRIVATE, USERS_SEQUENCE, Arena
from state.ids import IdArrays, IdTable, find, insert, remove
from state.rows import RowArrays, RowCodec
from state.store import Store
from state.tables import begin_rows
from streaming.events import Ids
from streaming.kernels import hash_bytes, kernel
from streaming.learners.contract import History, Layout, Neighbours, Rows
from streaming.learners.model import USER, initial_values, new_rows


@kernel
def _take_slots(
    ids: IdArrays,
    free: NDArray[np.int32],
    free_count: int,
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    slots: NDArray[np.int32],
    fresh: NDArray[np.int64],
) -> int:
    """Slots of ids; ids without one get one from the free list and are noted in `fresh`; returns how many."""
    count = 0
    for i in range(start.shape[0]):
        id_hash = hash_bytes(data, start[i], end[i])
        slot = find(ids, data, start[i], end[i], id_hash)
        if slot < 0:
            slot = free[free_count - 1 - count]
            insert(ids, slot, data, start[i], end[i], id_hash)
            fresh[count] = slot
            count += 1
        slots[i] = slot
    return count


@kernel
def _remove_all(ids: IdArrays, slots: NDArray[np.int64]) -> None:
    for i in range(slots.shape[0]):
        remove(ids, slots[i])


class UserTable:
    """Users held in memory.

    Args:
        capacity: most users held at once; None for as many as there are.
        arena: where what readers need of the table lies.

    Attributes:
        limit: most users held at once; None for no limit.
        oldest: a row whose newest event is older (seconds) counts as gone.
        stored_seen: (capacity,) time of the newest event of the row in the store, NOT_STORED for none.
    """

    NOT_STORED = -1

    def __init__(
        self, layout: Layout, seed: int, store: Store, capacity: int | None, arena: Arena | None = None
    ) -> None:
        self._arena = arena or Arena()
        self._layout, self._seed, self._store = layout, np.uint64(seed), store
        self.limit = capacity
        self._codec = RowCodec(USER, layout)
        self._fill, self._sigma = initial_values(layout.user)
        self.hits = self.misses = 0
        self.oldest = 0
        # While every user of the store is in memory, one that is not here is new: no need to ask.
        self._complete = next(store.scan(b"u"), None) is None
        self._arena.head[COMPLETE] = self._complete
        size = min(capacity or 1024, 1024)
        self._allocate(size)
        self._free = np.arange(size - 1, -1, -1, dtype=np.int32)
        self._free_count = size

    def _allocate(self, size: int) -> None:
        arena, width = self._arena, self._layout.history
        self.ids = IdTable(size, arena, "users.ids")
        self.rows = arena.keep("users", new_rows(self._layout.user, size))
        self.history = History(
            arena.zeros("history.serial", (size, width), np.int32),
            arena.zeros("history.time", (size, width), np.uint32),
            arena.zeros("history.pushed", (size,), np.uint32),
        )
        self.partition = np.zeros(size, np.int32)
        self.stored_seen = np.full(size, self.NOT_STORED, np.int64)

    @property
    def capacity(self) -> int:
        """Slots there are now."""
        return self.partition.shape[0]

    @property
    def held(self) -> int:
        """Users in memory."""
        return self.capacity - self._free_count

    def arrays(self) -> RowArrays:
        """The users' rows as the codec sees them."""
        no_lists = Neighbours(
            np.zeros((0, 0, 0), np.int32), np.zeros((0, 0, 0), np.float32), np.zeros((0, 0), np.int32)
        )
        return RowArrays(
            self.rows,
            self.rows.floats.view(np.uint32),
            self.history,
            no_lists,
            self.partition,
            self.partition,
        )

    def make_room(self, ids: Ids, committed: int) -> bool:
        """Room for those of these users that are not here; at most `limit` of them.

        False where only rows that changed after event `committed` could leave.
        """
        if self._free_count >= len(ids):
            return True
        here = self.ids.slots_of(ids)
        wanted = int((here < 0).sum())
        if self._free_count < wanted and (self.limit is None or self.capacity < self.limit):
            size = max(2 * self.capacity, self.capacity + wanted)
            self._grow(size if self.limit is None else min(size, self.limit))
        if self._free_count < wanted:
            self._evict(max(wanted - self._free_count, self.capacity // 64), here[here >= 0], committed)
        return self._free_count >= wanted

    def _grow(self, size: int) -> None:
        old = self.capacity
        self.ids.make_room(size, 0)
        self.rows = self._arena.all_grown("users", self.rows, size)
        self.history = self._arena.all_grown("history", self.history, size)
        self.partition = PRIVATE.grown("partition", self.partition, size)
        self.stored_seen = PRIVATE.grown("stored_seen", self.stored_seen, size)
        free = np.arange(size - 1, old - 1, -1, dtype=np.int32)
        self._free = np.concatenate([free, self._free[: self._free_count], np.zeros(old, np.int32)])
        self._free_count += size - old

    def _evict(self, wanted: int, needed: NDArray[np.int32], committed: int) -> None:
        touched = self.rows.touched
        may_go = (self.ids.arrays.length > 0) & (touched <= committed)
        may_go[needed] = False
        clean = np.flatnonzero(may_go)
        if len(clean) > wanted:
            clean = clean[np.argpartition(touched[clean], wanted)[:wanted]]
        # Told first, so that no reader takes one who leaves for one who never was.
        self._complete = self._complete and len(clean) == 0
        self._arena.head[COMPLETE] = self._complete
        self._release(clean)

    def _release(self, slots: NDArray[np.int64]) -> None:
        with self._arena.changing(USERS_SEQUENCE):
            _remove_all(self.ids.arrays, slots)
        self._free[self._free_count : self._free_count + len(slots)] = slots
        self._free_count += len(slots)

    def resolve(self, ids: Ids, partition: int, admission: Admission, before: int) -> NDArray[np.int32]:
        """Slots of users, -1 for one that is not admitted yet; `make_room` comes first.

        Those not in memory are read from the store or begun. `before` is the number of the event
        before the first.
        """
        with self._arena.changing(USERS_SEQUENCE):
            return self._resolve(ids, partition, admission, before)

    def _resolve(self, ids: Ids, partition: int, admission: Admission, before: int) -> NDArray[np.int32]:
        slots = np.empty(len(ids), np.int32)
        fresh = np.empty(len(ids), np.int64)
        self.ids.make_room(self.capacity, int((ids.end - ids.start).sum()))
        count = _take_slots(
            self.ids.arrays, self._free, self._free_count, ids.data, ids.start, ids.end, slots, fresh
        )
        self._free_count -= count
        self.misses += count
        self.hits += len(ids) - count
        if count:
            new = self._load(fresh[:count], partition)
            if admission.threshold > 1.0:
                asks = np.isin(slots, new)
                slots[asks & ~admission.admit(ids, asks, before)] = -1
                self._release(np.setdiff1d(new, slots))
        return slots

    def _load(self, slots: NDArray[np.int64], partition: int) -> NDArray[np.int64]:
        """Fill rows from the store; those that are not there, or whose time is over, begin. Returns these."""
        new = slots
        self.stored_seen[slots] = self.NOT_STORED
        if not self._complete:
            keys = [b"u" + self.ids.id_of(slot) for slot in slots.tolist()]
            values = self._store.get_many(keys)
            found = [i for i, v in enumerate(values) if v is not None]
            rows = [v for v in values if v is not None]
            old = slots[found]
            self._codec.decode(self.arrays(), old, [keys[i] for i in found], rows)
            self.stored_seen[old] = self.rows.seen[old]
            new = np.concatenate([np.delete(slots, found), old[self.rows.seen[old] < self.oldest]])
        begin_rows(
            self.rows,
            self.history,
            self.partition,
            self.ids.arrays,
            new,
            self._fill,
            self._sigma,
            self._seed,
            USER,
            partition,
        )
        return new

    def copy(self, user: str, rows: Rows, history: History) -> bool | None:
        """Copy a user's row into slot 0; None where only the store knows whether there is one."""
        slot = self.ids.slot_of(user)
        if slot < 0:
            return None
        for mine, theirs in ((rows, self.rows), (history, self.history)):
            for name in mine._fields:
                getattr(mine, name)[0] = getattr(theirs, name)[slot]
        return True

    def read_all(self, arrays: RowArrays) -> Iterator[list[bytes]]:
        """Read all users of the store into slots 0, 1, …, as many as there is room for; yields their ids."""
        found = self._store.scan(b"u")
        while part := list(islice(found, len(arrays.rows.events))):
            keys = [key for key, _ in part]
            self._codec.decode(arrays, np.arange(len(part)), keys, [value for _, value in part])
            yield [key[1:] for key in keys]

    def expire(self) -> list[bytes]:
        """Let go of users whose newest event is older than `oldest`; returns their ids."""
        # Told first: until the next commit the store has rows of before.
        self._arena.head[OLDEST] = self.oldest
        gone = np.flatnonzero((self.ids.arrays.length > 0) & (self.rows.seen < self.oldest))
        names = [self.ids.id_of(slot) for slot in gone.tolist()]
        self._release(gone)
        return names

    def discard(self, name: bytes) -> bool:
        """Let go of a user, and leave nothing of the row in memory; False where it is not here."""
        slot = self.ids.slot_of(name.decode())
        if slot < 0:
            return False
        with self._arena.changing(USERS_SEQUENCE):
            ids = self.ids.arrays
            start, end = ids.start[slot], ids.start[slot] + ids.length[slot]
            self._release(np.array([slot]))
            ids.data[start:end] = 0
            for array in (*self.rows, *self.history, self.partition):
                array[slot] = 0
        return True

    def committed(self, slots: NDArray[np.int64]) -> None:
        """These rows are durable."""
        self.stored_seen[slots] = self.rows.seen[slots]

    def changed(self, committed: int) -> NDArray[np.int64]:
        """Slots of rows that changed after event `committed`."""
        return np.flatnonzero((self.rows.touched > committed) & (self.ids.arrays.length > 0))

    def encoded(self, slots: NDArray[np.int64]) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of rows."""
        return self._codec.encode(self.arrays(), self.ids.arrays, slots)
