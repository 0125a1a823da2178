"""Runs a learner over arrays of numbered users and items, without tables or a store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming import learners
from streaming.kernels import mix
from streaming.learners.contract import Event, Model
from streaming.learners.loop import Batch, Outcome, Seen, bound, new_outcome, score_all, test_then_learn
from streaming.learners.model import ITEM, USER, initial_values, initialise, new_model, no_seen


class Harness:
    """A model whose users and items are numbers; items are numbered in the order of their first event."""

    def __init__(
        self, name: str, users: int, items: int, *, seed: int = 1, exclude_seen: int = 0, **given: Any
    ) -> None:
        """`exclude_seen`: room for this many events, 0 for off."""
        self.learner = learners.load(name)
        self.options = learners.options_of(self.learner, given)
        self.layout = self.learner.layout(self.options)
        self.model: Model = new_model(self.learner, self.options, users, items)
        self.seed = seed
        fill, sigma = initial_values(self.layout.user)
        for slot in range(users):
            initialise(self.model.users, slot, fill, sigma, np.uint64(seed), USER, np.uint64(slot))
        fill, sigma = initial_values(self.layout.item)
        for slot in range(items):
            initialise(self.model.items, slot, fill, sigma, np.uint64(seed), ITEM, np.uint64(slot))
            self.model.slot_of[slot] = self.model.serial_of[slot] = slot
        self.loop = bound(test_then_learn, self.learner)
        self.score = bound(score_all, self.learner)
        self.scores = np.zeros(items, np.float32)
        self.number = 0
        self.known = 0
        self.seen = no_seen()
        if exclude_seen:
            self.seen = Seen(
                np.full(users, -1, np.int32),
                np.zeros(exclude_seen, np.int32),
                np.zeros(exclude_seen, np.int32),
                np.zeros(1, np.int64),
            )

    def run(
        self,
        user: NDArray[Any],
        item: NDArray[Any],
        time: NDArray[Any],
        *,
        value: NDArray[Any] | None = None,
        weight: NDArray[Any] | None = None,
        every: int = 1,
    ) -> Outcome:
        """Test and learn these events; items must be numbered by first appearance."""
        n = len(user)
        highest = np.maximum.accumulate(np.concatenate([[self.known - 1], item]))
        numbers = self.number + np.arange(n)
        batch = Batch(
            user=user.astype(np.int32),
            item=item.astype(np.int32),
            known=(highest[:-1] + 1).astype(np.int32),
            time=time.astype(np.int64),
            value=(np.ones(n) if value is None else value).astype(np.float32),
            weight=(np.ones(n) if weight is None else weight).astype(np.float32),
            # Mixed: keys a constant apart would draw the same numbers again, shifted by one.
            key=mix.py_func(numbers.astype(np.uint64) + np.uint64(self.seed << 40)),
            drawn=numbers % every == 0,
            number=self.number,
        )
        outcome = new_outcome(n)
        self.loop(self.model, batch, self.seen, self.scores, outcome)
        self.number += n
        self.known = int(highest[-1]) + 1
        return outcome


def numbered(ids: Any) -> NDArray[np.int64]:
    """Numbers of ids by first appearance.

    >>> numbered(["b", "a", "b"]).tolist()
    [0, 1, 0]
    """
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(i, len(numbers)) for i in ids], np.int64)


def weighted_stream(seed: int, users: int, items: int, events: int, least: float) -> tuple[NDArray[Any], ...]:
    """Users, items and weights of random events; a tenth have the weight `least`, below 0."""
    random = np.random.default_rng(seed)
    item = numbered(random.integers(0, items, events).tolist())
    user = random.integers(0, users, events)
    return user, item, random.choice([1.0, 0.5, 0.0, least], events, p=[0.6, 0.2, 0.1, 0.1])


def scores_for(harness: Harness, user: int) -> NDArray[np.float32]:
    """Scores of all known items for a user, at time 0."""
    out = np.zeros(harness.known, np.float32)
    event = Event(
        np.int32(user), np.int32(0), np.int32(harness.known), harness.number + 1,
        np.int64(0), np.float32(1), np.float32(1), np.uint64(1),
    )  # fmt: skip
    harness.score(harness.model, event, out)
    return out


def hit_rate(outcome: Outcome, k: int = 10) -> float:
    """HR@k of the evaluated events."""
    ranks = outcome.rank[~np.isnan(outcome.rank)]
    return float((ranks < k).mean())
