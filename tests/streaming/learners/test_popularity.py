"""Popularity against protocol P1's reference and against a slow count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.streaming.learners.harness import Harness, hit_rate, numbered


def test_count_without_decay_reaches_the_reference_row_of_the_protocol(data: Path) -> None:
    file = data / "ml-100k" / "events.parquet"
    if not file.exists():
        pytest.skip(f"no {file}")
    table = pq.read_table(file)
    columns = [np.array(table[c].to_pylist()) for c in ("ts", "user", "item", "value")]
    ts, user, item, value = (c[np.argsort(columns[0], kind="stable")] for c in columns)
    ts, users, items = (
        ts[value == 5],
        numbered(user[value == 5].tolist()),
        numbered(item[value == 5].tolist()),
    )
    h = Harness("popularity", users.max() + 1, items.max() + 1, exclude_seen=len(ts), half_life="inf")
    outcome = h.run(users, items, ts)
    ranks = outcome.rank.astype(np.float64)
    assert len(ranks) == 21_201
    assert round(hit_rate(outcome, 10), 4) == 0.1124
    assert round(hit_rate(outcome, 20), 4) == 0.1809
    gain = np.where(ranks < 10, 1.0 / np.log2(np.minimum(ranks, 1e9) + 2.0), 0.0)
    assert round(gain.mean(), 4) == 0.0577
    assert round(np.where(ranks < 20, 1.0 / (ranks + 1.0), 0.0).mean(), 4) == 0.0458


@pytest.mark.parametrize("half_life", [1.0, 2.5, 30.0, np.inf])
def test_counts_decay_as_a_slow_count_does_also_where_nothing_is_learned(half_life: float) -> None:
    random = np.random.default_rng(4)
    item = numbered(random.integers(0, 6, 200).tolist())
    weight = random.choice([1.0, 0.0, -0.5], 200, p=[0.6, 0.3, 0.1])  # 0 falls on numbers of `fade`, too
    h = Harness("popularity", 1, 6, half_life=half_life)
    h.run(np.zeros(200, np.int64), item, np.arange(200), weight=weight)
    slow = np.zeros(6)
    for i, w in zip(item, weight, strict=True):
        slow *= 2.0 ** (-1.0 / half_life)
        slow[i] += w
    out = h.model.items.floats[:, 0].astype(np.float64)
    unit = 1.0 if half_life == np.inf else 2.0 ** (-(200 % int(16 * half_life)) / half_life)
    np.testing.assert_allclose(out * unit, slow, rtol=1e-4, atol=1e-6)
