"""Sequences to train on: events enter as they are learned, batches of new and earlier ones leave.

An example holds what was true just before its event: the last items, the plain query h, and the scores of
target and last items under h. Vectors are taken from the version's rows at the time of the step, and each
score is moved by a constant so that without a correction it is what it was: the learner has learned the
event meanwhile, and a correction trained on scores that know their target learns to trust h too much. For
the same reason negatives are drawn before the events that they are compared with. A row that is gone by the
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
    user: NDArray[np.float32]  # (R, D) h
    target: NDArray[np.int32]  # (R,)
    target_score: NDArray[np.float32]  # (R,) less ln(N p), where the user did not have it among the last
    pushed: NDArray[np.int64]  # (1,)


def new_examples(options: Options) -> Examples:
    """Room for the examples that are remembered."""
    r, length = options.remembered, options.length
    return Examples(
        serial=np.full((r, length), -1, np.int32),
        gap=np.zeros((r, length), np.uint8),
        own=np.zeros((r, length), np.bool_),
        own_score=np.zeros((r, length), np.float32),
        user=np.zeros((r, options.dimension), np.float32),
        target=np.zeros(r, np.int32),
        target_score=np.zeros(r, np.float32),
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
    if target < found:
        score += repeat_term(model, target)
    else:
        uniform, each = expected_draws(model, event.known, draws)
        score -= np.log(uniform + each * np.float32(model.recent.occurrences[event.item]))
    examples.target_score[row] = score
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
            score = dot(rows, slot, space.user) * inverse + scale * rows[slot, d]
            examples.own_score[row, k] = score + repeat_term(model, place)
    for k in range(space.user.shape[0]):
        examples.user[row, k] = space.user[k]
    examples.pushed[0] += 1


@kernel
def draw_negatives(batch: Batch, model: Model, known: int, number: int, key: np.uint64) -> None:
    """Negatives of a step, b_j = f_j − ln(N p_j); even draws uniform, odd ones from recent events.

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
        batch.negative_base[n] = scale * rows[slot, d] - np.log(expected)
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
    rows, slot_of, h = model.items.floats, model.slot_of, examples.user[row]
    inverse = np.float32(1.0 / model.options.temperature)
    length, d = batch.rows.shape[1:]
    target = slot_of[examples.target[row]]
    batch.weight[i] = np.float32(1.0) if target >= 0 else np.float32(0.0)
    target = max(target, 0)
    for k in range(d):
        batch.target[i, k] = rows[target, k]
        batch.user[i, k] = examples.user[row, k]
    batch.target_base[i] = examples.target_score[row] - dot(rows, target, h) * inverse
    for n in range(batch.drawn.shape[0]):
        batch.clear[i, n] = batch.drawn[n] != examples.target[row]
    for m in range(length):
        serial = examples.serial[row, m]
        slot = slot_of[serial] if serial >= 0 else -1
        batch.mask[i, m] = slot >= 0
        batch.own[i, m] = examples.own[row, m] and slot >= 0
        batch.gap[i, m] = examples.gap[row, m]
        slot = max(slot, 0)
        for k in range(d):
            batch.rows[i, m, k] = rows[slot, k] if batch.mask[i, m] else np.float32(0.0)
        batch.own_base[i, m] = examples.own_score[row, m] - dot(rows, slot, h) * inverse
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
