"""Fields that decay by event number, at no cost to the rows that a step leaves alone."""

from __future__ import annotations

import numpy as np

from streaming.kernels import inner, kernel
from streaming.learners.contract import Rows, touch


@kernel
def half_life_scale(number: int, half_life: float) -> float:
    """Factor from a stored value of a decaying field to its true value after event `number`.

    A decaying field f is kept as f · 2^(n / half_life), so that a step costs nothing for the rows
    that it leaves alone; `fade` keeps the factor within 2^±16.
    """
    if np.isinf(half_life):
        return 1.0
    return float(2.0 ** (-(number % fade_period(half_life)) / half_life))


@kernel
def fade_period(half_life: float) -> int:
    """Events between two calls of `fade`: 16 half-lives."""
    return max(1, int(16.0 * half_life))


@inner
def fade(rows: Rows, column: int, known: int, number: int, half_life: float) -> None:
    """At fixed event numbers, bring a decaying field of all rows back to the scale 1."""
    if np.isinf(half_life) or number % fade_period(half_life) != 0:
        return
    factor = np.float32(2.0 ** (-fade_period(half_life) / half_life))
    for slot in range(known):
        touch(rows.touched, slot, number)
        rows.floats[slot, column] *= factor
