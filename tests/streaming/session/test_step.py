from __future__ import annotations

import jax
import numpy as np

from streaming.session.loss import Batch, new_batch
from streaming.session.step import session_step
from tests.streaming.session.samples import SMALL, batch_of

QUICK = SMALL._replace(
    learning_rate=0.01, dropout=0.1, negatives=12, hard=1.0, breadth=0.0, batch=32, replayed=16,
    temperature=1.0,
)  # fmt: skip


def test_steps_lower_the_loss_of_a_batch_and_compile_once() -> None:
    step, state = session_step(QUICK, seed=1)
    batch = batch_of(QUICK)
    losses = []
    for _ in range(100):
        state, loss = step(state, batch)
        losses.append(float(loss))
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 0.1
    assert step.compilations == 1
    assert int(state.steps) == 100 and int(state.dropped) == 0


def walk(random: np.random.Generator, rows: np.ndarray) -> Batch:
    """Users on a circle of 12 items who go on in the direction in which they went last."""
    batch = new_batch(QUICK)
    latest, way = random.integers(0, 12, 32), random.choice([-1, 1], 32)
    items = (latest[:, None] - way[:, None] * np.arange(2)) % 12
    target = (latest + way) % 12
    batch.rows[:, :2], batch.mask[:, :2] = rows[items], True
    batch.target[...], batch.negative[...], batch.weight[...] = rows[target], rows, 1.0
    batch.clear[...] = np.arange(12) != target[:, None]
    return batch


def test_steps_learn_an_order_that_a_pooled_vector_cannot_see() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(12, 8)).astype(np.float32)
    step, state = session_step(QUICK, seed=1)
    losses = []
    for _ in range(600):
        state, loss = step(state, walk(random, rows))
        losses.append(float(loss))
    assert losses[0] > 2.0
    assert np.mean(losses[-40:]) < 0.55  # ln 2 = 0.69 where the way is not known


def test_a_step_that_is_not_finite_is_dropped_and_counted() -> None:
    step, state = session_step(QUICK, seed=1)
    batch = batch_of(QUICK)
    good, _ = step(state, batch)
    bad = batch_of(QUICK)
    bad.user[0, 0] = np.nan
    after, loss = step(good, bad)
    assert np.isnan(loss)
    assert (int(after.steps), int(after.dropped), int(after.in_a_row)) == (2, 1, 1)
    for a, b in zip(
        jax.tree.leaves((good.params, good.moments)),
        jax.tree.leaves((after.params, after.moments)),
        strict=True,
    ):
        assert np.array_equal(a, b)
    assert int(step(after, batch)[0].in_a_row) == 0
    assert step.compilations == 1


def test_the_same_seed_gives_the_same_weights_to_the_byte() -> None:
    runs = []
    for seed in (1, 1, 2):
        step, state = session_step(QUICK, seed)
        for n in range(3):
            state, _ = step(state, batch_of(QUICK, n))
        runs.append(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)))
    assert runs[0] == runs[1] != runs[2]
