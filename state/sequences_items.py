"""Items as sequences see them: ids are numbered at first sight, rows of the version are copied beside them.

A number holds for good, whatever becomes of the item's row in the version: it may not be there yet, it may
expire and come back, and the version may be restored. An item without a row is masked: it has no slot, and
what draws items at random meets a score that nothing adds to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.arena import ITEMS_SEQUENCE, PRIVATE
from state.ids import IdArrays, IdTable, find, insert, remove
from state.ledger import sealed, unsealed
from state.live_view import LiveVersion
from state.store import Store
from state.view import View
from streaming.events import Ids
from streaming.kernels import acquire, hash_bytes, kernel
from streaming.learners.contract import Learner, Model, Rows
from streaming.learners.model import new_model

_NEVER = -1  # in the place of the number of the event that changed a row last
_HOPELESS = np.float32(-1e9)  # bias of an item that has no row


@kernel
def _number(
    ids: IdArrays,
    count: int,
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    numbers: NDArray[np.int32],
) -> int:
    """Numbers of ids; those never seen get the next ones. Returns how many there are then."""
    for i in range(start.shape[0]):
        id_hash = hash_bytes(data, start[i], end[i])
        number = find(ids, data, start[i], end[i], id_hash)
        if number < 0:
            number = count
            insert(ids, number, data, start[i], end[i], id_hash)
            count += 1
        numbers[i] = number
    return count


@kernel
def _copy_changed(
    rows: Rows, place: NDArray[np.int32], done: NDArray[np.int64], to: Rows, slot_of: NDArray[np.int32]
) -> int:
    """Copy rows that changed since they were copied; one that is being changed stays as it was.

    Returns:
        How many items have a row.
    """
    present = 0
    for i in range(place.shape[0]):
        slot = place[i]
        touched = rows.touched[slot] if slot >= 0 else _NEVER
        acquire()
        if slot >= 0 and touched != to.touched[i] and touched <= done[0]:
            acquire()
            for k in range(to.floats.shape[1]):
                to.floats[i, k] = rows.floats[slot, k]
            acquire()
            # A row of two halves differs by one step from either, and is copied again the next time.
            whole = rows.touched[slot] == touched
            to.touched[i] = touched if whole else _NEVER
            slot_of[i] = i if whole or slot_of[i] >= 0 else -1
        present += slot_of[i] >= 0
    return present


class ItemRows:
    """Items that were seen in the log.

    Args:
        learner, options: of the version.
        users: rows of users that the model has room for.

    Attributes:
        count: items numbered so far.
        present: of those, how many have a row in the version.
        number: events that the version had learned when its rows were copied last.
        model: of the copies: slot and serial of an item are its number, slot_of is −1 where it has no row.
    """

    def __init__(self, learner: Learner, options: Any, users: int) -> None:
        self.count = self.present = self.number = 0
        self._written = 0
        self._vector = learner.layout(options).column("item", "vector")
        self._bias = learner.layout(options).column("item", "bias").start
        self.ids = IdTable(1024)
        self._place = np.full(1024, -1, np.int32)  # slots in the version
        self._of: tuple[View | None, int] = (None, -1)  # what the places hold for
        self.model: Model = new_model(learner, options, users, 1024)
        self.model.serial_of[:] = np.arange(1024)
        self._mask(np.arange(1024))

    @property
    def capacity(self) -> int:
        """Numbers that there is room for."""
        return len(self._place)

    def numbers_of(self, ids: Ids) -> NDArray[np.int32]:
        """Numbers of items, given to those that were never seen."""
        self._make_room(self.count + len(ids), int((ids.end - ids.start).sum()))
        numbers = np.empty(len(ids), np.int32)
        self.count = _number(self.ids.arrays, self.count, ids.data, ids.start, ids.end, numbers)
        return numbers

    def read(self, view: View) -> None:
        """Copy what has changed in the version; it may be called again where the tables moved meanwhile."""
        # A version that was read from its store stays as it is; a newer commit is another one.
        moves = int(view.tables.head[ITEMS_SEQUENCE]) if isinstance(view, LiveVersion) else 0
        if self._of[0] is not view or self._of[1] != moves:
            self._of = (view, moves)
            self._place[:] = -1
            self._mask(np.arange(self.capacity))
        missing = np.flatnonzero((self._place[: self.count] < 0) & (self.ids.arrays.length[: self.count] > 0))
        if len(missing):
            arrays = self.ids.arrays
            start = arrays.start[missing]
            found = view.items.ids.slots_of(Ids(arrays.data, start, start + arrays.length[missing]))
            self._place[missing] = np.where(found < view.items.count, found, -1)
        self.present = _copy_changed(
            view.items.rows,
            self._place[: self.count],
            view.model.done,
            self.model.items,
            self.model.slot_of,
        )
        params = type(view.model.params)(*(array.copy() for array in view.model.params))
        self.model = self.model._replace(params=params)
        self.number = view.ledger.number

    def forget(self, names: Sequence[bytes]) -> list[bytes]:
        """Take ids out; their numbers are never given again. Returns the keys that are to be deleted."""
        numbers = self.ids.slots_of(Ids.of(names)) if names else np.zeros(0, np.int32)
        gone = np.unique(numbers[numbers >= 0]).astype(np.int64)
        arrays = self.ids.arrays
        for number in gone.tolist():
            start, end = arrays.start[number], arrays.start[number] + arrays.length[number]
            remove(arrays, number)
            arrays.data[start:end] = 0
        self._place[gone] = -1
        self._mask(gone)
        return [_key(number) for number in gone.tolist()]

    def puts(self) -> Iterator[tuple[bytes, bytes]]:
        """Names since the last commit, and the ring of recent items."""
        for number in range(self._written, self.count):
            if name := self.ids.id_of(number):
                yield _key(number), name
        recent = self.model.recent
        yield b"r", sealed(recent.pushed.tobytes() + recent.serial.tobytes())

    def committed(self) -> None:
        """What `puts` gave is durable."""
        self._written = self.count

    def restore(self, store: Store, count: int) -> None:
        """Read the names of a store, where so many were numbered."""
        kept = list(store.scan(b"n"))
        self._make_room(count, 0)
        self.ids.insert(np.array([int(key[1:], 16) for key, _ in kept], np.int64), [name for _, name in kept])
        self.count = self._written = count
        recent, ring = self.model.recent, store.get_many([b"r"])[0]
        if ring is not None:
            words = unsealed(b"r", ring)
            recent.pushed[0] = np.frombuffer(words[:8], np.int64)[0]
            recent.serial[:] = np.frombuffer(words[8:], np.int32)
            filled = recent.serial[: min(int(recent.pushed[0]), len(recent.serial))]
            recent.occurrences[:] = np.bincount(filled, minlength=self.capacity)

    def _mask(self, numbers: NDArray[np.int64]) -> None:
        items = self.model.items
        self.model.slot_of[numbers] = -1
        items.touched[numbers] = _NEVER
        items.floats[numbers, self._vector] = 0.0
        items.floats[numbers, self._bias] = _HOPELESS

    def _make_room(self, wanted: int, id_bytes: int) -> None:
        old = self.capacity
        size = old
        while size < wanted:
            size *= 2
        self.ids.make_room(size, id_bytes)
        if size == old:
            return
        model, grown = self.model, PRIVATE.grown
        self._place = np.concatenate([self._place, np.full(size - old, -1, np.int32)])
        self.model = model._replace(
            items=PRIVATE.all_grown("items", model.items, size),
            recent=model.recent._replace(occurrences=grown("occurrences", model.recent.occurrences, size)),
            slot_of=grown("slot_of", model.slot_of, size),
            serial_of=np.arange(size, dtype=np.int32),
        )
        self._mask(np.arange(old, size))


def _key(number: int) -> bytes:
    return b"n%08x" % number
