"""Sequences to train on: events enter as they are learned, batches of new and earlier ones leave.

An example holds what was true just before its event: the vectors of the last items and of the target, the
plain query h, and the scores of target and last items under h. Nothing of it is read anew at the time of the
step: by then the learner has learned the event, and has moved target and last items towards each other. A
correction that is trained on such rows learns to trust a likeness that was not there when it was wanted. For
the same reason negatives are drawn before the events that they are compared with. An item that is gone by the
time of the step is masked.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel, mix, random_below
from streaming.learners.contract import Event, Model
from streaming.learners.decay import half_life_scale
from streaming.learners.negatives import expected_draws, place_of
from streaming.learners.pooling import gather, pool, repeat_term
from streaming.learners.reductions import dot
from streaming.session.loss import Batch
from streaming.session.options import Options


class Examples(NamedTuple):
    """The newest examples, a ring: push n lies in row n % R. Items stand as serials, −1 for none."""

    serial: NDArray[np.int32]  # (R, L) the last items, the latest first
    gap: NDArray[np.uint8]  # (R, L)
    own: NDArray[np.bool_]  # (R, L) whether it is compared: each item once, and not the target
    own_score: NDArray[np.float32]  # (R, L) h·V / τ + f + r, for those that are compared
    rows: NDArray[np.float32]  # (R, L, D) vectors of the last items
    user: NDArray[np.float32]  # (R, D) h
    target: NDArray[np.int32]  # (R,)
    target_row: NDArray[np.float32]  # (R, D)
    target_score: NDArray[np.float32]  # (R,) h·V / τ + f + r
    target_share: NDArray[np.float32]  # (R,) −ln(N p); 0 where the user had it among the last
    pushed: NDArray[np.int64]  # (1,)


def new_examples(options: Options) -> Examples:
    """Room for the examples that are remembered."""
    r, length = options.remembered, options.length
    return Examples(
        serial=np.full((r, length), -1, np.int32),
        gap=np.zeros((r, length), np.uint8),
        own=np.zeros((r, length), np.bool_),
        own_score=np.zeros((r, length), np.float32),
        rows=np.zeros((r, length, options.dimension), np.float32),
        user=np.zeros((r, options.dimension), np.float32),
        target=np.zeros(r, np.int32),
        target_row=np.zeros((r, options.dimension), np.float32),
        target_score=np.zeros(r, np.float32),
        target_share=np.zeros(r, np.float32),
        pushed=np.zeros(1, np.int64),
    )


@inner
def note(
    examples: Examples,
    model: Model,
    event: Event,
    slots: NDArray[np.int32],
    gaps: NDArray[np.uint8],
    draws: int,
) -> None:
    """Remember an event that is about to be learned, for steps with so many negatives."""
    space, rows, d = model.workspace, model.items.floats, model.options.dimension
    scale = np.float32(half_life_scale(event.number, model.options.bias_half_life))
    inverse = np.float32(1.0 / model.options.temperature)
    found = gather(model, event)
    pool(model, event, found)
    row = examples.pushed[0] % examples.target.shape[0]
    target = place_of(space.table, space.slot, event.item, found)
    examples.target[row] = model.serial_of[event.item]
    score = dot(rows, event.item, space.user) * inverse + scale * rows[event.item, d]
    examples.target_share[row] = 0.0
    if target < found:
        score += repeat_term(model, target)
    else:
        uniform, each = expected_draws(model, event.known, draws)
        expected = uniform + each * np.float32(model.recent.occurrences[event.item])
        examples.target_share[row] = -np.log(expected)
    examples.target_score[row] = score
    for k in range(slots.shape[0]):
        slot = slots[k]
        examples.serial[row, k] = model.serial_of[slot] if slot >= 0 else -1
        examples.gap[row, k] = gaps[k]
        examples.own[row, k] = False
        for n in range(space.user.shape[0]):
            examples.rows[row, k, n] = rows[slot, n] if slot >= 0 else np.float32(0.0)
        if slot < 0 or slot == event.item:
            continue
        place = place_of(space.table, space.slot, slot, found + 1)
        first = True
        for m in range(k):
            first &= slots[m] != slot
        if place < found and first:
            examples.own[row, k] = True
            score = dot(rows, slot, space.user) * inverse + scale * rows[slot, d]
            examples.own_score[row, k] = score + repeat_term(model, place)
    for k in range(space.user.shape[0]):
        examples.user[row, k] = space.user[k]
        examples.target_row[row, k] = rows[event.item, k]
    examples.pushed[0] += 1


@kernel
def draw_negatives(batch: Batch, model: Model, known: int, number: int, key: np.uint64) -> None:
    """Negatives of a step, with f_j and −ln(N p_j); even draws uniform, odd ones from recent events.

    Args:
        known: items known.
        number: of the newest event.
        key: random key of the step.
    """
    rows, recent = model.items.floats, model.recent
    scale = np.float32(half_life_scale(number, model.options.bias_half_life))
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
        batch.negative_base[n] = scale * rows[slot, d]
        batch.negative_share[n] = -np.log(expected)
        batch.drawn[n] = model.serial_of[slot]


@inner
def fill_one(
    batch: Batch,
    i: int,
    examples: Examples,
    row: int,
    model: Model,
) -> None:
    """Sequence i of a batch from a remembered example; weight 0 where its target is gone."""
    slot_of, h = model.slot_of, examples.user[row]
    inverse = np.float32(1.0 / model.options.temperature)
    length, d = batch.rows.shape[1:]
    batch.weight[i] = np.float32(1.0) if slot_of[examples.target[row]] >= 0 else np.float32(0.0)
    for k in range(d):
        batch.target[i, k] = examples.target_row[row, k]
        batch.user[i, k] = examples.user[row, k]
    batch.target_base[i] = examples.target_score[row] - dot(examples.target_row, row, h) * inverse
    batch.target_share[i] = examples.target_share[row]
    for n in range(batch.drawn.shape[0]):
        batch.clear[i, n] = batch.drawn[n] != examples.target[row]
    for m in range(length):
        serial = examples.serial[row, m]
        there = serial >= 0 and slot_of[serial] >= 0
        batch.mask[i, m] = there
        batch.own[i, m] = examples.own[row, m] and there
        batch.gap[i, m] = examples.gap[row, m]
        for k in range(d):
            batch.rows[i, m, k] = examples.rows[row, m, k] if there else np.float32(0.0)
        batch.own_base[i, m] = examples.own_score[row, m] - dot(examples.rows[row], m, h) * inverse
        if batch.own[i, m]:
            for n in range(batch.drawn.shape[0]):
                batch.clear[i, n] &= batch.drawn[n] != serial


@kernel
def fill(batch: Batch, examples: Examples, picks: NDArray[np.int64], model: Model) -> None:
    """Sequences of a step; its negatives were drawn before.

    Args:
        picks: (B,) pushes of the examples, −1 for none.
    """
    for i in range(picks.shape[0]):
        if picks[i] < 0:
            batch.weight[i] = np.float32(0.0)
            continue
        fill_one(batch, i, examples, picks[i] % examples.target.shape[0], model)


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
