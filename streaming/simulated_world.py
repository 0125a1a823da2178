"""The world between two events: items are born and die, tastes and popularity drift, sessions begin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel, mix, random_bits, random_normal

RECENT = 8  # own latest items that draw a user back


class World(NamedTuple):
    """Everything that changes; M live items, U users, S sessions, d dimensions. Ids are numbers from 0."""

    vectors: NDArray[np.float32]  # (d, M), item vectors by dimension, so that scoring runs along items
    popularity: NDArray[np.float32]  # (M,)
    item_id: NDArray[np.int64]  # (M,)
    death: NDArray[np.int64]  # (M,) event number
    taste: NDArray[np.float32]  # (U, d), unit length
    focus: NDArray[np.float32]  # (U, d), of the current session
    last: NDArray[np.float32]  # (U, d), R v of the last item; zero at the session's start
    recent: NDArray[np.int64]  # (U, RECENT) item ids, -1 for none
    recent_slot: NDArray[np.int64]  # (U, RECENT)
    user_id: NDArray[np.int64]  # (U,)
    had: NDArray[np.int64]  # (U,) items that the user put into `recent`
    active: NDArray[np.int64]  # (U,) 1 while in a session
    session_user: NDArray[np.int64]  # (S,)
    centres: NDArray[np.float32]  # (C, d)
    turn: NDArray[np.float32]  # (d, d), R
    activity: NDArray[np.float64]  # (U,) cumulative, ends in 1
    clock: NDArray[np.int64]  # next event, next item id, next user id, sessions begun, ts
    logits: NDArray[np.float32]  # (M,) scratch
    weights: NDArray[np.float32]  # (M,) scratch
    bits: NDArray[np.int32]  # (M,) scratch
    power: NDArray[np.float32]  # (M,) the same memory as bits
    query: NDArray[np.float32]  # (d,) scratch


EVENT, NEXT_ITEM, NEXT_USER, BEGUN, TS = range(5)
TICK = 100  # events from one look at births, deaths and popularity to the next


class Keys(NamedTuple):
    """A sequence of random numbers for each purpose, counted by event, item, user or session."""

    life: np.uint64
    factor: np.uint64
    popularity: np.uint64
    trend: np.uint64
    taste: np.uint64
    favourite: np.uint64
    session: np.uint64
    turn: np.uint64
    choice: np.uint64
    rating: np.uint64
    type: np.uint64
    feature: np.uint64


class Rules(NamedTuple):
    """The options, as numbers for the kernels."""

    taste: float
    focus: float
    succession: float
    repeat: float
    popularity: float
    keep: float  # part of a popularity that is kept from one tick to the next
    drift: float
    spread: float
    item_life: float
    end: float  # probability that an event ends its session
    new_user: float
    gap_us: float
    shift_at: int


def keys_of(seed: int) -> Keys:
    """The sequences of random numbers of a seed."""
    start = np.uint64(mix(np.uint64(seed)))
    # Compiled functions return Python integers, whose type in the next call would depend on their size.
    return Keys(*(np.uint64(random_bits(start, purpose)) for purpose in range(len(Keys._fields))))


@kernel
def uniform(key: np.uint64, counter: int) -> float:
    """Number `counter` of a sequence, in (0, 1)."""
    return (np.float64(random_bits(key, counter) >> np.uint64(11)) + 0.5) * 2.0**-53


@kernel
def _unit(vector: NDArray[np.float32]) -> None:
    """Scale to length 1, in place."""
    total = 0.0
    for k in range(vector.shape[0]):
        total += vector[k] * vector[k]
    scale = np.float32(1.0 / np.sqrt(total + 1e-24))
    for k in range(vector.shape[0]):
        vector[k] *= scale


@kernel
def _make_item(
    centres: NDArray[np.float32], spread: float, keys: Keys, item: int, vector: NDArray[np.float32]
) -> int:
    """Fill the vector of an item, a function of seed and number only; returns its category."""
    categories, dimension = centres.shape
    category = int(uniform(keys.life, 2 * item) * categories)
    scale = spread / np.sqrt(dimension)
    for k in range(dimension):
        vector[k] = centres[category, k] + scale * random_normal(keys.factor, item * dimension + k)
    _unit(vector)
    return category


@kernel
def _birth(world: World, rules: Rules, keys: Keys, slot: int) -> None:
    """Put a new item into a slot: vector, popularity, and when it will die."""
    item = world.clock[NEXT_ITEM]
    world.clock[NEXT_ITEM] += 1
    _make_item(world.centres, rules.spread, keys, item, world.query)
    for k in range(world.query.shape[0]):
        world.vectors[k, slot] = world.query[k]
    world.item_id[slot] = item
    world.popularity[slot] = rules.popularity * random_normal(keys.popularity, 2 * item)
    life = -rules.item_life * np.log(uniform(keys.life, 2 * item + 1))
    world.death[slot] = world.clock[EVENT] + 1 + int(life)


@kernel
def _draw_taste(world: World, keys: Keys, slot: int, draw: int) -> None:
    """A taste: three categories with falling weight, and a part of the user's own."""
    categories, dimension = world.centres.shape
    taste = world.taste[slot]
    for k in range(dimension):
        taste[k] = 0.5 * random_normal(keys.taste, draw * dimension + k) / np.sqrt(dimension)
    weight = 1.0
    for place in range(3):
        category = int(uniform(keys.favourite, 3 * draw + place) * categories)
        for k in range(dimension):
            taste[k] += weight * world.centres[category, k]
        weight *= 0.7
    _unit(taste)


@kernel
def _arrive(world: World, keys: Keys, slot: int) -> None:
    """Put a new user into a slot."""
    world.user_id[slot] = world.clock[NEXT_USER]
    world.clock[NEXT_USER] += 1
    for place in range(RECENT):
        world.recent[slot, place] = -1
    world.had[slot] = 0
    _draw_taste(world, keys, slot, 2 * world.user_id[slot])


@kernel
def _find(cumulative: NDArray[np.float64], draw: float) -> int:
    """First place whose cumulative share is at least `draw`."""
    low, high = 0, cumulative.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] < draw:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def begin_session(world: World, rules: Rules, keys: Keys, session: int) -> None:
    """Give a session slot to a user who is not active: by activity, or new; the taste turns a little."""
    number = world.clock[BEGUN]
    world.clock[BEGUN] += 1
    users, dimension = world.taste.shape
    counter = number << 32
    new = uniform(keys.session, counter) < rules.new_user
    while True:
        counter += 1
        draw = uniform(keys.session, counter)
        slot = int(draw * users) if new else _find(world.activity, draw)
        if world.active[slot] == 0:
            break
    if new:
        _arrive(world, keys, slot)
    taste = world.taste[slot]
    for k in range(dimension):
        taste[k] += rules.drift * random_normal(keys.turn, number * dimension + k) / np.sqrt(dimension)
        world.focus[slot, k] = 0
        world.last[slot, k] = 0
    _unit(taste)
    world.active[slot] = 1
    world.session_user[session] = slot


@kernel
def tick(world: World, rules: Rules, keys: Keys) -> None:
    """Let popularity wander (an AR(1) process in the logarithm), and replace the items that died."""
    event = world.clock[EVENT]
    items = world.item_id.shape[0]
    fresh = rules.popularity * np.sqrt(1.0 - rules.keep * rules.keep)
    for slot in range(items):
        if world.death[slot] <= event:
            _birth(world, rules, keys, slot)
        else:
            noise = random_normal(keys.trend, event // TICK * items + slot)
            world.popularity[slot] = rules.keep * world.popularity[slot] + fresh * noise


@kernel
def shift(world: World, rules: Rules, keys: Keys) -> None:
    """The abrupt change: each item's popularity and each user's taste are drawn anew."""
    for slot in range(world.item_id.shape[0]):
        noise = random_normal(keys.popularity, 2 * world.item_id[slot] + 1)
        world.popularity[slot] = rules.popularity * noise
    for slot in range(world.user_id.shape[0]):
        _draw_taste(world, keys, slot, 2 * world.user_id[slot] + 1)


@kernel
def populate(world: World, rules: Rules, keys: Keys) -> None:
    """The world before event 0."""
    for slot in range(world.item_id.shape[0]):
        _birth(world, rules, keys, slot)
    for slot in range(world.user_id.shape[0]):
        _arrive(world, keys, slot)
    for session in range(world.session_user.shape[0]):
        begin_session(world, rules, keys, session)


@kernel
def describe(
    centres: NDArray[np.float32],
    spread: float,
    noise: float,
    keys: Keys,
    first: int,
    vectors: NDArray[np.float32],
    features: NDArray[np.float32],
    category: NDArray[np.int64],
) -> None:
    """Vectors, noisy features and categories of the items from number `first` on."""
    dimension = vectors.shape[1]
    for n in range(category.shape[0]):
        item = first + n
        category[n] = _make_item(centres, spread, keys, item, vectors[n])
        for k in range(dimension):
            features[n, k] = vectors[n, k] + noise * random_normal(keys.feature, item * dimension + k)
