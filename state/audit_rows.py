"""Rows of a store enter, in batches; what does not fit in them leaves, and what the whole is compared by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.expiry import Expiry
from state.findings import Findings
from state.items import ItemTable
from state.memory import MemoryStore
from state.rows import RowArrays, RowCodec
from state.spec import Spec
from state.store import Store
from state.users import UserTable
from streaming.errors import CorruptRowError
from streaming.learners.contract import Layout
from streaming.learners.model import ITEM, USER

BATCH = 1024  # rows decoded at a time: the capacity of new tables

Pairs = list[tuple[bytes, bytes]]


class Limits(NamedTuple):
    """What no row may be above."""

    number: int  # of the newest event
    watermark: int  # newest event time, seconds
    next_serial: int


class RowAudit:
    """The checks of rows.

    Args:
        findings: what does not fit is added there.
        sources: how many sources are known by now.

    Attributes:
        learned: sum of the events of the rows, by kind.
        slots, serials: of the items, a batch each.
    """

    def __init__(
        self,
        store: Store,
        spec: Spec,
        layout: Layout,
        limits: Limits,
        findings: Findings,
        sources: Callable[[], int],
    ) -> None:
        self.findings = findings
        self.learned = {USER: 0, ITEM: 0}
        self.slots: list[NDArray[np.int32]] = []
        self.serials: list[NDArray[np.int32]] = []
        self._store, self._spec, self._limits, self._sources = store, spec, limits, sources
        self._users = UserTable(layout, spec.seed, MemoryStore(), BATCH).arrays()
        self._items = ItemTable(layout, spec.seed).arrays()
        self._codecs = {USER: RowCodec(USER, layout), ITEM: RowCodec(ITEM, layout)}
        self._expiry = Expiry(spec.users_live_s, spec.items_live_s)

    def known(self, serials: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which serials were given to an item at any time."""
        known: NDArray[np.bool_] = (serials >= 0) & (serials < self._limits.next_serial)
        return known

    def _decoded(self, kind: int, arrays: RowArrays, pairs: Pairs) -> list[bytes]:
        """Keys of the rows that can be read; they lie in slots 0, 1, … of `arrays`."""
        codec = self._codecs[kind]
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        try:
            codec.decode(arrays, np.arange(len(keys)), keys, values)
            return keys
        except CorruptRowError:
            good: list[bytes] = []
        for key, value in pairs:
            try:
                codec.decode(arrays, np.array([len(good)]), [key], [value])
                good.append(key)
            except CorruptRowError:
                self.findings.add(key, "its bytes do not fit their checksum or this version's layout.")
        return good

    def _row_checks(self, kind: int, arrays: RowArrays, keys: list[bytes]) -> None:
        n, rows, width = len(keys), arrays.rows, self._codecs[kind].width
        self.learned[kind] += int(rows.events[:n].sum(dtype=np.int64))
        self._complain(
            keys, ~np.isfinite(rows.floats[:n, :width]).all(axis=1), "it holds a number that is not finite."
        )
        self._complain(keys, rows.touched[:n] > self._limits.number, "it changed after the newest event.")
        late = rows.seen[:n] > self._limits.watermark
        self._complain(keys, late, "it was seen later than the newest event.")

    def _complain(self, keys: list[bytes], wrong: Any, what: str) -> None:
        for k in np.flatnonzero(wrong).tolist():
            self.findings.add(keys[k], what)

    def user_rows(self, pairs: Pairs) -> None:
        """Rows of users: each by itself, and against what there is of items, sources and times."""
        self.findings.users += len(pairs)
        keys = self._decoded(USER, self._users, pairs)
        n, history = len(keys), self._users.history
        self._row_checks(USER, self._users, keys)
        width = history.serial.shape[1]
        used = np.arange(width) < np.minimum(history.pushed[:n], width)[:, None]
        lost = (used & ~self.known(history.serial[:n])).any(axis=1)
        self._complain(keys, lost, "its history names an item that never was.")
        partition = self._users.label[:n]
        self._complain(
            keys, (partition < 0) | (partition >= self._sources()), "it came from no known source."
        )
        if self._spec.users_live_s:
            seen = self._users.rows.seen
            index = [self._expiry.index_key(int(seen[k]), key[1:]) for k, key in enumerate(keys)]
            missing = np.array([value is None for value in self._store.get_many(index)], np.bool_)
            self._complain(keys, missing, "the index by time does not know it.")

    def item_rows(self, pairs: Pairs) -> None:
        """Rows of items: each by itself, and against the serials that were given."""
        self.findings.items += len(pairs)
        keys = self._decoded(ITEM, self._items, pairs)
        n, neighbours = len(keys), self._items.neighbours
        self._row_checks(ITEM, self._items, keys)
        self.slots.append(self._items.place[:n].copy())
        self.serials.append(self._items.label[:n].copy())
        used = np.arange(neighbours.serial.shape[2]) < neighbours.length[:, :n, None]
        lost = (used & ~self.known(neighbours.serial[:, :n])).any(axis=(0, 2))
        self._complain(keys, lost, "its neighbours name an item that never was.")
