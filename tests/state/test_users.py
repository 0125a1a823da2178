"""The table of users: eviction and growth against what was put in."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from state.admission import Admission
from state.memory import MemoryStore
from state.users import UserTable
from streaming.learners.contract import Field, Layout
from tests.state.streams import ids

LAYOUT = Layout(
    user=(Field("vector", 3, sigma=0.5),),
    item=(Field("vector", 2, sigma=0.5),),
    history=3,
)
ALL = Admission(b"u", 1.0, 1.0)


class Users:
    """A user table driven as by the loop: each event adds its number to the row."""

    def __init__(self, store: MemoryStore, capacity: int | None) -> None:
        self.table = UserTable(LAYOUT, 7, store, capacity)
        self.store, self.number, self.durable = store, 0, 0

    def see(self, names: list[str]) -> None:
        if not self.room_for(names):
            self.commit()
            assert self.room_for(names)
        slots = self.table.resolve(ids(names), 2, ALL, self.number)
        for slot in slots.tolist():
            self.number += 1
            rows, history = self.table.rows, self.table.history
            rows.floats[slot] += self.number
            rows.events[slot] += 1
            rows.seen[slot] = rows.touched[slot] = self.number
            place = history.pushed[slot] % 3
            history.serial[slot, place] = history.time[slot, place] = self.number
            history.pushed[slot] += 1

    def room_for(self, names: list[str]) -> bool:
        return self.table.make_room(ids(names), self.durable)

    def commit(self) -> None:
        slots = self.table.changed(self.durable)
        self.store.write(list(self.table.encoded(slots)))
        self.table.committed(slots)
        self.durable = self.number


@settings(max_examples=40)
@given(st.integers(0, 999), st.integers(4, 20), st.lists(st.booleans(), min_size=5, max_size=60))
def test_evicted_users_come_back_bit_for_bit(seed: int, cache: int, commits: list[bool]) -> None:
    random = np.random.default_rng(seed)
    small, large = Users(MemoryStore(), cache), Users(MemoryStore(), None)
    for commit in commits:
        names = [f"u{k}" for k in random.integers(0, 40, random.integers(1, 5))]
        for users in (small, large):
            users.see(names)
            if commit:
                users.commit()
        assert small.table.held <= cache
    for users in (small, large):
        users.commit()
    assert dict(small.store.scan(b"u")) == dict(large.store.scan(b"u"))


def test_only_durable_users_are_let_go() -> None:
    users = Users(MemoryStore(), 4)
    users.see(["a", "b", "c", "d"])
    assert not users.room_for(["e"])
    users.commit()
    users.see(["d"])
    assert users.room_for(["e", "f", "g"])
    assert users.table.ids.slot_of("d") >= 0
    assert not users.room_for(["e", "f", "g", "h"])


def test_users_of_the_batch_are_not_let_go_for_others_of_it() -> None:
    users = Users(MemoryStore(), 4)
    users.see(["a", "b", "c", "d"])
    users.commit()
    assert users.room_for(["a", "e", "f", "b"])
    assert users.table.ids.slots_of(ids(["a", "b"])).min() >= 0
    users.see(["a", "e", "f", "b"])
    assert users.table.misses == 4 + 2


def test_those_seen_longest_ago_are_let_go_first() -> None:
    users = Users(MemoryStore(), 16)
    names = [f"u{k:02d}" for k in range(16)]
    users.see(names)
    users.see(names[:4])
    users.commit()
    assert users.room_for([f"v{k}" for k in range(8)])
    assert [n for n in names if users.table.ids.slot_of(n) >= 0] == names[:4] + names[12:]


def test_table_without_a_limit_grows_and_keeps_every_row() -> None:
    users = Users(MemoryStore(), None)
    names = [f"u{k}" for k in range(5000)]
    for first in range(0, 5000, 1300):
        users.see(names[first : first + 1300])
    assert users.table.held == 5000
    slots = users.table.ids.slots_of(ids(names))
    assert users.table.rows.touched[slots].tolist() == list(range(1, 5001))


def test_new_row_depends_on_seed_kind_and_id_alone() -> None:
    one, two = Users(MemoryStore(), None), Users(MemoryStore(), 8)
    one.table.resolve(ids(["x", "y"]), 0, ALL, 0)
    two.table.resolve(ids(["z", "w", "y", "x"]), 5, ALL, 90)
    for name in "xy":
        np.testing.assert_array_equal(
            one.table.rows.floats[one.table.ids.slot_of(name)],
            two.table.rows.floats[two.table.ids.slot_of(name)],
        )
    assert one.table.rows.floats[:2, :3].std() > 0
    other = UserTable(LAYOUT, 8, MemoryStore(), None)
    other.resolve(ids(["x"]), 0, ALL, 0)
    assert (other.rows.floats[0, :3] != one.table.rows.floats[0, :3]).all()
