"""What changes lists of near items (state/lists.py): items are placed, followed, moved, removed; lists split.

One thread changes them. Others search at the same time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from state.item_source import Columns, Items
from state.lists import (
    BLOCK,
    FARTHEST,
    FREE,
    Lists,
    distance,
    dot_codes,
    load,
    nearest,
    put,
    square_of,
    take_out,
    unpack,
    write,
)
from streaming.kernels import inner, kernel
from streaming.learners.reductions import dot_of


@kernel
def place_items(
    lists: Lists, items: Items, columns: Columns, slots: NDArray[np.int32], which: NDArray[np.int32]
) -> None:
    """Put items into lists: those named, or the nearest where `which` is below 0."""
    for i in range(slots.shape[0]):
        slot = slots[i]
        lists.serial[slot] = items.serial[slot]
        bias = load(lists, items, columns, slot)
        list_of = which[i] if which[i] >= 0 else nearest(lists, bias, columns.scale)
        put(lists, slot, bias, list_of, columns.scale)


@kernel
def remove_from(lists: Lists, count: int, held: int) -> None:
    """Remove the items of slots `count` … `held` - 1."""
    for slot in range(count, held):
        if lists.place[slot] >= 0:
            take_out(lists, lists.place[slot])
            lists.place[slot] = -1


@kernel
def follow_rows(
    lists: Lists, items: Items, columns: Columns, since: int, first: int, last: int, other: NDArray[np.int32]
) -> tuple[int, int]:
    """Write over the entries of rows in slots `first` … `last` - 1 that an event after `since` changed.

    Slots that hold another item than before are left in `other`.

    Returns:
        (rows written, slots in `other`).
    """
    written, others = 0, 0
    for slot in range(first, last):
        place = lists.place[slot]
        if place < 0 or items.serial[slot] != lists.serial[slot]:
            other[others] = slot
            others += 1
        elif items.touched[slot] > since:
            bias = load(lists, items, columns, slot)
            write(lists, place, bias)
            which = lists.owner[place // BLOCK]
            lists.top_bias[which] = max(lists.top_bias[which], bias)
            written += 1
    return written, others


@kernel
def measure(lists: Lists, which: int, slots: NDArray[np.int32], weight: np.float32) -> int:
    """Mean, spread and greatest bias of a list anew; its items' slots are left in `slots`.

    Returns:
        Number of its items.
    """
    d, n = lists.codes.shape[1], 0
    row = lists.row
    row[:] = 0.0
    bias, top = 0.0, -FARTHEST
    block, used = lists.head[which], lists.fill[which]
    while block >= 0:
        for place in range(block * BLOCK, block * BLOCK + used):
            for k in range(d):
                row[k] += lists.scale[place] * np.float32(lists.codes[place, k])
            bias += lists.bias[place]
            top = max(top, lists.bias[place])
            slots[n] = lists.slot[place]
            n += 1
        block, used = lists.after[block], BLOCK
    if n == 0:
        return 0
    inverse = np.float32(1.0) / np.float32(n)
    for k in range(d):
        row[k] *= inverse
        lists.mean[which, k] = row[k]
    lists.mean_bias[which], lists.top_bias[which] = np.float32(bias / n), top
    square = 0.0
    for i in range(n):
        place = lists.place[slots[i]]
        scale = lists.scale[place]
        mine = scale * scale * square_of(lists.codes, place)
        square += mine - 2.0 * scale * dot_codes(lists.codes, place, row)
    # |x|² − 2 x·m summed over a list is its squares about the mean less n |m|².
    lists.spread[which] = np.sqrt(max(0.0, square / n + dot_of(row, row)) / d)
    return n


@kernel
def move_strays(
    lists: Lists, slots: NDArray[np.int32], which: int, bound: float, weight: np.float32
) -> tuple[int, int]:
    """Move the items of a list, of these slots, that are nearer to another mean.

    Only those are looked at whose distance from the list's mean has changed by more than `bound`, as a
    part of the list's spread, since a list was last chosen for them.

    Returns:
        (items looked at, items moved).
    """
    looked, moved = 0, 0
    limit = np.float32(bound) * lists.spread[which] * np.float32(np.sqrt(lists.row.shape[0]))
    for i in range(slots.shape[0]):
        place = lists.place[slots[i]]
        if place < 0 or lists.owner[place // BLOCK] != which or lists.counts[FREE] == 0:
            continue
        unpack(lists, place)
        bias = lists.bias[place]
        apart = distance(lists, which, bias, weight)
        if abs(apart - lists.apart[place]) <= limit:
            continue
        looked += 1
        best = nearest(lists, bias, weight)
        if best == which:
            lists.apart[place] = apart
        else:
            put(lists, slots[i], bias, best, weight)
            moved += 1
    return looked, moved


@kernel
def split(lists: Lists, slots: NDArray[np.int32], which: int, new: int, weight: np.float32) -> int:
    """Move about half of a list's items into an empty one: 2-means, begun at a far item and its mirror.

    Returns:
        Items moved.
    """
    row, d, n = lists.row, lists.row.shape[0], slots.shape[0]
    far, most = 0, np.float32(-1.0)
    for i in range(n):
        unpack(lists, lists.place[slots[i]])
        apart = distance(lists, which, lists.bias[lists.place[slots[i]]], weight)
        if apart > most and i % 8 == 0:
            far, most = i, apart
    unpack(lists, lists.place[slots[far]])
    bias = lists.bias[lists.place[slots[far]]]
    for k in range(d):
        lists.mean[new, k] = row[k]
    lists.mean_bias[new] = bias
    for k in range(d):
        lists.mean[which, k] = np.float32(2.0) * lists.mean[which, k] - row[k]
    lists.mean_bias[which] = np.float32(2.0) * lists.mean_bias[which] - bias
    for step in range(4):
        halve(lists, slots, which, new, weight, step == 3)
    return int(lists.size[new])


@inner
def halve(
    lists: Lists, slots: NDArray[np.int32], which: int, new: int, weight: np.float32, move: bool
) -> None:
    """One step of 2-means: `apart` marks the nearer mean of each item, then means follow, or items move."""
    counts = (0, 0)
    for i in range(slots.shape[0]):
        place = lists.place[slots[i]]
        unpack(lists, place)
        bias = lists.bias[place]
        nearer = distance(lists, new, bias, weight) < distance(lists, which, bias, weight)
        if move:
            if nearer and lists.counts[FREE] > 0:
                put(lists, slots[i], bias, new, weight)
            else:
                lists.apart[place] = distance(lists, which, bias, weight)
        else:
            lists.apart[place] = np.float32(1.0) if nearer else np.float32(0.0)
            counts = (counts[0], counts[1] + 1) if nearer else (counts[0] + 1, counts[1])
    if move:
        return
    for c, marked, size in ((which, np.float32(0.0), counts[0]), (new, np.float32(1.0), counts[1])):
        if size == 0:
            continue
        lists.mean[c] = 0.0
        bias_sum = 0.0
        for i in range(slots.shape[0]):
            place = lists.place[slots[i]]
            if lists.apart[place] == marked:
                for k in range(lists.row.shape[0]):
                    lists.mean[c, k] += lists.scale[place] * np.float32(lists.codes[place, k])
                bias_sum += lists.bias[place]
        for k in range(lists.row.shape[0]):
            lists.mean[c, k] /= np.float32(size)
        lists.mean_bias[c] = np.float32(bias_sum / size)
