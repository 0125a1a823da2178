"""Biased matrix factorisation: predicts the values of events, and ranks by the prediction."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, is_finite, kernel
from streaming.learners.contract import CLIPPED, SKIPPED, Event, Field, Layout, Learner, Model, touch
from streaming.learners.reductions import dot_rows


class Options(NamedTuple):
    """Options of biased matrix factorisation.

    dimension: floats of a vector.
    learning_rate: of the vectors.
    bias_rate: learning rate of the biases.
    l2: pulls the vectors towards 0.
    l2_bias: pulls the biases towards 0.
    sigma: standard deviation of initial vectors.
    clip: an error counts as at most this much in a step.
    low: least value that a prediction may have where its error is reported.
    high: greatest such value.
    """

    dimension: int = 64
    learning_rate: float = 0.1
    bias_rate: float = 0.05
    l2: float = 0.02
    l2_bias: float = 0.0
    sigma: float = 0.05
    clip: float = 10.0
    low: float = -np.inf
    high: float = np.inf


class Params(NamedTuple):
    """The mean of all values, and how many there were."""

    mean: NDArray[np.float64]  # (1,)
    values: NDArray[np.int64]  # (1,)


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """s_j = μ + b_u + b_j + p_u · q_j, the predicted value."""
    users, items, d = model.users.floats, model.items.floats, model.options.dimension
    base = np.float32(model.params.mean[0]) + users[event.user, d]
    for j in range(out.shape[0]):
        out[j] = base + items[j, d] + dot_rows(users, event.user, items, j, d)


@inner
def step(
    users: NDArray[np.float32],
    user: int,
    items: NDArray[np.float32],
    item: int,
    error: float,
    options: Options,
) -> None:
    """One gradient step on ½ error² + ½ l2 (|p_u|² + |q_i|²) + ½ l2_bias (b_u² + b_i²)."""
    d = options.dimension
    rate, bias_rate = np.float32(options.learning_rate), np.float32(options.bias_rate)
    l2, l2_bias, e = np.float32(options.l2), np.float32(options.l2_bias), np.float32(error)
    for k in range(d):
        p, q = users[user, k], items[item, k]
        users[user, k] = p + rate * (e * q - l2 * p)
        items[item, k] = q + rate * (e * p - l2 * q)
    users[user, d] += bias_rate * (e - l2_bias * users[user, d])
    items[item, d] += bias_rate * (e - l2_bias * items[item, d])


@kernel
def learn(model: Model, event: Event) -> float:
    """Koren et al. 2009, eq. 5, by SGD; the mean takes the value in before the step, as in river's BiasedMF.

    Returns ½ (value − prediction)², the prediction made before anything was learned and held within
    [low, high]: √(2 loss) is the absolute error of protocol P2. |weight| scales the step. An event of
    negative weight teaches the value 0, or the prediction where that is less; the mean leaves it out.
    """
    users, items, params, options = model.users.floats, model.items.floats, model.params, model.options
    d = options.dimension
    rest = users[event.user, d] + items[event.item, d] + dot_rows(users, event.user, items, event.item, d)
    before, mean = params.mean[0] + rest, params.mean[0]
    value = event.value if event.weight > 0.0 else min(0.0, before)
    if event.weight > 0.0:
        mean += (value - mean) / (params.values[0] + 1)
    error = value - (mean + rest)
    if not is_finite(error):
        model.tally[SKIPPED] += 1
        return np.nan
    if event.weight > 0.0:
        params.mean[0] = mean
        params.values[0] += 1
    if abs(error) > options.clip:
        model.tally[CLIPPED] += 1
        error = options.clip if error > 0.0 else -options.clip
    touch(model.users.touched, event.user, event.number)
    touch(model.items.touched, event.item, event.number)
    step(users, event.user, items, event.item, error * abs(event.weight), options)
    miss = value - min(max(before, options.low), options.high)
    return float(0.5 * miss * miss)


@kernel
def query(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """p_u; the mean and the user's bias change no order."""
    for k in range(model.options.dimension):
        out[k] = model.users.floats[event.user, k]


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """The user's part p_u · q_i, and the item's bias as popularity; the mean and the user's bias left out."""
    out[:] = 0.0
    d = model.options.dimension
    out[0] = dot_rows(model.users.floats, event.user, model.items.floats, event.item, d)
    out[1] = model.items.floats[event.item, d]


def check(options: Options) -> None:
    """Refuse what cannot be."""
    if not 1 <= options.dimension <= 4096:
        raise ValueError(f"dimension must lie in [1, 4096], got {options.dimension}")
    rates = (options.learning_rate, options.bias_rate, options.l2, options.l2_bias, options.sigma)
    if not all(0.0 <= r < np.inf for r in rates):
        raise ValueError("learning_rate, bias_rate, l2, l2_bias and sigma must be 0 or more, and finite")
    if not options.clip > 0.0 or not options.low < options.high:
        raise ValueError("clip must be above 0, and low below high")


def layout(options: Options) -> Layout:
    """A row is a vector and a bias."""
    fields = (Field("vector", options.dimension, sigma=options.sigma), Field("bias"))
    return Layout(user=fields, item=fields, history=1, optimiser="sgd")


def parameters(_: Options) -> Params:
    """No value yet."""
    return Params(np.zeros(1, np.float64), np.zeros(1, np.int64))


LEARNER = Learner(
    "biased_mf", Options, layout, score, learn, parameters, check=check, query=query, explain=explain
)
