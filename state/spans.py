"""Runs of numbers of any length, one for each slot, in one array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel


class Spans:
    """Slot → a span of one array; what is replaced is left behind until half of it is garbage."""

    def __init__(self, kind: Any) -> None:
        self.first = np.zeros(0, np.int64)
        self.number = np.zeros(0, np.int32)
        self.data: NDArray[Any] = np.zeros(1024, kind)
        self._used = self._garbage = 0

    def make_room(self, slots: int) -> None:
        """Room for so many slots; new ones have an empty span."""
        self.first = longer(self.first, slots)
        self.number = longer(self.number, slots)

    def put(self, slots: NDArray[np.int64], lengths: NDArray[np.int32], flat: NDArray[Any]) -> None:
        """Give each slot its span, these being one behind the other in `flat`."""
        total = len(flat)
        self._garbage += int(self.number[slots].sum())
        self.number[slots] = 0
        if self._used + total > len(self.data):
            self._compact(total)
        self.first[slots] = self._used + np.cumsum(lengths) - lengths
        self.number[slots] = lengths
        self.data[self._used : self._used + total] = flat
        self._used += total

    def of(self, slot: int) -> NDArray[Any]:
        """The span of a slot; good until the next `put`."""
        first = self.first[slot]
        span: NDArray[Any] = self.data[first : first + self.number[slot]]
        return span

    def _compact(self, more: int) -> None:
        """Room for `more`, without the garbage."""
        kept = np.flatnonzero(self.number)
        lengths = self.number[kept].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        used = int(lengths.sum())
        data = np.zeros(max(1024, 2 * (used + more)), self.data.dtype)
        data[:used] = self.data[np.repeat(self.first[kept] - starts, lengths) + np.arange(used)]
        self.first[kept] = starts
        self.data, self._used, self._garbage = data, used, 0


@kernel
def having(
    first: NDArray[np.int64],
    number: NDArray[np.int32],
    codes: NDArray[np.int32],
    places: NDArray[np.int32],
    code: int,
    out: NDArray[np.bool_],
) -> None:
    """out[i] = whether the codes of places[i] (-1: none) hold `code`."""
    for i in range(places.shape[0]):
        out[i] = False
        place = places[i]
        if place >= 0:
            for k in range(first[place], first[place] + number[place]):
                if codes[k] == code:
                    out[i] = True
                    break


def longer(array: NDArray[Any], size: int) -> NDArray[Any]:
    """A copy with room for `size` entries, where there is less; what is new is zero."""
    if size <= len(array):
        return array
    new = np.zeros(size, array.dtype)
    new[: len(array)] = array
    return new
