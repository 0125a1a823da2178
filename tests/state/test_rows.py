"""Bytes of rows: round trip, refusal of damage, and an independent reader of the documented form."""

from __future__ import annotations

import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.ids import IdTable
from state.learned import Learned
from state.memory import MemoryStore
from state.rows import RowArrays, RowCodec
from state.spec import new_spec
from streaming.errors import CorruptRowError
from streaming.learners.contract import Field, History, Layout, Neighbours
from streaming.learners.model import ITEM, USER, new_rows
from tests.state.streams import batch, everything, lively, teach

USERS = Layout(user=(Field("vector", 3), Field("state")), item=(), history=4, optimiser="adagrad")
ITEMS = Layout(user=(), item=(Field("vector", 2), Field("bias")), neighbours=(2, 5), history=3)


def arrays_for(kind: int, size: int) -> RowArrays:
    layout = USERS if kind == USER else ITEMS
    rows = new_rows(layout.user if kind == USER else layout.item, size)
    width = layout.history if kind == USER else 0
    lists, entries = layout.neighbours if kind == ITEM else (0, 0)
    return RowArrays(
        rows,
        rows.floats.view(np.uint32),
        History(
            np.zeros((size if width else 0, width), np.int32),
            np.zeros((size if width else 0, width), np.uint32),
            np.zeros(size if width else 0, np.uint32),
        ),
        Neighbours(
            np.zeros((lists, size, entries), np.int32),
            np.zeros((lists, size, entries), np.float32),
            np.zeros((lists, size), np.int32),
        ),
        np.zeros(size, np.int32),
        np.arange(size, dtype=np.int32),
    )


def randomly_filled(kind: int, size: int, seed: int) -> RowArrays:
    """Any bits at all in the floats (NaNs with payloads among them), empty, part-filled and turned rings."""
    random = np.random.default_rng(seed)
    arrays = arrays_for(kind, size)
    arrays.bits[:] = random.integers(0, 2**32, arrays.bits.shape, np.uint64).astype(np.uint32)
    arrays.rows.events[:] = random.integers(0, 2**32, size, np.uint64)
    arrays.rows.seen[:] = random.integers(0, 2**62, size)
    arrays.rows.touched[:] = random.integers(0, 2**62, size)
    arrays.label[:] = random.integers(0, 2**31, size)
    arrays.history.serial[:] = random.integers(0, 2**31, arrays.history.serial.shape)
    arrays.history.time[:] = random.integers(0, 2**32, arrays.history.time.shape)
    arrays.history.pushed[:] = random.choice([0, 1, 3, 4, 5, 2**32 - 1], arrays.history.pushed.shape)
    arrays.neighbours.length[:] = random.integers(0, 6, arrays.neighbours.length.shape)
    arrays.neighbours.serial[:] = random.integers(0, 2**31, arrays.neighbours.serial.shape)
    arrays.neighbours.weight.view(np.uint32)[:] = random.integers(0, 2**32, arrays.neighbours.weight.shape)
    return arrays


def named(size: int) -> IdTable:
    table = IdTable(size)
    table.insert(np.arange(size), [f"id{k}{'x' * k}".encode() for k in range(size)])
    return table


GOLDEN_USER = (
    "0101000203000000040000000200000000f15365000000002a00000000000000"
    "0700000003000000020000004cc366a60000803f000000c00000003f00004040"
    "05000000090000000b0000000c000000"
)
GOLDEN_ITEM = (
    "0102000002000000030000000000020005000000000000000000000000010000"
    "0100000011000000000000001fb092420000803e00008040000080bf02000000"
    "08000000060000000000c03f0000003f00000000"
)


class Read(NamedTuple):
    kind: int
    optimiser: int
    dimension: int
    floats: tuple[float, ...]
    seen: int
    touched: int
    events: int
    label: int
    place: int
    history: list[tuple[int, int]]
    lists: list[list[tuple[int, float]]]


def independently_read(value: bytes) -> Read:
    """A row, read by the documentation of `state/rows.py` alone."""
    form, kind, _, optimiser, dimension, dtype, width, kept, lists = struct.unpack_from("<4B2HI2H", value)
    seen, touched, events, label, place, crc = struct.unpack_from("<qqIIII", value, 16)
    assert (form, dtype) == (1, 0)
    assert crc == zlib.crc32(value[:44] + b"\0\0\0\0" + value[48:])
    floats = struct.unpack_from(f"<{width}f", value, 48)
    at = 48 + 4 * width
    serials, times = (
        struct.unpack_from(f"<{kept}i", value, at),
        struct.unpack_from(f"<{kept}I", value, at + 4 * kept),
    )
    at += 8 * kept
    found = []
    for _ in range(lists):
        (n,) = struct.unpack_from("<I", value, at)
        items = struct.unpack_from(f"<{n}i", value, at + 4)
        found.append(list(zip(items, struct.unpack_from(f"<{n}f", value, at + 4 + 4 * n), strict=True)))
        at += 4 + 8 * n
    assert at == len(value)
    history = list(zip(serials, times, strict=True))
    return Read(kind, optimiser, dimension, floats, seen, touched, events, label, place, history, found)


@settings(max_examples=40)
@given(st.sampled_from([USER, ITEM]), st.integers(0, 2**32 - 1))
def test_rows_come_back_bit_for_bit(kind: int, seed: int) -> None:
    size = 9
    before, after = randomly_filled(kind, size, seed), arrays_for(kind, size)
    codec = RowCodec(kind, USERS if kind == USER else ITEMS)
    slots = np.random.default_rng(seed).permutation(size)
    ids = named(size)
    pairs = list(codec.encode(before, ids.arrays, slots))
    assert [key for key, _ in pairs] == sorted(key for key, _ in pairs)
    found = np.array([ids.slot_of(key[1:].decode()) for key, _ in pairs])
    assert sorted(found) == sorted(slots)
    codec.decode(after, found, [k for k, _ in pairs], [v for _, v in pairs])
    width = codec.width
    np.testing.assert_array_equal(before.bits[:, :width], after.bits[:, :width])
    for name in ("events", "seen", "touched"):
        np.testing.assert_array_equal(getattr(before.rows, name), getattr(after.rows, name))
    np.testing.assert_array_equal(before.label, after.label)
    np.testing.assert_array_equal(before.history.pushed, after.history.pushed)
    for slot in range(size):
        if kind == USER:
            kept = min(int(before.history.pushed[slot]), 4)
            np.testing.assert_array_equal(
                before.history.serial[slot, :kept], after.history.serial[slot, :kept]
            )
            np.testing.assert_array_equal(before.history.time[slot, :kept], after.history.time[slot, :kept])
        for k in range(before.neighbours.length.shape[0]):
            n = int(before.neighbours.length[k, slot])
            np.testing.assert_array_equal(
                before.neighbours.serial[k, slot, :n], after.neighbours.serial[k, slot, :n]
            )
            np.testing.assert_array_equal(
                before.neighbours.weight[k, slot, :n].view(np.uint32),
                after.neighbours.weight[k, slot, :n].view(np.uint32),
            )
    again = list(codec.encode(after, named(size).arrays, slots))
    assert again == pairs


@pytest.mark.parametrize("kind", [USER, ITEM])
def test_every_flip_of_a_byte_is_refused(kind: int) -> None:
    codec = RowCodec(kind, USERS if kind == USER else ITEMS)
    [(key, value)] = codec.encode(randomly_filled(kind, 1, 4), named(1).arrays, np.zeros(1, np.int64))
    target = arrays_for(kind, 1)
    for place in range(len(value)):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(value)
            damaged[place] ^= flip
            with pytest.raises(CorruptRowError):
                codec.decode(target, np.zeros(1, np.int64), [key], [bytes(damaged)])


@pytest.mark.parametrize("kind", [USER, ITEM])
def test_every_shortened_or_lengthened_value_is_refused(kind: int) -> None:
    codec = RowCodec(kind, USERS if kind == USER else ITEMS)
    [(key, value)] = codec.encode(randomly_filled(kind, 1, 4), named(1).arrays, np.zeros(1, np.int64))
    target = arrays_for(kind, 1)
    for other in [value[:n] for n in range(len(value))] + [value + b"\0", value + b"\0" * 4]:
        with pytest.raises(CorruptRowError, match="id0"):
            codec.decode(target, np.zeros(1, np.int64), [key], [other])


def test_damage_in_one_of_many_rows_names_its_key() -> None:
    codec = RowCodec(USER, USERS)
    pairs = list(codec.encode(randomly_filled(USER, 5, 1), named(5).arrays, np.arange(5)))
    values = [v for _, v in pairs]
    values[3] = values[3][:-1] + bytes([values[3][-1] ^ 1])
    with pytest.raises(CorruptRowError, match="id3xxx"):
        codec.decode(arrays_for(USER, 5), np.arange(5), [k for k, _ in pairs], values)


def test_row_of_another_layout_is_refused() -> None:
    pairs = list(RowCodec(USER, USERS).encode(randomly_filled(USER, 1, 1), named(1).arrays, np.arange(1)))
    other = Layout(user=(Field("vector", 4),), item=(), history=4, optimiser="adagrad")
    with pytest.raises(CorruptRowError, match="layout"):
        RowCodec(USER, other).decode(arrays_for(USER, 1), np.arange(1), [pairs[0][0]], [pairs[0][1]])


def test_golden_row_of_a_user_has_these_bytes() -> None:
    """The form is kept by other programs: if this fails, raise ROW_FORMAT and give a migration."""
    arrays = arrays_for(USER, 1)
    arrays.rows.floats[0, :4] = [1.0, -2.0, 0.5, 3.0]
    arrays.rows.events[0], arrays.rows.seen[0], arrays.rows.touched[0] = 7, 1_700_000_000, 42
    arrays.label[0] = 3
    arrays.history.serial[0, :2], arrays.history.time[0, :2], arrays.history.pushed[0] = [5, 9], [11, 12], 2
    [(key, value)] = RowCodec(USER, USERS).encode(arrays, named(1).arrays, np.zeros(1, np.int64))
    assert key == b"uid0"
    assert value.hex() == GOLDEN_USER
    read = independently_read(value)
    assert read == Read(1, 2, 3, (1.0, -2.0, 0.5, 3.0), 1_700_000_000, 42, 7, 3, 2, [(5, 11), (9, 12)], [])


def test_golden_row_of_an_item_has_these_bytes() -> None:
    arrays = arrays_for(ITEM, 1)
    arrays.rows.floats[0, :3] = [0.25, 4.0, -1.0]
    arrays.rows.events[0], arrays.rows.seen[0], arrays.rows.touched[0] = 1, 5, 2**40
    arrays.label[0] = 17
    arrays.neighbours.length[:, 0] = [2, 0]
    arrays.neighbours.serial[0, 0, :2], arrays.neighbours.weight[0, 0, :2] = [8, 6], [1.5, 0.5]
    [(key, value)] = RowCodec(ITEM, ITEMS).encode(arrays, named(1).arrays, np.zeros(1, np.int64))
    assert key == b"iid0"
    assert value.hex() == GOLDEN_ITEM
    read = independently_read(value)
    assert read == Read(2, 0, 2, (0.25, 4.0, -1.0), 5, 2**40, 1, 17, 0, [], [[(8, 1.5), (6, 0.5)], []])


def test_independent_reader_agrees_with_what_was_learned() -> None:
    store: Any = MemoryStore()
    learned = teach(Learned(new_spec("softmax", {"dimension": 4}), store), lively(800), commit=90)
    kept = everything(store)
    users = {k: independently_read(v) for k, v in kept.items() if k.startswith(b"u")}
    items = {k: independently_read(v) for k, v in kept.items() if k.startswith(b"i")}
    assert sorted(r.place for r in items.values()) == list(range(learned.items.count))
    assert sum(r.events for r in users.values()) == sum(r.events for r in items.values()) == 800
    vector = learned.layout.column("user", "vector")
    for key, row in users.items():
        slot = learned.users.ids.slot_of(key[1:].decode())
        np.testing.assert_array_equal(
            np.array(row.floats, np.float32)[vector], learned.users.rows.floats[slot, vector]
        )


def test_ids_of_any_length_are_kept_beside_aligned_values() -> None:
    names = ["a" * n for n in (1, 2, 3, 4, 5, 200)]
    store = MemoryStore()
    teach(Learned(new_spec("popularity", {}), store), batch(names, names), commit=6)
    kept = everything(store)
    assert [k[1:].decode() for k in kept if k[:1] == b"u"] == names
    again = Learned(new_spec("popularity", {}), store)
    assert [again.items.ids.id_of(s).decode() for s in range(6)] == names


@pytest.mark.parametrize("kind", [USER, ITEM])
def test_many_rows_are_the_same_bytes_as_each_alone(kind: int) -> None:
    size = 3 * 8192 + 5  # more than are encoded at a time
    arrays, ids = randomly_filled(kind, size, 1), IdTable(size)
    ids.insert(np.arange(size), [b"%06d" % (7919 * k % 1_000_003) for k in range(size)])
    codec = RowCodec(kind, USERS if kind == USER else ITEMS)
    pairs = list(codec.encode(arrays, ids.arrays, np.arange(size)))
    assert [key for key, _ in pairs] == sorted({key for key, _ in pairs})
    assert len(pairs) == size
    for key, value in pairs[::997]:
        slot = np.array([ids.slot_of(key[1:].decode())])
        assert list(codec.encode(arrays, ids.arrays, slot)) == [(key, value)]
