"""Blend against an obvious mix of its parts, finite differences, and its promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming import learners
from streaming.errors import SettingError
from streaming.learners.blend_parts import FADING, FOLLOW_FADING, FOLLOW_HALF_LIFE, FOLLOWED, LAST, SHRINK
from streaming.learners.contract import SKIPPED, Event
from streaming.learners.decay import half_life_scale
from tests.streaming.learners.harness import Harness, hit_rate, numbered

SMALL: dict[str, Any] = {
    "dimension": 20,
    "negatives": 12,
    "context": 6,
    "history": 20,
    "recent": 40,
    "start": 5,
    "neighbours": 8,
    "mixed": 10_000,
}


def _events(n: int, *, users: int = 7, items: int = 30, seed: int = 3) -> tuple[NDArray[np.int64], ...]:
    """Users who walk along a ring of items."""
    random = np.random.default_rng(seed)
    user = random.integers(0, users, n)
    place = random.integers(0, items, users)
    item = np.zeros(n, np.int64)
    for e in range(n):
        place[user[e]] = (place[user[e]] + random.integers(1, 4)) % items
        item[e] = place[user[e]]
    return user, numbered(item.tolist()), 1_000_000 + np.arange(n)


def _event(harness: Harness, user: int, item: int, time: int) -> Event:
    return Event(user, item, harness.known, harness.number + 1, time, 1.0, 1.0, 7)


def _scores(harness: Harness, event: Event) -> NDArray[np.float32]:
    out = np.zeros(harness.known, np.float32)
    harness.score(harness.model, event, out)
    return out


def _parts(harness: Harness, event: Event) -> tuple[NDArray[np.float64], int]:
    """The four parts of every item, from the arrays, and the number of the β."""
    model, d, known = harness.model, harness.options.dimension, harness.known
    floats = model.items.floats[:known].astype(np.float64)
    s = np.zeros(known, np.float32)
    learners.load("softmax").score(model, event, s)
    popular = np.maximum(floats[:, d + 3], 0.0)
    popular = np.maximum(popular / popular.sum(), 1e-7)
    pushed, width = int(model.history.pushed[event.user]), harness.options.history
    past = [
        int(model.history.serial[event.user, (pushed - 1 - k) % width]) for k in range(min(pushed, width))
    ]
    follow, similar, count = np.zeros(known), np.zeros(known), np.maximum(floats[:, d + 2], 0.0)
    unit = 1.0 / half_life_scale(event.number, FOLLOW_HALF_LIFE)
    for which, last, fading, out in ((0, FOLLOWED, FOLLOW_FADING, follow), (1, LAST, FADING, similar)):
        for k, slot in enumerate(past[:last]):
            for e in range(model.neighbours.length[which, slot]):
                other = model.neighbours.serial[which, slot, e]
                amount = fading**k * float(model.neighbours.weight[which, slot, e])
                if which == 1:
                    amount /= np.sqrt((count[slot] + SHRINK * unit) * (count[other] + SHRINK * unit))
                out[other] += amount / (unit if which == 0 else 1.0)
    mass = follow.sum()
    similar /= max(similar.sum(), 1e-30)
    parts = np.stack([s, np.log(follow + 0.3 * popular), np.log(similar + 0.1 * popular), np.log(popular)])
    return parts, int(mass > 0) + int(mass >= 4) + int(mass >= 40)


def test_score_equals_an_obvious_mix_of_the_parts() -> None:
    user, item, time = _events(500)
    harness = Harness("blend", 7, 30, **SMALL)
    harness.run(user, item, time)
    used = set()
    for u in range(7):
        event = _event(harness, u, 0, int(time[-1]))
        parts, bucket = _parts(harness, event)
        used.add(bucket)
        np.testing.assert_allclose(
            _scores(harness, event), harness.model.params.mix[bucket] @ parts, atol=2e-5
        )
    assert used <= {0, 1, 2, 3} and used


def test_step_of_the_mix_follows_finite_differences() -> None:
    user, item, time = _events(500)
    harness = Harness("blend", 7, 30, **SMALL)
    harness.run(user[:-1], item[:-1], time[:-1])
    event = _event(harness, int(user[-1]), int(item[-1]), int(time[-1]))
    parts, bucket = _parts(harness, event)
    beta = harness.model.params.mix[bucket].astype(np.float64)
    square = harness.model.params.mix_square[bucket].astype(np.float64)

    def loss(b: NDArray[np.float64]) -> float:
        z = b @ parts
        return float(np.log(np.exp(z - z.max()).sum()) + z.max() - z[event.item])

    slope = np.array([(loss(beta + h) - loss(beta - h)) / 2e-5 for h in np.eye(4) * 1e-5])
    harness.run(user[-1:], item[-1:], time[-1:])
    expected = beta - 0.1 * slope / np.sqrt(square + slope**2)
    np.testing.assert_allclose(harness.model.params.mix[bucket], expected, atol=1e-5)


def test_parts_of_an_explanation_sum_to_the_score() -> None:
    user, item, time = _events(500)
    harness = Harness("blend", 7, 30, **SMALL)
    harness.run(user, item, time)
    scores = _scores(harness, _event(harness, 2, 0, int(time[-1])))
    parts = np.zeros(3 + harness.options.history, np.float32)
    for j in range(harness.known):
        harness.learner.explain(harness.model, _event(harness, 2, j, int(time[-1])), parts)
        assert parts.sum() == pytest.approx(scores[j], abs=5e-5)


def test_arrays_are_byte_equal_however_events_are_cut() -> None:
    user, item, time = _events(300)
    options = {**SMALL, "mixed": 8}
    whole, cut = Harness("blend", 7, 30, **options), Harness("blend", 7, 30, **options)
    whole.run(user, item, time)
    for start in range(0, 300, 7):
        cut.run(*(a[start : start + 7] for a in (user, item, time)))
    for name in ("items", "users", "params", "neighbours"):
        pairs = zip(getattr(whole.model, name), getattr(cut.model, name), strict=True)
        assert all(x.tobytes() == y.tobytes() for x, y in pairs)


@pytest.mark.parametrize("bad", [{"value": np.nan}, {"weight": np.nan}])
def test_event_that_is_not_finite_teaches_nothing_and_is_counted(bad: dict[str, float]) -> None:
    user, item, time = _events(100)
    harness = Harness("blend", 7, 30, **SMALL)
    harness.run(user, item, time)
    before = [harness.model.items.floats.copy(), harness.model.neighbours.weight.copy()]
    arrays = {name: np.array([number]) for name, number in bad.items()}
    outcome = harness.run(user[-1:], item[-1:], time[-1:], **arrays)
    assert np.isnan(outcome.loss[0])
    assert harness.model.tally[SKIPPED] == 1
    assert np.array_equal(before[0], harness.model.items.floats)
    assert np.array_equal(before[1], harness.model.neighbours.weight)


def test_negative_feedback_lowers_the_score() -> None:
    user, item, time = _events(300)
    harness = Harness("blend", 7, 30, **SMALL)
    harness.run(user, item, time)
    event = _event(harness, int(user[-1]), 3, int(time[-1]))
    before = _scores(harness, event)[3]
    for _ in range(3):
        harness.run(user[-1:], np.array([3]), time[-1:], weight=np.array([-1.0]))
    assert _scores(harness, event)[3] < before - 0.05


def test_learns_a_planted_order_that_popularity_cannot_see() -> None:
    user, item, time = _events(4000, users=40, items=60)
    popularity = hit_rate(Harness("popularity", 40, 60).run(user, item, time))
    blend = hit_rate(Harness("blend", 40, 60, dimension=16).run(user, item, time))
    assert blend > 0.8
    assert blend > 2 * popularity


@pytest.mark.parametrize(
    ("option", "value"), [("neighbours", 0), ("mixed", 0), ("history", 5), ("mix_rate", -1)]
)
def test_impossible_option_is_refused_by_name(option: str, value: Any) -> None:
    given = {"context": 5, option: value}
    with pytest.raises(SettingError, match=option):
        learners.options_of(learners.load("blend"), given)
