"""The bytes of a row: arrays of a table enter, keys and self-describing values leave, and back.

A value is a sequence of little-endian 32-bit words:

    word    content
    0       format, kind (1 user, 2 item), flags, optimiser (bytes)
    1       dimension, dtype (0: float32) (16 bits each)
    2       number of float32 in the row
    3       entries of history, number of neighbour lists (16 bits each)
    4 5     time of the newest event, seconds since 1970
    6 7     number of the event that last changed the row
    8       events
    9       user: partition it came from; item: serial
    10      user: items ever pushed into the history; item: slot
    11      CRC-32 of the value with this word zero
    12 …    fields; history (serials, then times); for each list: length, serials, weights

Optimiser state is among the fields: embeddings restored without it learn wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.ids import IdArrays, order_keys
from streaming.errors import CorruptRowError
from streaming.kernels import crc32, kernel
from streaming.learners.contract import OPTIMISERS, History, Layout, Neighbours, Rows
from streaming.learners.model import USER, width_of

ROW_FORMAT = 1
HEADER_WORDS = 12
_PART = 1024  # rows encoded at a time: some hundred kB, which the processor's cache holds
_PREFIX = {1: b"u", 2: b"i"}


class RowArrays(NamedTuple):
    """All that the rows of one kind consist of."""

    rows: Rows
    bits: NDArray[np.uint32]  # (capacity, stride) the bits of rows.floats
    history: History  # with no column for items
    neighbours: Neighbours  # with no list for users
    label: NDArray[np.int32]  # word 9
    place: NDArray[np.int32]  # word 10 of items; users have history.pushed


@kernel
def _history_entries(arrays: RowArrays, slot: int) -> int:
    return int(min(np.int64(arrays.history.pushed[slot]), arrays.history.serial.shape[1]))


@kernel
def row_words(arrays: RowArrays, width: int, slot: int) -> int:
    """Length of a row's value in words."""
    words = HEADER_WORDS + width + 2 * _history_entries(arrays, slot)
    for k_list in range(arrays.neighbours.length.shape[0]):
        words += 1 + 2 * arrays.neighbours.length[k_list, slot]
    return words


@kernel
def _encode_row(
    arrays: RowArrays, head: NDArray[np.uint32], width: int, slot: int, words: NDArray[np.uint32]
) -> None:
    rows = arrays.rows
    kept = _history_entries(arrays, slot)
    lists = arrays.neighbours.length.shape[0]
    words[0], words[1], words[2] = head[0], head[1], width
    words[3] = kept | (lists << 16)
    words[4], words[5] = (
        np.uint32(rows.seen[slot] & 0xFFFFFFFF),
        np.uint32((rows.seen[slot] >> 32) & 0xFFFFFFFF),
    )
    words[6], words[7] = np.uint32(rows.touched[slot] & 0xFFFFFFFF), np.uint32(rows.touched[slot] >> 32)
    words[8] = rows.events[slot]
    words[9] = arrays.label[slot]
    words[10] = arrays.history.pushed[slot] if arrays.history.pushed.shape[0] > 0 else arrays.place[slot]
    words[11] = 0
    at = HEADER_WORDS
    for k in range(width):
        words[at + k] = arrays.bits[slot, k]
    at += width
    for k in range(kept):
        words[at + k] = arrays.history.serial[slot, k]
        words[at + kept + k] = arrays.history.time[slot, k]
    at += 2 * kept
    for k_list in range(lists):
        n = arrays.neighbours.length[k_list, slot]
        words[at] = n
        weight = arrays.neighbours.weight[k_list, slot].view(np.uint32)
        for k in range(n):
            words[at + 1 + k] = arrays.neighbours.serial[k_list, slot, k]
            words[at + 1 + n + k] = weight[k]
        at += 1 + 2 * n


@kernel
def _encode(
    arrays: RowArrays,
    ids: IdArrays,
    head: NDArray[np.uint32],
    prefix: int,
    width: int,
    slots: NDArray[np.int64],
    at: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> None:
    """Row i: key at out[at[i, 0]:at[i, 1]], value at out[at[i, 2]:at[i + 1, 0]]."""
    words = out.view(np.uint32)
    for i in range(slots.shape[0]):
        slot = slots[i]
        key = at[i, 0]
        out[key] = prefix
        for k in range(ids.length[slot]):
            out[key + 1 + k] = ids.data[ids.start[slot] + k]
        first, last = at[i, 2], at[i + 1, 0]
        value = words[first // 4 : last // 4]
        _encode_row(arrays, head, width, slot, value)
        value[11] = crc32(out, first, last)


@kernel
def _places(
    arrays: RowArrays, ids: IdArrays, width: int, slots: NDArray[np.int64], at: NDArray[np.int64]
) -> int:
    end = 0
    for i in range(slots.shape[0]):
        at[i, 0] = end
        at[i, 1] = end + 1 + ids.length[slots[i]]
        at[i, 2] = (at[i, 1] + 3) // 4 * 4
        end = at[i, 2] + 4 * row_words(arrays, width, slots[i])
    at[slots.shape[0], 0] = end
    return end


@kernel
def _decode(
    arrays: RowArrays,
    head: NDArray[np.uint32],
    width: int,
    data: NDArray[np.uint8],
    start: NDArray[np.int64],
    slots: NDArray[np.int64],
) -> int:
    """Fill rows from values; returns the index of the first value that is not such a row, else -1."""
    words = data.view(np.uint32)
    for i in range(slots.shape[0]):
        slot = slots[i]
        value = words[start[i] // 4 : start[i + 1] // 4]
        if value.shape[0] < HEADER_WORDS + width:
            return i
        crc, value[11] = value[11], 0
        if crc != crc32(data, start[i], start[i + 1]):
            return i
        kept, lists = value[3] & 0xFFFF, value[3] >> 16
        if (
            value[0] != head[0]
            or value[1] != head[1]
            or value[2] != width
            or kept > arrays.history.serial.shape[1]
            or lists != arrays.neighbours.length.shape[0]
        ):
            return i
        rows = arrays.rows
        rows.seen[slot] = np.int64(value[4]) | (np.int64(value[5]) << 32)
        rows.touched[slot] = np.int64(value[6]) | (np.int64(value[7]) << 32)
        rows.events[slot] = value[8]
        arrays.label[slot] = np.int32(value[9])
        if arrays.history.pushed.shape[0] > 0:
            arrays.history.pushed[slot] = value[10]
        else:
            arrays.place[slot] = np.int32(value[10])
        at = HEADER_WORDS
        for k in range(width):
            arrays.bits[slot, k] = value[at + k]
        at += width
        for k in range(kept):
            arrays.history.serial[slot, k] = np.int32(value[at + k])
            arrays.history.time[slot, k] = value[at + kept + k]
        at += 2 * kept
        for k_list in range(lists):
            n = np.int64(value[at])
            arrays.neighbours.length[k_list, slot] = n
            weight = arrays.neighbours.weight[k_list, slot].view(np.uint32)
            for k in range(n):
                arrays.neighbours.serial[k_list, slot, k] = np.int32(value[at + 1 + k])
                weight[k] = value[at + 1 + n + k]
            at += 1 + 2 * n
    return -1


def seen_in(value: bytes) -> int:
    """Time of the newest event of a row, from its bytes."""
    return int.from_bytes(value[16:24], "little", signed=True)


def touched_in(value: bytes) -> int:
    """Number of the event that changed a row last, from its bytes."""
    return int.from_bytes(value[24:32], "little", signed=True)


class RowCodec:
    """Bytes of the rows of one kind under one layout."""

    def __init__(self, kind: int, layout: Layout) -> None:
        fields = layout.user if kind == USER else layout.item
        dimension = next((f.width for f in fields if f.name == "vector"), 0)
        self.kind = kind
        self.width = width_of(fields)
        optimiser = OPTIMISERS.index(layout.optimiser)
        self._head = np.array([ROW_FORMAT | kind << 8 | optimiser << 24, dimension], np.uint32)

    def encode(
        self, arrays: RowArrays, ids: IdArrays, slots: NDArray[np.int64]
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) of each slot, about in the order of the keys, in which RocksDB takes them fastest."""
        order = np.zeros(len(slots), np.uint64)
        order_keys(ids, slots, order)
        slots = slots[np.argsort(order)]
        for first in range(0, len(slots), _PART):
            part = slots[first : first + _PART]
            at = np.zeros((len(part) + 1, 3), np.int64)
            out = np.zeros(_places(arrays, ids, self.width, part, at), np.uint8)
            _encode(arrays, ids, self._head, _PREFIX[self.kind][0], self.width, part, at, out)
            raw = out.tobytes()
            begins, ends, values = at.T.tolist()
            for begin, end, value, after in zip(begins, ends, values, begins[1:], strict=False):
                yield raw[begin:end], raw[value:after]

    def decode(
        self, arrays: RowArrays, slots: NDArray[np.int64], keys: Sequence[bytes], values: Sequence[bytes]
    ) -> None:
        """Fill the slots from values.

        Raises:
            CorruptRowError: a value is not a whole row of this layout; the message names its key.
        """
        start = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(v) for v in values], out=start[1:])
        if any(len(v) % 4 for v in values):
            bad = next(i for i, v in enumerate(values) if len(v) % 4)
        else:
            data = np.frombuffer(bytearray().join(values), np.uint8)
            bad = _decode(arrays, self._head, self.width, data, start, slots)
        if bad >= 0:
            raise CorruptRowError(
                f"row {keys[bad]!r}: its bytes do not fit their checksum or this version's layout "
                f"({len(values[bad])} bytes). Go back to a snapshot with `freshet versions restore`, "
                "or make the store again from its log with `freshet versions rebuild`."
            )
