"""The id table against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from state.ids import IdTable, move, remove
from tests.state.streams import ids

names = st.one_of(
    st.binary(min_size=1, max_size=3),  # short ones meet each other often
    st.binary(min_size=1, max_size=300),
)


class IdsAgainstDict(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = IdTable(2)
        self.slots: dict[bytes, int] = {}
        self.capacity = 2

    def free(self) -> list[int]:
        return sorted(set(range(self.capacity)) - set(self.slots.values()))

    @rule(new=st.lists(names, min_size=1, max_size=20, unique=True))
    def insert(self, new: list[bytes]) -> None:
        new = [name for name in new if name not in self.slots]
        while len(self.free()) < len(new):
            self.capacity *= 2
        self.table.make_room(self.capacity, sum(map(len, new)))
        places = self.free()[: len(new)]
        self.table.insert(np.array(places, np.int64), new)
        self.slots.update(zip(new, places, strict=True))

    @precondition(lambda self: self.slots)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.slots)))
        remove(self.table.arrays, self.slots.pop(name))

    @precondition(lambda self: self.slots and self.free())
    @rule(data=st.data())
    def move(self, data: st.DataObject) -> None:
        name, target = data.draw(st.sampled_from(sorted(self.slots))), data.draw(st.sampled_from(self.free()))
        move(self.table.arrays, self.slots[name], target)
        self.slots[name] = target

    @rule(more=st.integers(0, 3000))
    def make_room(self, more: int) -> None:
        self.table.make_room(0, more)

    @rule(other=names)
    def find_absent(self, other: bytes) -> None:
        assert self.table.slots_of(ids([other])).tolist() == [self.slots.get(other, -1)]

    @invariant()
    def agree(self) -> None:
        known = sorted(self.slots)
        assert self.table.slots_of(ids(known)).tolist() == [self.slots[name] for name in known]
        assert all(self.table.id_of(self.slots[name]) == name for name in known)
        assert int((self.table.arrays.length > 0).sum()) == len(known)


TestIdsAgainstDict = IdsAgainstDict.TestCase
TestIdsAgainstDict.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_text_is_found_by_its_utf8_bytes() -> None:
    table = IdTable(4)
    table.insert(np.array([2]), ["smørrebrød".encode()])
    assert table.slot_of("smørrebrød") == 2
    assert table.slot_of("smorrebrod") == -1


def test_inserting_no_ids_changes_nothing() -> None:
    table = IdTable(4)
    table.insert(np.zeros(0, np.int64), [])
    assert table.slots_of(ids(["a"])).tolist() == [-1]


def test_garbage_is_left_behind_when_the_arena_is_made_anew() -> None:
    table = IdTable(4)
    for k in range(200):
        table.make_room(4, 50)
        table.insert(np.array([0]), [b"%050d" % k])
        if k < 199:
            remove(table.arrays, 0)
    assert table.id_of(0) == b"%050d" % 199
    assert table.arrays.data.shape[0] < 500
