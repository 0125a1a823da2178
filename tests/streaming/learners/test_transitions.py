"""Transitions against a dict that counts, and the bounded lists that hold them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming import learners
from streaming.errors import SettingError
from tests.streaming.learners.harness import Harness, scores_for, weighted_stream

USERS, ITEMS, EVENTS = 5, 12, 300


def stream() -> tuple[NDArray[Any], ...]:
    return weighted_stream(5, USERS, ITEMS, EVENTS, -0.5)


class Slow:
    """The learner as its docstrings say it."""

    def __init__(self, half_life: float, popularity_half_life: float) -> None:
        self.fade, self.fade_count = 2.0 ** (-1.0 / half_life), 2.0 ** (-1.0 / popularity_half_life)
        self.next: dict[tuple[int, int], float] = defaultdict(float)
        self.count: dict[int, float] = defaultdict(float)
        self.past: dict[int, list[int]] = defaultdict(list)

    def move(self, pair: tuple[int, int], amount: float) -> None:
        self.next[pair] = max(0.0, self.next[pair] + amount)

    def learn(self, user: int, item: int, weight: float) -> None:
        for pair in self.next:
            self.next[pair] *= self.fade
        for counted in self.count:
            self.count[counted] *= self.fade_count
        if weight == 0.0:
            return
        self.count[item] += weight
        for k, before in enumerate(self.past[user][:3], start=1):
            self.move((before, item), weight / k)
            if before != item:
                self.move((item, before), 0.6 * weight / k)
        if weight > 0.0:
            self.past[user].insert(0, item)

    def score(self, user: int, item: int) -> float:
        total = sum(max(c, 0.0) for c in self.count.values())
        share = 0.3 * max(self.count[item], 0.0) / total
        return share + sum(0.3**k * self.next[p, item] for k, p in enumerate(self.past[user][:3]))


@pytest.mark.parametrize("half_life", [3.0, 1e6, np.inf])
def test_scores_equal_a_slow_count(half_life: float) -> None:
    h = Harness("transitions", USERS, ITEMS, half_life=half_life, popularity_half_life=7.0)
    slow = Slow(half_life, 7.0)
    user, item, weight = stream()
    h.run(user, item, np.arange(EVENTS), weight=weight)
    for u, i, w in zip(user, item, weight, strict=True):
        slow.learn(int(u), int(i), float(w))
    step = 2.0 ** (-1.0 / half_life)  # the score stands one event later
    for u in range(USERS):
        share = np.array([slow.score(u, i) for i in range(ITEMS)])
        popular = 0.3 * np.array([max(slow.count[i], 0.0) for i in range(ITEMS)])
        popular /= sum(max(c, 0.0) for c in slow.count.values())
        np.testing.assert_allclose(scores_for(h, u), popular + step * (share - popular), rtol=2e-4, atol=1e-5)


def test_user_without_history_gets_popularity() -> None:
    h = Harness("transitions", USERS + 1, ITEMS, popularity_half_life="inf")
    user, item, _ = stream()
    h.run(user, item, np.arange(EVENTS))
    counts = np.bincount(item, minlength=ITEMS)
    np.testing.assert_allclose(scores_for(h, USERS), 0.3 * counts / counts.sum(), rtol=1e-5)


def follow(h: Harness, pairs: list[tuple[int, int]]) -> None:
    """Each pair is had by a user of its own."""
    user = np.repeat(np.arange(len(pairs)) + 1, 2)
    h.run(user, np.array(pairs).ravel(), np.arange(2 * len(pairs)))


def entries(h: Harness, slot: int) -> dict[int, float]:
    lists = h.model.neighbours
    size = lists.length[0, slot]
    serials, weights = lists.serial[0, slot, :size].tolist(), lists.weight[0, slot, :size].tolist()
    return dict(zip(serials, weights, strict=True))


def test_full_list_gives_up_its_smallest_weight() -> None:
    h = Harness("transitions", 20, 6, neighbours=3, half_life="inf", backward=0.0)
    follow(h, [(0, 1), (0, 1), (0, 2), (0, 3), (0, 3), (0, 4)])
    assert entries(h, 0) == {1: 2.0, 3: 2.0, 4: 1.0}


def test_full_list_gives_up_an_item_that_is_gone_first() -> None:
    h = Harness("transitions", 20, 6, neighbours=3, half_life="inf", backward=0.0)
    follow(h, [(0, 1), (0, 1), (0, 2), (0, 3)])
    h.model.slot_of[1] = -1
    h.run(np.array([15, 15]), np.array([0, 4]), np.zeros(2))
    assert entries(h, 0) == {2: 1.0, 3: 1.0, 4: 1.0}


def test_negative_event_takes_back_but_not_below_zero() -> None:
    h = Harness("transitions", 20, 6, half_life="inf", backward=0.0)
    follow(h, [(0, 1), (0, 1), (0, 2)])
    h.run(np.array([15, 15]), np.array([0, 1]), np.zeros(2), weight=np.array([1.0, -1.0]))
    assert entries(h, 0) == {1: 1.0, 2: 1.0}
    h.run(np.array([15, 15]), np.array([2, 1]), np.zeros(2), weight=np.array([-5.0, -5.0]))
    assert entries(h, 0) == {1: 0.0, 2: 0.0}


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"backward": 2}, {"half_life": 0.5}, {"fading": -1}, {"last": 0}]
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        learners.options_of(learners.load("transitions"), wrong)
