"""What a learner is, what its kernels see, and the loop that tests it and then lets it learn.

A learner is one file in this folder with a constant `LEARNER`. It names its options, the fields of
its user and item rows, and two kernels:

    score(model, event, out)   out[:event.known] = score of every item for event.user, before the event
    learn(model, event)        one step; returns the loss (NaN: a step that was skipped)

Everything else is done for it: rows are resolved, initialised, kept and restored, the history and
the ring of recent events move on after each event, items are ranked, commits happen. The contract
suite in `tests/contract/` finds every file here by itself.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import cached, inner, kernel, release

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
            the place of `fade`, which must not miss its number.
        bias_half_life: of the options; the items' `bias` field decays, so that its true value after
            event n is the stored one times half_life_scale(n, half-life). None: it does not.
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

    def loop(self) -> Callable[..., None]:
        """The compiled `test_then_learn` of this learner."""
        return bound(test_then_learn, self)


class Batch(NamedTuple):
    """Events whose rows are resolved; slots below 0 belong to ids that have no row yet."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    known: NDArray[np.int32]
    time: NDArray[np.int64]
    value: NDArray[np.float32]
    weight: NDArray[np.float32]
    key: NDArray[np.uint64]
    drawn: NDArray[np.bool_]  # whether the event is evaluated
    number: int  # of the event before the first


class Seen(NamedTuple):
    """For `exclude_seen`: all items of each user as linked lists; `head` is empty where not wanted."""

    head: NDArray[np.int32]  # (user capacity,) newest entry, -1 for none
    link: NDArray[np.int32]  # (entries,) entry before
    slot: NDArray[np.int32]  # (entries,)
    used: NDArray[np.int64]  # (1,)


class Outcome(NamedTuple):
    """What the loop reports of each event."""

    rank: NDArray[np.float32]  # 0-based; NaN where not evaluated, infinite for a miss
    loss: NDArray[np.float32]  # NaN where nothing was learned
    user_events: NDArray[np.uint32]  # before this event, to tell new users from returning ones
    item_events: NDArray[np.uint32]


def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Stands for the learner's kernel; `bound` puts it in place."""
    raise NotImplementedError


def learn(model: Model, event: Event) -> float:
    """Stands for the learner's kernel; `bound` puts it in place."""
    raise NotImplementedError


def decay(model: Model, known: int, number: int) -> None:
    """Stands for the learner's kernel; `bound` puts it in place."""
    raise NotImplementedError


@inner
def no_decay(model: Model, known: int, number: int) -> None:
    """Nothing decays."""


@inner
def past_item(history: History, slot_of: NDArray[np.int32], user: int, k: int) -> int:
    """Slot of the item that a user had k + 1 positive events ago; -1 for none, forgotten or gone."""
    width = history.serial.shape[1]
    pushed = int(history.pushed[user])
    if k >= min(pushed, width):
        return -1
    return int(slot_of[history.serial[user, (pushed - 1 - k) % width]])


@kernel
def rank_of(scores: NDArray[np.float32], item: int) -> float:
    """0-based rank: number of strictly greater scores, plus half of the other equal ones (protocol P1)."""
    mine = scores[item]
    greater = 0
    equal = -1
    for j in range(scores.shape[0]):
        greater += scores[j] > mine
        equal += scores[j] == mine
    return greater + 0.5 * equal if equal >= 0 else np.inf


@inner
def exclude(seen: Seen, user: int, item: int, scores: NDArray[np.float32]) -> bool:
    """Take the items that a user had out of the ranking; True where `item` is one of them."""
    had = False
    entry = seen.head[user]
    while entry >= 0:
        slot = seen.slot[entry]
        had |= slot == item
        if slot < scores.shape[0]:
            scores[slot] = -np.inf
        entry = seen.link[entry]
    return had


@inner
def touch(touched: NDArray[np.int64], slot: int, number: int) -> None:
    """Say that event `number` changes a row, before it does.

    Other processes may read the row meanwhile: one that was touched by an event that is not done yet, or
    that is touched while it is read, has to be read again.
    """
    touched[slot] = number
    release()


@inner
def notice(rows: Rows, slot: int, number: int, time: int) -> None:
    """An event of a row came, whether or not anything can be learned from it."""
    touch(rows.touched, slot, number)
    rows.seen[slot] = max(rows.seen[slot], time)


@inner
def finish(model: Model, number: int) -> None:
    """The rows that an event touched are whole again."""
    release()
    model.done[0] = number


@inner
def remember(model: Model, event: Event) -> None:
    """Count the event in both rows; a positive one enters the user's history and the recent ring."""
    users, items, history, recent = model.users, model.items, model.history, model.recent
    users.events[event.user] += 1
    items.events[event.item] += 1
    if not event.weight > 0.0:
        return
    serial = model.serial_of[event.item]
    width = history.serial.shape[1]
    if width > 0:
        place = history.pushed[event.user] % width
        history.serial[event.user, place] = serial
        history.time[event.user, place] = event.time
        history.pushed[event.user] += 1
    size = recent.serial.shape[0]
    if size > 0:
        place = recent.pushed[0] % size
        if recent.pushed[0] >= size:
            old = model.slot_of[recent.serial[place]]
            if old >= 0:
                recent.occurrences[old] -= 1
        recent.serial[place] = serial
        recent.occurrences[event.item] += 1
        recent.pushed[0] += 1


@kernel
def half_life_scale(number: int, half_life: float) -> float:
    """Factor from a stored value of a decaying field to its true value after event `number`.

    A decaying field f is kept as f · 2^(n / half_life), so that a step costs nothing for the rows
    that it leaves alone; `fade` keeps the factor within 2^±16.
    """
    if np.isinf(half_life):
        return 1.0
    return float(2.0 ** (-(number % fade_period(half_life)) / half_life))


@kernel
def fade_period(half_life: float) -> int:
    """Events between two calls of `fade`: 16 half-lives."""
    return max(1, int(16.0 * half_life))


@inner
def fade(rows: Rows, column: int, known: int, number: int, half_life: float) -> None:
    """At fixed event numbers, bring a decaying field of all rows back to the scale 1."""
    if np.isinf(half_life) or number % fade_period(half_life) != 0:
        return
    factor = np.float32(2.0 ** (-fade_period(half_life) / half_life))
    for slot in range(known):
        touch(rows.touched, slot, number)
        rows.floats[slot, column] *= factor


def test_then_learn(
    model: Model, batch: Batch, seen: Seen, scores: NDArray[np.float32], outcome: Outcome
) -> None:
    """Each event is first predicted, then learned from, in order: a batch boundary changes nothing."""
    excludes = seen.head.shape[0] > 0
    for i in range(batch.user.shape[0]):
        user, item, known = batch.user[i], batch.item[i], batch.known[i]
        outcome.rank[i] = np.inf if batch.drawn[i] else np.nan
        outcome.loss[i] = np.nan
        outcome.user_events[i] = model.users.events[user] if user >= 0 else 0
        outcome.item_events[i] = model.items.events[item] if item >= 0 else 0
        decay(model, known, batch.number + i + 1)
        number, time = batch.number + i + 1, batch.time[i]
        if user >= 0:
            notice(model.users, user, number, time)
        if item >= 0:
            notice(model.items, item, number, time)
        if user < 0 or item < 0:
            finish(model, number)
            continue
        event = Event(user, item, known, number, time, batch.value[i], batch.weight[i], batch.key[i])
        if batch.drawn[i] and item < known:
            score(model, event, scores[:known])
            if not (excludes and exclude(seen, user, item, scores[:known])):
                outcome.rank[i] = rank_of(scores[:known], item)
        if event.weight != 0.0:
            outcome.loss[i] = learn(model, event)
        remember(model, event)
        if excludes:
            entry = seen.used[0]
            seen.link[entry] = seen.head[user]
            seen.slot[entry] = item
            seen.head[user] = entry
            seen.used[0] = entry + 1
        finish(model, number)


def score_all(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """out = the score of every known item for event.user."""
    score(model, event, out)


@cache
def bound(loop: Callable[..., None], learner: Learner) -> Callable[..., None]:
    """Compile a loop with a learner's kernels in the place of the stand-ins of the same names.

    Kernels handed over as arguments could not be cached on disk; as globals of a copy of the
    function they can.
    """
    kernels = {
        "score": learner.score,
        "learn": learner.learn,
        "decay": learner.decay or no_decay,
        "query": learner.query,
        "explain": learner.explain,
    }
    copy = types.FunctionType(loop.__code__, {**loop.__globals__, **kernels}, loop.__name__)
    copy.__qualname__ = f"{learner.name}.{loop.__name__}"
    copy.__module__ = loop.__module__
    return cached(copy)


def new_outcome(n: int) -> Outcome:
    """Room for the outcome of n events."""
    return Outcome(
        np.empty(n, np.float32), np.empty(n, np.float32), np.empty(n, np.uint32), np.empty(n, np.uint32)
    )
