"""Row-wise AdaGrad for the rows and the shared weights of `softmax`: errors of candidates in, moved rows out.

A row's accumulator G gains |gradient|² / d before each step, and the row moves by rate / √G times the
gradient (Duchi et al. 2011; one accumulator for a row as in Naumov et al. 2019). A row's fields are its
vector, for items a bias, and the accumulator.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner
from streaming.learners.contract import Event, Model, touch
from streaming.learners.decay import half_life_scale
from streaming.learners.pooling import COUNTS, GAPS, LAGS
from streaming.learners.reductions import dot, dot_of, dot_rows


@inner
def to_length_one(rows: NDArray[np.float32], slot: int, d: int) -> None:
    """Bring a row's vector back to length 1."""
    square = dot_rows(rows, slot, rows, slot, d)
    factor = np.float32(1.0) / np.sqrt(max(square, np.float32(1e-30)))
    for k in range(d):
        rows[slot, k] *= factor


@inner
def bias_rate(model: Model, event: Event) -> np.float32:
    """Learning rate of a bias in its stored unit."""
    return np.float32(model.options.bias_rate / half_life_scale(event.number, model.options.bias_half_life))


@inner
def move(model: Model, event: Event, found: int, total: int, length: np.float32, weight: np.float32) -> None:
    """One step along the gradients of all rows and weights, from the errors in the workspace."""
    space, d = model.workspace, model.options.dimension
    rate = np.float32(model.options.learning_rate) * weight
    inverse = np.float32(1.0 / model.options.temperature)
    space.gradient[:] = 0.0
    square = dot_of(space.user, space.user) * inverse * inverse / np.float32(d)
    rows = model.items.floats
    for c in range(found):
        error = space.error[c]
        if error != 0.0:
            slot = space.slot[c]
            for k in range(d):
                space.gradient[k] += error * rows[slot, k]
    move_negatives(model, event, found, total, rate, square)
    length_square = finish_gradient(model, length)
    move_context(model, event, found, rate, square, length_square)
    move_user(model, event, length_square, rate)
    move_weights(model, found, weight)


@inner
def move_negatives(
    model: Model, event: Event, first: int, total: int, rate: np.float32, square: np.float32
) -> None:
    """Steps of candidates that are not in the history; adds their part of dh before each."""
    options, space, rows = model.options, model.workspace, model.items.floats
    user, gradient, d = space.user, space.gradient, options.dimension
    inverse = np.float32(1.0 / options.temperature)
    shrink = np.float32(options.l2)
    bias_step = bias_rate(model, event) * rate / np.float32(options.learning_rate)
    for c in range(total - 1, first - 1, -1):  # the last scored are still in the nearest cache
        error = space.error[c]
        if error == 0.0:
            continue
        slot = space.slot[c]
        touch(model.items.touched, slot, event.number)
        rows[slot, d + 1] += error * error * square
        step = rate / np.sqrt(rows[slot, d + 1])
        keep = np.float32(1.0) - step * shrink
        step *= error * inverse
        for k in range(d):
            value = rows[slot, k]
            gradient[k] += error * value
            rows[slot, k] = keep * value - step * user[k]
        if options.cosine:
            to_length_one(rows, slot, d)
        rows[slot, d] -= bias_step * error


@inner
def finish_gradient(model: Model, length: np.float32) -> np.float32:
    """dh from Σ error·V: divided by τ, through the normalisation of cosine; returns |dh|² / d."""
    gradient, user = model.workspace.gradient, model.workspace.user
    inverse = np.float32(1.0 / model.options.temperature)
    along = np.float32(0.0)
    if model.options.cosine and length > 0.0:
        along = dot_of(gradient, user)
        inverse /= length
    for k in range(user.shape[0]):
        gradient[k] = (gradient[k] - along * user[k]) * inverse
    return dot_of(gradient, gradient) / np.float32(user.shape[0])


@inner
def move_context(
    model: Model, event: Event, found: int, rate: np.float32, square: np.float32, length_square: np.float32
) -> None:
    """Steps of the history's items: as candidates and, one accumulator later, as context."""
    options, space, rows = model.options, model.workspace, model.items.floats
    user, gradient, d = space.user, space.gradient, options.dimension
    inverse = np.float32(1.0 / options.temperature)
    shrink = np.float32(options.l2)
    bias_step = bias_rate(model, event) * rate / np.float32(options.learning_rate)
    for c in range(found):
        error, pooled = space.error[c], space.pooled[c]
        if error == 0.0 and pooled == 0.0:
            continue
        slot = space.slot[c]
        touch(model.items.touched, slot, event.number)
        space.slope[c] = dot(rows, slot, gradient)
        first = rows[slot, d + 1] + error * error * square
        second = first + pooled * pooled * length_square
        rows[slot, d + 1] = second
        own = rate / np.sqrt(first) * error * inverse
        step = rate / np.sqrt(second)
        keep = np.float32(1.0) - step * shrink
        step *= pooled
        for k in range(d):
            rows[slot, k] = keep * rows[slot, k] - own * user[k] - step * gradient[k]
        if options.cosine:
            to_length_one(rows, slot, d)
        rows[slot, d] -= bias_step * error


@inner
def move_user(model: Model, event: Event, length_square: np.float32, rate: np.float32) -> None:
    """Step of the user's row along dh."""
    users, d, gradient = model.users, model.options.dimension, model.workspace.gradient
    row = users.floats
    touch(users.touched, event.user, event.number)
    row[event.user, d] += length_square
    step = rate / np.sqrt(row[event.user, d])
    keep = np.float32(1.0) - step * np.float32(model.options.l2)
    for k in range(d):
        row[event.user, k] = keep * row[event.user, k] - step * gradient[k]


@inner
def move_weights(model: Model, found: int, weight: np.float32) -> None:
    """AdaGrad steps of the position, gap and repeat weights, from `slope` and `error` in the workspace."""
    params, space = model.params, model.workspace
    rate = np.float32(model.options.weight_rate) * weight
    context = space.place.shape[0]
    step = space.step
    step[:] = 0.0
    total = np.float32(1e-30)
    mean = np.float32(0.0)
    for k in range(context):
        if space.place[k] >= 0:
            total += space.weight[k]
            mean += space.weight[k] * space.slope[space.place[k]]
    mean *= np.float32(0.25) / total
    for k in range(context):
        if space.place[k] >= 0:
            slope = space.weight[k] * (space.slope[space.place[k]] - mean)
            step[space.gap[k]] += slope
            scale(params.position, params.position_square, k, slope, rate)
    for b in range(GAPS):
        if step[b] != 0.0:
            scale(params.gap, params.gap_square, b, step[b], rate)
    step[:] = 0.0
    for c in range(found):
        step[space.lag[c]] += space.error[c]
        step[LAGS - 1 + min(space.times[c], COUNTS)] += space.error[c]
    for b in range(LAGS + COUNTS):
        if step[b] != 0.0:
            params.repeat_square[b] += step[b] * step[b]
            params.repeat[b] -= rate * step[b] / np.sqrt(params.repeat_square[b])


@inner
def scale(
    weights: NDArray[np.float32], squares: NDArray[np.float32], k: int, slope: np.float32, rate: np.float32
) -> None:
    """AdaGrad step of ln(weights[k]), no longer than the rate."""
    squares[k] += slope * slope
    step = rate * slope / np.sqrt(squares[k])
    weights[k] *= np.exp(-min(max(step, -rate), rate))
