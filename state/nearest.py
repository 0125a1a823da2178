"""The best items for a vector: a query and rows or lists enter, slots leave, best first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from state.item_source import Columns, Items
from state.lists import BLOCK, LISTS, Lists, dot_codes, square_of, stored_bias
from streaming.kernels import inner, is_finite, kernel, reduction
from streaming.learners.reductions import dot, dot_rows


@reduction
def dot_at(rows: NDArray[np.float32], slot: int, first: int, vector: NDArray[np.float32]) -> np.float32:
    """Inner product of a row's floats from column `first` on with a vector."""
    total = np.float32(0.0)
    for k in range(vector.shape[0]):
        total += rows[slot, np.uint64(first + k)] * vector[k]
    return total


@reduction
def square_at(rows: NDArray[np.float32], slot: int, first: int, d: int) -> np.float32:
    """Squared length of a row's d floats from column `first` on."""
    total = np.float32(0.0)
    for k in range(d):
        total += rows[slot, np.uint64(first + k)] * rows[slot, np.uint64(first + k)]
    return total


@inner
def before(a: np.float32, i: int, b: np.float32, j: int, events: NDArray[np.uint32]) -> bool:
    """Whether score a of slot i comes before b of j: the higher, the one with more events, the earlier."""
    if a != b:
        return bool(a > b)
    return bool(events[i] > events[j]) if events[i] != events[j] else bool(i < j)


@inner
def offer(
    scores: NDArray[np.float32],
    slots: NDArray[np.int32],
    size: int,
    events: NDArray[np.uint32],
    score: np.float32,
    slot: int,
) -> int:
    """Take a slot into the heap of the best, whose root is the last of them. Returns the heap's size."""
    if size < scores.shape[0]:
        place = size
        size += 1
        while place > 0 and before(scores[(place - 1) // 2], slots[(place - 1) // 2], score, slot, events):
            parent = (place - 1) // 2
            scores[place], slots[place] = scores[parent], slots[parent]
            place = parent
        scores[place], slots[place] = score, slot
        return size
    if not before(score, slot, scores[0], slots[0], events):
        return size
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and before(
            scores[child], slots[child], scores[child + 1], slots[child + 1], events
        ):
            child += 1
        if not before(score, slot, scores[child], slots[child], events):
            break
        scores[place], slots[place] = scores[child], slots[child]
        place = child
    scores[place], slots[place] = score, slot
    return size


@inner
def allowed(allow: NDArray[np.bool_], slot: int) -> bool:
    """Whether a mask lets a slot through; an empty one lets all."""
    return bool(allow.shape[0] == 0 or (slot < allow.shape[0] and allow[slot]))


@kernel
def best_of(
    items: Items,
    columns: Columns,
    query: NDArray[np.float32],
    cosine: bool,
    chosen: NDArray[np.int32],
    allow: NDArray[np.bool_],
    scores: NDArray[np.float32],
    slots: NDArray[np.int32],
) -> int:
    """The best of the chosen slots by their rows; what is not finite is left out.

    Returns:
        How many stand in `scores` and `slots`, in the order of a heap.
    """
    size = 0
    for i in range(chosen.shape[0]):
        slot = chosen[i]
        if slot >= items.known or not allowed(allow, slot):
            continue
        score = dot_at(items.floats, slot, columns.vector, query)
        if cosine:
            square = square_at(items.floats, slot, columns.vector, query.shape[0])
            score = score / np.sqrt(square) if square > 0.0 else np.float32(0.0)
        else:
            score += columns.scale * stored_bias(items, columns, slot)
        if is_finite(score) and (size < scores.shape[0] or score >= scores[0]):
            size = offer(scores, slots, size, items.events, score, slot)
    return size


@kernel
def reach_of(
    lists: Lists,
    query: NDArray[np.float32],
    cosine: bool,
    width: float,
    scale: float,
    reach: NDArray[np.float32],
) -> None:
    """About the best score in each list: that of its mean, `width` spreads, and its greatest bias."""
    d, bias_scale = query.shape[0], np.float32(scale)
    spreads = np.float32(width) * np.sqrt(dot_rows_of(query))
    for c in range(lists.counts[LISTS]):
        reach[c] = dot(lists.mean, c, query) + spreads * lists.spread[c]
        if cosine:
            square = dot_rows(lists.mean, c, lists.mean, c, d)
            square += np.float32(d) * lists.spread[c] * lists.spread[c]
            reach[c] = reach[c] / np.sqrt(square) if square > 0.0 else np.float32(0.0)
        else:
            reach[c] += bias_scale * lists.top_bias[c]


@reduction
def dot_rows_of(vector: NDArray[np.float32]) -> np.float32:
    """Squared length of a vector."""
    total = np.float32(0.0)
    for k in range(vector.shape[0]):
        total += vector[k] * vector[k]
    return total


@kernel
def scan(
    lists: Lists,
    events: NDArray[np.uint32],
    query: NDArray[np.float32],
    cosine: bool,
    scale: float,
    allow: NDArray[np.bool_],
    order: NDArray[np.int64],
    reach: NDArray[np.float32],
    least: int,
    most: int,
    k: int,
    scores: NDArray[np.float32],
    slots: NDArray[np.int32],
    kept: NDArray[np.float32],
    kept_slots: NDArray[np.int32],
) -> tuple[int, int]:
    """Candidates from the lists in `order`, until the best of what is left cannot be among the k best.

    Args:
        least: entries that are scored whatever is found; `most`: no more are.
        scores, slots: (candidates,) heap of the best.
        kept, kept_slots: (k,) heap of the k best.

    Returns:
        (candidates, entries scored).
    """
    found, whole, scored, bias_scale = 0, 0, 0, np.float32(scale)
    for i in range(order.shape[0]):
        which = order[i]
        if scored >= most or (scored >= least and whole == k and reach[which] < kept[0]):
            break
        block, used = lists.head[which], lists.fill[which]
        for _ in range(lists.after.shape[0]):  # a chain that changes meanwhile might lead round
            if block < 0:
                break
            for place in range(block * BLOCK, block * BLOCK + used):
                slot = lists.slot[place]
                if slot >= events.shape[0] or not allowed(allow, slot):
                    continue
                score = dot_codes(lists.codes, place, query)
                if cosine:
                    square = square_of(lists.codes, place)
                    score = score / np.sqrt(square) if square > 0.0 else np.float32(0.0)
                else:
                    score = lists.scale[place] * score + bias_scale * lists.bias[place]
                scored += 1
                if is_finite(score) and (found < scores.shape[0] or score > scores[0]):
                    found = offer(scores, slots, found, events, score, slot)
                    if whole < k or score > kept[0]:
                        whole = offer(kept, kept_slots, whole, events, score, slot)
            block, used = lists.after[block], BLOCK
    return found, scored
