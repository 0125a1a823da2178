from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.learners import load
from streaming.learners.contract import Event
from streaming.learners.loop import bound, score_all
from streaming.session.examples import draw_negatives, fill
from streaming.session.lockstep import Lockstep
from streaming.session.loss import new_batch
from streaming.session.options import Options
from tests.streaming.learners.harness import Harness

USERS, ITEMS, EVENTS = 6, 14, 160
OPTIONS = Options(
    dimension=8, length=4, hidden=8, dropout=0.0, negatives=10, batch=8, replayed=4, remembered=256,
    every=100_000,
)  # fmt: skip


class Before(NamedTuple):
    """What was true just before an event."""

    target: int
    had: list[int]  # the latest first
    rows: NDArray[np.float32]  # (items, D)
    query: NDArray[np.float32]  # (D,)
    scores: NDArray[np.float32]  # (items,) h·V + f + r
    expected: float  # draws of the target


def observe(
    harness: Harness, had: list[int], recent: Counter[int], user: int, item: int, time: int
) -> Before:
    """Ask the learner itself, and count the rest."""
    event = Event(user, item, harness.known, harness.number + 1, time, 1.0, 1.0, 7)
    query, scores = np.zeros(8, np.float32), np.zeros(harness.known, np.float32)
    learner = load("softmax")
    assert learner.query is not None
    learner.query(harness.model, event, query)
    bound(score_all, learner)(harness.model, event, scores)
    chance = 0.5 / harness.known + 0.5 * recent[item] / max(1, recent.total())
    return Before(
        item, had[::-1], harness.model.items.floats[:, :8].copy(), query, scores, OPTIONS.negatives * chance
    )


def followed() -> tuple[Harness, Lockstep, list[Before]]:
    """A stream of single events, with what was true before each that made an example."""
    random = np.random.default_rng(1)
    harness = Harness("softmax", USERS, ITEMS, dimension=8, negatives=10, start=3)
    lockstep = Lockstep(harness.learner, OPTIONS, seed=1)
    harness.loop = lockstep
    had: list[list[int]] = [[] for _ in range(USERS)]
    recent: Counter[int] = Counter()
    notes: list[Before] = []
    for n in range(EVENTS):
        user, item = int(random.integers(USERS)), int(random.integers(min(harness.known + 1, ITEMS)))
        if had[user] and item < harness.known and harness.known >= 3:
            notes.append(observe(harness, had[user], recent, user, item, 10 * n))
        harness.run(np.array([user]), np.array([item]), np.array([10 * n]))
        had[user].append(item)
        recent[item] += 1
    return harness, lockstep, notes


def test_a_batch_holds_what_was_true_just_before_each_event() -> None:
    harness, lockstep, notes = followed()
    examples, batch = lockstep.session.examples, new_batch(OPTIONS)
    assert int(examples.pushed[0]) == len(notes) > 60
    draw_negatives(batch, harness.model, harness.known, harness.number, np.uint64(5))
    picks = np.array([0, 1, 7, 20, 33, 40, len(notes) - 2, len(notes) - 1])
    fill(batch, examples, picks, harness.model)
    assert (batch.weight == 1.0).all()
    for i, before in enumerate(notes[pick] for pick in picks):
        window = before.had[: OPTIONS.length]
        assert batch.mask[i].tolist() == [k < len(window) for k in range(OPTIONS.length)]
        assert np.array_equal(batch.rows[i, : len(window)], before.rows[window])
        assert np.array_equal(batch.target[i], before.rows[before.target])
        assert np.allclose(batch.user[i], before.query, atol=1e-6)
        score = batch.target[i] @ before.query + batch.target_base[i]
        assert np.isclose(score, before.scores[before.target], atol=1e-5)
        share = 0.0 if before.target in before.had else -np.log(before.expected)
        assert np.isclose(batch.target_share[i], share, atol=1e-5)
        own = [j != before.target and j not in window[:k] for k, j in enumerate(window)]
        assert batch.own[i, : len(window)].tolist() == own
        for k in np.flatnonzero(own):
            score = batch.rows[i, k] @ before.query + batch.own_base[i, k]
            assert np.isclose(score, before.scores[window[k]], atol=1e-5)
        compared = {window[k] for k in np.flatnonzero(own)} | {before.target}
        assert batch.clear[i].tolist() == [j not in compared for j in batch.drawn]


def test_negatives_stand_with_their_rows_their_bias_and_how_often_they_were_to_be_expected() -> None:
    harness, _, _ = followed()
    batch, model = new_batch(OPTIONS), harness.model
    draw_negatives(batch, model, harness.known, harness.number, np.uint64(5))
    assert harness.learner.explain is not None
    counts, parts = model.recent.occurrences, np.zeros(8, np.float32)
    for n, item in enumerate(batch.drawn.tolist()):
        harness.learner.explain(model, Event(0, item, harness.known, harness.number, 0, 1.0, 1.0, 7), parts)
        assert np.array_equal(batch.negative[n], model.items.floats[item, :8])
        assert np.isclose(batch.negative_base[n], parts[1], atol=1e-6)  # the bias as it counts now
        chance = 0.5 / harness.known + 0.5 * counts[item] / counts.sum()
        assert np.isclose(batch.negative_share[n], -np.log(OPTIONS.negatives * chance), atol=1e-5)
    assert batch.negative_base.any() and len(set(batch.drawn.tolist())) > 3
