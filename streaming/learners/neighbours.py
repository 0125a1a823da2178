"""Bounded lists of weighted items in item rows, as `transitions` and `item_knn` keep them.

A list has room for K entries in no order. An entry names its item by serial, so that a row that went
away and whose slot was given again is never taken for the old item: a serial without a slot is skipped
by readers and is the first to be replaced. Every change marks the row as touched.

Weights decay as the contract's decaying fields do: they are kept in units that grow with the event
number, so that a step leaves alone the lists that it does not name, and are brought back at fixed event
numbers by `fade_lists`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner
from streaming.learners.contract import Model, Neighbours, touch
from streaming.learners.decay import fade_period, half_life_scale
from streaming.learners.reductions import column_sum

_TRIES = 4  # places of a full list that a new entry tries for an item that is gone


@inner
def unit(number: int, half_life: float) -> float:
    """What one event of weight 1 adds to a decaying field at event `number`, in the field's stored unit."""
    return 1.0 / half_life_scale(number, half_life)


@inner
def find(neighbours: Neighbours, which: int, slot: int, serial: int) -> int:
    """Place of an item in list `which` of a row, -1 where it is not there."""
    wanted = np.int32(serial)
    found = np.int32(-1)
    for e in range(np.int32(neighbours.length[which, slot])):
        place = np.int32(e) if neighbours.serial[which, slot, e] == wanted else np.int32(-1)
        found = max(found, place)
    return int(found)


@inner
def weight_of(model: Model, which: int, slot: int, other: int) -> float:
    """Stored weight of item `other` in list `which` of row `slot`; 0 where it is not there or slot is -1."""
    if slot < 0:
        return 0.0
    place = find(model.neighbours, which, slot, model.serial_of[other])
    return model.neighbours.weight[which, slot, place] if place >= 0 else 0.0


@inner
def _smallest(neighbours: Neighbours, which: int, slot: int) -> int:
    """Place of the smallest weight in a list, the last of equal ones.

    Weights are never below 0, so that their bits order as they do: integers can be compared in SIMD lanes.
    """
    bits = neighbours.weight.view(np.int32)
    size = np.int32(neighbours.length[which, slot])
    least = np.int32(0x7FFFFFFF)
    for e in range(size):
        least = min(least, bits[which, slot, e])
    found = np.int32(0)
    for e in range(size):
        found = max(found, np.int32(e) if bits[which, slot, e] == least else np.int32(0))
    return int(found)


@inner
def _place_for(neighbours: Neighbours, slot_of: NDArray[np.int32], which: int, slot: int, number: int) -> int:
    """Place of a new entry: the end, else that of an item that is gone, else that of the smallest weight.

    For items that are gone, a few places are tried, others at each event.
    """
    capacity = neighbours.serial.shape[2]
    size = int(neighbours.length[which, slot])
    if size < capacity:
        neighbours.length[which, slot] = size + 1
        return size
    for t in range(min(_TRIES, capacity)):
        place = (number * _TRIES + t) % capacity
        if slot_of[neighbours.serial[which, slot, place]] < 0:
            return int(place)
    return _smallest(neighbours, which, slot)


@inner
def add(
    neighbours: Neighbours,
    slot_of: NDArray[np.int32],
    touched: NDArray[np.int64],
    number: int,
    which: int,
    slot: int,
    serial: int,
    amount: float,
) -> None:
    """Add `amount` to the weight of the item `serial` in list `which` of row `slot`.

    An item that is not in a full list replaces the one of the smallest weight. A negative amount takes
    away from an entry, not below 0, and makes none. The arguments are the model's arrays: a whole model
    is dear to hand over so often.
    """
    place = find(neighbours, which, slot, serial)
    if place < 0:
        if amount <= 0.0:
            return
        touch(touched, slot, number)
        place = _place_for(neighbours, slot_of, which, slot, number)
        neighbours.serial[which, slot, place] = serial
        neighbours.weight[which, slot, place] = 0.0
    touch(touched, slot, number)
    weight = np.float32(neighbours.weight[which, slot, place] + np.float32(amount))
    neighbours.weight[which, slot, place] = max(weight, np.float32(0.0))


@inner
def fade_lists(model: Model, which: int, known: int, number: int, half_life: float) -> None:
    """At fixed event numbers, bring the weights of list `which` of all rows back to the scale 1."""
    if np.isinf(half_life) or number % fade_period(half_life) != 0:
        return
    factor = np.float32(2.0 ** (-fade_period(half_life) / half_life))
    neighbours = model.neighbours
    for slot in range(known):
        touch(model.items.touched, slot, number)
        for e in range(neighbours.length[which, slot]):
            neighbours.weight[which, slot, e] *= factor


@inner
def count_total(model: Model, column: int, known: int) -> float:
    """Sum of the counts above 0 in a column of the items; never 0, so that it can divide."""
    return float(max(column_sum(model.items.floats, column, known), 1e-30))


@inner
def popularity_share(model: Model, column: int, share: float, out: NDArray[np.float32]) -> None:
    """out_j = share · c_j / Σ c, c the counts in a column of the items: what ranks where lists are silent."""
    factor = np.float32(share / count_total(model, column, out.shape[0]))
    for j in range(out.shape[0]):
        out[j] = factor * max(model.items.floats[j, column], np.float32(0.0))
