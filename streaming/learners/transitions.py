"""Transitions: what came next after a user's last item, counted with forgetting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel
from streaming.learners.contract import Event, Field, Layout, Learner, Model, past_item
from streaming.learners.decay import fade, half_life_scale
from streaming.learners.neighbours import add, count_total, fade_lists, popularity_share, unit, weight_of

COUNT = 0  # column of an item's decaying count
NEXT = 0  # list of an item's followers
LAGS = 3


class Options(NamedTuple):
    """Options of transitions.

    neighbours: most items kept in an item's list; 8 bytes each.
    backward: what an item counts as a follower of the one that came after it.
    last: how many of the user's last items are followed.
    fading: what an item counts against the one that came after it.
    half_life: events after which an old event counts half; inf never forgets.
    popularity: share of popularity in the score, which ranks what the list does not.
    popularity_half_life: the same as half_life, for popularity.
    """

    neighbours: int = 128
    backward: float = 0.6
    last: int = 3
    fading: float = 0.3
    half_life: float = 1_000_000.0
    popularity: float = 0.3
    popularity_half_life: float = 3000.0


@inner
def learn_transitions(model: Model, event: Event, which: int, backward: float, half_life: float) -> None:
    """w(p_k → i) += weight / k and w(i → p_k) += backward · weight / k, p_k the item had k events ago, k ≤ 3.

    `which` is the list of items that holds w.
    """
    lists, slots, touched, item = model.neighbours, model.slot_of, model.items.touched, event.item
    serial = model.serial_of[item]
    step = event.weight * unit(event.number, half_life)
    for k in range(LAGS):
        before = past_item(model.history, model.slot_of, event.user, k)
        if before < 0:
            continue
        add(lists, slots, touched, event.number, which, before, serial, step / (k + 1))
        if before != item:
            other = model.serial_of[before]
            add(lists, slots, touched, event.number, which, item, other, backward * step / (k + 1))


@inner
def add_transitions(
    model: Model,
    event: Event,
    which: int,
    half_life: float,
    last: int,
    fading: float,
    out: NDArray[np.float32],
) -> float:
    """out_j += Σ_k fading^k · w(p_k → j) over the user's `last` items; returns the sum of what was added."""
    neighbours = model.neighbours
    mass = 0.0
    factor = np.float32(half_life_scale(event.number, half_life))
    for k in range(last):
        slot = past_item(model.history, model.slot_of, event.user, k)
        if slot >= 0:
            for e in range(neighbours.length[which, slot]):
                other = model.slot_of[neighbours.serial[which, slot, e]]
                if 0 <= other < out.shape[0]:
                    weight = neighbours.weight[which, slot, e] * factor
                    out[other] += weight
                    mass += weight
        factor *= np.float32(fading)
    return mass


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """s_j = share of popularity + Σ_k fading^k · w(p_k → j), p_0 the user's last item."""
    options = model.options
    popularity_share(model, COUNT, options.popularity, out)
    add_transitions(model, event, NEXT, options.half_life, options.last, options.fading, out)


@kernel
def learn(model: Model, event: Event) -> float:
    """Count; a negative event takes away what a positive one of its size would add, not below 0."""
    options = model.options
    model.items.floats[event.item, COUNT] += event.weight * unit(event.number, options.popularity_half_life)
    learn_transitions(model, event, NEXT, options.backward, options.half_life)
    return 0.0


@kernel
def decay(model: Model, known: int, number: int) -> None:
    """Keep counts and lists in range."""
    fade(model.items, COUNT, known, number, model.options.popularity_half_life)
    fade_lists(model, NEXT, known, number, model.options.half_life)


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Popularity's part, and those of the last items."""
    out[:] = 0.0
    options = model.options
    total = count_total(model, COUNT, event.known)
    count = max(model.items.floats[event.item, COUNT], np.float32(0.0))
    out[1] = options.popularity * count / total
    factor = half_life_scale(event.number, options.half_life)
    for k in range(min(options.last, out.shape[0] - 3)):
        slot = past_item(model.history, model.slot_of, event.user, k)
        out[3 + k] = factor * weight_of(model, NEXT, slot, event.item)
        factor *= options.fading


def check(options: Options) -> None:
    """Refuse what cannot be."""
    if options.neighbours < 1:
        raise ValueError(f"neighbours must be at least 1, got {options.neighbours}")
    if not (options.half_life >= 1.0 and options.popularity_half_life >= 1.0):
        raise ValueError("half_life and popularity_half_life must be at least 1 event (inf never forgets)")
    if options.last < 1 or not 0.0 <= options.fading <= 1.0:
        raise ValueError("last must be at least 1, and fading must lie in [0, 1]")
    if not (0.0 <= options.backward <= 1.0 and 0.0 <= options.popularity < np.inf):
        raise ValueError("backward must lie in [0, 1], and popularity must be 0 or more")


def layout(options: Options) -> Layout:
    """An item's row is its count and its list."""
    return Layout(
        user=(), item=(Field("count"),), history=max(LAGS, options.last), neighbours=(1, options.neighbours)
    )


LEARNER = Learner("transitions", Options, layout, score, learn, check=check, explain=explain, decay=decay)
