"""The table of items: growth, discards and restores against what was put in."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from state.items import ItemTable
from state.memory import MemoryStore
from streaming.learners.contract import Field, Layout
from tests.state.streams import ids

LAYOUT = Layout(
    user=(Field("vector", 3, sigma=0.5),),
    item=(Field("vector", 2, sigma=0.5),),
    history=3,
    neighbours=(1, 4),
)


def see_items(table: ItemTable, names: list[str]) -> None:
    slots, _ = table.resolve(ids(names), np.ones(len(names), np.bool_))
    for slot, name in zip(slots.tolist(), names, strict=True):
        table.rows.floats[slot, 0] = hash(name) % 1000
        table.rows.touched[slot] = 1
        table.neighbours.length[0, slot] = 1
        table.neighbours.serial[0, slot, 0] = hash(name) % 77


@settings(max_examples=40)
@given(st.integers(0, 999), st.lists(st.integers(1, 30), min_size=1, max_size=30))
def test_items_keep_their_rows_and_serials_when_others_are_discarded(seed: int, steps: list[int]) -> None:
    random = np.random.default_rng(seed)
    table, model, made = ItemTable(LAYOUT, 1), {}, 0
    for step in steps:
        names = [f"i{made + k}" for k in range(step)]
        see_items(table, names)
        model.update({name: made + k for k, name in enumerate(names)})
        made += step
        for _ in range(int(random.integers(0, len(model) + 1))):
            slot = int(random.integers(0, table.count))
            gone = table.discard(slot, 1 + made).decode()
            serial = model.pop(gone)
            assert table.slot_of_serial[serial] == -1
    assert table.count == len(model)
    for name, serial in model.items():
        slot = table.ids.slot_of(name)
        assert 0 <= slot < table.count
        assert (table.serial[slot], table.slot_of_serial[serial]) == (serial, slot)
        assert table.rows.floats[slot, 0] == hash(name) % 1000
        assert table.neighbours.serial[0, slot, 0] == hash(name) % 77


def test_items_come_back_in_their_slots_after_discards() -> None:
    table: Any = ItemTable(LAYOUT, 1)
    see_items(table, [f"i{k}" for k in range(2000)])
    for slot in (1999, 1500, 7, 0):
        table.discard(slot, 2001)
    store = MemoryStore()
    store.write(list(table.encoded(table.changed(0))))
    again = ItemTable(LAYOUT, 1)
    again.restore(store, table.next_serial)
    count = table.count
    assert (again.count, again.next_serial) == (count, 2000)
    np.testing.assert_array_equal(again.serial[:count], table.serial[:count])
    np.testing.assert_array_equal(again.rows.floats[:count], table.rows.floats[:count])
    np.testing.assert_array_equal(again.slot_of_serial[:2000], table.slot_of_serial[:2000])
    assert [again.ids.id_of(s) for s in range(count)] == [table.ids.id_of(s) for s in range(count)]


def test_item_that_is_not_admitted_has_no_slot_and_counts_known_items() -> None:
    table = ItemTable(LAYOUT, 1)
    slots, known = table.resolve(ids(["a", "b", "a", "c", "b"]), np.array([True, False, True, True, False]))
    assert slots.tolist() == [0, -1, 0, 1, -1]
    assert known.tolist() == [0, 1, 1, 1, 2]
