"""What the tables of users and items share: ids never seen enter, rows that begin leave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from state.ids import IdArrays
from streaming.kernels import hash_bytes, kernel
from streaming.learners.contract import History, Rows
from streaming.learners.model import initialise


@kernel
def begin_rows(
    rows: Rows,
    history: History,
    label: NDArray[np.int32],
    ids: IdArrays,
    slots: NDArray[np.int64],
    fill: NDArray[np.float32],
    sigma: NDArray[np.float32],
    seed: np.uint64,
    kind: int,
    partition: int,
) -> None:
    """Rows of ids never seen: each a function of seed, kind and id, its history empty.

    Args:
        kind: USER or ITEM.
        partition: what `label` says of them.
    """
    for i in range(slots.shape[0]):
        slot = slots[i]
        id_hash = hash_bytes(ids.data, ids.start[slot], ids.start[slot] + ids.length[slot])
        initialise(rows, slot, fill, sigma, seed, kind, id_hash)
        history.pushed[slot] = 0
        label[slot] = partition
