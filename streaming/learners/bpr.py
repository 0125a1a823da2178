"""Bayesian personalised ranking: items a user had are to score above sampled ones, pair by pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, is_finite, kernel, random_below
from streaming.learners.contract import (
    CLIPPED,
    SKIPPED,
    Event,
    Field,
    Layout,
    Learner,
    Model,
    past_item,
    touch,
)
from streaming.learners.decay import fade, half_life_scale
from streaming.learners.optimisers import to_length_one
from streaming.learners.reductions import dot, dot_of


class Options(NamedTuple):
    """Options of BPR.

    dimension: floats of a vector.
    learning_rate: of the vectors, by row-wise AdaGrad.
    negatives: sampled items an event is compared with.
    l2: pulls the vectors of an event towards 0.
    context: last items whose vectors enter the user's; 0 for plain BPR.
    fading: what an item of the context counts against the one that came after it.
    history: last items of a user that are not sampled.
    bias_rate: learning rate of the item biases.
    half_life: events after which a bias has gone half way back to 0; inf never forgets.
    cosine: score by the angle between user and item instead of their inner product.
    temperature: divides the cosine.
    sigma: standard deviation of initial item vectors; those of users start at 0 where there is a context.
    clip: greatest length of the step of a row.
    """

    dimension: int = 64
    learning_rate: float = 0.1
    negatives: int = 10
    l2: float = 0.0
    context: int = 6
    fading: float = 0.5
    history: int = 50
    bias_rate: float = 0.05
    half_life: float = 3000.0
    cosine: bool = False
    temperature: float = 0.1
    sigma: float = 0.1
    clip: float = 1.0


class Workspace(NamedTuple):
    """What one event needs and the next one overwrites."""

    user: NDArray[np.float32]  # (d,) h
    gradient: NDArray[np.float32]  # (d,) of log-likelihood by h
    item: NDArray[np.float32]  # (d,) of log-likelihood by the event's item


@inner
def ascend(
    rows: NDArray[np.float32],
    slot: int,
    accumulator: int,
    factor: np.float32,
    gradient: NDArray[np.float32],
    size: np.float32,
    options: Options,
) -> bool:
    """Move a row along factor · gradient − l2 · row, by row-wise AdaGrad; True where the step was clipped.

    G += |factor · gradient|² / d, row += rate (…) / √G, `size` = |gradient|². With cosine, the row is
    brought back to length 1.
    """
    d = gradient.shape[0]
    grown = rows[slot, accumulator] + factor * factor * size / np.float32(d)
    rate = np.float32(options.learning_rate) / np.sqrt(grown)
    length = rate * abs(factor) * np.sqrt(size)
    clipped = length > options.clip
    if clipped:
        rate *= np.float32(options.clip) / length
    keep, step = np.float32(1.0) - rate * np.float32(options.l2), rate * factor
    for k in range(d):
        rows[slot, k] = keep * rows[slot, k] + step * gradient[k]
    rows[slot, accumulator] = grown
    return bool(clipped)


@inner
def context_scale(options: Options) -> np.float32:
    """s = (Σ_k fading^k)^−¼: soft normalisation of the pooled context."""
    total, weight = 0.0, 1.0
    for _ in range(options.context):
        total += weight
        weight *= options.fading
    return np.float32(total**-0.25) if total > 0.0 else np.float32(0.0)


@inner
def represent(model: Model, event: Event, user: NDArray[np.float32]) -> np.float32:
    """h = P_u + s Σ_k fading^k V_{p_k} into `user`; returns 1, or with cosine |h|, by which h was divided."""
    options, items = model.options, model.items.floats
    d = options.dimension
    for k in range(d):
        user[k] = model.users.floats[event.user, k]
    weight = context_scale(options)
    for lag in range(options.context):
        slot = past_item(model.history, model.slot_of, event.user, lag)
        if slot >= 0:
            for k in range(d):
                user[k] += weight * items[slot, k]
        weight *= np.float32(options.fading)
    if not options.cosine:
        return np.float32(1.0)
    length = np.float32(np.sqrt(dot_of(user, user)))
    if length < 1e-6:  # nothing known of the user: no direction
        return np.float32(1.0)
    for k in range(d):
        user[k] /= length
    return length


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """s_j = h · V_j (over the temperature with cosine) + f_j."""
    options, items, user = model.options, model.items.floats, model.workspace.user
    d = options.dimension
    represent(model, event, user)
    sharpness = np.float32(1.0 / options.temperature if options.cosine else 1.0)
    scale = np.float32(half_life_scale(event.number, options.half_life))
    for j in range(out.shape[0]):
        out[j] = sharpness * dot(items, j, user) + scale * items[j, d]


@inner
def was_had(model: Model, user: int, serial: int) -> bool:
    """Whether an item is among the items that a user's row remembers."""
    history = model.history
    found = np.int32(0)
    for k in range(min(int(history.pushed[user]), history.serial.shape[1])):
        found |= np.int32(history.serial[user, k] == np.int32(serial))
    return bool(found != 0)


@inner
def compare(model: Model, event: Event, sign: np.float32) -> float:
    """Sample negatives and move each; gradients by h and by the item into the workspace; returns the loss.

    For each negative j: e = σ(−sign (s_i − s_j)), and V_j, f_j move at once, so that a negative drawn
    twice is met as it then is.
    """
    options, items, space = model.options, model.items.floats, model.workspace
    user, touched, d = space.user, model.items.touched, options.dimension
    sharpness = np.float32(1.0 / options.temperature if options.cosine else 1.0)
    scale = half_life_scale(event.number, options.half_life)
    rate = np.float32(options.bias_rate / scale * abs(event.weight))
    mine = sharpness * dot(items, event.item, user)
    weight = sharpness * np.float32(abs(event.weight)) * sign
    size, loss, total = dot_of(user, user), 0.0, np.float32(0.0)
    for t in range(options.negatives if event.known > 0 else 0):
        other = random_below(np.uint64(event.key), t, event.known)
        if other == event.item or was_had(model, event.user, model.serial_of[other]):
            continue
        margin = mine - sharpness * dot(items, other, user)
        margin = sign * (margin + np.float32(scale) * (items[event.item, d] - items[other, d]))
        if not is_finite(margin):
            model.tally[SKIPPED] += 1
            continue
        error = np.float32(1.0 / (1.0 + np.exp(margin)))
        loss += max(-margin, 0.0) + np.log1p(np.exp(-abs(margin)))
        touch(touched, other, event.number)
        for k in range(d):
            space.gradient[k] += weight * error * (items[event.item, k] - items[other, k])
        model.tally[CLIPPED] += ascend(items, other, d + 1, -weight * error, user, size, options)
        if options.cosine:
            to_length_one(items, other, d)
        items[other, d] -= rate * sign * error
        total += error
    for k in range(d):
        space.item[k] = weight * total * user[k]
    items[event.item, d] += rate * sign * total
    return loss


@kernel
def learn(model: Model, event: Event) -> float:
    """One step on Σ_j ln σ(s_i − s_j) (Rendle et al. 2009, eq. 4) for sampled j; returns −that.

    |weight| scales the step. Negative feedback swaps the pairs: the sampled items are to score higher.
    With cosine, vectors of items keep length 1, so that inner products still rank; the gradient by h is
    that of its direction.
    """
    options, items, users = model.options, model.items.floats, model.users.floats
    space, touched, d = model.workspace, model.items.touched, options.dimension
    if options.cosine:
        touch(touched, event.item, event.number)
        to_length_one(items, event.item, d)
    length = represent(model, event, space.user)
    if not is_finite(dot(items, event.item, space.user)):
        model.tally[SKIPPED] += 1
        return np.nan
    space.gradient[:] = 0.0
    loss = compare(model, event, np.float32(1.0 if event.weight > 0.0 else -1.0))
    if options.cosine:
        inside = dot_of(space.gradient, space.user)
        for k in range(d):
            space.gradient[k] = (space.gradient[k] - inside * space.user[k]) / length
    one = np.float32(1.0)
    size, clipped = dot_of(space.gradient, space.gradient), 0
    touch(model.users.touched, event.user, event.number)
    clipped += ascend(users, event.user, d, one, space.gradient, size, options)
    weight = context_scale(options)
    for lag in range(options.context):
        slot = past_item(model.history, model.slot_of, event.user, lag)
        if slot >= 0:
            touch(touched, slot, event.number)
            clipped += ascend(items, slot, d + 1, weight, space.gradient, size, options)
            if options.cosine:
                to_length_one(items, slot, d)
        weight *= np.float32(options.fading)
    touch(touched, event.item, event.number)
    clipped += ascend(items, event.item, d + 1, one, space.item, dot_of(space.item, space.item), options)
    if options.cosine:
        to_length_one(items, event.item, d)
    model.tally[CLIPPED] += clipped
    return loss


@kernel
def decay(model: Model, known: int, number: int) -> None:
    """Keep the biases in range."""
    fade(model.items, model.options.dimension, known, number, model.options.half_life)


@kernel
def query(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """h (over the temperature with cosine)."""
    options, user = model.options, model.workspace.user
    represent(model, event, user)
    factor = np.float32(1.0 / options.temperature if options.cosine else 1.0)
    for k in range(user.shape[0]):
        out[k] = factor * user[k]


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """The user's part P_u · V_i, the item's bias as popularity, and the parts of the context."""
    out[:] = 0.0
    options, items, user = model.options, model.items.floats, model.workspace.user
    d = options.dimension
    factor = np.float32(1.0 / options.temperature if options.cosine else 1.0) / represent(model, event, user)
    for k in range(d):
        user[k] = items[event.item, k]
    out[0] = factor * dot(model.users.floats, event.user, user)
    out[1] = items[event.item, d] * half_life_scale(event.number, options.half_life)
    weight = factor * context_scale(options)
    for lag in range(min(options.context, out.shape[0] - 3)):
        slot = past_item(model.history, model.slot_of, event.user, lag)
        if slot >= 0:
            out[3 + lag] = weight * dot(items, slot, user)
        weight *= np.float32(options.fading)


def check(options: Options) -> None:
    """Refuse what cannot be."""
    if not 1 <= options.dimension <= 4096:
        raise ValueError(f"dimension must lie in [1, 4096], got {options.dimension}")
    if options.negatives < 1 or options.context < 0 or options.history < max(1, options.context):
        raise ValueError(
            "negatives must be at least 1, context at least 0, and history at least context and 1"
        )
    rates = (options.learning_rate, options.bias_rate, options.l2, options.sigma)
    if not all(0.0 <= r < np.inf for r in rates) or not 0.0 <= options.fading <= 1.0:
        raise ValueError("learning_rate, bias_rate, l2 and sigma must be 0 or more, and fading in [0, 1]")
    if not (options.half_life >= 1.0 and options.temperature > 0.0 and options.clip > 0.0):
        raise ValueError(
            "half_life must be at least 1 event (inf never forgets), temperature and clip above 0"
        )


def layout(options: Options) -> Layout:
    """A row is a vector and its AdaGrad accumulator, an item's has a bias between them."""
    drawn = options.sigma if options.context == 0 else 0.0
    vector, accumulator = (
        Field("vector", options.dimension, sigma=options.sigma),
        Field("accumulator", fill=0.1),
    )
    return Layout(
        user=(Field("vector", options.dimension, sigma=drawn), accumulator),
        item=(vector, Field("bias"), accumulator),
        history=options.history,
        optimiser="adagrad",
    )


def bias_half_life(options: Options) -> float:
    """Of the items' biases."""
    return options.half_life


def workspace(options: Options) -> Workspace:
    """Three vectors."""
    return Workspace(*(np.zeros(options.dimension, np.float32) for _ in range(3)))


LEARNER = Learner(
    "bpr",
    Options,
    layout,
    score,
    learn,
    workspace=workspace,
    check=check,
    query=query,
    explain=explain,
    decay=decay,
    bias_half_life=bias_half_life,
)
