"""Events enter in order; each is ranked, then learned: the loop that tests a learner and lets it learn.

The stand-ins `score`, `learn` and `decay` are replaced by a learner's kernels when a loop is `bound` to it.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import cached, inner, kernel, release
from streaming.learners.contract import Event, Learner, Model, Rows, touch


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
