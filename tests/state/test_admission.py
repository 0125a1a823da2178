"""Admission against a slow dict."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from state.admission import Admission
from state.memory import MemoryStore
from tests.state.streams import ids


class Slow:
    """The definition: counts that halve every half-life; at the threshold an id is known for ever."""

    def __init__(self, threshold: float, half_life: float) -> None:
        self.threshold, self.half_life = threshold, half_life
        self.counts: dict[str, tuple[float, int]] = {}
        self.known: set[str] = set()

    def see(self, name: str, number: int) -> bool:
        if name in self.known:
            return True
        count, last = self.counts.get(name, (0.0, number))
        count = count * 2.0 ** ((last - number) / self.half_life) + 1.0
        self.counts[name] = (count, number)
        if count >= self.threshold:
            self.known.add(name)
            del self.counts[name]
        return name in self.known

    def sweep(self, number: int) -> None:
        for name, (count, last) in list(self.counts.items()):
            if count * 2.0 ** ((last - number) / self.half_life) < 0.25:
                del self.counts[name]


def commit(admission: Admission, store: MemoryStore, committed: int) -> None:
    store.write(list(admission.puts(committed)), list(admission.deletes()))
    admission.committed()


@settings(max_examples=60)
@given(
    st.integers(0, 999),
    st.sampled_from([1.5, 2.0, 3.0, 2.7]),
    st.sampled_from([5.0, 40.0, math.inf]),
    st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["", "commit", "restart", "sweep"])), min_size=1),
)
def test_admission_equals_its_definition_for_any_batches(
    seed: int, threshold: float, half_life: float, batches: list[tuple[int, str]]
) -> None:
    random = np.random.default_rng(seed)
    slow, store = Slow(threshold, half_life), MemoryStore()
    fast = Admission(b"u", threshold, half_life)
    known: set[str] = set()
    number = committed = 0
    for size, then in batches:
        names = [f"n{k}" for k in (12 * random.random(size) ** 2).astype(int)]
        asks = np.array([name not in known for name in names])
        admitted = fast.admit(ids(names), asks, number)
        expected = [slow.see(name, number + k + 1) for k, name in enumerate(names)]
        assert (admitted | ~asks).tolist() == expected
        known |= {name for name, got in zip(names, admitted, strict=True) if got}
        number += size
        if then == "sweep":
            fast.sweep(number)
            slow.sweep(number)
        if then in ("commit", "restart"):
            commit(fast, store, committed)
            committed = number
        if then == "restart":
            fast = Admission(b"u", threshold, half_life)
            fast.restore(store)
    commit(fast, store, committed)
    kept = {key[2:].decode() for key, _ in store.scan(b"cu")}
    assert kept == set(slow.counts)


def test_threshold_of_one_admits_all_without_counting() -> None:
    admission = Admission(b"i", 1.0, 10.0)
    assert admission.admit(ids(["a", "b"]), np.ones(2, np.bool_), 0).all()
    assert list(admission.puts(0)) == []


def test_restoring_from_a_store_without_counts_begins_empty() -> None:
    admission = Admission(b"i", 2.0, math.inf)
    admission.restore(MemoryStore())
    assert admission.admit(ids(["a", "b", "a"]), np.ones(3, np.bool_), 0).tolist() == [False, False, True]


def test_counts_of_users_and_items_are_kept_apart() -> None:
    store = MemoryStore()
    users, items = Admission(b"u", 3.0, 100.0), Admission(b"i", 3.0, 100.0)
    users.admit(ids(["same"]), np.ones(1, np.bool_), 0)
    commit(users, store, 0)
    items.restore(store)
    assert list(items.puts(-1)) == []
    assert [k for k, _ in store.scan(b"c")] == [b"cusame"]


def test_many_ids_are_counted_as_their_number_grows() -> None:
    admission = Admission(b"u", 2.0, math.inf)
    names = [f"user-{k}" for k in range(5000)]
    for first in range(0, 5000, 700):
        part = names[first : first + 700]
        assert not admission.admit(ids(part), np.ones(len(part), np.bool_), first).any()
    assert admission.admit(ids(names), np.ones(5000, np.bool_), 5000).all()
