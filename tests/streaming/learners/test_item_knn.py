"""Item-kNN against a dict that counts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming import learners
from streaming.errors import SettingError
from tests.streaming.learners.harness import Harness, scores_for, weighted_stream

USERS, ITEMS, EVENTS = 5, 14, 300


def stream() -> tuple[NDArray[Any], ...]:
    return weighted_stream(6, USERS, ITEMS, EVENTS, -0.3)


class Slow:
    """The learner as its docstrings say it; decay of both counts cancels but for the shrinkage."""

    def __init__(self, half_life: float, last: int) -> None:
        self.fade, self.last = 2.0 ** (-1.0 / half_life), last
        self.together: dict[tuple[int, int], float] = defaultdict(float)
        self.count: dict[int, float] = defaultdict(float)
        self.past: dict[int, list[int]] = defaultdict(list)

    def decay(self) -> None:
        for counts in (self.together, self.count):
            for key in counts:
                counts[key] *= self.fade

    def learn(self, user: int, item: int, weight: float) -> None:
        self.decay()
        if weight == 0.0:
            return
        self.count[item] += weight
        for k, before in enumerate(self.past[user][: self.last]):
            for pair in {(before, item), (item, before)}:
                self.together[pair] = max(0.0, self.together[pair] + weight * 0.85**k)
        if weight > 0.0:
            self.past[user].insert(0, item)

    def score(self, user: int, item: int) -> float:
        total = 0.0
        for k, before in enumerate(self.past[user][: self.last]):
            counts = max(self.count[before], 0.0) + 10.0, max(self.count[item], 0.0) + 10.0
            total += 0.75**k * self.together[before, item] / np.sqrt(counts[0] * counts[1])
        return total


@pytest.mark.parametrize(("half_life", "last"), [(5.0, 20), (1e6, 4), (np.inf, 20)])
def test_scores_equal_a_slow_count(half_life: float, last: int) -> None:
    h = Harness("item_knn", USERS, ITEMS, half_life=half_life, last=last, popularity=0.0)
    slow = Slow(half_life, last)
    user, item, weight = stream()
    h.run(user, item, np.arange(EVENTS), weight=weight)
    for u, i, w in zip(user, item, weight, strict=True):
        slow.learn(int(u), int(i), float(w))
    slow.decay()  # the score stands one event later
    for u in range(USERS):
        expected = [slow.score(u, i) for i in range(ITEMS)]
        np.testing.assert_allclose(scores_for(h, u), expected, rtol=2e-4, atol=1e-5)


def test_user_without_history_gets_popularity() -> None:
    h = Harness("item_knn", USERS + 1, ITEMS, popularity_half_life="inf")
    user, item, _ = stream()
    h.run(user, item, np.arange(EVENTS))
    counts = np.bincount(item, minlength=ITEMS)
    np.testing.assert_allclose(scores_for(h, USERS), 0.01 * counts / counts.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"distance": 2}, {"shrink": -1}, {"half_life": 0}, {"last": 0}]
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        learners.options_of(learners.load("item_knn"), wrong)
