"""The standard stream S: a million JSON events of about 90 bytes, as a file.

100,000 users (Zipf 0.8), 20,000 items (Zipf 1.0).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

EVENTS, USERS, ITEMS = 1_000_000, 100_000, 20_000


def zipf(rng: np.random.Generator, ids: int, exponent: float, size: int) -> NDArray[np.int64]:
    """Ids 0 … ids - 1, whose frequencies follow Zipf's law in a random order."""
    share = 1.0 / np.arange(1, ids + 1) ** exponent
    drawn = np.searchsorted(np.cumsum(share / share.sum()), rng.random(size))
    return rng.permutation(ids)[np.minimum(drawn, ids - 1)]


def stream_s(events: int = EVENTS, users: int = USERS, items: int = ITEMS, seed: int = 1) -> Path:
    """Path of the stream's file, written where it is not there yet."""
    path = Path(tempfile.gettempdir()) / f"freshet-stream-{events}-{users}-{items}-{seed}.jsonl"
    if not path.exists():
        rng = np.random.default_rng(seed)
        user, item = zipf(rng, users, 0.8, events), zipf(rng, items, 1.0, events)
        ts = 1_700_000_000_000 + np.cumsum(rng.integers(0, 1000, events))
        half = path.with_suffix(".half")
        with half.open("w") as file:
            file.writelines(
                f'{{"user":"user-{u:06d}","item":"item-{i:05d}","ts":{t},"type":"click","value":1.0}}\n'
                for u, i, t in zip(user.tolist(), item.tolist(), ts.tolist(), strict=True)
            )
        half.rename(path)
    return path
