"""Prequential figures against a naive computation, however events are batched."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streaming.evaluation import CURVE_POINTS, NEW_ITEM, NEW_USER, NEWEST, Prequential, rates

Events = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]


def events(n: int, seed: int) -> Events:
    random = np.random.default_rng(seed)
    rank = (random.geometric(0.05, n) - 1).astype(np.float32) / np.float32(2)
    rank[random.random(n) < 0.2] = np.inf
    rank[random.random(n) < 0.3] = np.nan
    loss = random.normal(1, 1, n).astype(np.float32)
    loss[random.random(n) < 0.1] = np.nan
    return rank, loss, random.integers(0, 3, n).astype(np.uint32), random.integers(0, 9, n).astype(np.uint32)


def observed(found: Events, cuts: list[int]) -> Prequential:
    totals = Prequential()
    bounds = [0, *sorted(cuts), len(found[0])]
    for first, last in itertools.pairwise(bounds):
        observe(totals, found, slice(first, last))
    return totals


def observe(totals: Prequential, found: Events, part: slice) -> None:
    rank, loss, user_events, item_events = found
    offsets = np.arange(len(rank))
    totals.observe(rank[part], loss[part], user_events[part], item_events[part], 3, offsets[part])


def naive(ranks: list[float]) -> dict[str, float]:
    """Protocol P1, as it is written."""
    result = {}
    for k in (10, 20):
        hits = [r for r in ranks if r < k]
        result[f"hr@{k}"] = len(hits) / len(ranks)
        result[f"ndcg@{k}"] = sum(1 / math.log2(r + 2) for r in hits) / len(ranks)
        result[f"mrr@{k}"] = sum(1 / (r + 1) for r in hits) / len(ranks)
    return result


@settings(max_examples=30)
@given(st.lists(st.integers(0, 20_000), max_size=12), st.integers(0, 99))
def test_batches_change_no_bit(cuts: list[int], seed: int) -> None:
    found = events(20_000, seed)
    cut, whole = observed(found, cuts), observed(found, [])
    assert json.dumps(cut.state()) == json.dumps(whole.state())
    assert list(cut.blocks()) == list(whole.blocks())


@settings(max_examples=20)
@given(st.integers(0, 40_000), st.integers(0, 99))
def test_restored_counts_go_on_as_if_never_stored(cut: int, seed: int) -> None:
    found = events(40_000, seed)
    kept: dict[int, bytes] = {}
    totals = Prequential()
    for part in (slice(0, cut // 3), slice(cut // 3, cut), slice(cut, None)):
        observe(totals, found, part)
        kept.update(totals.blocks())  # as a commit writes them
        totals = Prequential.restored(json.loads(json.dumps(totals.state())), kept.items())
    whole = observed(found, [])
    assert totals.state() == whole.state()
    assert (totals.newest() == whole.newest()).all()
    assert kept == dict(whole.blocks())


def test_newest_evaluated_events_stand_one_by_one_with_their_places_in_the_log() -> None:
    rank, loss, user_events, item_events = events(40_000, 5)
    newest = observed((rank, loss, user_events, item_events), [1, 999, 30_001]).newest()
    drawn = np.flatnonzero(~np.isnan(rank))[-NEWEST:]
    assert len(newest) == NEWEST and (newest["source"] == 3).all()
    assert (newest["offset"] == drawn).all()
    assert (newest["bin"] == np.minimum(2 * rank[drawn], 40)).all()
    assert ((newest["flags"] & NEW_USER > 0) == (user_events[drawn] == 0)).all()
    assert ((newest["flags"] & NEW_ITEM > 0) == (item_events[drawn] < 5)).all()


def test_commit_writes_only_the_blocks_of_newest_events_that_moved() -> None:
    found = events(3000, 6)
    totals = observed(found, [])
    assert len(list(totals.blocks())) == 3
    totals.committed()
    assert list(totals.blocks()) == []
    observe(totals, found, slice(0, 5))
    assert [number for number, _ in totals.blocks()] == [2]


def test_rates_equal_a_naive_computation() -> None:
    found = events(5000, 3)
    rank, loss, user_events, item_events = found
    summary = observed(found, [100, 1234]).summary()
    drawn = ~np.isnan(rank)
    masks = {
        "new_user": drawn & (user_events == 0),
        "returning_user": drawn & (user_events > 0),
        "new_item": drawn & (item_events < 5),
    }
    assert summary["overall"] == pytest.approx({**naive(rank[drawn].tolist()), "events": int(drawn.sum())})
    for name, mask in masks.items():
        expected = {**naive(rank[mask].tolist()), "events": int(mask.sum())}
        assert summary["segments"][name] == pytest.approx(expected)
    assert summary["loss"] == pytest.approx(float(np.nanmean(loss.astype(np.float64))))


def test_curve_points_are_rates_of_their_part_of_the_stream() -> None:
    found = events(30_000, 4)
    totals = observed(found, [7, 9000, 9001])
    ranks = found[0][~np.isnan(found[0])]
    curve = totals.summary()["curve"]
    span = curve["evaluated_per_point"]
    assert len(curve["hr@10"]) == -(-len(ranks) // span) <= CURVE_POINTS
    expected = [float((ranks[k : k + span] < 10).mean()) for k in range(0, len(ranks), span)]
    assert curve["hr@10"] == pytest.approx(expected)
    last = ranks[(len(expected) - 4) * span :]
    assert totals.window(4)["hr@10"] == pytest.approx(float((last < 10).mean()))


def test_nothing_evaluated_gives_no_figure() -> None:
    assert all(math.isnan(v) for v in rates(np.zeros(41, np.int64)).values())
    assert Prequential().summary()["loss"] is None
    assert Prequential().summary()["curve"]["hr@10"] == []
