"""What is similar: a version and one of its rows enter; the nearest ids leave with their nearness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from state.guests import OWN_PARTS, Guests
from state.ranking import Measure, compare, top
from state.view import View

_BLOCK = 8192  # rows that are compared at one go


def nearest_items(
    learned: View, slot: int, k: int, by: Measure, allowed: NDArray[np.bool_] | None
) -> list[tuple[str, float]]:
    """The k items nearest to that of a slot, by their vectors.

    Args:
        allowed: (items,) whether each may be named; None where all may.
    """
    items = learned.items
    vectors = items.rows.floats[: items.count, learned.layout.column("item", "vector")]
    near = np.concatenate(
        [compare(vectors[i : i + _BLOCK], vectors[slot], by) for i in range(0, items.count, _BLOCK)]
    )
    near[slot] = -np.inf
    if allowed is not None:
        near[~allowed] = -np.inf
    best = top(near, k, items.rows.events[: items.count])
    return [(items.ids.id_of(s).decode(), float(near[s])) for s in best.tolist()]


def nearest_users(
    learned: View, name: str, vector: NDArray[np.float32], k: int, by: Measure
) -> list[tuple[str, float]]:
    """The k users nearest to a user, by the vectors that rank items for them; all of the store are read.

    Args:
        vector: (dimension,) the user's.
    """
    own_id = name.encode()
    guests = Guests(learned, _BLOCK)
    names: list[bytes] = []
    scores = np.zeros(0, np.float32)
    for part in guests.scan():
        near = compare(guests.vectors(len(part)), vector, by)
        near[~guests.alive(len(part))] = -np.inf
        if own_id in part:
            near[part.index(own_id)] = -np.inf
        names, scores = names + part, np.concatenate([scores, near])
        best = top(scores, k, np.zeros(len(scores), np.uint32))
        names, scores = [names[i] for i in best.tolist()], scores[best]
    return [(name.decode(), score) for name, score in zip(names, scores.tolist(), strict=True)]


def neighbours(
    learned: View, guest: Guests, slot: int, k: int, allowed: NDArray[np.bool_] | None
) -> list[tuple[str, float]]:
    """The k items of an item's lists, by what it would add to their scores were it a user's whole history.

    Args:
        guest: becomes that user.
        allowed: (items,) whether each may be named; None where all may.
    """
    items = learned.items
    lists = items.neighbours
    serials = np.concatenate([lists.serial[i, slot, :n] for i, n in enumerate(lists.length[:, slot])])
    slots = np.unique(items.slot_of_serial[serials])
    slots = slots[(slots >= 0) & (slots != slot)]
    if allowed is not None:
        slots = slots[allowed[slots]]
    guest.had_only(int(items.serial[slot]))
    weights = guest.parts(slots)[:, OWN_PARTS]
    best = top(weights, k, items.rows.events[slots])
    return [(items.ids.id_of(slots[i]).decode(), float(weights[i])) for i in best.tolist()]
