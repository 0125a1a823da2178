"""What answers see of a version: that which learns in this process, or the tables of another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from state.ids import IdTable
from state.index import ItemIndex
from state.rows import RowArrays
from state.spec import Spec
from streaming.learners.contract import History, Layout, Learner, Model, Neighbours, Rows


class LedgerView(Protocol):
    """Where a version stands."""

    number: int  # events learned
    watermark: int  # newest event time, seconds


class UsersView(Protocol):
    """The users of a version."""

    @property
    def oldest(self) -> int:
        """A row whose newest event is older (seconds) counts as gone."""

    def copy(self, user: str, rows: Rows, history: History) -> bool | None:
        """Copy a user's row whole into slot 0; None where only the store knows whether there is one."""
        ...

    def read_all(self, arrays: RowArrays) -> Iterator[list[bytes]]:
        """Copy all users into slots 0, 1, …, as many at once as there is room; yields their ids."""
        ...


class ItemsView(Protocol):
    """The items of a version, in slots 0 … count - 1."""

    ids: IdTable
    count: int
    rows: Rows
    serial: NDArray[np.int32]
    slot_of_serial: NDArray[np.int32]
    neighbours: Neighbours


class CopiesView(Protocol):
    """Rows of items that are copied whole, one by one, because they change meanwhile."""

    def of(self, slots: NDArray[np.int64]) -> Model:
        """The model with these items alone, in slots 0, 1, …"""
        ...

    def rows(self, slots: NDArray[np.int64]) -> Rows:
        """Their rows, in slots 0, 1, …"""
        ...


class Lookup(Protocol):
    """Values by key."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, None where there is none."""
        ...


class View(Protocol):
    """A version as answers see it.

    Attributes:
        copies: None where nothing changes while an answer is made.
        by_rows: scores are to be computed again from rows that were copied whole.
        index: finds candidates among many items; None where all are scored.
    """

    spec: Spec
    learner: Learner
    options: Any
    layout: Layout

    @property
    def ledger(self) -> LedgerView: ...
    @property
    def users(self) -> UsersView: ...
    @property
    def items(self) -> ItemsView: ...
    @property
    def store(self) -> Lookup: ...
    @property
    def copies(self) -> CopiesView | None: ...
    @property
    def by_rows(self) -> bool: ...
    @property
    def index(self) -> ItemIndex | None: ...
    @property
    def model(self) -> Model: ...
