"""Sources and journal: what is adjacent is merged, and commits and restarts leave no trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.ledger import JournalSlice, Ledger, journal_of, sealed, unsealed
from state.memory import MemoryStore
from streaming.errors import CorruptRowError
from tests.state.streams import everything

steps = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.sampled_from(["", "commit", "restart"])))


def commit(ledger: Ledger, store: MemoryStore) -> None:
    store.write(ledger.puts())
    ledger.committed()


@given(steps)
def test_journal_is_merged_alike_whatever_commits_and_restarts_come_between(
    taken: list[tuple[int, int, str]],
) -> None:
    plain, plain_store, broken, broken_store = Ledger(), MemoryStore(), Ledger(), MemoryStore()
    expected: list[JournalSlice] = []
    positions = [0, 0, 0]
    for ledger in (plain, broken):
        assert [ledger.partition(name) for name in ("a", "b", "c")] == [0, 1, 2]
    for partition, length, then in taken:
        first, last = positions[partition], positions[partition] + length
        positions[partition] = last
        for ledger in (plain, broken):
            ledger.record(partition, first, last)
            ledger.number += length
        if length and expected and expected[-1].partition == partition:
            expected[-1] = JournalSlice(partition, expected[-1].first, last)
        elif length:
            expected.append(JournalSlice(partition, first, last))
        if then:
            commit(broken, broken_store)
        if then == "restart":
            broken = Ledger.read(broken_store)
    commit(plain, plain_store)
    commit(broken, broken_store)
    assert everything(broken_store) == everything(plain_store)
    assert list(journal_of(plain_store)) == expected
    assert [s.next_offset for s in Ledger.read(plain_store).sources] == positions


def test_source_keeps_its_number_and_time_unit() -> None:
    store, ledger = MemoryStore(), Ledger()
    assert (ledger.partition("b"), ledger.partition("a"), ledger.partition("b")) == (0, 1, 0)
    ledger.sources[1].time_unit = "ms"
    commit(ledger, store)
    again = Ledger.read(store)
    assert again.partition("a") == 1
    assert again.sources[1].time_unit == "ms"
    assert again.partition("c") == 2


def test_change_of_rules_is_noted_with_the_records_read_before() -> None:
    store, ledger = MemoryStore(), Ledger()
    assert not ledger.read_by("one")
    ledger.record(ledger.partition("a"), 0, 5)
    assert not ledger.read_by("one")
    commit(ledger, store)
    again = Ledger.read(store)
    assert again.read_by("two")
    assert again.rules == [(0, "one"), (5, "two")]


def test_empty_store_has_an_empty_ledger() -> None:
    ledger = Ledger.read(MemoryStore())
    assert (ledger.number, ledger.sources, ledger.watermark) == (0, [], 0)


@given(st.binary(max_size=60), st.data())
def test_flip_of_any_byte_of_a_sealed_value_is_refused(payload: bytes, data: st.DataObject) -> None:
    value = bytearray(sealed(payload))
    assert unsealed(b"k", bytes(value)) == payload
    value[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(CorruptRowError, match="b'k'"):
        unsealed(b"k", bytes(value))


@pytest.mark.parametrize("length", range(4))
def test_value_shorter_than_its_seal_is_refused(length: int) -> None:
    with pytest.raises(CorruptRowError):
        unsealed(b"k", b"\0" * length)


def test_offsets_that_are_passed_over_count_as_skipped_not_as_records() -> None:
    store, ledger = MemoryStore(), Ledger()
    source = ledger.sources[ledger.partition("topic[0]")]
    ledger.record(0, 100, 100)  # begins at 100
    ledger.record(0, 100, 110)
    ledger.record(0, 150, 160)  # 110 to 149 were lost
    source.token = "id@3"
    commit(ledger, store)
    again = Ledger.read(store)
    assert list(journal_of(store)) == [JournalSlice(0, 100, 110), JournalSlice(0, 150, 160)]
    assert (again.records, again.sources) == (20, [source])
    assert (source.next_offset, source.skipped) == (160, 140)
