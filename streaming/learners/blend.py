"""Blend: log-linear mix of `softmax` with counters, its weights learned online.

    score_j = β_1 s_j + β_2 ln(t_j + 0.3 p_j) + β_3 ln(k_j + 0.1 p_j) + β_4 ln p_j

s is the score of `softmax`, t the transitions from the user's last items, k the item-kNN of the user's
last items as a share of its sum, p the decayed popularity as a share. There is one β for each mass of the
transitions (none, below 4, below 40, more): what is known of those items decides whom to trust. β descends
−ln softmax(score)_target over all known items by AdaGrad; since that costs a pass over the items, it is
done for events drawn by hash, so that `mixed` items are passed at an event on average.

Negative feedback: one logistic step of `softmax`, and counters take back what a positive event adds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, is_finite, kernel, random_below
from streaming.learners import softmax
from streaming.learners.blend_parts import (
    BACKWARD,
    DISTANCE,
    FADING,
    FOLLOW_FADING,
    FOLLOW_HALF_LIFE,
    FOLLOWED,
    HALF_LIFE,
    KNN_HALF_LIFE,
    LAST,
    LOG_SIMILAR,
    LOG_TRANSITIONS,
    MASSES,
    NEAR,
    NEXT,
    PARTS,
    SHRINK,
    TOGETHER,
    factors,
    look,
    parts_of,
    unit_of,
)
from streaming.learners.contract import SKIPPED, Event, Field, Layout, Learner, Model, past_item
from streaming.learners.decay import fade
from streaming.learners.item_knn import learn_together, similarity
from streaming.learners.negatives import exponential, table_size
from streaming.learners.neighbours import fade_lists, unit, weight_of
from streaming.learners.softmax import bias_half_life, query
from streaming.learners.softmax import decay as decay_softmax
from streaming.learners.softmax import explain as explain_softmax
from streaming.learners.softmax import learn as learn_softmax
from streaming.learners.transitions import learn_transitions


class Options(NamedTuple):
    """Options of blend: those of softmax, and the following; the counters have their learners' defaults.

    neighbours: most items kept in each of an item's two lists; 8 bytes each.
    mixed: items passed for learning β at an event, on average; more is better and slower.
    mix_rate: learning rate of β.
    """

    dimension: int = 64
    learning_rate: float = 0.09
    negatives: int = 100
    temperature: float = 1.0
    l2: float = 0.0
    cosine: bool = False
    context: int = 30
    history: int = 50
    recent: int = 20_000
    bias_rate: float = 0.1
    bias_half_life: float = 3000.0
    weight_rate: float = 0.05
    first_sight: float = 0.2
    sigma: float = 0.1
    start: int = 20
    neighbours: int = 128
    mixed: int = 500
    mix_rate: float = 0.1


class Params(NamedTuple):
    """Those of softmax, and β with its accumulators."""

    position: NDArray[np.float32]
    position_square: NDArray[np.float32]
    gap: NDArray[np.float32]
    gap_square: NDArray[np.float32]
    repeat: NDArray[np.float32]
    repeat_square: NDArray[np.float32]
    mix: NDArray[np.float32]  # (MASSES, PARTS) β
    mix_square: NDArray[np.float32]  # (MASSES, PARTS)


class Workspace(NamedTuple):
    """That of softmax, and what the counters say of items near the user's last."""

    slot: NDArray[np.int32]
    share: NDArray[np.float32]
    score: NDArray[np.float32]
    error: NDArray[np.float32]
    pooled: NDArray[np.float32]
    lag: NDArray[np.int32]
    times: NDArray[np.int32]
    place: NDArray[np.int32]
    gap: NDArray[np.int32]
    weight: NDArray[np.float32]
    slope: NDArray[np.float32]
    step: NDArray[np.float32]
    table: NDArray[np.int32]
    user: NDArray[np.float32]
    gradient: NDArray[np.float32]
    near_table: NDArray[np.int32]  # places by slot, as in `place_of`
    near_slot: NDArray[np.int32]  # (N,)
    near: NDArray[np.float32]  # (NEAR, N) transitions, share of item-kNN, repeat term
    mean: NDArray[np.float32]  # (PARTS,)


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Score of every known item."""
    beta = model.params.mix[look(model, event)]
    bias, share = factors(model, event)
    for j in range(out.shape[0]):
        s, follow, similar, log = parts_of(model, j, bias, share)
        out[j] = beta[0] * s + beta[1] * follow + beta[2] * similar + beta[3] * log


@inner
def learn_mix(model: Model, event: Event) -> None:
    """AdaGrad step of β: its gradient is the softmax's mean of the parts, less the target's parts."""
    bucket = look(model, event)
    bias, share = factors(model, event)
    beta, squares, mean = model.params.mix[bucket], model.params.mix_square[bucket], model.workspace.mean
    mean[:] = 0.0
    mass = np.float32(0.0)
    highest = np.float32(-1e30)
    for j in range(event.known):
        s, follow, similar, log = parts_of(model, j, bias, share)
        total = beta[0] * s + beta[1] * follow + beta[2] * similar + beta[3] * log
        if total > highest:
            shrunk = exponential(highest - total)
            mass *= shrunk
            for p in range(PARTS):
                mean[p] *= shrunk
            highest = total
        e = exponential(total - highest)
        mass += e
        mean[0] += e * s
        mean[1] += e * follow
        mean[2] += e * similar
        mean[3] += e * log
    if not is_finite(mass * mean[0]):
        return
    s, follow, similar, log = parts_of(model, event.item, bias, share)
    for p, part in enumerate((s, follow, similar, log)):
        slope = mean[p] / mass - part
        squares[p] += slope * slope
        beta[p] -= np.float32(model.options.mix_rate) * slope / np.sqrt(squares[p])


@kernel
def learn(model: Model, event: Event) -> float:
    """One step of all parts; the loss is that of softmax."""
    options, weight = model.options, event.weight
    if not is_finite(weight + event.value):
        model.tally[SKIPPED] += 1
        return np.nan
    if weight > 0.0 and event.item < event.known and event.known >= options.start:
        drawn = random_below(np.uint64(event.key), options.negatives, event.known)
        if drawn < options.mixed:
            learn_mix(model, event)
    loss = learn_softmax(model, event)
    count = options.dimension + 2
    model.items.floats[event.item, count + 1] += weight * unit(event.number, HALF_LIFE)
    learn_transitions(model, event, NEXT, BACKWARD, FOLLOW_HALF_LIFE)
    learn_together(model, event, TOGETHER, count, LAST, DISTANCE, KNN_HALF_LIFE)
    return loss


@kernel
def decay(model: Model, known: int, number: int) -> None:
    """Keep biases, counts and lists in range."""
    decay_softmax(model, known, number)
    count = model.options.dimension + 2
    fade(model.items, count, known, number, KNN_HALF_LIFE)
    fade(model.items, count + 1, known, number, HALF_LIFE)
    fade_lists(model, NEXT, known, number, FOLLOW_HALF_LIFE)
    fade_lists(model, TOGETHER, known, number, KNN_HALF_LIFE)


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Parts of the score of event.item; what a list adds over popularity goes to the items it came from."""
    floats, item = model.items.floats, event.item
    beta = model.params.mix[look(model, event)]
    bias, share = factors(model, event)
    _, follow, similar, log = parts_of(model, item, bias, share)
    explain_softmax(model, event, out)
    for p in range(out.shape[0]):
        out[p] *= beta[0]
    out[1] += beta[1] * (log + LOG_TRANSITIONS) + beta[2] * (log + LOG_SIMILAR) + beta[3] * log
    count = model.options.dimension + 2
    shrink = SHRINK * unit_of(event)
    # First what the lists of each past item say in all, then each one's part of the logarithm.
    follow_sum, similar_sum = 0.0, 0.0
    for turn in range(2):
        near, far = 1.0, 1.0
        for k in range(min(max(FOLLOWED, LAST), out.shape[0] - 3)):
            slot = past_item(model.history, model.slot_of, event.user, k)
            if slot >= 0:
                next_one = far * weight_of(model, NEXT, slot, item) if k < FOLLOWED else 0.0
                together = near * weight_of(model, TOGETHER, slot, item) if k < LAST else 0.0
                together = similarity(together, floats[slot, count], floats[item, count], shrink)
                if turn == 0:
                    follow_sum += next_one
                    similar_sum += together
                else:
                    if follow_sum > 0.0:
                        out[3 + k] += beta[1] * (follow - log - LOG_TRANSITIONS) * next_one / follow_sum
                    if similar_sum > 0.0:
                        out[3 + k] += beta[2] * (similar - log - LOG_SIMILAR) * together / similar_sum
            far *= FOLLOW_FADING
            near *= FADING


def _softmax(options: Options) -> softmax.Options:
    given: dict[str, Any] = {name: getattr(options, name) for name in softmax.Options._fields}
    return softmax.Options(**given)


def workspace(options: Options) -> Workspace:
    """Room for one event."""
    near = options.history + (FOLLOWED + LAST) * options.neighbours
    return Workspace(
        *softmax.workspace(_softmax(options)),
        near_table=np.zeros(table_size(near), np.int32),
        near_slot=np.zeros(near, np.int32),
        near=np.zeros((NEAR, near), np.float32),
        mean=np.zeros(PARTS, np.float32),
    )


def check(options: Options) -> None:
    """Refuse what cannot be."""
    softmax.check(_softmax(options))
    if options.neighbours < 1 or options.mixed < 1:
        raise ValueError("neighbours and mixed must be at least 1")
    if options.history < LAST:
        raise ValueError(f"history must be at least {LAST}, got {options.history}")
    if not 0.0 <= options.mix_rate < np.inf:
        raise ValueError(f"mix_rate must be 0 or more, got {options.mix_rate}")


def layout(options: Options) -> Layout:
    """Rows of softmax with an item's count and popularity, and two lists."""
    rows = softmax.layout(_softmax(options))
    return Layout(
        user=rows.user,
        item=(*rows.item, Field("count"), Field("popularity")),
        history=rows.history,
        recent=rows.recent,
        neighbours=(2, options.neighbours),
        optimiser=rows.optimiser,
    )


def parameters(options: Options) -> Params:
    """Weights before the first event: mostly softmax, some of the counters."""
    beta = np.tile(np.array([0.8, 0.1, 0.2, 0.05], np.float32), (MASSES, 1))
    shared = softmax.parameters(_softmax(options))
    return Params(*shared, mix=beta, mix_square=np.ones((MASSES, PARTS), np.float32))


LEARNER = Learner(
    "blend",
    Options,
    layout,
    score,
    learn,
    parameters=parameters,
    workspace=workspace,
    check=check,
    query=query,
    explain=explain,
    decay=decay,
    bias_half_life=bias_half_life,
)
