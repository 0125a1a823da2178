"""A version as another process sees it: the live tables of its worker enter, what answers need leaves.

It has the attributes of `Learned` that answers read. Rows are copied whole, one by one, before anything
is said of them; what goes over all items reads them where they lie, to find candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from state.arena import (
    COMPLETE,
    COUNT,
    DONE,
    GENERATION,
    ITEMS_SEQUENCE,
    NEXT_SERIAL,
    OLDEST,
    USERS_SEQUENCE,
    WATERMARK,
)
from state.ids import IdArrays, IdTable
from state.index import ItemIndex
from state.item_source import Items
from state.live import LiveTables
from state.rows import RowArrays, RowCodec
from state.spec import Spec
from state.view import Lookup
from streaming import learners
from streaming.errors import StoreError
from streaming.kernels import acquire, kernel
from streaming.learners.contract import History, Model, Neighbours, Rows
from streaming.learners.model import ITEM, new_model

_SLEEP_S = 0.0002
_TRIES = 20  # at one of many rows
_AHEAD = 4  # room for serials, as a multiple of what there is: an answer may meet newer ones


class TablesMovedError(Exception):
    """The tables are others than at the beginning of an answer; it has to begin again."""


@kernel
def copy_rows(rows: Rows, slots: NDArray[np.int64], done: NDArray[np.int64], to: Rows, first: int) -> int:
    """Copy rows whole into slots 0, 1, … of `to`, from the one numbered `first` on.

    Returns:
        How many are copied; the one of that number is being changed, and is to be copied again.
    """
    for i in range(first, slots.shape[0]):
        slot = slots[i]
        touched = rows.touched[slot]
        acquire()
        if touched > done[0]:
            return int(i)
        acquire()
        to.events[i] = rows.events[slot]
        to.seen[i] = rows.seen[slot]
        for k in range(rows.floats.shape[1]):
            to.floats[i, k] = rows.floats[slot, k]
        acquire()
        if rows.touched[slot] != touched:
            return int(i)
        to.touched[i] = touched
    return int(slots.shape[0])


@kernel
def copy_user(
    rows: Rows,
    history: History,
    slot: int,
    done: NDArray[np.int64],
    to: Rows,
    to_history: History,
    place: int,
) -> bool:
    """Copy a user's row and history whole into slot `place`; False where it is being changed."""
    touched = rows.touched[slot]
    acquire()
    if touched > done[0]:
        return False
    acquire()
    to.events[place] = rows.events[slot]
    to.seen[place] = rows.seen[slot]
    for k in range(rows.floats.shape[1]):
        to.floats[place, k] = rows.floats[slot, k]
    for k in range(history.serial.shape[1]):
        to_history.serial[place, k] = history.serial[slot, k]
        to_history.time[place, k] = history.time[slot, k]
    to_history.pushed[place] = history.pushed[slot]
    to.touched[place] = touched
    acquire()
    return bool(rows.touched[slot] == touched)


class LiveLedger:
    """Where the version stands, as of the beginning of an answer."""

    def __init__(self) -> None:
        self.number = self.watermark = 0


class LiveUsers:
    """Users that the worker holds in memory."""

    ids: IdTable
    rows: Rows
    history: History

    def __init__(self, tables: LiveTables, wait_s: float) -> None:
        self._tables, self._wait_s = tables, wait_s

    @property
    def oldest(self) -> int:
        """A row whose newest event is older (seconds) counts as gone, as of now."""
        return int(self._tables.head[OLDEST])

    def copy(self, user: str, rows: Rows, history: History) -> bool | None:
        """Copy a user's row whole into slot 0.

        Returns:
            Whether the user has one; None where only the store knows.

        Raises:
            StoreError: it changes all the time.
            TablesMovedError: the tables are others now.
        """
        head, until = self._tables.head, time.monotonic() + self._wait_s
        done = head[DONE : DONE + 1]
        while True:
            sequence = int(head[USERS_SEQUENCE])
            if sequence % 2 == 0:
                slot, complete = self.ids.slot_of(user), bool(head[COMPLETE])
                whole = slot < 0 or copy_user(self.rows, self.history, slot, done, rows, history, 0)
                if int(head[GENERATION]) != self._tables.generation:
                    raise TablesMovedError
                if whole and int(head[USERS_SEQUENCE]) == sequence:
                    return True if slot >= 0 else False if complete else None
            if not self._tables.alive:
                return None
            if time.monotonic() > until:
                raise StoreError(f'The row of the user "{user}" changes all the time. Ask again.')
            time.sleep(_SLEEP_S)

    def read_all(self, arrays: RowArrays) -> Iterator[list[bytes]]:
        """Copy all users whom the worker holds, as many at once as there is room; yields their ids.

        One whose row, or whose slot, changes all the time is left out.
        """
        size = len(arrays.rows.events)
        names: list[bytes] = []
        for slot in np.flatnonzero(self.ids.arrays.length > 0).tolist():
            name = self._copy_slot(slot, arrays, len(names))
            if name:
                names.append(name)
            if len(names) == size:
                yield names
                names = []
        if names:
            yield names

    def _copy_slot(self, slot: int, arrays: RowArrays, place: int) -> bytes | None:
        """Copy the user of a slot; returns the id, or None where that is not to be had whole."""
        head = self._tables.head
        done = head[DONE : DONE + 1]
        for _ in range(_TRIES):
            sequence = int(head[USERS_SEQUENCE])
            name = self.ids.id_of(slot)
            if not name:
                return None  # it left meanwhile
            # A slot that changes hands has an id of two halves for a moment.
            if (
                sequence % 2 == 0
                and copy_user(self.rows, self.history, slot, done, arrays.rows, arrays.history, place)
                and int(head[USERS_SEQUENCE]) == sequence
            ):
                return name
            time.sleep(_SLEEP_S)
        return None


class LiveItems:
    """All items of the version, as of the beginning of an answer."""

    ids: IdTable
    rows: Rows
    serial: NDArray[np.int32]
    recent_count: NDArray[np.int32]
    neighbours: Neighbours

    def __init__(self) -> None:
        self.count = 0
        self.slot_of_serial = np.zeros(0, np.int32)


class Copies:
    """Rows of items, copied whole, with the slots 0, 1, … that they have in `model`.

    Args:
        version: whose rows are copied.
    """

    def __init__(self, version: LiveVersion) -> None:
        self._version = version
        self._model = new_model(version.learner, version.options, 1, 1)
        self._slot_of = np.full(1, -1, np.int32)

    def of(self, slots: NDArray[np.int64]) -> Model:
        """The version's model with these items alone, each once.

        Raises:
            StoreError: a row changes all the time.
        """
        version, n = self._version, len(slots)
        if self._model.items.events.shape[0] < n:
            self._model = new_model(version.learner, version.options, 1, 2 * n)
        self._copy(slots)
        serials = version.items.serial[slots]
        if len(self._slot_of) < len(version.items.slot_of_serial):
            self._slot_of = np.full(len(version.items.slot_of_serial), -1, np.int32)
        else:
            self._slot_of[self._model.serial_of] = -1
        self._slot_of[serials] = np.arange(n)
        self._model.serial_of[:] = serials[0] if n else 0
        self._model.serial_of[:n] = serials
        return version.model._replace(
            items=self._model.items,
            recent=self._model.recent,
            neighbours=self._model.neighbours,
            slot_of=self._slot_of,
            serial_of=self._model.serial_of,
        )

    def rows(self, slots: NDArray[np.int64]) -> Rows:
        """Rows alone, in slots 0, 1, …"""
        if self._model.items.events.shape[0] < len(slots):
            self._model = new_model(self._version.learner, self._version.options, 1, 2 * len(slots))
        self._copy(slots)
        return self._model.items

    def _copy(self, slots: NDArray[np.int64]) -> None:
        version, copied = self._version, 0
        until = time.monotonic() + version.wait_s
        done = version.tables.head[DONE : DONE + 1]
        slots = np.ascontiguousarray(slots, np.int64)
        while True:
            copied = int(copy_rows(version.items.rows, slots, done, self._model.items, copied))
            if copied == len(slots):
                return
            if not version.tables.alive:
                self._from_store(int(slots[copied]), copied)
                copied += 1
            elif time.monotonic() > until:
                item = version.items.ids.id_of(int(slots[copied])).decode(errors="replace")
                raise StoreError(f'The row of the item "{item}" changes all the time. Ask again.')
            else:
                time.sleep(0)

    def _from_store(self, slot: int, place: int) -> None:
        """The row that a dead worker was at, as of its last commit; zeros where it was not there yet."""
        version, rows = self._version, self._model.items
        key = b"i" + version.items.ids.id_of(slot)
        value = version.store.get_many([key])[0]
        if value is None:
            rows.floats[place] = 0.0
            rows.events[place] = rows.seen[place] = rows.touched[place] = 0
            return
        none = History(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.uint32), np.zeros(0, np.uint32))
        serial = np.zeros(len(rows.events), np.int32)
        arrays = RowArrays(
            rows, rows.floats.view(np.uint32), none, self._model.neighbours, serial, serial.copy()
        )
        RowCodec(ITEM, version.layout).decode(arrays, np.array([place]), [key], [value])


class IndexedItems:
    """The items of a version as its index sees them, from whatever thread."""

    def __init__(self, version: LiveVersion) -> None:
        vector = version.layout.column("item", "vector")
        biased = any(field.name == "bias" for field in version.layout.item)
        half_life = version.learner.bias_half_life
        self.vector, self.dimension = vector.start, vector.stop - vector.start
        self.bias = version.layout.column("item", "bias").start if biased else -1
        self.bias_half_life = half_life(version.options) if half_life is not None else float("inf")
        self._tables = version.tables

    def items(self) -> Items:
        """The arrays that are mapped now."""
        arrays, head = self._tables.arrays, self._tables.head
        rows, events = arrays["items.floats"], arrays["items.events"]
        known = min(int(head[COUNT]), len(rows))  # tables that have grown are mapped by the next answer
        return Items(rows, arrays["items.touched"], arrays["serial"], events, known, int(head[DONE]))


class LiveVersion:
    """A version in the tables of its worker.

    Args:
        store: of what is not in them, as of the newest commit.
        wait_s: longest wait for a row that is being changed.
    """

    def __init__(self, spec: Spec, tables: LiveTables, store: Lookup, wait_s: float = 1.0) -> None:
        self.spec, self.tables, self.store, self.wait_s = spec, tables, store, wait_s
        self.learner = learners.load(spec.learner)
        self.options = learners.options_of(self.learner, spec.options)
        self.layout = self.learner.layout(self.options)
        self.ledger, self.users, self.items = LiveLedger(), LiveUsers(tables, wait_s), LiveItems()
        self._own = new_model(self.learner, self.options, 1, 1)
        self._model: Model = self._own
        self._serials = 0  # up to here the slots are known
        self._items_sequence = -1
        self._arrange()
        # A score that is a sum over all items is no function of some rows: it is taken as it was read.
        self.by_rows = self.learner.query is not None and not self.layout.neighbours[0]
        self.copies = Copies(self)
        self.index = ItemIndex(IndexedItems(self)) if self.by_rows else None

    def look(self) -> None:
        """Take the tables as they are now, for one answer."""
        if self.tables.refresh():
            self._arrange()
        head, items = self.tables.head, self.items
        self.ledger.number, self.ledger.watermark = int(head[DONE]), int(head[WATERMARK])
        items.count, serials, sequence = int(head[COUNT]), int(head[NEXT_SERIAL]), int(head[ITEMS_SEQUENCE])
        # A list or a history that is read later may name an item that is newer than the answer: the
        # slots are those of now, with room for the serials to come.
        live, mine = self.tables.arrays["slot_of_serial"], items.slot_of_serial
        if len(mine) < len(live):
            mine = items.slot_of_serial = np.full(_AHEAD * len(live), -1, np.int32)
            self._model = self._model._replace(slot_of=mine)
            self._serials = 0
        first = self._serials if sequence == self._items_sequence else 0
        mine[first:serials] = live[first:serials]
        self._serials, self._items_sequence = serials, sequence

    @property
    def model(self) -> Model:
        """The model over the tables."""
        return self._model

    def _arrange(self) -> None:
        arrays, items, users = self.tables.arrays, self.items, self.users

        def those(kind: Callable[..., tuple[object, ...]], name: str) -> list[NDArray[np.generic]]:
            return [arrays[f"{name}.{field}"] for field in kind._fields]  # type: ignore[attr-defined]

        users.ids, items.ids = (
            IdTable.over(IdArrays(*those(IdArrays, f"{kind}.ids")))  # type: ignore[arg-type]
            for kind in ("users", "items")
        )
        users.rows, items.rows = (Rows(*those(Rows, kind)) for kind in ("users", "items"))  # type: ignore[arg-type]
        users.history = History(*those(History, "history"))  # type: ignore[arg-type]
        items.neighbours = Neighbours(*those(Neighbours, "neighbours"))  # type: ignore[arg-type]
        items.serial = arrays["serial"]
        items.recent_count = arrays["recent_count"]
        params = type(self._own.params)
        self._model = self._own._replace(
            users=users.rows,
            items=items.rows,
            history=users.history,
            recent=self._own.recent._replace(occurrences=items.recent_count),
            neighbours=items.neighbours,
            slot_of=items.slot_of_serial,
            serial_of=items.serial,
            params=params(*those(params, "params")),
            done=self.tables.head[DONE : DONE + 1],
        )
