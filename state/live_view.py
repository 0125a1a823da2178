"""A version as another process sees it: the live tables of its worker enter, what answers need leaves.

It has the attributes of `Learned` that answers read. Rows are copied whole (`live_rows`), one by one, before
anything is said of them; what goes over all items reads them where they lie, to find candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from state.arena import COUNT, DONE, ITEMS_SEQUENCE, NEXT_SERIAL, WATERMARK
from state.ids import IdArrays, IdTable
from state.index import ItemIndex
from state.item_source import Items
from state.live import LiveTables
from state.live_rows import Copies, LiveUsers
from state.spec import Spec
from state.view import Lookup
from streaming import learners
from streaming.learners.contract import History, Model, Neighbours, Rows
from streaming.learners.model import new_model

_AHEAD = 4  # room for serials, as a multiple of what there is: an answer may meet newer ones


class LiveLedger:
    """Where the version stands, as of the beginning of an answer."""

    def __init__(self) -> None:
        self.number = self.watermark = 0


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
