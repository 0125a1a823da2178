"""Sequences to train on: events enter as they are learned, batches of new and earlier ones leave.

An example holds what was true just before its event: the last items, the plain query h and the repeat
terms. Vectors and biases are taken from the version's rows at the time of the step. A row that is gone by
then is masked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel, mix, random_below
from streaming.learners.contract import Event, Model, half_life_scale
from streaming.learners.negatives import expected_draws, place_of
from streaming.learners.pooling import gather, pool, repeat_term
from streaming.session.loss import Batch
from streaming.session.options import Options


class Examples(NamedTuple):
    """The newest examples, a ring: push n lies in row n % R. Items stand as serials, −1 for none."""

    serial: NDArray[np.int32]  # (R, L) the last items, the latest first
    gap: NDArray[np.uint8]  # (R, L)
    own: NDArray[np.bool_]  # (R, L) whether it is compared: each item once, and not the target
    own_repeat: NDArray[np.float32]  # (R, L) repeat terms
    user: NDArray[np.float32]  # (R, D) h
    target: NDArray[np.int32]  # (R,)
    target_repeat: NDArray[np.float32]  # (R,)
    target_own: NDArray[np.bool_]  # (R,) whether the user had it among the items of the repeat term
    pushed: NDArray[np.int64]  # (1,)


def new_examples(options: Options) -> Examples:
    """Room for the examples that are remembered."""
    r, length = options.remembered, options.length
    return Examples(
        serial=np.full((r, length), -1, np.int32),
        gap=np.zeros((r, length), np.uint8),
        own=np.zeros((r, length), np.bool_),
        own_repeat=np.zeros((r, length), np.float32),
        user=np.zeros((r, options.dimension), np.float32),
        target=np.zeros(r, np.int32),
        target_repeat=np.zeros(r, np.float32),
        target_own=np.zeros(r, np.bool_),
        pushed=np.zeros(1, np.int64),
    )


@inner
def note(
    examples: Examples, model: Model, event: Event, slots: NDArray[np.int32], gaps: NDArray[np.uint8]
) -> None:
    """Remember an event that is about to be learned."""
    space = model.workspace
    found = gather(model, event)
    pool(model, event, found)
    row = examples.pushed[0] % examples.target.shape[0]
    target = place_of(space.table, space.slot, event.item, found)
    examples.target[row] = model.serial_of[event.item]
    examples.target_own[row] = target < found
    examples.target_repeat[row] = repeat_term(model, target) if target < found else np.float32(0.0)
    for k in range(slots.shape[0]):
        slot = slots[k]
        examples.serial[row, k] = model.serial_of[slot] if slot >= 0 else -1
        examples.gap[row, k] = gaps[k]
        examples.own[row, k] = False
        if slot < 0 or slot == event.item:
            continue
        place = place_of(space.table, space.slot, slot, found + 1)
        first = True
        for m in range(k):
            first &= slots[m] != slot
        if place < found and first:
            examples.own[row, k] = True
            examples.own_repeat[row, k] = repeat_term(model, place)
    for k in range(space.user.shape[0]):
        examples.user[row, k] = space.user[k]
    examples.pushed[0] += 1


@inner
def draw_negatives(model: Model, known: int, scale: np.float32, key: np.uint64, batch: Batch) -> None:
    """Negatives of a step with b_j = f_j − ln(N p_j); even draws uniform, odd ones from recent events."""
    rows, recent = model.items.floats, model.recent
    draws, d = batch.negative.shape
    filled = min(recent.pushed[0], recent.serial.shape[0])
    uniform, each = expected_draws(model, known, draws)
    for n in range(draws):
        slot = random_below(key, n, known)
        if n % 2 == 1 and filled > 0:
            newer = int(model.slot_of[recent.serial[random_below(key, n, filled)]])
            slot = newer if newer >= 0 else slot
        for k in range(d):
            batch.negative[n, k] = rows[slot, k]
        expected = uniform + each * np.float32(recent.occurrences[slot])
        batch.negative_base[n] = scale * rows[slot, d] - np.log(expected)
        batch.drawn[n] = slot


@inner
def fill_one(
    batch: Batch,
    i: int,
    examples: Examples,
    row: int,
    model: Model,
    scale: np.float32,
    uniform: np.float32,
    each: np.float32,
) -> None:
    """Sequence i of a batch from a remembered example; weight 0 where its target is gone."""
    rows, slot_of = model.items.floats, model.slot_of
    length, d = batch.rows.shape[1:]
    target = slot_of[examples.target[row]]
    batch.weight[i] = np.float32(1.0) if target >= 0 else np.float32(0.0)
    target = max(target, 0)
    for k in range(d):
        batch.target[i, k] = rows[target, k]
        batch.user[i, k] = examples.user[row, k]
    base = scale * rows[target, d] + examples.target_repeat[row]
    if not examples.target_own[row]:
        base -= np.log(uniform + each * np.float32(model.recent.occurrences[target]))
    batch.target_base[i] = base
    for n in range(batch.drawn.shape[0]):
        batch.clear[i, n] = batch.drawn[n] != target
    for m in range(length):
        serial = examples.serial[row, m]
        slot = slot_of[serial] if serial >= 0 else -1
        batch.mask[i, m] = slot >= 0
        batch.own[i, m] = examples.own[row, m] and slot >= 0
        batch.gap[i, m] = examples.gap[row, m]
        slot = max(slot, 0)
        for k in range(d):
            batch.rows[i, m, k] = rows[slot, k] if batch.mask[i, m] else np.float32(0.0)
        batch.own_base[i, m] = scale * rows[slot, d] + examples.own_repeat[row, m]
        if batch.own[i, m]:
            for n in range(batch.drawn.shape[0]):
                batch.clear[i, n] &= batch.drawn[n] != slot


@kernel
def fill(
    batch: Batch,
    examples: Examples,
    picks: NDArray[np.int64],
    model: Model,
    known: int,
    number: int,
    key: np.uint64,
) -> None:
    """A step's batch.

    Args:
        picks: (B,) pushes of the examples, −1 for none.
        known: items known.
        number: of the newest event.
        key: random key of the step.
    """
    scale = np.float32(half_life_scale(number, model.options.bias_half_life))
    draw_negatives(model, known, scale, key, batch)
    uniform, each = expected_draws(model, known, batch.drawn.shape[0])
    for i in range(picks.shape[0]):
        if picks[i] < 0:
            batch.weight[i] = np.float32(0.0)
            continue
        row = picks[i] % examples.target.shape[0]
        fill_one(batch, i, examples, row, model, scale, uniform, each)


@kernel
def pick(pushed: int, remembered: int, new: int, key: np.uint64, picks: NDArray[np.int64]) -> None:
    """The newest examples, then earlier ones drawn from those that are remembered.

    Args:
        pushed: examples so far.
        new: how many of the newest are taken, at most B.
        picks: (B,) takes their pushes, −1 where there is none.
    """
    oldest = max(0, pushed - remembered)
    for i in range(picks.shape[0]):
        if i < new:
            picks[i] = pushed - 1 - i
        else:
            picks[i] = oldest + random_below(mix(key), i, pushed - oldest) if pushed > oldest else -1
