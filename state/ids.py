"""id → slot: a compiled hash table over the ids' bytes.

Python's strings and dicts cost a cache miss or two and 200 bytes for each id; here an id is looked
up from the bytes of its record, compared in full, and lies in one arena.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.arena import PRIVATE, Arena
from streaming.events import Ids
from streaming.kernels import hash_bytes, kernel, release


class IdArrays(NamedTuple):
    """What the kernels see; buckets are probed linearly."""

    bucket: NDArray[np.uint32]  # (B, 2) high half of the hash; slot + 1, 0 where empty
    start: NDArray[np.int64]  # (capacity,) of the id in `data`
    length: NDArray[np.int32]  # (capacity,) bytes, 0 where the slot is free
    data: NDArray[np.uint8]  # the arena
    used: NDArray[np.int64]  # (2,) end of the arena's used part; bytes of it that are garbage


@kernel
def find(ids: IdArrays, data: NDArray[np.uint8], start: int, end: int, id_hash: np.uint64) -> int:
    """Slot of the id `data[start:end]`, -1 where it has none."""
    mask = ids.bucket.shape[0] - 1
    tag = np.uint32(id_hash >> np.uint64(32))
    place = np.int64(id_hash & np.uint64(mask))
    while True:
        slot = np.int64(ids.bucket[place, 1]) - 1
        if slot < 0:
            return -1
        if ids.bucket[place, 0] == tag and ids.length[slot] == end - start:
            at = ids.start[slot]
            same = True
            for k in range(end - start):
                if ids.data[at + k] != data[start + k]:
                    same = False
                    break
            if same:
                return int(slot)
        place = (place + 1) & mask


@kernel
def insert(
    ids: IdArrays, slot: int, data: NDArray[np.uint8], start: int, end: int, id_hash: np.uint64
) -> None:
    """Give an id that has none this slot; the caller has made room."""
    mask = ids.bucket.shape[0] - 1
    place = np.int64(id_hash & np.uint64(mask))
    while ids.bucket[place, 1] != 0:
        place = (place + 1) & mask
    at = ids.used[0]
    for k in range(end - start):
        ids.data[at + k] = data[start + k]
    ids.start[slot] = at
    ids.length[slot] = end - start
    ids.used[0] = at + end - start
    ids.bucket[place, 0] = np.uint32(id_hash >> np.uint64(32))
    release()  # whoever finds the slot finds the id
    ids.bucket[place, 1] = slot + 1


@kernel
def hash_and_insert(
    ids: IdArrays, slots: NDArray[np.int64], data: NDArray[np.uint8], at: NDArray[np.int64]
) -> None:
    """Give ids that have none these slots: id i is `data[at[i]:at[i + 1]]`."""
    for i in range(slots.shape[0]):
        insert(ids, slots[i], data, at[i], at[i + 1], hash_bytes(data, at[i], at[i + 1]))


@kernel
def remove(ids: IdArrays, slot: int) -> None:
    """Take an id out; those behind it in its run move up (Knuth, vol. 3, 6.4, algorithm R)."""
    mask = ids.bucket.shape[0] - 1
    start = ids.start[slot]
    place = np.int64(hash_bytes(ids.data, start, start + ids.length[slot]) & np.uint64(mask))
    while np.int64(ids.bucket[place, 1]) != slot + 1:
        place = (place + 1) & mask
    gap = place
    while True:
        place = (place + 1) & mask
        other = np.int64(ids.bucket[place, 1]) - 1
        if other < 0:
            break
        at = ids.start[other]
        home = np.int64(hash_bytes(ids.data, at, at + ids.length[other]) & np.uint64(mask))
        if ((place - home) & mask) >= ((place - gap) & mask):
            ids.bucket[gap, 0] = ids.bucket[place, 0]
            ids.bucket[gap, 1] = ids.bucket[place, 1]
            gap = place
    ids.bucket[gap, 1] = 0
    ids.used[1] += ids.length[slot]
    ids.length[slot] = 0


@kernel
def move(ids: IdArrays, source: int, target: int) -> None:
    """Let the id of slot `source` have the free slot `target`."""
    mask = ids.bucket.shape[0] - 1
    start = ids.start[source]
    place = np.int64(hash_bytes(ids.data, start, start + ids.length[source]) & np.uint64(mask))
    while np.int64(ids.bucket[place, 1]) != source + 1:
        place = (place + 1) & mask
    ids.bucket[place, 1] = target + 1
    ids.start[target] = start
    ids.length[target] = ids.length[source]
    ids.length[source] = 0


@kernel
def _reinsert(old: IdArrays, new: IdArrays, slots: int) -> None:
    for slot in range(slots):
        if old.length[slot] > 0:
            start, end = old.start[slot], old.start[slot] + old.length[slot]
            insert(new, slot, old.data, start, end, hash_bytes(old.data, start, end))


@kernel
def find_all(
    ids: IdArrays,
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    slots: NDArray[np.int32],
) -> None:
    """Slots of many ids, -1 where there is none."""
    for i in range(start.shape[0]):
        slots[i] = find(ids, data, start[i], end[i], hash_bytes(data, start[i], end[i]))


@kernel
def order_keys(ids: IdArrays, slots: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
    """keys[i]: eight bytes of the id of slots[i], behind what all these ids begin with.

    Sorting by them puts ids into the order of their bytes, but for ties.
    """
    if slots.shape[0] == 0:
        return
    first, same = slots[0], np.int64(ids.length[slots[0]])
    for slot in slots:
        shared = 0
        while (
            shared < min(same, ids.length[slot])
            and ids.data[ids.start[slot] + shared] == ids.data[ids.start[first] + shared]
        ):
            shared += 1
        same = np.int64(shared)
    for i in range(slots.shape[0]):
        start, length = ids.start[slots[i]], ids.length[slots[i]]
        key = np.uint64(0)
        for k in range(same, same + 8):
            key = key << np.uint64(8)
            if k < length:
                key |= np.uint64(ids.data[start + k])
        keys[i] = key


class IdTable:
    """Ids of the rows of a table; slots are given by the table.

    Args:
        arena: where the arrays lie.
        name: of the arrays there.
    """

    def __init__(self, capacity: int, arena: Arena = PRIVATE, name: str = "ids") -> None:
        self._arena, self._name = arena, name
        self.arrays = self._new_arrays(capacity, 16 * capacity)

    @classmethod
    def over(cls, arrays: IdArrays) -> IdTable:
        """The table of arrays that are there, to be read only."""
        table = cls.__new__(cls)
        table.arrays = arrays
        return table

    def make_room(self, capacity: int, new_bytes: int) -> None:
        """Room for `capacity` slots and `new_bytes` more bytes of ids; garbage is left behind."""
        arrays = self.arrays
        have = arrays.length.shape[0]
        used, garbage = int(arrays.used[0]), int(arrays.used[1])
        if capacity <= have and used + new_bytes <= arrays.data.shape[0]:
            return
        capacity = max(capacity, have)
        grown = self._new_arrays(capacity, max(16 * capacity, 2 * (used - garbage) + new_bytes))
        _reinsert(arrays, grown, have)
        self.arrays = grown

    def insert(self, slots: NDArray[np.int64], names: list[bytes]) -> None:
        """Give ids that have none these slots, which there must be."""
        at = np.zeros(len(names) + 1, np.int64)
        np.cumsum([len(name) for name in names], out=at[1:])
        self.make_room(0, int(at[-1]))
        hash_and_insert(self.arrays, slots, np.frombuffer(b"".join(names), np.uint8), at)

    def id_of(self, slot: int) -> bytes:
        """The id of a slot."""
        start = self.arrays.start[slot]
        return self.arrays.data[start : start + self.arrays.length[slot]].tobytes()

    def slots_of(self, ids: Ids) -> NDArray[np.int32]:
        """Slots of ids, -1 where there is none."""
        slots = np.empty(len(ids), np.int32)
        find_all(self.arrays, ids.data, ids.start, ids.end, slots)
        return slots

    def slot_of(self, text: str) -> int:
        """Slot of one id, -1 where it has none."""
        data = np.frombuffer(text.encode(), np.uint8)
        return int(self.slots_of(Ids(data, np.zeros(1, np.int64), np.array([len(data)], np.int64)))[0])

    def _new_arrays(self, capacity: int, arena_bytes: int) -> IdArrays:
        buckets = 1 << max(4, (2 * capacity - 1).bit_length())  # at most half full

        def zeros(name: str, kind: Any, *shape: int) -> NDArray[Any]:
            return self._arena.zeros(f"{self._name}.{name}", shape, kind)

        return IdArrays(
            bucket=zeros("bucket", np.uint32, buckets, 2),
            start=zeros("start", np.int64, capacity),
            length=zeros("length", np.int32, capacity),
            data=zeros("data", np.uint8, arena_bytes),
            used=zeros("used", np.int64, 2),
        )
