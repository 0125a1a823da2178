"""Softmax against finite differences, an obvious loop, and its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming import learners
from streaming.errors import SettingError
from streaming.kernels import mix, random_bits
from streaming.learners.contract import CLIPPED, SKIPPED, Event
from streaming.learners.decay import half_life_scale
from tests.streaming.learners.harness import Harness, hit_rate, numbered

Floats = NDArray[np.float64]


def _gap(seconds: int) -> int:
    return 0 if seconds <= 0 else min(15, 1 + int(np.log2(seconds + 1) / 2))


def _lag(lag: int) -> int:
    return int(np.searchsorted([1, 2, 3, 4, 6, 10, 20], lag))


class Example:
    """What one step compares: distinct last items, target and negatives, with fixed shares."""

    def __init__(self, past: list[tuple[int, int]], time: int, target: int, draws: dict[int, float]) -> None:
        """`past`: (item, time), latest first; `draws`: how often over how often expected."""
        self.past, self.time, self.target = past, time, target
        self.had = list(dict.fromkeys(i for i, _ in past))
        self.candidates = self.had + [i for i in draws if i not in self.had]
        self.share = np.array([1.0 if i in self.had else draws[i] for i in self.candidates])

    def repeat(self, item: int, rho: Floats) -> float:
        if item not in self.had:
            return 0.0
        items = [i for i, _ in self.past]
        return float(rho[_lag(items.index(item) + 1)] + rho[7 + min(items.count(item), 4)])


class Slow:
    """The learner as its docstring says it, in float64, one obvious step after the other."""

    def __init__(self, harness: Harness) -> None:
        self.o = harness.options
        d, model = self.o.dimension, harness.model
        self.V: Floats = model.items.floats[:, :d].astype(np.float64)
        self.P: Floats = model.users.floats[:, :d].astype(np.float64)
        self.f: Floats = np.zeros(len(self.V))
        self.G: Floats = np.full(len(self.V), 0.1)
        self.U: Floats = np.full(len(self.P), 0.1)
        self.a, self.g, self.rho = 0.7 ** np.arange(self.o.context), np.ones(16), np.zeros(12)
        self.A, self.B, self.R = np.full(self.o.context, 1e-4), np.full(16, 1e-4), np.ones(12)
        self.past: dict[int, list[tuple[int, int]]] = {}
        self.recent: list[int] = []
        self.known = 0

    def weights(self, x: Example, a: Floats, g: Floats) -> list[tuple[int, int, int, float]]:
        """(position, item, gap, w̃) of the pooled items."""
        rows = [(k, i, _gap(x.time - t)) for k, (i, t) in enumerate(x.past[: self.o.context])]
        norm = sum(a[k] * g[b] for k, _, b in rows) ** 0.25
        return [(k, i, b, a[k] * g[b] / norm) for k, i, b in rows]

    def logits(
        self, x: Example, user: int, V: Floats, P: Floats, a: Floats, g: Floats, rho: Floats
    ) -> Floats:
        h = P[user] + sum((w * V[i] for _, i, _, w in self.weights(x, a, g)), np.zeros(self.o.dimension))
        return np.array([h @ V[i] / self.o.temperature + self.f[i] + x.repeat(i, rho) for i in x.candidates])

    def loss(self, x: Example, user: int, **changed: Floats) -> float:
        parts = {"V": self.V, "P": self.P, "a": self.a, "g": self.g, "rho": self.rho, **changed}
        z = self.logits(x, user, **parts) + np.log(x.share)
        return float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[x.candidates.index(x.target)])

    def gradients(self, x: Example, user: int) -> dict[str, Any]:
        """Of the loss: dh, the errors, and by hand with respect to V, P, a, g, ρ."""
        z = self.logits(x, user, self.V, self.P, self.a, self.g, self.rho) + np.log(x.share)
        e = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        e = np.where(e > 1e-6, e, 0.0)
        e[x.candidates.index(x.target)] -= 1.0
        weights = self.weights(x, self.a, self.g)
        h = self.P[user] + sum((w * self.V[i] for _, i, _, w in weights), np.zeros(self.o.dimension))
        dh = sum(e[c] * self.V[i] for c, i in enumerate(x.candidates)) / self.o.temperature
        slopes = np.array([w * (dh @ self.V[i]) for _, i, _, w in weights])
        total = sum(w for *_, w in weights)
        exact = [s - 0.25 * w / total * slopes.sum() for s, (*_, w) in zip(slopes, weights, strict=True)]
        log_a, log_g, rho = np.zeros_like(self.a), np.zeros(16), np.zeros(12)
        for s, (k, _, b, _) in zip(exact, weights, strict=True):
            log_a[k] += s
            log_g[b] += s
        items = [i for i, _ in x.past]
        for c, i in enumerate(x.had):
            rho[_lag(items.index(i) + 1)] += e[c]
            rho[7 + min(items.count(i), 4)] += e[c]
        pooled = {i: sum(w for _, j, _, w in weights if j == i) for i in x.had}
        return {"e": e, "h": h, "dh": dh, "log_a": log_a, "log_g": log_g, "rho": rho, "pooled": pooled}

    def example(self, user: int, item: int, time: int, key: int) -> Example:
        n, m, recent = self.o.negatives, self.known, self.recent[-self.o.recent :]
        past = self.past.get(user, [])[: self.o.history]
        expected = lambda i: n * (0.5 / m + 0.5 * recent.count(i) / len(recent))  # noqa: E731
        draws = {item: 1.0 / expected(item)}
        for number in range(n):
            high = int(random_bits(np.uint64(key), number)) >> 32
            # The recent items lie in a ring: place p holds event p of the latest turn.
            ring = [self.recent[p] for p in self._ring()]
            drawn = high * m >> 32 if number % 2 == 0 else ring[high * len(ring) >> 32]
            if drawn != item:
                draws[drawn] = draws.get(drawn, 0.0) + 1.0 / expected(drawn)
        return Example(past, time, item, draws)

    def _ring(self) -> list[int]:
        size, pushed = self.o.recent, len(self.recent)
        return [
            p if pushed <= size else p + size * ((pushed - 1 - p) // size) for p in range(min(size, pushed))
        ]

    def learn(self, user: int, item: int, time: int, weight: float, key: int) -> None:
        o, d = self.o, self.o.dimension
        self.f *= 2.0 ** (-1.0 / o.bias_half_life)
        if self.known >= o.start:
            x = self.example(user, item, time, key)
            h = self.gradients(x, user)["h"]
            if item == self.known and np.linalg.norm(h) > 0:
                self.V[item] += o.first_sight * h / np.linalg.norm(h)
            r = self.gradients(x, user)
            e, h, dh, rate = r["e"], r["h"] / o.temperature, r["dh"], o.learning_rate * weight
            V = self.V.copy()
            for c, i in enumerate(x.candidates):
                if e[c] != 0.0:
                    self.G[i] += e[c] ** 2 * (h @ h) / d
                    V[i] -= rate * e[c] * h / np.sqrt(self.G[i])
                if r["pooled"].get(i, 0.0) > 0.0:
                    self.G[i] += r["pooled"][i] ** 2 * (dh @ dh) / d
                    step = rate / np.sqrt(self.G[i])
                    V[i] -= step * r["pooled"][i] * dh
                self.f[i] -= o.bias_rate * weight * e[c]
            self.V = V
            self.U[user] += dh @ dh / d
            self.P[user] -= rate / np.sqrt(self.U[user]) * dh
            shared = o.weight_rate * weight
            for name, squares, log in (("a", self.A, r["log_a"]), ("g", self.B, r["log_g"])):
                squares += log**2
                step = np.clip(shared * log / np.sqrt(squares), -shared, shared)
                getattr(self, name).__imul__(np.exp(-step))
            self.R += r["rho"] ** 2
            self.rho -= shared * r["rho"] / np.sqrt(self.R)
        self.past.setdefault(user, []).insert(0, (item, time))
        self.recent.append(item)
        self.known = max(self.known, item + 1)


def _events(n: int, *, users: int = 7, items: int = 30, seed: int = 3) -> tuple[NDArray[np.int64], ...]:
    """Users who walk along a ring of items, at irregular times, sometimes twice at once."""
    random = np.random.default_rng(seed)
    user = random.integers(0, users, n)
    place = random.integers(0, items, users)
    item = np.zeros(n, np.int64)
    for e in range(n):
        place[user[e]] = (place[user[e]] + random.integers(0, 4)) % items
        item[e] = place[user[e]]
    time = 1_000_000 + np.cumsum(random.integers(0, 2, n) * random.integers(1, 5000, n))
    return user, numbered(item.tolist()), time


SMALL = {
    "dimension": 20,
    "negatives": 12,
    "context": 6,
    "history": 9,
    "recent": 40,
    "start": 5,
    "bias_half_life": 9,
}


def _key(number: int, seed: int = 1) -> int:
    return int(mix.py_func(np.array([number], np.uint64) + np.uint64(seed << 40))[0])


def _trained_slow(events: int = 60) -> tuple[Slow, Example, int]:
    user, item, time = _events(events)
    slow = Slow(Harness("softmax", 7, 30, **{**SMALL, "temperature": 0.7}))
    for e in range(events - 1):
        slow.learn(user[e], item[e], time[e], 1.0, _key(e))
    e = events - 1
    return slow, slow.example(user[e], item[e], time[e], _key(e)), int(user[e])


def _differences(slow: Slow, x: Example, user: int, name: str) -> Floats:
    values = getattr(slow, name)
    out = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        up, down = values.copy(), values.copy()
        up[index] += 1e-6
        down[index] -= 1e-6
        out[index] = (slow.loss(x, user, **{name: up}) - slow.loss(x, user, **{name: down})) / 2e-6
    return out


@pytest.mark.parametrize("name", ["V", "P", "a", "g", "rho"])
def test_gradient_equals_finite_differences(name: str) -> None:
    slow, x, user = _trained_slow()
    r = slow.gradients(x, user)
    if name == "V":
        analytic = np.zeros_like(slow.V)
        for c, i in enumerate(x.candidates):
            analytic[i] += r["e"][c] * r["h"] / slow.o.temperature + r["pooled"].get(i, 0.0) * r["dh"]
    elif name == "P":
        analytic = np.zeros_like(slow.P)
        analytic[user] = r["dh"]
    else:
        analytic = {"a": r["log_a"] / slow.a, "g": r["log_g"] / slow.g, "rho": r["rho"]}[name]
    np.testing.assert_allclose(analytic, _differences(slow, x, user, name), atol=3e-6)
    assert np.abs(analytic).max() > 1e-3


@pytest.mark.parametrize("given", [{}, {"temperature": 0.5}, {"dimension": 33}])
def test_kernel_equals_an_obvious_loop(given: dict[str, float]) -> None:
    options = {**SMALL, **given}
    user, item, time = _events(150)
    weight = np.where(np.arange(150) % 5 == 0, 0.3, 1.0)
    fast = Harness("softmax", 7, 30, **options)
    slow = Slow(Harness("softmax", 7, 30, **options))
    fast.run(user, item, time, weight=weight)
    for e in range(len(user)):
        slow.learn(user[e], item[e], time[e], weight[e], _key(e))
    d, model = fast.options.dimension, fast.model
    scale = 2.0 ** (-(150 % (16 * 9)) / 9.0)
    near = {"rtol": 0.0, "atol": 1e-5}
    np.testing.assert_allclose(model.items.floats[:, :d], slow.V, **near)
    np.testing.assert_allclose(model.users.floats[:, :d], slow.P, **near)
    np.testing.assert_allclose(model.items.floats[:, d] * scale, slow.f, **near)
    np.testing.assert_allclose(model.items.floats[:, d + 1], slow.G, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.params.position, slow.a, **near)
    np.testing.assert_allclose(model.params.gap, slow.g, **near)
    np.testing.assert_allclose(model.params.repeat, slow.rho, **near)


def _event(harness: Harness, user: int, item: int, time: int) -> Event:
    return Event(user, item, harness.known, harness.number + 1, time, 1.0, 1.0, 7)


def _scores(harness: Harness, event: Event) -> NDArray[np.float32]:
    out = np.zeros(harness.known, np.float32)
    harness.score(harness.model, event, out)
    return out


@pytest.mark.parametrize("cosine", [False, True])
def test_query_and_explain_agree_with_score(cosine: bool) -> None:
    user, item, time = _events(400)
    harness = Harness("softmax", 7, 30, **SMALL, cosine=cosine, temperature=0.2 if cosine else 1.0)
    harness.run(user, item, time)
    d, rows = harness.options.dimension, harness.model.items.floats
    vector, parts = np.zeros(d, np.float32), np.zeros(3 + harness.options.history, np.float32)
    scores = _scores(harness, _event(harness, 2, 0, int(time[-1])))
    by_query = []
    for j in range(harness.known):
        event = _event(harness, 2, j, int(time[-1]))
        harness.learner.query(harness.model, event, vector)
        harness.learner.explain(harness.model, event, parts)
        assert parts.sum() == pytest.approx(scores[j], abs=2e-5)
        scale = half_life_scale(event.number, harness.learner.bias_half_life(harness.options))
        by_query.append(vector @ rows[j, :d] + scale * rows[j, d])
        scores[j] -= parts[2]
    np.testing.assert_allclose(by_query, scores, atol=2e-5)
    if cosine:
        np.testing.assert_allclose(np.linalg.norm(rows[:, :d], axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7])
def test_arrays_are_byte_equal_however_events_are_cut(size: int) -> None:
    user, item, time = _events(300)
    whole, cut = Harness("softmax", 7, 30, **SMALL), Harness("softmax", 7, 30, **SMALL)
    whole.run(user, item, time)
    for start in range(0, 300, size):
        cut.run(*(a[start : start + size] for a in (user, item, time)))
    for one, other in (
        (whole.model.items, cut.model.items),
        (whole.model.users, cut.model.users),
        (whole.model.params, cut.model.params),
    ):
        assert all(x.tobytes() == y.tobytes() for x, y in zip(one, other, strict=True))


@pytest.mark.parametrize("bad", [{"value": np.nan}, {"weight": np.nan}, {"weight": np.inf}])
def test_event_that_is_not_finite_changes_no_vector_and_is_counted(bad: dict[str, float]) -> None:
    user, item, time = _events(100)
    harness = Harness("softmax", 7, 30, **SMALL)
    harness.run(user, item, time)
    before = [harness.model.items.floats.copy(), harness.model.users.floats.copy()]
    arrays = {name: np.array([number]) for name, number in bad.items()}
    outcome = harness.run(user[-1:], item[-1:], time[-1:], **arrays)
    assert np.isnan(outcome.loss[0])
    assert harness.model.tally[SKIPPED] == 1
    assert np.array_equal(before[0], harness.model.items.floats)
    assert np.array_equal(before[1], harness.model.users.floats)


def test_step_from_a_row_that_is_not_finite_is_skipped() -> None:
    user, item, time = _events(100)
    harness = Harness("softmax", 7, 30, **SMALL)
    harness.run(user, item, time)
    harness.model.items.floats[item[-1], 0] = np.nan
    others = np.arange(30) != item[-1]
    before = harness.model.items.floats[others].copy()
    harness.run(user[-1:], item[-1:], time[-1:])
    assert harness.model.tally[SKIPPED] == 1
    assert np.array_equal(before, harness.model.items.floats[others])


def test_negative_feedback_lowers_the_score_and_stays_out_of_the_history() -> None:
    user, item, time = _events(300)
    harness = Harness("softmax", 7, 30, **SMALL)
    harness.run(user, item, time)
    event = _event(harness, int(user[-1]), 3, int(time[-1]))
    before, pushed = _scores(harness, event)[3], harness.model.history.pushed.copy()
    for _ in range(3):
        harness.run(user[-1:], np.array([3]), time[-1:], weight=np.array([-1.0]))
    assert _scores(harness, event)[3] < before - 0.05
    assert np.array_equal(pushed, harness.model.history.pushed)


def test_excessive_weight_is_clipped_and_counted() -> None:
    user, item, time = _events(100)
    a, b = Harness("softmax", 7, 30, **SMALL), Harness("softmax", 7, 30, **SMALL)
    for harness, weight in ((a, 10.0), (b, 1e9)):
        harness.run(user[:99], item[:99], time[:99])
        harness.run(user[99:], item[99:], time[99:], weight=np.array([weight]))
    assert np.array_equal(a.model.items.floats, b.model.items.floats)
    assert (a.model.tally[CLIPPED], b.model.tally[CLIPPED]) == (0, 1)


@pytest.mark.parametrize("cosine", [False, True])
def test_learns_a_planted_order_that_popularity_cannot_see(cosine: bool) -> None:
    user, item, time = _events(6000, users=40, items=60)
    found = {}
    for name, given in (
        ("popularity", {}),
        ("softmax", {"dimension": 16, "cosine": cosine, "temperature": 0.15 if cosine else 1.0}),
    ):
        found[name] = hit_rate(Harness(name, 40, 60, **given).run(user, item, time))
    assert found["softmax"] > 0.8
    assert found["softmax"] > 2 * found["popularity"]


def test_l2_shortens_vectors() -> None:
    user, item, time = _events(2000)
    lengths = []
    for l2 in (0.0, 0.05):
        harness = Harness("softmax", 7, 30, **SMALL, l2=l2)
        harness.run(user, item, time)
        lengths.append(np.linalg.norm(harness.model.items.floats[:, :20]))
    assert lengths[1] < 0.9 * lengths[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dimension", 0),
        ("context", 51),
        ("temperature", 0),
        ("l2", -1),
        ("sigma", "nan"),
        ("recent", -1),
        ("l2", 2),
    ],
)
def test_impossible_option_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(SettingError, match=option):
        learners.options_of(learners.load("softmax"), {option: value})
