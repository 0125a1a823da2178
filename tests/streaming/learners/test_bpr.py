"""BPR against finite differences, an obvious loop, and its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming import learners
from streaming.errors import SettingError
from streaming.kernels import mix, random_below
from streaming.learners.contract import CLIPPED, SKIPPED
from tests.streaming.learners.harness import Harness, hit_rate, numbered

USERS, ITEMS, EVENTS, D = 7, 30, 250, 6
HALF_LIFE = 50.0
PLAIN = {"dimension": D, "history": 3, "context": 0, "half_life": HALF_LIFE}
POOLED = {"dimension": D, "history": 3, "context": 3, "half_life": HALF_LIFE, "l2": 0.01}
COSINE = {**POOLED, "cosine": True, "l2": 0.0}
WITHOUT_CLIP = {"clip": "inf"}

Floats = NDArray[np.float64]


def stream() -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(9)
    return {
        "user": random.integers(0, USERS, EVENTS),
        "item": numbered(random.integers(0, ITEMS, EVENTS).tolist()),
        "time": np.arange(EVENTS),
        "weight": random.choice([1.0, 0.5, -1.0], EVENTS, p=[0.7, 0.2, 0.1]),
    }


def key_of(number: int, seed: int = 1) -> np.uint64:
    return np.uint64(mix(np.uint64(number + (seed << 40))))


class Slow:
    """The learner as its docstrings say it, in float64; the biases are kept at their true size."""

    def __init__(self, h: Harness) -> None:
        self.o = h.options
        self.V: Floats = h.model.items.floats[:, :D].astype(np.float64)
        self.P: Floats = h.model.users.floats[:, :D].astype(np.float64)
        self.f, self.G, self.U = np.zeros(ITEMS), np.full(ITEMS, 0.1), np.full(USERS, 0.1)
        self.past: dict[int, list[int]] = {u: [] for u in range(USERS)}
        self.known, self.number = 0, 0

    def pooled(self, user: int) -> list[tuple[int, float]]:
        scale = sum(self.o.fading**k for k in range(self.o.context)) ** -0.25 if self.o.context else 0.0
        return [(i, scale * self.o.fading**k) for k, i in enumerate(self.past[user][: self.o.context])]

    def vector(self, user: int) -> tuple[Floats, float]:
        h = self.P[user] + sum((w * self.V[i] for i, w in self.pooled(user)), np.zeros(D))
        length = float(np.sqrt(h @ h))
        return (h / length, length) if self.o.cosine and length >= 1e-6 else (h, 1.0)

    def move(self, table: Floats, squares: Floats, row: int, gradient: Floats) -> None:
        squares[row] += gradient @ gradient / D
        table[row] += self.o.learning_rate / np.sqrt(squares[row]) * (gradient - self.o.l2 * table[row])
        if self.o.cosine and table is self.V:
            table[row] /= np.sqrt(table[row] @ table[row])

    def negatives(self, user: int, item: int) -> list[int]:
        key, count = key_of(self.number), self.o.negatives if self.known else 0
        drawn = [int(random_below(key, t, self.known)) for t in range(count)]
        return [j for j in drawn if j != item and j not in self.past[user][: self.o.history]]

    def learn(self, user: int, item: int, weight: float) -> float:
        self.f *= 2.0 ** (-1.0 / HALF_LIFE)
        if self.o.cosine:
            self.V[item] /= np.sqrt(self.V[item] @ self.V[item])
        sharp = 1.0 / self.o.temperature if self.o.cosine else 1.0
        h, length = self.vector(user)
        sign, loss, total, gradient = np.sign(weight), 0.0, 0.0, np.zeros(D)
        mine = self.V[item].copy()
        for j in self.negatives(user, item):
            margin = sign * (sharp * h @ (mine - self.V[j]) + self.f[item] - self.f[j])
            error = sign * abs(weight) / (1.0 + np.exp(margin))
            loss += np.log1p(np.exp(-margin))
            gradient += sharp * error * (mine - self.V[j])
            self.move(self.V, self.G, j, -sharp * error * h)
            self.f[j] -= self.o.bias_rate * error
            total += error
        self.f[item] += self.o.bias_rate * total
        if self.o.cosine:
            gradient = (gradient - (gradient @ h) * h) / length
        self.move(self.P, self.U, user, gradient)
        for i, w in self.pooled(user):
            self.move(self.V, self.G, i, w * gradient)
        self.move(self.V, self.G, item, sharp * total * h)
        self.known, self.number = max(self.known, item + 1), self.number + 1
        if weight > 0.0:
            self.past[user].insert(0, item)
        return loss


@pytest.mark.parametrize("options", [PLAIN, POOLED, COSINE])
def test_rows_and_losses_equal_an_obvious_loop(options: dict[str, Any]) -> None:
    h = Harness("bpr", USERS, ITEMS, negatives=4, learning_rate=0.03, **WITHOUT_CLIP, **options)
    slow, events = Slow(h), stream()
    outcome = h.run(**events)
    losses = [
        slow.learn(int(u), int(i), float(w))
        for u, i, w in zip(events["user"], events["item"], events["weight"], strict=True)
    ]
    atol = 1e-5 if not options.get("cosine") else 1e-4  # the temperature multiplies float32's rounding
    np.testing.assert_allclose(outcome.loss, losses, rtol=1e-4, atol=10 * atol)
    np.testing.assert_allclose(h.model.users.floats[:, :D], slow.P, atol=atol)
    np.testing.assert_allclose(h.model.items.floats[:, :D], slow.V, atol=atol)
    unit = 2.0 ** (-(EVENTS % 800) / HALF_LIFE)
    np.testing.assert_allclose(h.model.items.floats[:, D] * unit, slow.f, atol=atol)


@pytest.mark.parametrize("options", [PLAIN, {**POOLED, "l2": 0.0}, COSINE])
@pytest.mark.parametrize("weight", [1.0, -1.0])
def test_step_follows_the_gradient_of_finite_differences(options: dict[str, Any], weight: float) -> None:
    """One pair; a row moves along the slope of −ln σ(±(s_i − s_j)), its length set by AdaGrad."""
    h = Harness("bpr", USERS, ITEMS, negatives=1, learning_rate=0.01, **options)
    h.run(**stream())
    slow = Slow(h)
    user, item, sharp = 3, int(h.known - 1), 10.0 if options.get("cosine") else 1.0
    pushed = int(h.model.history.pushed[user])
    slow.past[user] = [int(h.model.history.serial[user, (pushed - 1 - k) % 3]) for k in range(3)]
    slow.known, slow.number, slow.o = h.known, h.number, h.options
    other = slow.negatives(user, item)
    assert len(other) == 1
    slow.f = h.model.items.floats[:, D] * 2.0 ** (-(h.number + 1) / HALF_LIFE)

    def loss() -> float:
        hidden, _ = slow.vector(user)
        a, b = slow.V[item], slow.V[other[0]]
        if options.get("cosine"):
            a, b = a / np.sqrt(a @ a), b / np.sqrt(b @ b)
        margin = sharp * hidden @ (a - b) + slow.f[item] - slow.f[other[0]]
        return float(np.log1p(np.exp(-np.sign(weight) * margin)))

    def slope(table: Floats, row: int) -> Floats:
        found = np.zeros(D)
        for k in range(D):
            kept = table[row, k]
            table[row, k] = kept + 1e-6
            above = loss()
            table[row, k] = kept - 1e-6
            found[k] = (above - loss()) / 2e-6
            table[row, k] = kept
        return found

    one = np.ones(1, np.int64)
    rows = [(slow.V, h.model.items, r) for r in {item, *other, *slow.past[user][: h.options.context]}]
    rows.append((slow.P, h.model.users, user))
    slopes = [slope(table, row) for table, _, row in rows]
    before = [table[row].copy() for table, _, row in rows]
    h.run(user * one, item * one, EVENTS * one, weight=weight * one)
    for (_, moved, row), start, expected in zip(rows, before, slopes, strict=True):
        step = moved.floats[row, :D].astype(np.float64) - start
        if options.get("cosine") and moved is h.model.items:  # these stay on the sphere
            expected = expected - (expected @ start) * start
        assert step @ expected < 0.0
        cosine = -(step @ expected) / np.sqrt((step @ step) * (expected @ expected))
        assert cosine > 0.99


def test_users_items_are_not_sampled_and_one_known_item_teaches_no_pair() -> None:
    h = Harness("bpr", 1, 3, dimension=D)
    outcome = h.run(np.zeros(40, np.int64), np.arange(40) % 2, np.arange(40))
    assert (outcome.loss[2:] == 0.0).all()


def test_long_steps_are_clipped_and_rows_that_are_not_finite_skipped() -> None:
    h = Harness("bpr", USERS, ITEMS, clip=1e-3, dimension=D)
    h.run(**stream())
    assert h.model.tally[CLIPPED] > 0
    h.model.users.floats[2, 0] = np.nan
    before = h.model.items.floats.tobytes()
    one = np.ones(1, np.int64)
    assert np.isnan(h.run(2 * one, one, EVENTS * one).loss[0])
    assert h.model.tally[SKIPPED] == 1
    assert h.model.items.floats.tobytes() == before


def test_groups_of_users_are_told_apart() -> None:
    random = np.random.default_rng(10)
    user = random.integers(0, 60, 6000)
    item = numbered((random.integers(0, 40, 6000) + 40 * (user % 5)).tolist())
    for context in (0, 6):
        h = Harness("bpr", 60, item.max() + 1, dimension=16, context=context)
        outcome = h.run(user, item, np.arange(6000))
        late = outcome._replace(rank=outcome.rank[4000:])
        assert hit_rate(late, 40) > 0.6  # at random 0.2


@pytest.mark.parametrize(
    "wrong", [{"negatives": 0}, {"context": 60}, {"temperature": 0}, {"clip": 0}, {"fading": 2}]
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        learners.options_of(learners.load("bpr"), wrong)
