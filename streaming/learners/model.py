"""Arrays of a model: made from a layout, grown, and rows in them initialised."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel, mix, random_normal
from streaming.learners.contract import Field, History, Learner, Model, Neighbours, Recent, Rows
from streaming.learners.loop import Seen

USER, ITEM = 1, 2  # kinds of row

_LANES = 16  # float32 in a cache line: rows start on one


def width_of(fields: tuple[Field, ...]) -> int:
    """How many float32 a row's fields take."""
    return sum(f.width for f in fields)


def new_rows(fields: tuple[Field, ...], capacity: int) -> Rows:
    """Zeroed rows; each starts on a cache line."""
    stride = -(-max(1, width_of(fields)) // _LANES) * _LANES
    return Rows(
        floats=aligned(capacity, stride),
        events=np.zeros(capacity, np.uint32),
        seen=np.zeros(capacity, np.int64),
        touched=np.zeros(capacity, np.int64),
    )


def aligned(rows: int, stride: int) -> NDArray[np.float32]:
    """Zeroed (rows, stride) whose first element lies on a cache line; pages are taken when touched."""
    raw = np.zeros(rows * stride + _LANES, np.float32)
    skip = (-raw.ctypes.data // 4) % _LANES
    return raw[skip : skip + rows * stride].reshape(rows, stride)


def new_model(
    learner: Learner,
    options: Any,
    user_capacity: int,
    item_capacity: int,
) -> Model:
    """An empty model with room for this many rows."""
    layout = learner.layout(options)
    lists, entries = layout.neighbours
    return Model(
        options=options,
        users=new_rows(layout.user, user_capacity),
        items=new_rows(layout.item, item_capacity),
        history=History(
            serial=np.zeros((user_capacity, layout.history), np.int32),
            time=np.zeros((user_capacity, layout.history), np.uint32),
            pushed=np.zeros(user_capacity, np.uint32),
        ),
        recent=Recent(
            serial=np.zeros(layout.recent, np.int32),
            pushed=np.zeros(1, np.int64),
            occurrences=np.zeros(item_capacity, np.int32),
        ),
        neighbours=Neighbours(
            serial=np.zeros((lists, item_capacity, entries), np.int32),
            weight=np.zeros((lists, item_capacity, entries), np.float32),
            length=np.zeros((lists, item_capacity), np.int32),
        ),
        slot_of=np.zeros(item_capacity, np.int32),
        serial_of=np.zeros(item_capacity, np.int32),
        params=learner.parameters(options),
        workspace=learner.workspace(options),
        tally=np.zeros(2, np.int64),
        done=np.zeros(1, np.int64),
    )


def no_seen() -> Seen:
    """`exclude_seen` not wanted."""
    none = np.zeros(0, np.int32)
    return Seen(none, none, none, np.zeros(1, np.int64))


def room_for_seen(seen: Seen, users: int, events: int) -> Seen:
    """The lists of seen items with room for this many users, and events more."""
    head, link, slot, used = seen
    if len(head) < users:
        head = np.concatenate([head, np.full(users - len(head), -1, np.int32)])
    if len(link) < used[0] + events:
        more = np.zeros(max(len(link), events), np.int32)
        link, slot = np.concatenate([link, more]), np.concatenate([slot, more])
    return Seen(head, link, slot, used)


def initial_values(fields: tuple[Field, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(fill, sigma) of each float of a row, for `initialise`."""
    fill = np.concatenate([np.full(f.width, f.fill, np.float32) for f in fields] or [np.zeros(0, np.float32)])
    sigma = np.concatenate(
        [np.full(f.width, f.sigma, np.float32) for f in fields] or [np.zeros(0, np.float32)]
    )
    return fill, sigma


@kernel
def initialise(
    rows: Rows,
    slot: int,
    fill: NDArray[np.float32],
    sigma: NDArray[np.float32],
    seed: np.uint64,
    kind: int,
    id_hash: np.uint64,
) -> None:
    """Give a row its first values: a function of (version seed, kind, id) alone."""
    key = mix(seed ^ mix(id_hash + np.uint64(kind)))
    for k in range(fill.shape[0]):
        value = fill[k]
        if sigma[k] > 0.0:
            value += sigma[k] * np.float32(random_normal(key, k))
        rows.floats[slot, k] = value
    rows.events[slot] = 0
    rows.seen[slot] = 0
    rows.touched[slot] = 0
