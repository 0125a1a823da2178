"""Lists of near items made anew: rows enter, lists (state/lists.py) of all of them leave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from state.item_source import Columns, Items
from state.list_changes import measure, place_items
from state.lists import LISTS, Lists, new_lists


def usual_size(count: int) -> int:
    """Entries of a list, such that reading means and reading entries cost about the same."""
    return max(64, int(np.sqrt(count)))


def built(items: Items, columns: Columns, d: int) -> Lists:
    """Lists of all items, their means found on a part of them (Lloyd 1982).

    Args:
        d: floats in a vector.
    """
    count = items.known
    usual = max(1, count // usual_size(count))
    draw = np.random.default_rng(1)
    sample = np.sort(draw.choice(count, min(count, 48 * usual), replace=False)).astype(np.int32)
    points = _points(items, columns, d, sample)
    means = points[draw.choice(len(points), usual, replace=False)]
    for _ in range(6):
        which = _nearest(points, means)
        sizes = np.bincount(which, minlength=usual)
        order = np.argsort(which, kind="stable")
        filled = np.flatnonzero(sizes)
        starts = (np.cumsum(sizes) - sizes)[filled]
        means[filled] = np.add.reduceat(points[order], starts, axis=0) / sizes[filled, None]
    lists = new_lists(d, count + count // 4, 2 * usual)
    lists.mean[:usual] = means[:, :d]
    lists.mean_bias[:usual] = means[:, d] / columns.scale
    lists.counts[LISTS] = usual
    for first in range(0, count, 16_384):
        slots = np.arange(first, min(first + 16_384, count), dtype=np.int32)
        which = _nearest(_points(items, columns, d, slots), means)
        place_items(lists, items, columns, slots, which)
    room = np.empty(int(lists.size.max()), np.int32)
    for c in range(usual):
        measure(lists, c, room, columns.scale)
    return lists


def _points(items: Items, columns: Columns, d: int, slots: NDArray[np.int32]) -> NDArray[np.float32]:
    """(n, d + 1) vectors and true biases of items."""
    points = np.zeros((len(slots), d + 1), np.float32)
    points[:, :-1] = items.floats[slots, columns.vector : columns.vector + d]
    if columns.bias >= 0:
        points[:, -1] = items.floats[slots, columns.bias] * columns.scale
    return np.nan_to_num(points, copy=False)


def _nearest(points: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.int32]:
    """The mean nearest to each point: that of the greatest x·m − ½|m|²."""
    half = 0.5 * np.einsum("ij,ij->i", means, means)
    found = np.empty(len(points), np.int32)
    for first in range(0, len(points), 4096):
        part = slice(first, first + 4096)
        found[part] = np.argmax(points[part] @ means.T - half, axis=1)
    return found
