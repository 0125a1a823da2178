"""Where a version's item rows lie, also while they change, and what a bias in them is worth at an event."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streaming.learners.decay import fade_period


class Items(NamedTuple):
    """Rows of the items as they are now; another process may be changing them."""

    floats: NDArray[np.float32]  # (capacity, stride)
    touched: NDArray[np.int64]  # (capacity,) number of the event that last changed the row
    serial: NDArray[np.int32]  # (capacity,) another serial is another item
    events: NDArray[np.uint32]  # (capacity,) events of the item, which decide between equal scores
    known: int  # items stand in slots 0 … known - 1
    number: int  # events up to here are learned


class Columns(NamedTuple):
    """Where vector and bias lie in a row, and what a stored bias is worth (decay.half_life_scale)."""

    vector: int
    bias: int  # -1 for none
    start: int  # event at which stored biases were last brought back to the scale 1
    end: int  # event at which they will be
    before: np.float32  # factor of a row not touched since `start`
    after: np.float32  # factor of a row touched at `end` or later
    scale: np.float32  # factor to the true value now


class ItemSource(Protocol):
    """Where the rows of a version's items lie.

    Attributes:
        dimension: floats in the vector.
        vector: its first column.
        bias: column of the bias, -1 for none.
        bias_half_life: of the learner; inf where the bias does not decay.
    """

    dimension: int
    vector: int
    bias: int
    bias_half_life: float

    def items(self) -> Items:
        """The arrays that are in use now; read-only ones will do."""
        ...


def scale_of(source: ItemSource, number: int, start: int) -> float:
    """Factor at event `number` from a bias stored at the scale of event `start` to its true value."""
    half_life = source.bias_half_life
    return 1.0 if np.isinf(half_life) else float(2.0 ** (-(number - start) / half_life))


def columns_of(source: ItemSource, number: int) -> Columns:
    """Where vector and bias lie, and what a stored bias is worth at event `number`."""
    half_life = source.bias_half_life
    if np.isinf(half_life) or source.bias < 0:
        never = np.iinfo(np.int64).max
        one = np.float32(1.0)
        return Columns(source.vector, source.bias, 0, int(never), one, one, one)
    period = fade_period(half_life)
    start = number - number % period  # the last event at which biases were brought back to the scale 1
    before = np.float32(2.0 ** (-period / half_life))
    scale = np.float32(scale_of(source, number, start))
    return Columns(source.vector, source.bias, start, start + period, before, np.float32(1.0) / before, scale)
