"""Sums over vectors, in SIMD lanes: arrays enter, one number leaves.

A sum may only be reordered where the compiler has no choice that hangs on where arrays lie in memory.
Loops that also write get a second, scalar version for arrays that overlap, chosen at run time by their
addresses; with reordering the two differ in the last bits, and the same events would no longer give the
same bytes. So sums stand here by themselves, in loops that only read, and nothing else is reordered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import reduction


@reduction
def dot(rows: NDArray[np.float32], slot: int, vector: NDArray[np.float32]) -> np.float32:
    """Inner product of a row's first floats with a vector."""
    total = np.float32(0.0)
    for k in range(vector.shape[0]):
        total += rows[slot, k] * vector[k]
    return total


@reduction
def dot_rows(a: NDArray[np.float32], i: int, b: NDArray[np.float32], j: int, d: int) -> np.float32:
    """Inner product of the first d floats of two rows."""
    total = np.float32(0.0)
    for k in range(d):
        total += a[i, k] * b[j, k]
    return total


@reduction
def dot_of(a: NDArray[np.float32], b: NDArray[np.float32]) -> np.float32:
    """Inner product of two vectors."""
    total = np.float32(0.0)
    for k in range(a.shape[0]):
        total += a[k] * b[k]
    return total


@reduction
def sum_of(values: NDArray[np.float32], n: int) -> np.float32:
    """Sum of the first n values."""
    total = np.float32(0.0)
    for k in range(n):
        total += values[k]
    return total


@reduction
def column_sum(rows: NDArray[np.float32], column: int, n: int) -> float:
    """Sum of what is above 0 in a column of the first n rows."""
    total = 0.0
    for j in range(n):
        total += np.float64(max(rows[j, column], np.float32(0.0)))
    return total
