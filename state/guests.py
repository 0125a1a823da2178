"""Users who are asked about: an id enters; the row that kernels see leaves, apart from the version's table.

Nothing that is asked is learned or committed: a row is copied from memory or from the store, and a user
who has none gets an empty one here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from state.rows import RowArrays, RowCodec
from state.view import View
from streaming.errors import UsageError
from streaming.learners.contract import Event, Model, Neighbours
from streaming.learners.loop import bound, score_all
from streaming.learners.model import USER, initial_values, new_model

OWN_PARTS = 3  # of an explanation, before those of the history: own row, popularity, repetition


class Guests:
    """Rows of users that are asked about, apart from the table, as the kernels see them.

    Args:
        capacity: users at once.

    Attributes:
        correction: (d,) added to the vector of the user in slot 0, in the unit of scores, until another
            user comes; None for none.
    """

    def __init__(self, learned: View, capacity: int) -> None:
        self._learned, self._layout = learned, learned.layout
        own = new_model(learned.learner, learned.options, capacity, 1)
        self.rows, self._history, self._workspace = own.users, own.history, own.workspace
        self._codec = RowCodec(USER, learned.layout)
        self._fill, _ = initial_values(learned.layout.user)
        self.correction: NDArray[np.float32] | None = None
        none = np.zeros((0, 0, 0), np.int32)
        no_lists = Neighbours(none, none.astype(np.float32), np.zeros((0, 0), np.int32))
        label = np.zeros(capacity, np.int32)
        self._arrays = RowArrays(
            self.rows, self.rows.floats.view(np.uint32), self._history, no_lists, label, label
        )

    @property
    def model(self) -> Model:
        """The version's model with these users in it, and a workspace of their own."""
        return self._learned.model._replace(users=self.rows, history=self._history, workspace=self._workspace)

    @property
    def event(self) -> Event:
        """The present, for the user in slot 0: number and time of the newest event.

        The next number may be one at which `fade` comes first. The types are those of the loop, whose
        compiled kernels are thus found in the cache.
        """
        return self._event(np.int32(self._learned.items.count))

    def _event(self, known: np.int32) -> Event:
        ledger = self._learned.ledger
        number, time = np.int64(ledger.number), np.int64(ledger.watermark)
        one = np.float32(1.0)
        return Event._make((np.int32(0), np.int32(0), known, number, time, one, one, np.uint64(0)))

    def load(self, user: str) -> bool:
        """Copy a user's row into slot 0; an empty one, and False, where there is none."""
        self.correction = None
        here = self._learned.users.copy(checked(user), self.rows, self._history)
        if here:
            return True
        key = b"u" + user.encode()
        value = self._learned.store.get_many([key])[0] if here is None else None
        if value is not None:
            self._codec.decode(self._arrays, np.zeros(1, np.int64), [key], [value])
            if self.alive(1)[0]:
                return True
        self.clear()
        return False

    def clear(self) -> None:
        """Make slot 0 a user who had nothing; what begins at random stands at its mean."""
        self.rows.floats[0, : len(self._fill)] = self._fill
        self.rows.events[0] = self.rows.seen[0] = self.rows.touched[0] = 0
        self._history.pushed[0] = 0

    def had_only(self, serial: int) -> None:
        """Make slot 0 a user whose whole history is one item, had just now."""
        self.clear()
        self._history.serial[0, 0] = serial
        self._history.time[0, 0] = max(0, self._learned.ledger.watermark)
        self._history.pushed[0] = 1

    def scan(self) -> Iterator[list[bytes]]:
        """Read all users, as many at once as there is room; yields the ids in slots 0, 1, …"""
        return self._learned.users.read_all(self._arrays)

    def alive(self, n: int) -> NDArray[np.bool_]:
        """Whether the rows of the first n slots have not expired."""
        return self.rows.seen[:n] >= self._learned.users.oldest

    def past_slots(self) -> list[int]:
        """Slots of the items that the user in slot 0 had, the latest first; -1 for one that is gone."""
        width, pushed = self._history.serial.shape[1], int(self._history.pushed[0])
        if not width:
            return []
        columns = (pushed - 1 - np.arange(min(pushed, width))) % width
        slots: list[int] = self._learned.items.slot_of_serial[self._history.serial[0, columns]].tolist()
        return slots

    def history_slots(self) -> NDArray[np.int64]:
        """Slots of the items in that history, each once."""
        slots = np.unique(np.array(self.past_slots(), np.int64))
        return slots[slots >= 0]

    def scores(self, model: Model, known: int) -> NDArray[np.float32]:
        """(known,) scores of the items in the first slots of a model for the user in slot 0."""
        out = np.zeros(known, np.float32)
        if known:
            model = model._replace(users=self.rows, history=self._history, workspace=self._workspace)
            event = self._event(np.int32(known))
            bound(score_all, self._learned.learner)(model, event, out)
            if self.correction is not None:
                out += model.items.floats[:known, self._layout.column("item", "vector")] @ self.correction
        return out

    def vectors(self, n: int, model: Model | None = None) -> NDArray[np.float32]:
        """(n, d) vectors of the users in the first n slots: what ranks items for them.

        Args:
            model: with the items of their histories, where those of the version's own may change.
        """
        layout = self._layout
        if self._learned.learner.query is None:
            return self.rows.floats[:n, layout.column("user", "vector")]
        columns = layout.column("item", "vector")
        out = np.zeros((n, columns.stop - columns.start), np.float32)
        model = model or self._learned.model
        model = model._replace(users=self.rows, history=self._history, workspace=self._workspace)
        bound(query_each, self._learned.learner)(model, self.event, out)
        if self.correction is not None:
            out[0] += self.correction
        return out

    def parts(self, slots: NDArray[np.int32]) -> NDArray[np.float32]:
        """(n, 3 + history) parts of the scores of items for the user in slot 0."""
        out = np.zeros((len(slots), OWN_PARTS + self._layout.history), np.float32)
        bound(explain_each, self._learned.learner)(self.model, self.event, slots, out)
        return out


def checked(name: str) -> str:
    """An id as asked for.

    Raises:
        UsageError: no event can have it.
    """
    try:
        if name.encode():
            return name
    except UnicodeEncodeError as error:
        raise UsageError(f"An id must be text in UTF-8, got {name!r}.") from error
    raise UsageError('An id must not be empty, got "".')


def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Stands for the learner's kernel; `bound` puts it in place."""
    raise NotImplementedError


def query(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Stands for the learner's kernel; `bound` puts it in place."""
    raise NotImplementedError


def explain_each(model: Model, event: Event, slots: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    """out[i] = parts of the score of the item in slots[i] for event.user."""
    for i in range(slots.shape[0]):
        explain(
            model,
            Event(event.user, slots[i], event.known, event.number, event.time, 1.0, 1.0, event.key),
            out[i],
        )


def query_each(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """out[i] = the vector of the user in slot i."""
    for i in range(out.shape[0]):
        query(
            model,
            Event(i, event.item, event.known, event.number, event.time, 1.0, 1.0, event.key),
            out[i],
        )
