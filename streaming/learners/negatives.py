"""Candidates of a sampled softmax: which items a step compares, how likely each was to be drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, is_finite, kernel, random_below
from streaming.learners.contract import Event, Model
from streaming.learners.reductions import sum_of

NEGLIGIBLE = np.float32(1e-6)  # a candidate of less probability is left alone: its row need not be written


@kernel
def table_size(candidates: int) -> int:
    """Places of a `place_of` table for so many candidates: a power of two, at most half full.

    >>> table_size(151)
    512
    """
    size = 16
    while size < 2 * candidates:
        size *= 2
    return size


@inner
def first_place(slot: int, mask: int) -> int:
    """Where a `place_of` table of mask + 1 places begins to look for a slot."""
    return (slot * 0x9E3779B1 >> 7) & mask


@kernel
def place_of(table: NDArray[np.int32], slots: NDArray[np.int32], slot: int, following: int) -> int:
    """Place of an item among the candidates; one that is not there is entered as number `following`.

    `table` is an open-addressed hash table of places, -1 where empty; the caller clears it.
    """
    mask = table.shape[0] - 1
    at = first_place(slot, mask)
    while True:
        place = table[at]
        if place < 0:
            table[at] = following
            slots[following] = slot
            return following
        if slots[place] == slot:
            return int(place)
        at = (at + 1) & mask


@inner
def expected_draws(model: Model, known: int, draws: int) -> tuple[np.float32, np.float32]:
    """(a, b): an item with c events among the recent ones is drawn a + b·c times of so many, on average.

    That is N q with q = 0.5 / m + 0.5 c / n, m the items known and n the events in the ring.
    """
    filled = min(model.recent.pushed[0], model.recent.serial.shape[0])
    if filled == 0:
        return np.float32(draws / known), np.float32(0.0)
    return np.float32(0.5 * draws / known), np.float32(0.5 * draws / filled)


@inner
def draw(model: Model, event: Event, draws: int, first: int) -> int:
    """Add negatives to the candidates from number `first` on; returns how many candidates there are then.

    Even draws are uniform over known items, odd ones take the item of a recent event. A candidate below
    `first` is left alone; `share` of the others becomes how often they were drawn over how often that
    was to be expected.
    """
    space, recent = model.workspace, model.recent
    table, slots, share = space.table, space.slot, space.share
    key = np.uint64(event.key)
    filled = min(recent.pushed[0], recent.serial.shape[0])
    total = first
    for number in range(draws):
        if number % 2 == 0 or filled == 0:
            slot = random_below(key, number, event.known)
        else:
            slot = int(model.slot_of[recent.serial[random_below(key, number, filled)]])
        if slot < 0:
            continue
        place = place_of(table, slots, slot, total)
        if place == total:
            total += 1
            share[place] = 0.0
        if place >= first:
            share[place] += np.float32(1.0)
    uniform, each = expected_draws(model, event.known, draws)
    for c in range(first, total):
        share[c] /= uniform + each * np.float32(recent.occurrences[slots[c]])
    return total


@kernel
def exponential(x: np.float32) -> np.float32:
    """e^x for x ≤ 0 to 2e-7 relative, in operations that run in SIMD lanes; 1e-38 below -87.

    2^n by the exponent's bits, the rest by the polynomial of Cephes' expf.

    >>> bool(abs(exponential(np.float32(-1.0)) - np.exp(-1.0)) < 1e-7)
    True
    """
    x = max(x, np.float32(-87.0))
    n = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
    r = x - np.float32(n) * np.float32(0.693359375) + np.float32(n) * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@inner
def normalise(
    scores: NDArray[np.float32],
    shares: NDArray[np.float32],
    errors: NDArray[np.float32],
    total: int,
    target: int,
) -> float:
    """errors = softmax of scores + ln shares, 0 where negligible, less 1 at the target.

    Returns −ln of the target's part; NaN where a score is not finite.
    """
    highest = scores[0]
    for c in range(total):
        highest = max(highest, scores[c])
    for c in range(total):
        errors[c] = shares[c] * exponential(scores[c] - highest)
    mass = sum_of(errors, total)
    loss = -np.log(np.float64(max(errors[target], np.float32(1e-37)) / mass))
    inverse = np.float32(1.0) / mass
    for c in range(total):
        error = errors[c] * inverse
        errors[c] = error if error > NEGLIGIBLE else np.float32(0.0)
    errors[target] -= np.float32(1.0)
    return loss if is_finite(sum_of(scores, total)) and is_finite(mass) else np.nan
