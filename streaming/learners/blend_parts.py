"""What blend mixes for an item: the score of softmax, and what the counters say of it, looked up per event.

`look` gathers once an event what is near the user's last items, in `Workspace.near`; `parts_of` then gives
s, ln(t + 0.3 p), ln(k + 0.1 p) and ln p of any item.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streaming.kernels import inner
from streaming.learners import item_knn, transitions
from streaming.learners.contract import Event, Model, past_item
from streaming.learners.decay import half_life_scale
from streaming.learners.item_knn import similarity
from streaming.learners.negatives import first_place, place_of
from streaming.learners.neighbours import count_total, unit
from streaming.learners.pooling import gather, pool, repeat_term
from streaming.learners.reductions import dot

NEXT, TOGETHER = 0, 1  # lists of an item: its followers, and what it is had together with
REPEAT, NEAR = 2, 3  # rows of Workspace.near beside those of the lists, and how many
PARTS = 4
TRANSITIONS, SIMILAR = np.float32(0.3), np.float32(0.1)  # popularity beside t and k
LOG_TRANSITIONS, LOG_SIMILAR = np.log(TRANSITIONS), np.log(SIMILAR)
LEAST = np.float32(1e-7)  # popularity of an item whose count has decayed away
MASSES = 4  # sets of β

_FOLLOW, _KNN = transitions.Options(), item_knn.Options()
BACKWARD, FOLLOWED, FOLLOW_FADING = _FOLLOW.backward, _FOLLOW.last, _FOLLOW.fading
LAST, DISTANCE, FADING, SHRINK = _KNN.last, _KNN.distance, _KNN.fading, _KNN.shrink
FOLLOW_HALF_LIFE, KNN_HALF_LIFE, HALF_LIFE = _FOLLOW.half_life, _KNN.half_life, _FOLLOW.popularity_half_life


@inner
def look(model: Model, event: Event) -> int:
    """Gather what the counters and the repeat term say of items near the user's last; returns which β."""
    space = model.workspace
    found = gather(model, event)
    pool(model, event, found)
    space.near_table[:] = -1
    total = 0
    for c in range(found):
        if space.slot[c] < event.known:
            place = place_of(space.near_table, space.near_slot, space.slot[c], total)
            total += 1
            space.near[NEXT, place] = space.near[TOGETHER, place] = 0.0
            space.near[REPEAT, place] = repeat_term(model, c)
    mass, factor = 0.0, half_life_scale(event.number, FOLLOW_HALF_LIFE)
    for k in range(FOLLOWED):
        total, more = listed(model, event, NEXT, k, factor, total)
        mass += more
        factor *= FOLLOW_FADING
    sum_of, factor = 0.0, 1.0
    for k in range(LAST):
        total, more = listed(model, event, TOGETHER, k, factor, total)
        sum_of += more
        factor *= FADING
    for place in range(total):
        space.near[TOGETHER, place] /= np.float32(max(sum_of, 1e-30))
    return mass_bucket(mass)


@inner
def mass_bucket(mass: float) -> int:
    """Which β: 0 for no transitions, 1 below 4, 2 below 40, 3 above."""
    return (mass > 0.0) + (mass >= 4.0) + (mass >= 40.0)


@inner
def listed(model: Model, event: Event, which: int, k: int, unit_now: float, total: int) -> tuple[int, float]:
    """Add list `which` of the user's item k to what is near; returns how many items are near, and the sum."""
    space, lists, floats = model.workspace, model.neighbours, model.items.floats
    count = model.options.dimension + 2
    past = past_item(model.history, model.slot_of, event.user, k)
    mass = 0.0
    if past < 0:
        return total, mass
    for e in range(lists.length[which, past]):
        slot = model.slot_of[lists.serial[which, past, e]]
        if not 0 <= slot < event.known:
            continue
        amount = unit_now * lists.weight[which, past, e]
        if which == TOGETHER:
            amount = similarity(amount, floats[past, count], floats[slot, count], SHRINK * unit_of(event))
        place = place_of(space.near_table, space.near_slot, slot, total)
        if place == total:
            total += 1
            for p in range(NEAR):
                space.near[p, place] = 0.0
        space.near[which, place] += np.float32(amount)
        mass += amount
    return total, mass


@inner
def unit_of(event: Event) -> float:
    """Stored unit of the counts of item-kNN."""
    return unit(event.number, KNN_HALF_LIFE)


@inner
def parts_of(model: Model, item: int, bias: np.float32, share: np.float32) -> tuple[Any, Any, Any, Any]:
    """What β multiplies for an item, once `look` is done.

    `bias` and `share`: factors from stored biases and counts to true biases and shares.
    """
    space, rows, d = model.workspace, model.items.floats, model.options.dimension
    s = dot(rows, item, space.user) / np.float32(model.options.temperature) + bias * rows[item, d]
    popular = max(rows[item, d + 3] * share, LEAST)
    log = np.log(popular)
    follow, similar = log + LOG_TRANSITIONS, log + LOG_SIMILAR
    mask = space.near_table.shape[0] - 1
    at = first_place(item, mask)
    while True:
        place = space.near_table[at]
        if place < 0:
            break
        if space.near_slot[place] == item:
            s += space.near[REPEAT, place]
            if space.near[NEXT, place] > 0.0:
                follow = np.log(space.near[NEXT, place] + TRANSITIONS * popular)
            if space.near[TOGETHER, place] > 0.0:
                similar = np.log(space.near[TOGETHER, place] + SIMILAR * popular)
            break
        at = (at + 1) & mask
    return s, follow, similar, log


@inner
def factors(model: Model, event: Event) -> tuple[np.float32, np.float32]:
    """(bias, share) for `parts_of`."""
    total = count_total(model, model.options.dimension + 3, event.known)
    return np.float32(half_life_scale(event.number, model.options.bias_half_life)), np.float32(1.0 / total)
