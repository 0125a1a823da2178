"""What a learner is, what its kernels see, and what they may call.

A learner is one file in this folder with a constant `LEARNER`. It names its options, the fields of
its user and item rows, and two kernels:

    score(model, event, out)   out[:event.known] = score of every item for event.user, before the event
    learn(model, event)        one step; returns the loss (NaN: a step that was skipped)

Everything else is done for it: rows are resolved, initialised, kept and restored, the history and
the ring of recent events move on after each event, items are ranked (`loop`), commits happen. The contract
suite in `tests/contract/` finds every file here by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, release

OPTIMISERS = ("none", "sgd", "adagrad")  # whose state a row may hold; the place is its number in the bytes
CLIPPED, SKIPPED = 0, 1  # places in Model.tally


class Event(NamedTuple):
    """One event as kernels see it."""

    user: int  # slot of the user's row
    item: int  # slot of the item's row
    known: int  # items known before this event are slots 0 … known - 1
    number: int  # 1 for the version's first event
    time: int  # event time, seconds since 1970
    value: float
    weight: float  # below 0 is negative feedback, 0 teaches nothing
    key: int  # random key of the event, uint64


class Rows(NamedTuple):
    """Rows of one kind; a row's fields lie one after the other in `floats`, in the order of the layout."""

    floats: NDArray[np.float32]  # (capacity, width)
    events: NDArray[np.uint32]  # (capacity,) events learned
    seen: NDArray[np.int64]  # (capacity,) time of the newest event, seconds
    touched: NDArray[np.int64]  # (capacity,) number of the event that last changed the row


class History(NamedTuple):
    """The last H items of each user, a ring: push k lies in column k % H. Items stand as serials."""

    serial: NDArray[np.int32]  # (capacity, H)
    time: NDArray[np.uint32]  # (capacity, H) seconds
    pushed: NDArray[np.uint32]  # (capacity,) how many were pushed in all


class Recent(NamedTuple):
    """The items of the last R events of all users, a ring, and how often each item is in it."""

    serial: NDArray[np.int32]  # (R,)
    pushed: NDArray[np.int64]  # (1,)
    occurrences: NDArray[np.int32]  # (item capacity,) of each slot in the ring


class Neighbours(NamedTuple):
    """Bounded lists of weighted items in the rows of items: list l of slot s has `length[l, s]` entries."""

    serial: NDArray[np.int32]  # (L, item capacity, K)
    weight: NDArray[np.float32]  # (L, item capacity, K)
    length: NDArray[np.int32]  # (L, item capacity)


class Nothing(NamedTuple):
    """Parameters or workspace of a learner that needs none."""

    nothing: NDArray[np.float32]


class Model(NamedTuple):
    """All that a kernel sees."""

    options: Any  # the learner's Options
    users: Rows
    items: Rows
    history: History
    recent: Recent
    neighbours: Neighbours
    slot_of: NDArray[np.int32]  # item serial → slot, -1 where the item is gone
    serial_of: NDArray[np.int32]  # (item capacity,) slot → serial, a number that is never given twice
    params: Any  # dense arrays that are kept in the store
    workspace: Any  # dense arrays that are not
    tally: NDArray[np.int64]  # clipped steps, skipped steps
    done: NDArray[np.int64]  # (1,) number of the newest event whose changes are complete


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a row.

    Attributes:
        width: how many float32 it takes.
        fill: initial value.
        sigma: where above 0, initial values are normal(fill, sigma²), drawn by a hash of
            (version seed, kind, id): a trainer and a server agree on a row that neither has seen.
    """

    name: str
    width: int = 1
    fill: float = 0.0
    sigma: float = 0.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of a version hold.

    Attributes:
        history: items remembered for each user.
        recent: events in the ring of recent items, 0 for none.
        neighbours: number and capacity of the neighbour lists in an item's row.
        optimiser: one of OPTIMISERS: what the state in the rows belongs to.
    """

    user: tuple[Field, ...]
    item: tuple[Field, ...]
    history: int = 50
    recent: int = 0
    neighbours: tuple[int, int] = (0, 0)
    optimiser: str = "none"

    def column(self, kind: str, name: str) -> slice:
        """Columns of a field in the rows of "user" or "item"."""
        start = 0
        for field in self.user if kind == "user" else self.item:
            if field.name == name:
                return slice(start, start + field.width)
            start += field.width
        raise KeyError(f"rows of kind {kind} have no field {name}")


def nothing(_: Any) -> Nothing:
    """No parameters, no workspace."""
    return Nothing(np.zeros(1, np.float32))


@dataclass(frozen=True, slots=True)
class Learner:
    """A learner: its names, its rows and its kernels.

    Attributes:
        options: a NamedTuple type with numeric fields and defaults; its docstring explains each.
        layout, parameters, workspace: functions of the options.
        check: raises ValueError with the reason where options make no sense.
        query: kernel (model, event, out): the user's vector whose inner product with the items'
            `vector` field, plus the true value of their `bias` field where there is one, ranks; None
            where nothing is embedded. It is in the unit of the score, whatever the unit of the biases.
        explain: kernel (model, event, out): parts of the score of event.item, which sum to it up to
            monotony: out[0] the user's own row, out[1] popularity, out[2] repetition, out[3 + k] the
            item had k + 1 events ago.
        decay: kernel (model, known, number), called before every event, also one that teaches nothing:
            the place of `decay.fade`, which must not miss its number.
        bias_half_life: of the options; the items' `bias` field decays, so that its true value after
            event n is the stored one times decay.half_life_scale(n, half-life). None: it does not.
    """

    name: str
    options: type[Any]
    layout: Callable[[Any], Layout]
    score: Callable[..., None]
    learn: Callable[..., float]
    parameters: Callable[[Any], Any] = nothing
    workspace: Callable[[Any], Any] = nothing
    check: Callable[[Any], None] | None = None
    query: Callable[..., None] | None = None
    explain: Callable[..., None] | None = None
    decay: Callable[..., None] | None = None
    bias_half_life: Callable[[Any], float] | None = None


@inner
def past_item(history: History, slot_of: NDArray[np.int32], user: int, k: int) -> int:
    """Slot of the item that a user had k + 1 positive events ago; -1 for none, forgotten or gone."""
    width = history.serial.shape[1]
    pushed = int(history.pushed[user])
    if k >= min(pushed, width):
        return -1
    return int(slot_of[history.serial[user, (pushed - 1 - k) % width]])


@inner
def touch(touched: NDArray[np.int64], slot: int, number: int) -> None:
    """Say that event `number` changes a row, before it does.

    Other processes may read the row meanwhile: one that was touched by an event that is not done yet, or
    that is touched while it is read, has to be read again.
    """
    touched[slot] = number
    release()
