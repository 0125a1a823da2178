"""Softmax: a user's row plus pooled recent items, trained against many negatives at every event.

    score      s_j = h·V_j / τ + f_j + r_j
    user       h = P_u + Σ_k w̃_k V_{i_k},   w̃_k = w_k / (Σ w)^¼,   w_k = a_k g_b     (i_1 the latest item)
    repeat     r_j = ρ_lag(j) + ρ_count(j) where j is among the user's last items, else 0
    loss       −ln softmax of the target among itself, the user's last items and the sampled negatives,
               with every logit but those of the last items lowered by ln(N q), q the item's probability
               in one of the N draws (Bengio and Senécal 2008)

V is tied: an item's vector is context and target. a_k weighs positions, g_b the time since the item was
had (b grows with its logarithm). Rows, a, g and ρ move by AdaGrad, one accumulator for each row (Duchi
et al. 2011; row-wise as in Naumov et al. 2019); the bias f by plain SGD, and it decays, which is how it
follows popularity that drifts. An item's first event puts it near its user.

A weight scales the step. An event of negative weight takes one logistic step with label 0: item and user
row move apart, the bias sinks; it does not enter the history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, is_finite, kernel
from streaming.learners.contract import CLIPPED, SKIPPED, Event, Field, Layout, Learner, Model, touch
from streaming.learners.decay import fade, half_life_scale
from streaming.learners.negatives import draw, expected_draws, normalise, place_of, table_size
from streaming.learners.optimisers import bias_rate, finish_gradient, move, move_user, to_length_one
from streaming.learners.pooling import COUNTS, GAPS, LAGS, Params, Workspace, gather, pool, repeat_term
from streaming.learners.reductions import dot, dot_of

MAX_WEIGHT = 10.0  # a weight above is cut to it, and counted
NEGLIGIBLE = np.float32(1e-6)  # a candidate of less probability is left alone: its row need not be written


class Options(NamedTuple):
    """Options of softmax.

    dimension: floats in a vector.
    learning_rate: of the rows.
    negatives: draws for each event, half uniform, half from recent events.
    temperature: τ, divides the inner product; with cosine, about 0.1 is right.
    l2: decay of each row that a step moves, in units of its learning rate (Loshchilov and Hutter 2019).
    cosine: keep the items' vectors and the user's at length 1.
    context: items of the history that are pooled.
    history: items of the history that are negatives and have a repeat term.
    recent: events in the ring from which recent negatives are drawn.
    bias_rate: learning rate of the bias.
    bias_half_life: events after which a bias has halved by itself; inf never forgets.
    weight_rate: learning rate of position, gap and repeat weights.
    first_sight: how far an item's first event moves it towards its user.
    sigma: standard deviation of new item vectors.
    start: items known before learning starts.
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


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """s_j of every known item."""
    rows, space, d = model.items.floats, model.workspace, model.options.dimension
    found = gather(model, event)
    pool(model, event, found)
    scale = np.float32(half_life_scale(event.number, model.options.bias_half_life))
    inverse = np.float32(1.0 / model.options.temperature)
    for j in range(out.shape[0]):
        out[j] = dot(rows, j, space.user) * inverse + scale * rows[j, d]
    for c in range(found):
        slot = space.slot[c]
        if slot < out.shape[0]:
            out[slot] += repeat_term(model, c)


@inner
def compare(model: Model, event: Event, found: int, target: int, lift: np.float32) -> tuple[int, float]:
    """Draw negatives, score all candidates, and leave softmax − onehot in the workspace.

    `lift` is what is added to the target's score. Returns the number of candidates and the loss, NaN
    where a score is not finite.
    """
    rows, space, options = model.items.floats, model.workspace, model.options
    if target >= found:
        uniform, each = expected_draws(model, event.known, options.negatives)
        often = np.float32(model.recent.occurrences[event.item])
        space.share[target] = np.float32(1.0) / (uniform + each * often)
    total = draw(model, event, options.negatives, max(found, target + 1))
    scale = np.float32(half_life_scale(event.number, options.bias_half_life))
    inverse = np.float32(1.0 / options.temperature)
    for c in range(total):
        slot = space.slot[c]
        space.score[c] = dot(rows, slot, space.user) * inverse + scale * rows[slot, options.dimension]
    for c in range(found):
        space.score[c] += repeat_term(model, c)
    space.score[target] += lift
    return total, normalise(space.score, space.share, space.error, total, target)


@kernel
def learn(model: Model, event: Event) -> float:
    """One step of the module's loss; of the logistic loss where the weight is negative."""
    options, space, items = model.options, model.workspace, model.items
    if not is_finite(event.weight + event.value):
        model.tally[SKIPPED] += 1
        return np.nan
    if event.known < options.start:
        return np.nan
    found = gather(model, event)
    length = pool(model, event, found)
    if not is_finite(length):
        model.tally[SKIPPED] += 1
        return np.nan
    if abs(event.weight) > MAX_WEIGHT:
        model.tally[CLIPPED] += 1
    weight = np.float32(min(abs(event.weight), MAX_WEIGHT))
    if event.weight < 0.0:
        return push_away(model, event, found, length, weight)
    target = place_of(space.table, space.slot, event.item, found)
    reach = np.float32(0.0)
    if items.events[event.item] == 0 and length > 0.0:
        reach = np.float32(options.first_sight) / (np.float32(1.0) if options.cosine else length)
    lift = reach * (np.float32(1.0) if options.cosine else length * length)
    total, loss = compare(model, event, found, target, lift * np.float32(1.0 / options.temperature))
    if not is_finite(loss):
        model.tally[SKIPPED] += 1
        return np.nan
    if reach > 0.0:
        for k in range(options.dimension):
            items.floats[event.item, k] += reach * space.user[k]
    move(model, event, found, total, length, weight)
    return loss


@inner
def push_away(model: Model, event: Event, found: int, length: np.float32, weight: np.float32) -> float:
    """Logistic step with label 0: item and user row move apart, the bias sinks; returns ln(1 + e^s)."""
    options, space = model.options, model.workspace
    rows, d = model.items.floats, options.dimension
    item, user, gradient = event.item, space.user, space.gradient
    score_now = np.float64(score_of(model, event, found))
    if not is_finite(score_now):
        model.tally[SKIPPED] += 1
        return np.nan
    error = np.float32(1.0 / (1.0 + np.exp(-score_now)))
    inverse = np.float32(1.0 / options.temperature)
    square = dot_of(user, user)
    for k in range(d):
        gradient[k] = error * rows[item, k]
    rate = np.float32(options.learning_rate) * weight
    touch(model.items.touched, item, event.number)
    rows[item, d + 1] += error * error * inverse * inverse * square / np.float32(d)
    step = rate * error * inverse / np.sqrt(rows[item, d + 1])
    for k in range(d):
        rows[item, k] -= step * user[k]
    if options.cosine:
        to_length_one(rows, item, d)
    rows[item, d] -= bias_rate(model, event) * weight * error
    move_user(model, event, finish_gradient(model, length), rate)
    return float(max(score_now, 0.0) + np.log1p(np.exp(-abs(score_now))))


@inner
def score_of(model: Model, event: Event, found: int) -> Any:
    """Score of event.item, once `gather` and `pool` are done."""
    options, rows, item = model.options, model.items.floats, event.item
    total = dot(rows, item, model.workspace.user) / np.float32(options.temperature)
    total += rows[item, options.dimension] * np.float32(half_life_scale(event.number, options.bias_half_life))
    place = place_of(model.workspace.table, model.workspace.slot, item, found)
    return total + repeat_term(model, place) if place < found else total


@kernel
def query(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """h / τ: its inner product with `vector`, plus the bias's true value, is the score without repetition."""
    pool(model, event, gather(model, event))
    for k in range(out.shape[0]):
        out[k] = model.workspace.user[k] / np.float32(model.options.temperature)


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """Parts of the score of event.item: own row, bias, repetition, each pooled item."""
    options, space, rows = model.options, model.workspace, model.items.floats
    out[:] = 0.0
    found = gather(model, event)
    length = pool(model, event, found)
    unit = np.float32(options.temperature) * (length if options.cosine and length > 0.0 else np.float32(1.0))
    for k in range(options.dimension):
        out[0] += model.users.floats[event.user, k] * rows[event.item, k] / unit
    scale = np.float32(half_life_scale(event.number, options.bias_half_life))
    out[1] = rows[event.item, options.dimension] * scale
    for k in range(min(space.place.shape[0], out.shape[0] - 3)):
        if space.place[k] >= 0:
            slot = space.slot[space.place[k]]
            for j in range(options.dimension):
                out[3 + k] += space.weight[k] * rows[slot, j] * rows[event.item, j] / unit
    place = place_of(space.table, space.slot, event.item, found)
    if place < found:
        out[2] = repeat_term(model, place)


def check(options: Options) -> None:
    """Refuse what cannot be."""
    for name in ("dimension", "negatives", "start"):
        if getattr(options, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(options, name)}")
    if not 1 <= options.context <= options.history:
        raise ValueError(f"context must lie between 1 and history ({options.history}), got {options.context}")
    if options.recent < 0:
        raise ValueError(f"recent must be 0 or more, got {options.recent}")
    for name in ("learning_rate", "temperature", "bias_half_life"):
        if not getattr(options, name) > 0.0:
            raise ValueError(f"{name} must be above 0, got {getattr(options, name)}")
    for name in ("l2", "bias_rate", "weight_rate", "first_sight", "sigma"):
        if not 0.0 <= getattr(options, name) < np.inf:
            raise ValueError(f"{name} must be 0 or more, got {getattr(options, name)}")
    if options.l2 * options.learning_rate >= 0.1:
        raise ValueError(f"l2 must be below 0.1 / learning_rate, got {options.l2}")


def layout(options: Options) -> Layout:
    """A user's vector; an item's vector and bias; an accumulator each."""
    d = options.dimension
    sigma = d**-0.5 if options.cosine else options.sigma
    return Layout(
        user=(Field("vector", d), Field("accumulator", fill=0.1)),
        item=(
            Field("vector", d, sigma=sigma),
            Field("bias"),
            Field("accumulator", fill=0.1),
        ),
        history=options.history,
        recent=options.recent,
        optimiser="adagrad",
    )


def parameters(options: Options) -> Params:
    """Weights before the first event."""
    return Params(
        position=(0.7 ** np.arange(options.context)).astype(np.float32),
        position_square=np.full(options.context, 1e-4, np.float32),
        gap=np.ones(GAPS, np.float32),
        gap_square=np.full(GAPS, 1e-4, np.float32),
        repeat=np.zeros(LAGS + COUNTS, np.float32),
        repeat_square=np.ones(LAGS + COUNTS, np.float32),
    )


def bias_half_life(options: Options) -> float:
    """Of the items' biases."""
    return options.bias_half_life


def workspace(options: Options) -> Workspace:
    """Room for one event."""
    candidates = options.history + 1 + options.negatives
    return Workspace(
        slot=np.zeros(candidates, np.int32),
        share=np.zeros(candidates, np.float32),
        score=np.zeros(candidates, np.float32),
        error=np.zeros(candidates, np.float32),
        pooled=np.zeros(options.history, np.float32),
        lag=np.zeros(options.history, np.int32),
        times=np.zeros(options.history, np.int32),
        place=np.zeros(options.context, np.int32),
        gap=np.zeros(options.context, np.int32),
        weight=np.zeros(options.context, np.float32),
        slope=np.zeros(options.history, np.float32),
        step=np.zeros(max(GAPS, LAGS + COUNTS), np.float32),
        table=np.zeros(table_size(candidates), np.int32),
        user=np.zeros(options.dimension, np.float32),
        gradient=np.zeros(options.dimension, np.float32),
    )


@kernel
def decay(model: Model, known: int, number: int) -> None:
    """Keep the biases in range."""
    fade(model.items, model.options.dimension, known, number, model.options.bias_half_life)


LEARNER = Learner(
    "softmax",
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
