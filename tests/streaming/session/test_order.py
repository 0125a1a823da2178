from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.session.lockstep import Lockstep
from streaming.session.options import Options
from tests.streaming.learners.harness import Harness, numbered

USERS, ITEMS, EVENTS = 12, 16, 5000
OPTIONS = Options(
    dimension=16, length=4, hidden=64, gaps=False, dropout=0.0, residual=1.0, input_scale=1.0, negatives=32,
    hard=0.5, batch=32, replayed=16, remembered=1024, every=8, learning_rate=0.01, averaging=0.9,
)  # fmt: skip


def walk(random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """After an item comes one of two others; which one, the item before it says. One in ten is random."""
    follows = np.stack([random.permutation(ITEMS), random.permutation(ITEMS)])
    kind = random.permutation(ITEMS) % 2
    user, item = random.integers(0, USERS, EVENTS), np.zeros(EVENTS, np.int64)
    last = random.integers(0, ITEMS, (USERS, 2))
    for n, u in enumerate(user):
        goes_on = random.random() < 0.9
        item[n] = follows[kind[last[u, 0]], last[u, 1]] if goes_on else random.integers(ITEMS)
        last[u] = last[u, 1], item[n]
    return user, numbered(item.tolist())


def test_correction_is_better_where_the_order_of_the_last_two_items_says_what_comes_next() -> None:
    harness = Harness("softmax", USERS, ITEMS, dimension=16, negatives=10, start=3)
    lockstep = Lockstep(harness.learner, OPTIONS, seed=1)
    harness.loop = lockstep
    harness.run(*walk(np.random.default_rng(1)), 10 * np.arange(EVENTS))
    points = lockstep.plain.evaluated // lockstep.plain.span // 2
    plain, corrected = (one.window(points)["mrr@20"] for one in (lockstep.plain, lockstep.corrected))
    assert corrected > plain + 0.025  # the tenth that is random leaves some 0.1 to be won at most
    assert lockstep.summary()["dropped"] == 0
