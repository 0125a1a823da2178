from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from state.index import ItemIndex, follow
from state.item_source import Items, columns_of
from state.lists import BLOCK, FREE, HELD, LISTS, Lists
from state.nearest import best_of
from streaming.learners.decay import fade_period, half_life_scale

D, HALF_LIFE = 16, 100.0
COLUMNS = D + 3  # something before the vector, the bias and an accumulator behind it


@dataclass
class Source:
    """Rows as a learner would leave them: around themes, with a few popular items."""

    now: Items
    dimension: int = D
    vector: int = 1
    bias: int = D + 1
    bias_half_life: float = HALF_LIFE

    def items(self) -> Items:
        return self.now

    def vectors(self) -> NDArray[np.float32]:
        return self.now.floats[: self.now.known, 1 : D + 1]

    def scores(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        bias = self.now.floats[: self.now.known, self.bias]
        return self.vectors() @ query + np.float32(half_life_scale(self.now.number, HALF_LIFE)) * bias

    def change(self, slots: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        number = self.now.number + 1
        self.now.floats[slots, 1 : D + 1] = vectors
        self.now.touched[slots] = number
        self.now = self.now._replace(number=number)


def source_of(known: int, room: int = 0, seed: int = 1) -> Source:
    rng = np.random.default_rng(seed)
    capacity = known + room
    themes = rng.standard_normal((max(4, capacity // 100), D))
    floats = np.zeros((capacity, COLUMNS), np.float32)
    theme = rng.integers(0, len(themes), capacity)
    floats[:, 1 : D + 1] = themes[theme] * 0.5 + rng.standard_normal((capacity, D)) * 0.2
    floats[:, D + 1] = rng.exponential(0.3, capacity) ** 2
    number = 3 * fade_period(HALF_LIFE) + 40
    items = Items(
        floats,
        np.full(capacity, number, np.int64),
        np.arange(capacity, dtype=np.int32),
        rng.integers(0, 9, capacity).astype(np.uint32),
        known,
        number,
    )
    return Source(items)


def queries(n: int, seed: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, D)).astype(np.float32)


def listed(source: Source, **options: int) -> ItemIndex:
    index = ItemIndex(source, exact_most=100, **options)
    index.refresh()
    assert not index.exact
    return index


def recall(index: ItemIndex, source: Source, n: int = 40) -> float:
    hits = 0
    for query in queries(n):
        found, _ = index.search(query, 10)
        hits += len(np.intersect1d(found, np.argsort(-source.scores(query))[:10]))
    return hits / (10 * n)


def assert_sound(index: ItemIndex, source: Source) -> None:
    """Every item stands in one place, and chains and counts agree."""
    lists = lists_of(index)
    known, counts = source.now.known, lists.counts
    assert counts[HELD] == known == lists.size[: counts[LISTS]].sum()
    assert np.all(lists.place[known:] == -1)
    places = lists.place[:known]
    assert np.array_equal(lists.slot[places], np.arange(known))
    assert np.array_equal(lists.serial[:known], source.now.serial[:known])
    used = 0
    for which in range(int(counts[LISTS])):
        block, entries = int(lists.head[which]), 0
        while block >= 0:
            assert lists.owner[block] == which
            entries += int(lists.fill[which]) if block == lists.head[which] else BLOCK
            block, used = int(lists.after[block]), used + 1
        assert entries == lists.size[which]
    free = lists.free[: counts[FREE]]
    assert len(np.unique(free)) == len(free) == len(lists.after) - used


def lists_of(index: ItemIndex) -> Lists:
    assert index._state is not None
    return index._state.lists


def tend_all(index: ItemIndex, source: Source) -> None:
    for _ in range(len(lists_of(index).head)):
        index._tend(columns_of(source, source.now.number))


def test_search_below_the_bound_is_exact_and_breaks_ties_by_events_then_slot() -> None:
    source = source_of(500)
    source.now.floats[100:200] = source.now.floats[100]
    index = ItemIndex(source)
    index.refresh()
    query = source.now.floats[100, 1 : D + 1].copy()
    slots, scores = index.search(query, 300)
    expected = source.scores(query)
    order = np.lexsort((np.arange(500), -source.now.events[:500].astype(int), -scores_of(scores, slots, 500)))
    assert index.exact
    assert slots.tolist() == order[:300].tolist()
    np.testing.assert_allclose(scores, expected[slots], rtol=1e-4, atol=1e-5)
    assert index.search(query, 300)[0].tolist() == slots.tolist()


def scores_of(scores: NDArray[np.float32], slots: NDArray[np.int64], known: int) -> NDArray[np.float32]:
    """Scores by slot, as the kernel rounds them; the rest below all."""
    out = np.full(known, -np.inf, np.float32)
    out[slots] = scores
    return out


@pytest.mark.parametrize("exact_most", [100, 100_000])
def test_search_leaves_out_what_is_excluded_not_allowed_or_not_finite(exact_most: int) -> None:
    source = source_of(20_000)
    index = ItemIndex(source, exact_most=exact_most)
    index.refresh()
    query = queries(1)[0]
    best = index.search(query, 10)[0]
    source.now.floats[best[0], 3] = np.nan
    allow = np.ones(15_000, np.bool_)
    allow[::3] = False
    found, scores = index.search(query, 20, allow=allow, exclude=best[1:3])
    assert not np.isin(found, best[:3]).any()
    assert allow[found].all()
    assert np.isfinite(scores).all()
    expected = np.nan_to_num(source.scores(query), nan=-np.inf)
    expected[best[1:3]], expected[15_000:] = -np.inf, -np.inf
    expected[:15_000][~allow] = -np.inf
    assert len(np.intersect1d(found, np.argsort(-expected)[:20])) >= 19


def test_mask_that_leaves_few_is_searched_exactly() -> None:
    source = source_of(20_000)
    index, query = listed(source), queries(1)[0]
    allow = np.zeros(20_000, np.bool_)
    allow[7::1000] = True
    found, _ = index.search(query, 50, allow=allow)
    expected = np.where(allow, source.scores(query), -np.inf)
    assert found.tolist() == np.argsort(-expected)[: allow.sum()].tolist()


def test_lists_find_nearly_all_of_the_best() -> None:
    source = source_of(20_000)
    index = listed(source)
    assert_sound(index, source)
    assert recall(index, source) >= 0.95
    popular, _ = index.search(np.zeros(D, np.float32), 10)  # a user of whom nothing is known
    assert popular.tolist() == np.argsort(-source.scores(np.zeros(D, np.float32)))[:10].tolist()


def test_similar_items_are_found_by_cosine() -> None:
    source = source_of(20_000)
    index, hits = listed(source), 0
    vectors = source.vectors() / np.linalg.norm(source.vectors(), axis=1, keepdims=True)
    for slot in range(0, 400, 20):
        found, near = index.search(source.vectors()[slot], 10, cosine=True)
        hits += len(np.intersect1d(found, np.argsort(-(vectors @ vectors[slot]))[:10]))
        assert near[0] == pytest.approx(1.0, abs=1e-5)
    assert hits >= 190


def test_lists_follow_rows_that_drift_far() -> None:
    source = source_of(6_000, seed=3)
    index = listed(source)
    other = source_of(6_000, seed=4)
    for part in np.array_split(np.random.default_rng(0).permutation(6_000), 6):
        source.change(part, other.vectors()[part])
        done = index.refresh(0.0)
        assert done.rows == len(part)
    assert recall(index, source) >= 0.9
    for _ in range(3):
        tend_all(index, source)
    assert_sound(index, source)
    assert recall(index, source) >= 0.95
    assert index.refresh(0.0).rows == 0


def test_all_rows_are_taken_in_again_where_the_tables_went_back() -> None:
    source = source_of(1_000)
    index = listed(source)
    other = source_of(1_000, seed=4)
    source.now = other.now._replace(number=other.now.number - 10)
    source.now.touched[:] = source.now.number - 20
    assert index.refresh(0.0).rows == 1_000
    assert index.refresh(0.0).rows == 0
    assert_sound(index, source)


def test_nothing_is_looked_at_where_nothing_changes() -> None:
    index = listed(source_of(6_000))
    assert index.refresh(30.0).seconds < 30.0
    turn = index._turn
    index.refresh(30.0)
    assert index._turn == turn


def test_scores_come_from_the_rows_as_they_are_now() -> None:
    source = source_of(20_000)
    index, query = listed(source), queries(1)[0]
    first = index.search(query, 1)[0]
    source.change(first, -source.vectors()[first])
    found, scores = index.search(query, 5)
    assert first[0] not in found
    np.testing.assert_allclose(scores, source.scores(query)[found], rtol=1e-4, atol=1e-5)


def test_new_gone_and_replaced_items_are_taken_in_at_once() -> None:
    source = source_of(1_000, room=9_000)
    index = listed(source)
    source.now = source.now._replace(known=9_990, number=source.now.number + 1)
    assert index.refresh(0.0).new == 8_990
    assert_sound(index, source)
    assert recall(index, source) >= 0.9

    source.now.serial[500:520] += 20_000  # gone, and the last items moved into their slots
    source.now.floats[500:520] = source.now.floats[9_970:9_990]
    source.now.touched[500:510] = source.now.number + 1  # the others were not touched since
    source.now = source.now._replace(known=9_970, number=source.now.number + 1)
    done = index.refresh(0.0)
    assert (done.new, done.gone) == (20, 20)
    assert_sound(index, source)
    assert index.search(queries(1)[0], 9_970)[0].max() < 9_970

    before = int(lists_of(index).counts[LISTS])
    tend_all(index, source)
    assert lists_of(index).counts[LISTS] > before  # long lists were split
    assert_sound(index, source)
    assert recall(index, source) >= 0.95


def test_lists_are_given_up_where_few_items_are_left() -> None:
    source = source_of(1_000)
    index = listed(source)
    source.now = source.now._replace(known=90)
    index.refresh(0.0)
    assert not index.exact
    source.now = source.now._replace(known=70)
    index.refresh(0.0)
    assert index.exact
    assert index.search(queries(1)[0], 100)[0].max() < 70


def test_biases_keep_their_worth_when_the_learner_brings_them_back_to_scale() -> None:
    source = source_of(20_000)
    index, query = listed(source), np.zeros(D, np.float32)
    index.refresh(0.0)
    best, scores = index.search(query, 50)
    period = fade_period(HALF_LIFE)
    fades = source.now.number // period * period + period
    factor = np.float32(2.0 ** (-period / HALF_LIFE))
    half = np.arange(20_000) % 2 == 0
    source.now.floats[half, source.bias] *= factor  # as if the learner were just in the middle
    source.now.touched[half] = fades
    found, near = index.search(query, 50)
    assert found.tolist() == best.tolist()
    np.testing.assert_allclose(near, scores, rtol=1e-5)

    source.now.floats[~half, source.bias] *= factor
    source.now.touched[~half] = fades
    source.now = source.now._replace(number=fades + 5)
    decayed = scores * np.float32(2.0 ** (-(fades + 5 - (fades - period + 40)) / HALF_LIFE))
    for _ in range(2):  # before and after the lists know of it
        found, near = index.search(query, 50)
        assert found.tolist() == best.tolist()
        np.testing.assert_allclose(near, decayed, rtol=1e-4)
        index.refresh(0.0)
    assert_sound(index, source)


def test_recall_is_sampled_against_exact_search() -> None:
    source = source_of(20_000)
    index = listed(source, sample_every=5)
    assert index.recall.samples == 0
    for query in queries(50):
        index.search(query, 10)
        index.refresh(0.0)
    assert index.recall.samples == 10
    assert 0.9 <= index.recall.at_10 <= 1.0


def test_searches_go_on_while_the_lists_change() -> None:
    source = source_of(15_000, room=15_000)
    index = listed(source)
    stop, failed = threading.Event(), []

    def ask() -> None:
        try:
            for query in queries(400):
                slots, scores = index.search(query, 10)
                assert len(np.unique(slots)) == 10
                assert np.all(np.diff(scores) <= 0)
                assert slots.max() < source.now.known
        except BaseException as error:  # handed to the main thread
            failed.append(error)

    following = threading.Thread(target=follow, args=(index, stop), kwargs={"share": 0.9, "every_s": 0.01})
    asking = threading.Thread(target=ask)
    following.start()
    asking.start()
    rng = np.random.default_rng(5)
    while asking.is_alive():
        some = rng.integers(0, source.now.known, 500)
        source.change(some, source.vectors()[some] + rng.standard_normal((500, D)).astype(np.float32) * 0.1)
        source.now = source.now._replace(known=min(30_000, source.now.known + 100))
    asking.join()
    stop.set()
    following.join()
    assert failed == []
    index.refresh(0.0)
    assert_sound(index, source)


@pytest.mark.parametrize("bias", [-1, D + 1])
def test_learner_without_bias_or_decay_is_searched_by_its_vectors(bias: int) -> None:
    source = replace(source_of(20_000), bias=bias, bias_half_life=np.inf)
    index, query = listed(source), queries(1)[0]
    found, scores = index.search(query, 10)
    expected = source.vectors() @ query
    if bias >= 0:
        expected += source.now.floats[: source.now.known, bias]
    assert len(np.intersect1d(found, np.argsort(-expected)[:10])) >= 9
    np.testing.assert_allclose(scores, expected[found], rtol=1e-4, atol=1e-5)


def test_kernel_ranks_as_numpy_does() -> None:
    source = source_of(3_000)
    columns = columns_of(source, source.now.number)
    scores, slots = np.empty(100, np.float32), np.empty(100, np.int32)
    none = np.zeros(0, np.bool_)
    for query in queries(5):
        every = np.arange(3_000, dtype=np.int32)
        assert best_of(source.now, columns, query, False, every, none, scores, slots) == 100
        assert set(slots.tolist()) == set(np.argsort(-source.scores(query))[:100].tolist())
