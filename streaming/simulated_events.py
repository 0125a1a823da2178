"""Simulated events and items: numbers enter, ids, JSON lines and a worker's batches leave."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.events import EventBatch, Ids
from streaming.kernels import kernel

TYPES = ("view", "cart", "purchase")

_WIDTH = 6  # digits of an id, more where they do not suffice


def _text(words: str) -> NDArray[np.uint8]:
    return np.frombuffer(words.encode(), np.uint8)


_USER, _ITEM, _CATEGORY = _text("user-"), _text("item-"), _text("category-")
_LINE_USER, _LINE_ITEM, _LINE_TS = _text('{"user":"user-'), _text('","item":"item-'), _text('","ts":')
_LINE_TYPE, _LINE_VALUE, _LINE_END = _text(',"type":"'), _text('","value":'), _text("}\n")
_TYPE_NAMES = _text("".join(TYPES))
_TYPE_ENDS = np.cumsum([0, *(len(name) for name in TYPES)])
_LINE_MOST = 160  # bytes of the longest line


@kernel
def _put(out: NDArray[np.uint8], at: int, words: NDArray[np.uint8]) -> int:
    """Write text at a position; returns the next position."""
    for k in range(words.shape[0]):
        out[at + k] = words[k]
    return at + int(words.shape[0])


@kernel
def _put_number(out: NDArray[np.uint8], at: int, number: int, width: int) -> int:
    """Write a number ≥ 0 with at least `width` digits; returns the next position."""
    digits = 1
    rest = number // 10
    while rest > 0:
        digits += 1
        rest //= 10
    end = at + max(digits, width)
    rest = number
    for place in range(end - 1, at - 1, -1):
        out[place] = 48 + rest % 10
        rest //= 10
    return end


@kernel
def _put_ids(
    prefix: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    width: int,
    out: NDArray[np.uint8],
    end: NDArray[np.int64],
) -> None:
    """Write "prefix" + number for each number, one after the other, and where each ends."""
    at = 0
    for n in range(numbers.shape[0]):
        at = _put_number(out, _put(out, at, prefix), numbers[n], width)
        end[n] = at


@kernel
def _put_lines(
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    ts: NDArray[np.int64],
    kind: NDArray[np.int8],
    value: NDArray[np.float32],
    out: NDArray[np.uint8],
) -> int:
    """Write the events as JSON lines; returns the number of bytes."""
    at = 0
    for n in range(user.shape[0]):
        at = _put_number(out, _put(out, at, _LINE_USER), user[n], _WIDTH)
        at = _put_number(out, _put(out, at, _LINE_ITEM), item[n], _WIDTH)
        at = _put_number(out, _put(out, at, _LINE_TS), ts[n], 1)
        word = _TYPE_NAMES[_TYPE_ENDS[kind[n]] : _TYPE_ENDS[kind[n] + 1]]
        at = _put(out, _put(out, at, _LINE_TYPE), word)
        at = _put_number(out, _put(out, at, _LINE_VALUE), int(value[n]), 1)
        at = _put(out, at, _LINE_END)
    return at


def _ids(prefix: NDArray[np.uint8], numbers: NDArray[np.int64], width: int = _WIDTH) -> Ids:
    """Numbers as ids, such as item-000123."""
    out = np.empty(numbers.shape[0] * (prefix.shape[0] + 19), np.uint8)
    end = np.empty(numbers.shape[0], np.int64)
    _put_ids(prefix, numbers, width, out, end)
    start = np.zeros_like(end)
    start[1:] = end[:-1]
    return Ids(out[: end[-1] if end.shape[0] else 0], start, end)


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """N events in order, with the truth about each.

    Attributes:
        first: number of the first event, counted from the start of the stream.
        ts: simulated time in microseconds since 1970, strictly ascending.
        value: a rating, 1 to 5, higher where the item fits the user's taste.
        type: index into TYPES.
        oracle_rank: live items with a greater true probability, plus half of those with an equal one.
        probability: true probability of the chosen item at that moment.
    """

    first: int
    user: NDArray[np.int64]  # (N,)
    item: NDArray[np.int64]  # (N,)
    ts: NDArray[np.int64]  # (N,)
    value: NDArray[np.float32]  # (N,)
    type: NDArray[np.int8]  # (N,)
    oracle_rank: NDArray[np.float32]  # (N,)
    probability: NDArray[np.float32]  # (N,)

    def __len__(self) -> int:
        return int(self.user.shape[0])

    def user_ids(self) -> Ids:
        """Ids such as user-000123."""
        return _ids(_USER, self.user)

    def item_ids(self) -> Ids:
        """Ids such as item-000123."""
        return _ids(_ITEM, self.item)

    def type_names(self) -> NDArray[np.str_]:
        """The words for `type`."""
        return np.array(TYPES)[self.type]

    def to_events(self, first_offset: int | None = None) -> EventBatch:
        """The events as a worker gets them, all with weight 1.

        Args:
            first_offset: offset of the first event; its number in the stream when None.
        """
        first = self.first if first_offset is None else first_offset
        offsets = np.arange(first, first + len(self), dtype=np.int64)
        weights = np.ones(len(self), np.float32)
        return EventBatch(self.user_ids(), self.item_ids(), offsets, self.ts, self.value, weights)

    def json_lines(self) -> bytes:
        """The events as JSON lines: user, item, ts (microseconds), type, value."""
        out = np.empty(len(self) * _LINE_MOST, np.uint8)
        length = _put_lines(self.user, self.item, self.ts, self.type, self.value, out)
        return out[:length].tobytes()

    def oracle_hit_rate(self, k: int = 10) -> float:
        """Best possible hit rate at k on these events: that of one who knows all true probabilities."""
        return float(np.mean(self.oracle_rank < k)) if len(self) else float("nan")


@dataclass(frozen=True, slots=True)
class SimulatedItems:
    """N items in order of birth: what a catalogue would say, and the truth.

    Attributes:
        category: number of the category.
        features: content features, the vector hidden by noise.
        vectors: true item vectors, unit length.
    """

    item: NDArray[np.int64]  # (N,)
    category: NDArray[np.int64]  # (N,)
    features: NDArray[np.float32]  # (N, d)
    vectors: NDArray[np.float32]  # (N, d)

    def ids(self) -> Ids:
        """Ids such as item-000123."""
        return _ids(_ITEM, self.item)

    def categories(self) -> Ids:
        """Names such as category-07."""
        return _ids(_CATEGORY, self.category, 2)
