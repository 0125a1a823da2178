"""Pooled history: a user's row and last items in, the vector h of the user out.

    h = P_u + Σ_k w̃_k V_{i_k},   w̃_k = w_k / (Σ w)^¼,   w_k = a_k g_b

i_1 is the latest item, a_k weighs the position, g_b the time since the item was had. The kernels work on
models whose options, parameters and workspace have the fields of `softmax`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel
from streaming.learners.contract import Event, Model
from streaming.learners.negatives import place_of
from streaming.learners.reductions import dot_of

GAPS = 16  # buckets of the time since an item was had
LAGS, COUNTS = 8, 4  # buckets of the repeat term


class Params(NamedTuple):
    """What all users and items share; each weight with its AdaGrad accumulator."""

    position: NDArray[np.float32]  # (context,) a
    position_square: NDArray[np.float32]  # (context,)
    gap: NDArray[np.float32]  # (GAPS,) g
    gap_square: NDArray[np.float32]  # (GAPS,)
    repeat: NDArray[np.float32]  # (LAGS + COUNTS,) ρ
    repeat_square: NDArray[np.float32]  # (LAGS + COUNTS,)


class Workspace(NamedTuple):
    """What one event needs and the next one overwrites.

    Candidates: the user's last items, each once, the latest first; then the target, where it is not one
    of them; then the negatives, each once.
    """

    slot: NDArray[np.int32]  # (C,) candidates
    share: NDArray[np.float32]  # (C,) times drawn / (N q); 1 for the last items
    score: NDArray[np.float32]  # (C,)
    error: NDArray[np.float32]  # (C,) softmax − onehot
    pooled: NDArray[np.float32]  # (H,) Σ w̃_k over the positions that hold the candidate
    lag: NDArray[np.int32]  # (H,) bucket of ρ_lag
    times: NDArray[np.int32]  # (H,) times among the last items
    place: NDArray[np.int32]  # (context,) candidate at a position, -1 for none
    gap: NDArray[np.int32]  # (context,) bucket of g
    weight: NDArray[np.float32]  # (context,) w̃
    slope: NDArray[np.float32]  # (H,) dh · V
    step: NDArray[np.float32]  # (GAPS or LAGS + COUNTS,) gradients of shared weights
    table: NDArray[np.int32]  # candidates by slot
    user: NDArray[np.float32]  # (d,) h
    gradient: NDArray[np.float32]  # (d,) dh


@kernel
def gap_bucket(seconds: int) -> int:
    """0 where no time has passed, else min(15, 1 + ⌊log2(seconds + 1) / 2⌋), by the exponent of a float.

    >>> [gap_bucket(s) for s in (-5, 0, 1, 2, 3, 14, 15, 86_400, 10**9)]
    [0, 0, 1, 1, 2, 2, 3, 9, 15]
    """
    if seconds <= 0:
        return 0
    exponent = int(np.float64(seconds + 1).view(np.int64) >> 52) - 1023
    return min(GAPS - 1, 1 + exponent // 2)


@kernel
def lag_bucket(lag: int) -> int:
    """Bucket of a lag, 1 for the latest item: 1, 2, 3, 4, 5–6, 7–10, 11–20, more.

    >>> [lag_bucket(n) for n in (1, 2, 3, 4, 5, 6, 7, 10, 11, 20, 21)]
    [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7]
    """
    if lag <= 4:
        return lag - 1
    return 4 + (lag > 6) + (lag > 10) + (lag > 20)


@inner
def gather(model: Model, event: Event) -> int:
    """Make the user's last items the first candidates, with weights, lags and counts; returns how many."""
    space, history, params = model.workspace, model.history, model.params
    space.table[:] = -1
    width = history.serial.shape[1]
    pushed = int(history.pushed[event.user])
    context = space.place.shape[0]
    space.place[:] = -1
    found = 0
    total = np.float32(0.0)
    column = pushed % width
    for k in range(min(pushed, width)):
        column = column - 1 if column > 0 else width - 1
        slot = int(model.slot_of[history.serial[event.user, column]])
        if slot < 0:
            continue
        place = place_of(space.table, space.slot, slot, found)
        if place == found:
            found += 1
            space.lag[place] = lag_bucket(k + 1)
            space.times[place] = 0
            space.pooled[place] = 0.0
            space.share[place] = 1.0
        space.times[place] += 1
        if k < context:
            gap = gap_bucket(event.time - int(history.time[event.user, column]))
            space.place[k] = place
            space.gap[k] = gap
            space.weight[k] = params.position[k] * params.gap[gap]
            total += space.weight[k]
    if found > 0:
        norm = np.float32(1.0) / np.sqrt(np.sqrt(total))
        for k in range(min(pushed, context)):
            if space.place[k] >= 0:
                space.weight[k] *= norm
                space.pooled[space.place[k]] += space.weight[k]
    return found


@inner
def pool(model: Model, event: Event, found: int) -> Any:
    """h into the workspace; returns its length (with cosine, that before it was made 1)."""
    rows, space = model.items.floats, model.workspace
    user = space.user
    for k in range(user.shape[0]):
        user[k] = model.users.floats[event.user, k]
    for c in range(found):
        weight = space.pooled[c]
        if weight != 0.0:
            slot = space.slot[c]
            for k in range(user.shape[0]):
                user[k] += weight * rows[slot, k]
    length = np.sqrt(dot_of(user, user))
    if model.options.cosine and length > 0.0:
        for k in range(user.shape[0]):
            user[k] /= length
    return length


@inner
def repeat_term(model: Model, candidate: int) -> Any:
    """r of one of the user's last items."""
    space, repeat = model.workspace, model.params.repeat
    return repeat[space.lag[candidate]] + repeat[LAGS - 1 + min(space.times[candidate], COUNTS)]
