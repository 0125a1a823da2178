"""Biased matrix factorisation against river's, finite differences and an obvious loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from river import optim, reco

from streaming import learners
from streaming.errors import SettingError
from streaming.learners.contract import CLIPPED, SKIPPED
from tests.streaming.learners.harness import Harness, numbered

USERS, ITEMS, EVENTS, D = 8, 11, 400, 6
RIVER = {"learning_rate": 0.1, "bias_rate": 0.05, "l2": 0.04, "l2_bias": 0.02, "sigma": 0.1}

Floats = NDArray[np.float64]


def stream() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(7)
    return {
        "user": random.integers(0, USERS, EVENTS),
        "item": numbered(random.integers(0, ITEMS, EVENTS).tolist()),
        "time": np.arange(EVENTS),
        "value": random.integers(1, 6, EVENTS).astype(np.float64),
    }


def vectors(h: Harness) -> tuple[Floats, Floats]:
    return h.model.users.floats[:, :D].astype(np.float64), h.model.items.floats[:, :D].astype(np.float64)


def test_predictions_equal_those_of_river() -> None:
    """River's loss has no ½, so that its rates and l2 are in other units: rates half, l2 twice the size."""
    h = Harness("biased_mf", USERS, ITEMS, dimension=D, **RIVER)
    peer = reco.BiasedMF(
        D, optim.SGD(0.025), optim.SGD(0.05), l2_bias=2 * RIVER["l2_bias"], l2_latent=2 * RIVER["l2"]
    )
    users, items = vectors(h)
    peer.u_latents.update({u: users[u].copy() for u in range(USERS)})
    peer.i_latents.update({i: items[i].copy() for i in range(ITEMS)})
    events = stream()
    loss = h.run(**events).loss.astype(np.float64)
    errors = []
    for u, i, y in zip(events["user"], events["item"], events["value"], strict=True):
        errors.append(abs(y - peer.predict_one(int(u), int(i))))
        peer.learn_one(int(u), int(i), float(y))
    np.testing.assert_allclose(np.sqrt(2.0 * loss), errors, atol=1e-4)
    users, items = vectors(h)
    np.testing.assert_allclose(users, [peer.u_latents[u] for u in range(USERS)], atol=1e-5)
    np.testing.assert_allclose(items, [peer.i_latents[i] for i in range(ITEMS)], atol=1e-5)
    biases = [peer.i_biases[i] for i in range(ITEMS)]
    np.testing.assert_allclose(h.model.items.floats[:, D], biases, atol=1e-5)


def test_rows_equal_an_obvious_loop() -> None:
    h = Harness("biased_mf", USERS, ITEMS, dimension=D, **RIVER)
    p, q = vectors(h)
    a, b, mean = np.zeros(USERS), np.zeros(ITEMS), 0.0
    events = stream()
    weight = np.random.default_rng(8).choice([1.0, 0.5], EVENTS)
    h.run(**events, weight=weight)
    for n, (u, i, y) in enumerate(zip(events["user"], events["item"], events["value"], strict=True)):
        mean += (y - mean) / (n + 1)
        e = weight[n] * (y - mean - a[u] - b[i] - p[u] @ q[i])
        p[u], q[i] = p[u] + 0.1 * (e * q[i] - 0.04 * p[u]), q[i] + 0.1 * (e * p[u] - 0.04 * q[i])
        a[u], b[i] = a[u] + 0.05 * (e - 0.02 * a[u]), b[i] + 0.05 * (e - 0.02 * b[i])
    users, items = vectors(h)
    np.testing.assert_allclose(users, p, atol=1e-5)
    np.testing.assert_allclose(items, q, atol=1e-5)
    np.testing.assert_allclose(h.model.users.floats[:, D], a, atol=1e-5)
    np.testing.assert_allclose(h.model.items.floats[:, D], b, atol=1e-5)


def test_step_follows_the_gradient_of_finite_differences() -> None:
    h = Harness("biased_mf", USERS, ITEMS, dimension=D, **RIVER)
    events = stream()
    h.run(**events)
    before = np.concatenate([h.model.users.floats[2, : D + 1], h.model.items.floats[3, : D + 1]]).astype(
        np.float64
    )
    n, mean, value = h.model.params.values[0], h.model.params.mean[0], 2.0
    mean += (value - mean) / (n + 1)

    def loss(x: Floats) -> float:
        user, item = x[: D + 1], x[D + 1 :]
        error = value - mean - user[D] - item[D] - user[:D] @ item[:D]
        vectors_part = user[:D] @ user[:D] + item[:D] @ item[:D]
        return float(0.5 * error**2 + 0.02 * vectors_part + 0.01 * (user[D] ** 2 + item[D] ** 2))

    one = np.ones(1, np.int64)
    h.run(2 * one, 3 * one, EVENTS * one, value=value * one)
    after = np.concatenate([h.model.users.floats[2, : D + 1], h.model.items.floats[3, : D + 1]]).astype(
        np.float64
    )
    rate = np.tile(np.append(np.full(D, 0.1), 0.05), 2)
    step = 1e-5 * np.eye(len(before))
    slope = np.array([(loss(before + s) - loss(before - s)) / 2e-5 for s in step])
    np.testing.assert_allclose((before - after) / rate, slope, atol=2e-5)


def test_errors_count_at_most_the_clip_and_what_is_not_finite_is_skipped() -> None:
    h = Harness("biased_mf", USERS, ITEMS, dimension=D, clip=0.5)
    h.run(**stream())
    assert h.model.tally[CLIPPED] > 0
    before = h.model.users.floats.tobytes(), h.model.items.floats.tobytes(), h.model.params.mean[0]
    one = np.ones(1, np.int64)
    outcome = h.run(one, one, EVENTS * one, value=np.array([np.inf]))
    assert np.isnan(outcome.loss[0])
    assert h.model.tally[SKIPPED] == 1
    assert (h.model.users.floats.tobytes(), h.model.items.floats.tobytes(), h.model.params.mean[0]) == before


@pytest.mark.parametrize("options", [{}, {"dimension": 10, "l2": 0.0, "sigma": 0.1}])
@pytest.mark.parametrize("seed", [1, 2])
def test_rating_error_of_real_data_is_that_of_river(data: Path, options: dict[str, Any], seed: int) -> None:
    """Protocol P2; the second row of options is that of river's documentation."""
    file = data / "ml-100k" / "events.parquet"
    if not file.exists():
        pytest.skip(f"no {file}")
    table = pq.read_table(file)
    columns = [np.array(table[c].to_pylist()) for c in ("ts", "user", "item", "value")]
    ts, user, item, value = (c[np.argsort(columns[0], kind="stable")] for c in columns)
    users, items = numbered(user.tolist()), numbered(item.tolist())
    h = Harness("biased_mf", users.max() + 1, items.max() + 1, seed=seed, low=1, high=5, **options)
    loss = h.run(users, items, ts, value=value, every=1 << 30).loss.astype(np.float64)
    assert np.sqrt(2.0 * loss).mean() <= 0.750


@pytest.mark.parametrize(
    "wrong", [{"dimension": 0}, {"clip": 0}, {"low": 5, "high": 1}, {"l2": -1}, {"sigma": "inf"}]
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        learners.options_of(learners.load("biased_mf"), wrong)
