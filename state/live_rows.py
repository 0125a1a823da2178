"""Rows in the tables of another process's worker enter while they change; whole copies of them leave."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from state.arena import COMPLETE, DONE, GENERATION, OLDEST, USERS_SEQUENCE
from state.ids import IdTable
from state.live import LiveTables
from state.rows import RowArrays, RowCodec
from streaming.errors import StoreError
from streaming.kernels import acquire, kernel
from streaming.learners.contract import History, Model, Rows
from streaming.learners.model import ITEM, new_model

if TYPE_CHECKING:
    from state.live_view import LiveVersion

_SLEEP_S = 0.0002
_TRIES = 20  # at one of many rows


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

        One whose row, or whose slot, changes all the time is left out. One who leaves and comes back
        into a later slot meanwhile is told once.
        """
        size = len(arrays.rows.events)
        names: list[bytes] = []
        told: set[bytes] = set()
        for slot in np.flatnonzero(self.ids.arrays.length > 0).tolist():
            name = self._copy_slot(slot, arrays, len(names))
            if name and name not in told:
                told.add(name)
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
