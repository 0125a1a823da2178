"""Item-kNN: items that are had by the same users, by the shrunk cosine of their co-occurrence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel
from streaming.learners.contract import Event, Field, Layout, Learner, Model, past_item, touch
from streaming.learners.decay import fade
from streaming.learners.neighbours import add, count_total, fade_lists, popularity_share, unit, weight_of

COUNT = 0  # column of an item's decaying count
POPULAR = 1  # column of its count that decays faster
TOGETHER = 0  # list of an item's co-occurring items


class Options(NamedTuple):
    """Options of item-kNN.

    neighbours: most items kept in an item's list; 8 bytes each.
    last: how many of the user's last items a new one occurs together with, and how many are scored.
    distance: what an item of the history counts against the one that came after it, in co-occurrence.
    fading: the same in the score.
    shrink: events added to both counts of a cosine, so that rare items do not look alike by chance.
    half_life: events after which an old event counts half; inf never forgets.
    popularity: share of popularity in the score, which ranks what the lists do not.
    popularity_half_life: the same as half_life, for that share.
    """

    neighbours: int = 128
    last: int = 20
    distance: float = 0.85
    fading: float = 0.75
    shrink: float = 10.0
    half_life: float = 1_000_000.0
    popularity: float = 0.01
    popularity_half_life: float = 3000.0


@inner
def learn_together(
    model: Model, event: Event, which: int, column: int, last: int, distance: float, half_life: float
) -> None:
    """c_i += weight; n(i, p_k) and n(p_k, i) += weight · distance^k for the user's `last` items p_k.

    `which` is the list of items that holds n, `column` the one that holds c. An item that is had again
    occurs with itself.
    """
    lists, slots, touched, item = model.neighbours, model.slot_of, model.items.touched, event.item
    serial = model.serial_of[item]
    step = event.weight * unit(event.number, half_life)
    touch(touched, item, event.number)
    model.items.floats[item, column] += step
    for k in range(last):
        before = past_item(model.history, model.slot_of, event.user, k)
        if before >= 0:
            add(lists, slots, touched, event.number, which, before, serial, step)
            if before != item:
                add(lists, slots, touched, event.number, which, item, model.serial_of[before], step)
        step *= distance


@inner
def similarity(together: float, count: float, other_count: float, shrink: float) -> float:
    """n(i, j) / √((c_i + shrink) (c_j + shrink)), all in one unit, which cancels out.

    Shrunk cosine (Sarwar et al. 2001; shrinkage as in Bell and Koren 2007). Counts below 0 are taken for 0.
    """
    product = (max(count, 0.0) + shrink) * (max(other_count, 0.0) + shrink)
    return together / np.sqrt(product) if product > 0.0 else 0.0


@inner
def add_similar(
    model: Model,
    event: Event,
    which: int,
    column: int,
    last: int,
    fading: float,
    shrink: float,
    out: NDArray[np.float32],
) -> float:
    """out_j += Σ_k fading^k · similarity(p_k, j) over the user's `last` items; returns the sum of it all.

    `shrink` in the stored unit of the counts: events · unit(event.number, half_life).
    """
    neighbours, floats = model.neighbours, model.items.floats
    mass = 0.0
    factor = 1.0
    for k in range(last):
        slot = past_item(model.history, model.slot_of, event.user, k)
        if slot >= 0:
            for e in range(neighbours.length[which, slot]):
                other = model.slot_of[neighbours.serial[which, slot, e]]
                if 0 <= other < out.shape[0]:
                    together = factor * neighbours.weight[which, slot, e]
                    share = similarity(together, floats[slot, column], floats[other, column], shrink)
                    out[other] += share
                    mass += share
        factor *= fading
    return mass


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """s_j = share of popularity + Σ_k fading^k · similarity(p_k, j), p_0 the user's last item."""
    options = model.options
    popularity_share(model, POPULAR, options.popularity, out)
    shrink = options.shrink * unit(event.number, options.half_life)
    add_similar(model, event, TOGETHER, COUNT, options.last, options.fading, shrink, out)


@kernel
def learn(model: Model, event: Event) -> float:
    """Count; a negative event takes away what a positive one of its size would add, lists not below 0."""
    options = model.options
    model.items.floats[event.item, POPULAR] += event.weight * unit(event.number, options.popularity_half_life)
    learn_together(model, event, TOGETHER, COUNT, options.last, options.distance, options.half_life)
    return 0.0


@kernel
def decay(model: Model, known: int, number: int) -> None:
    """Keep counts and lists in range."""
    options = model.options
    fade(model.items, COUNT, known, number, options.half_life)
    fade(model.items, POPULAR, known, number, options.popularity_half_life)
    fade_lists(model, TOGETHER, known, number, options.half_life)


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Popularity's part, and those of the last items."""
    out[:] = 0.0
    options = model.options
    floats = model.items.floats
    count = max(floats[event.item, POPULAR], np.float32(0.0))
    out[1] = options.popularity * count / count_total(model, POPULAR, event.known)
    shrink = options.shrink * unit(event.number, options.half_life)
    factor = 1.0
    for k in range(min(options.last, out.shape[0] - 3)):
        slot = past_item(model.history, model.slot_of, event.user, k)
        if slot >= 0:
            together = weight_of(model, TOGETHER, slot, event.item)
            mine, other = floats[slot, COUNT], floats[event.item, COUNT]
            out[3 + k] = similarity(factor * together, mine, other, shrink)
        factor *= options.fading


def check(options: Options) -> None:
    """Refuse what cannot be."""
    if options.neighbours < 1 or options.last < 1:
        raise ValueError("neighbours and last must be at least 1")
    if not 0.0 <= options.fading <= 1.0 or not 0.0 <= options.popularity < np.inf:
        raise ValueError("fading must lie in [0, 1], and popularity must be 0 or more")
    if not 0.0 <= options.distance <= 1.0 or not 0.0 <= options.shrink < np.inf:
        raise ValueError("distance must lie in [0, 1], and shrink must be 0 or more")
    if not (options.half_life >= 1.0 and options.popularity_half_life >= 1.0):
        raise ValueError("half_life and popularity_half_life must be at least 1 event (inf never forgets)")


def layout(options: Options) -> Layout:
    """An item's row is its counts and its list."""
    return Layout(
        user=(),
        item=(Field("count"), Field("popularity")),
        history=options.last,
        neighbours=(1, options.neighbours),
    )


LEARNER = Learner("item_knn", Options, layout, score, learn, check=check, explain=explain, decay=decay)
