"""Numbers of users and items enter, decoded events leave: a stream without a file, for measurements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streaming.events import EventBatch, Ids

START_S = 1_700_000_000


def numbered_ids(word: str, numbers: NDArray[np.int64], width: int = 7) -> Ids:
    """Ids such as user-0000012.

    >>> numbered_ids("user-", np.array([3, 12]))[1]
    'user-0000012'
    """
    powers = 10 ** np.arange(width - 1, -1, -1)
    digits = (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)  # (N, width)
    words = np.broadcast_to(np.frombuffer(word.encode(), np.uint8), (len(numbers), len(word)))
    data = np.concatenate([words, digits], axis=1)
    end = np.arange(1, len(numbers) + 1) * data.shape[1]
    return Ids(data.ravel(), end - data.shape[1], end)


def batch_of(
    user: NDArray[np.int64], item: NDArray[np.int64], value: NDArray[np.float32] | None = None, first: int = 0
) -> EventBatch:
    """Events of weight 1, one a second, with offsets from `first` on."""
    offsets = np.arange(first, first + len(user))
    ones = np.ones(len(user), np.float32)
    return EventBatch(
        users=numbered_ids("user-", user),
        items=numbered_ids("item-", item),
        offsets=offsets,
        ts=(START_S + offsets) * 1_000_000,
        values=ones if value is None else value,
        weights=ones,
    )
