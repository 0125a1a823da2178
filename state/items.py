"""Items in memory: ids enter, slots of their rows leave; all items of a version are held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from state.arena import COUNT, ITEMS_SEQUENCE, NEXT_SERIAL, Arena
from state.ids import IdArrays, IdTable, find, insert, move, remove
from state.rows import RowArrays, RowCodec
from state.store import Store
from state.tables import begin_rows
from streaming.events import Ids
from streaming.kernels import hash_bytes, kernel
from streaming.learners.contract import History, Layout, Neighbours
from streaming.learners.model import ITEM, initial_values, new_rows


@kernel
def _take_item_slots(
    ids: IdArrays,
    count: int,
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    admitted: NDArray[np.bool_],
    slots: NDArray[np.int32],
    known: NDArray[np.int32],
) -> int:
    """Slots of items in order; one without gets the next where it is admitted. Returns the new count."""
    for i in range(start.shape[0]):
        id_hash = hash_bytes(data, start[i], end[i])
        slot = find(ids, data, start[i], end[i], id_hash)
        known[i] = count
        if slot < 0 and admitted[i]:
            slot = count
            insert(ids, slot, data, start[i], end[i], id_hash)
            count += 1
        slots[i] = slot
    return count


class ItemTable:
    """All items, in slots 0 … count - 1.

    An item also has a serial, which is never given twice: histories and neighbour lists name items
    by serial, so that an item that is gone cannot be taken for the one that got its slot.

    Args:
        arena: where what readers need of the table lies.
    """

    def __init__(self, layout: Layout, seed: int, arena: Arena | None = None) -> None:
        self._arena = arena = arena or Arena()
        self._layout, self._seed = layout, np.uint64(seed)
        self._codec = RowCodec(ITEM, layout)
        self._fill, self._sigma = initial_values(layout.item)
        self.count = 0
        self.next_serial = 0
        size = 1024
        self.slot_of_serial = arena.zeros("slot_of_serial", (size,), np.int32)
        self.slot_of_serial[:] = -1
        lists, entries = layout.neighbours
        self.ids = IdTable(size, arena, "items.ids")
        self.rows = arena.keep("items", new_rows(layout.item, size))
        self.serial = arena.zeros("serial", (size,), np.int32)
        self.slot = np.arange(size, dtype=np.int32)
        self.recent_count = arena.zeros("recent_count", (size,), np.int32)
        self.neighbours = Neighbours(
            arena.zeros("neighbours.serial", (lists, size, entries), np.int32),
            arena.zeros("neighbours.weight", (lists, size, entries), np.float32),
            arena.zeros("neighbours.length", (lists, size), np.int32),
        )

    @property
    def capacity(self) -> int:
        """Slots there are now."""
        return len(self.serial)

    def arrays(self) -> RowArrays:
        """The items' rows as the codec sees them."""
        none = History(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.uint32), np.zeros(0, np.uint32))
        return RowArrays(
            self.rows, self.rows.floats.view(np.uint32), none, self.neighbours, self.serial, self.slot
        )

    def make_room(self, wanted: int, id_bytes: int) -> None:
        """Room for `wanted` more items whose ids take `id_bytes`."""
        size = self.capacity
        while size < self.count + wanted:
            size *= 2
        self.ids.make_room(size, id_bytes)
        if size > self.capacity:
            self.rows = self._arena.all_grown("items", self.rows, size)
            self.serial, self.slot = (
                self._arena.grown("serial", self.serial, size),
                np.arange(size, dtype=np.int32),
            )
            self.recent_count = self._arena.grown("recent_count", self.recent_count, size)
            self.neighbours = self._arena.all_grown("neighbours", self.neighbours, size, axis=1)
        serials = have = self.slot_of_serial.shape[0]
        while serials < self.next_serial + wanted:
            serials *= 2
        if serials > have:
            self.slot_of_serial = self._arena.grown("slot_of_serial", self.slot_of_serial, serials)
            self.slot_of_serial[have:] = -1

    def resolve(self, ids: Ids, admitted: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(slots, items known before each event); -1 for an item that is not admitted yet."""
        n = len(ids)
        self.make_room(n, int((ids.end - ids.start).sum()))
        # Before anything is told of new items: a reader's earlier arrays have no room for them.
        self._arena.publish()
        slots, known = np.empty(n, np.int32), np.empty(n, np.int32)
        count = _take_item_slots(
            self.ids.arrays, self.count, ids.data, ids.start, ids.end, admitted, slots, known
        )
        new = np.arange(self.count, count)
        if len(new):
            none = History(
                np.zeros((0, 0), np.int32), np.zeros((0, 0), np.uint32), np.zeros(count, np.uint32)
            )
            begin_rows(
                self.rows,
                none,
                self.serial,
                self.ids.arrays,
                new,
                self._fill,
                self._sigma,
                self._seed,
                ITEM,
                0,
            )
            serials = np.arange(self.next_serial, self.next_serial + len(new))
            self.serial[new] = serials
            self.slot_of_serial[serials] = new
            self.neighbours.length[:, new] = 0
            self.recent_count[new] = 0
            self.next_serial += len(new)
            self.count = count
            self._tell()
        return slots, known

    def discard(self, slot: int, number: int) -> bytes:
        """Take an item out at event `number`; the last slot's item moves into its place. Returns the id."""
        with self._arena.changing(ITEMS_SEQUENCE):
            item = self._discard(slot, number)
            self._tell()
        return item

    def _tell(self) -> None:
        self._arena.head[COUNT], self._arena.head[NEXT_SERIAL] = self.count, self.next_serial

    def _discard(self, slot: int, number: int) -> bytes:
        item = self.ids.id_of(slot)
        remove(self.ids.arrays, slot)
        self.slot_of_serial[self.serial[slot]] = -1
        last = self.count - 1
        if slot != last:
            move(self.ids.arrays, last, slot)
            for array in (*self.rows, self.serial, self.recent_count):
                array[slot] = array[last]
            for array in self.neighbours:
                array[:, slot] = array[:, last]
            self.slot_of_serial[self.serial[slot]] = slot
            self.rows.touched[slot] = number
        self.count = last
        return item

    def restore(self, store: Store, next_serial: int) -> None:
        """Read all items of a store."""
        keys, values = [], []
        for key, value in store.scan(b"i"):
            keys.append(key)
            values.append(value)
        self.make_room(len(keys), sum(map(len, keys)))
        self.next_serial = next_serial
        self.make_room(0, 0)
        self._tell()
        if not keys:
            return
        places = np.array([int.from_bytes(v[40:44], "little") for v in values], np.int64)
        self._codec.decode(self.arrays(), places, keys, values)
        self.slot[:] = np.arange(self.capacity)
        self.ids.insert(places, [key[1:] for key in keys])
        self.count = len(keys)
        self.slot_of_serial[self.serial[: self.count]] = np.arange(self.count)
        self._tell()

    def changed(self, committed: int) -> NDArray[np.int64]:
        """Slots of rows that changed after event `committed`."""
        return np.flatnonzero(self.rows.touched[: self.count] > committed)

    def encoded(self, slots: NDArray[np.int64]) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of rows."""
        return self._codec.encode(self.arrays(), self.ids.arrays, slots)
