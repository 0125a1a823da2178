"""Sessions: times of a user's last items enter, how many of them belong to the present session leaves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner
from streaming.learners.contract import Model
from streaming.learners.pooling import gap_bucket


@inner
def ends_before(time: int, earlier: int, idle_s: int) -> bool:
    """Whether a pause from `earlier` to `time` ends a session; never where idle_s is 0."""
    return idle_s > 0 and time - earlier > idle_s


@inner
def last_items(
    model: Model,
    user: int,
    time: int,
    idle_s: int,
    slots: NDArray[np.int32],
    gaps: NDArray[np.uint8],
) -> int:
    """Items of a user's present session, the latest first.

    Args:
        user: slot of the user's row.
        time: of the event that is to be predicted, seconds.
        idle_s: a longer pause ends a session; 0: one running history.
        slots: (L,) takes the items' slots, −1 where there is none or its row is gone.
        gaps: (L,) takes the bucket of the time since each was had.

    Returns:
        How many places were filled, those of items that are gone included.
    """
    history = model.history
    slots[:] = -1
    gaps[:] = 0
    width = history.serial.shape[1]
    pushed = int(history.pushed[user])
    later = time
    n = int(min(pushed, width, slots.shape[0]))
    for k in range(n):
        column = (pushed - 1 - k) % width
        had = int(history.time[user, column])
        if ends_before(later, had, idle_s):
            return k
        slots[k] = model.slot_of[history.serial[user, column]]
        gaps[k] = gap_bucket(time - had)
        later = had
    return n


def cut(times: NDArray[np.int64], idle_s: int) -> list[slice]:
    """Sessions of one user.

    Args:
        times: (n,) of the user's events, in order, seconds.
        idle_s: a longer pause ends a session.

    >>> cut(np.array([0, 60, 4000, 4100]), 1800)
    [slice(0, 2, None), slice(2, 4, None)]
    """
    if not len(times):
        return []
    starts = [0, *(np.flatnonzero(np.diff(times) > idle_s) + 1).tolist() * (idle_s > 0)]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(times)], strict=True)]
