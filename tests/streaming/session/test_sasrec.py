from __future__ import annotations

import jax
import numpy as np
import pytest

from streaming.session.options import Options
from streaming.session.sasrec import Offline, Ranker, batches, begin, loss_of, train

SMALL = Options(
    dimension=8, length=6, layers=1, heads=1, hidden=16, norm_first=False, gaps=False, dropout=0.1,
    learning_rate=0.02,
)  # fmt: skip
OFFLINE = Offline(packed=64, short=4, negatives=0, epochs=25, check=5)


def circles(users: int = 60, items: int = 12) -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [
        ((random.integers(items) + np.arange(random.integers(5, 10))) % items).astype(np.int32)
        for _ in range(users)
    ]


def test_training_finds_what_comes_next_in_a_circle() -> None:
    one_width = OFFLINE._replace(short=6)  # a second one would be compiled, too
    best, tested = train(circles(), 12, SMALL, one_width)
    assert tested["ndcg@10"] > 0.8
    assert best.valid["hr@10"] <= 1.0


def test_sampled_loss_comes_near_that_over_all_items() -> None:
    _, state = begin(12, SMALL, OFFLINE, 1)
    params = state.params._replace(items=state.params.items * 20.0)
    many = OFFLINE._replace(negatives=4000)
    batch = next(batches(circles(), SMALL, many, 12, np.random.default_rng(0)))
    whole, sampled = (
        float(jax.jit(loss_of(SMALL._replace(dropout=0.0), offline, 12))(params, batch, jax.random.key(0)))
        for offline in (OFFLINE, many)
    )
    assert sampled == pytest.approx(whole, rel=0.02)


def test_every_position_of_every_user_is_trained_once_in_an_epoch() -> None:
    sequences = circles()
    made = list(batches(sequences, SMALL, OFFLINE, 12, np.random.default_rng(0)))
    trained = sum(int(batch.weight.sum()) for batch in made)
    assert trained == sum(min(len(s), SMALL.length + 1) - 1 for s in sequences)
    for batch in made:
        items = batch.items.reshape(-1)
        real = batch.weight > 0
        assert np.array_equal((items[batch.position[real]] + 1) % 12, batch.target[real])


def test_ranking_leaves_out_what_the_user_had() -> None:
    _, state = begin(12, SMALL, OFFLINE, 1)
    everything = [np.arange(11, dtype=np.int32)]
    figures = Ranker(SMALL, width=11, users=2)(state.params, everything, np.array([11], np.int32))
    assert figures == {"hr@10": 1.0, "ndcg@10": 1.0}
