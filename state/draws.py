"""What is drawn for each event by hash: its random key, and whether it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel, mix


@dataclass(frozen=True, slots=True)
class Draw:
    """Which events are evaluated: a share drawn by hash, or every n-th by position."""

    rate: float = 0.0
    every: int = 0

    def of(self, keys: NDArray[np.uint64], number: int) -> NDArray[np.bool_]:
        """Whether each event is evaluated, by its key or by its place behind event `number`."""
        if self.every:
            drawn: NDArray[np.bool_] = (number + np.arange(len(keys))) % self.every == 0
        else:
            # The low bits of the keys start the random sequences, the high ones draw.
            drawn = (keys >> np.uint64(11)).astype(np.float64) < self.rate * 2.0**53
        return drawn


def event_keys(seed: int, partition: int, offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Random keys of events: functions of (version seed, partition, offset)."""
    keys = np.empty(len(offsets), np.uint64)
    _fill(np.uint64(seed), partition, offsets, keys)
    return keys


@kernel
def _fill(seed: np.uint64, partition: int, offsets: NDArray[np.int64], keys: NDArray[np.uint64]) -> None:
    base = mix(seed ^ mix(np.uint64(partition) + np.uint64(1)))
    for i in range(offsets.shape[0]):
        keys[i] = mix(base + np.uint64(offsets[i]))
