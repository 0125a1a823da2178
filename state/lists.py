"""Items in lists of near ones: rows enter as one byte a number, candidates for a query leave.

An item stands in the list whose mean is nearest to its vector and bias (Lloyd 1982; lists of this kind:
Jégou et al. 2011). A list is a chain of blocks. A row that changed is written over in place; one that is
nearer to another mean moves; the place of one that left is taken by the list's last entry: nothing is
left behind, however much is learned.

A search runs while another thread changes the lists. It may then meet an entry twice, or miss one on its
way to another list, but never leaves the arrays: candidates are no more than that, and their scores come
from the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.item_source import Columns, Items
from streaming.kernels import inner, reduction

BLOCK = 64  # places
HELD, LISTS, FREE = 0, 1, 2  # places in Lists.counts
FARTHEST = np.float32(1.0e30)


class Lists(NamedTuple):
    """The lists and what they hold; P places in blocks of BLOCK, d floats in a vector."""

    codes: NDArray[np.int8]  # (P, d) vector / scale
    scale: NDArray[np.float32]  # (P,)
    bias: NDArray[np.float32]  # (P,) as stored at the scale of Columns.start
    apart: NDArray[np.float32]  # (P,) distance to the mean when the list was chosen
    slot: NDArray[np.int32]  # (P,) of the item
    after: NDArray[np.int32]  # (blocks,) next block of the list, -1 for none
    owner: NDArray[np.int32]  # (blocks,) list
    free: NDArray[np.int32]  # (blocks,) stack of blocks in no list
    head: NDArray[np.int32]  # (lists,) first block, the only one that may have room; -1 for none
    fill: NDArray[np.int32]  # (lists,) entries in it
    size: NDArray[np.int32]  # (lists,) entries in all
    mean: NDArray[np.float32]  # (lists, d)
    mean_bias: NDArray[np.float32]  # (lists,)
    top_bias: NDArray[np.float32]  # (lists,) no entry has more
    spread: NDArray[np.float32]  # (lists,) of the vectors about the mean: √(mean square / d)
    place: NDArray[np.int32]  # (slots,) of each slot, -1 where it is not held
    serial: NDArray[np.int32]  # (slots,) of the item that is held
    counts: NDArray[np.int64]  # (3,) items held, lists, free blocks
    row: NDArray[np.float32]  # (d,) scratch of the one thread that changes the lists


def new_lists(d: int, slots: int, lists: int) -> Lists:
    """Empty lists with room for this many slots and lists."""
    blocks = slots // BLOCK + 2 * lists + 2
    places = blocks * BLOCK
    return Lists(
        codes=np.zeros((places, d), np.int8),
        scale=np.zeros(places, np.float32),
        bias=np.zeros(places, np.float32),
        apart=np.zeros(places, np.float32),
        slot=np.zeros(places, np.int32),
        after=np.full(blocks, -1, np.int32),
        owner=np.zeros(blocks, np.int32),
        free=np.arange(blocks, dtype=np.int32)[::-1].copy(),
        head=np.full(lists, -1, np.int32),
        fill=np.zeros(lists, np.int32),
        size=np.zeros(lists, np.int32),
        mean=np.zeros((lists, d), np.float32),
        mean_bias=np.zeros(lists, np.float32),
        top_bias=np.full(lists, -FARTHEST, np.float32),
        spread=np.zeros(lists, np.float32),
        place=np.full(slots, -1, np.int32),
        serial=np.full(slots, -1, np.int32),
        counts=np.array([0, 0, blocks], np.int64),
        row=np.zeros(d, np.float32),
    )


def grown_lists(old: Lists, slots: int, lists: int) -> Lists:
    """A copy with room for more; searches under way go on in the old one."""
    new = new_lists(old.codes.shape[1], slots, lists)
    for name in ("codes", "scale", "bias", "apart", "slot", "after", "owner", "head", "fill", "size"):
        getattr(new, name)[: len(getattr(old, name))] = getattr(old, name)
    for name in ("mean", "mean_bias", "top_bias", "spread", "place", "serial"):
        getattr(new, name)[: len(getattr(old, name))] = getattr(old, name)
    more, left = len(new.after) - len(old.after), int(old.counts[FREE])
    new.free[:more] = np.arange(len(old.after), len(new.after))[::-1]
    new.free[more : more + left] = old.free[:left]
    new.counts[:] = old.counts[HELD], old.counts[LISTS], more + left
    return new


def rescaled(old: Lists, factor: np.float32) -> Lists:
    """The same lists with biases at another scale; searches under way go on with the old ones."""
    return old._replace(
        bias=old.bias * factor, mean_bias=old.mean_bias * factor, top_bias=old.top_bias * factor
    )


@reduction
def dot_codes(codes: NDArray[np.int8], place: int, vector: NDArray[np.float32]) -> np.float32:
    """Inner product of an entry's codes with a vector."""
    total = np.float32(0.0)
    for k in range(vector.shape[0]):
        total += np.float32(codes[place, k]) * vector[k]
    return total


@reduction
def square_apart(a: NDArray[np.float32], means: NDArray[np.float32], which: int) -> np.float32:
    """Squared distance of a vector from a mean."""
    total = np.float32(0.0)
    for k in range(a.shape[0]):
        total += (a[k] - means[which, k]) * (a[k] - means[which, k])
    return total


@inner
def largest(row: NDArray[np.float32]) -> np.float32:
    """Greatest absolute value."""
    most = np.float32(0.0)
    for k in range(row.shape[0]):
        most = max(most, abs(row[k]))
    return most


@inner
def stored_bias(items: Items, columns: Columns, slot: int) -> np.float32:
    """An item's bias as stored at the scale of `columns.start`."""
    if columns.bias < 0:
        return np.float32(0.0)
    factor = np.float32(1.0)
    if items.touched[slot] < columns.start:
        factor = columns.before
    elif items.touched[slot] >= columns.end:
        factor = columns.after
    return np.float32(items.floats[slot, columns.bias] * factor)


@inner
def distance(lists: Lists, which: int, bias: np.float32, weight: np.float32) -> np.float32:
    """Distance of `lists.row` and a bias from a list's mean; biases count by their true value."""
    gap = weight * (bias - lists.mean_bias[which])
    return np.float32(np.sqrt(square_apart(lists.row, lists.mean, which) + gap * gap))


@inner
def nearest(lists: Lists, bias: np.float32, weight: np.float32) -> int:
    """The list whose mean is nearest to `lists.row` and a bias."""
    found, least = 0, FARTHEST
    for c in range(lists.counts[LISTS]):
        gap = weight * (bias - lists.mean_bias[c])
        square = square_apart(lists.row, lists.mean, c) + gap * gap
        if square < least:
            found, least = c, square
    return found


@inner
def write(lists: Lists, place: int, bias: np.float32) -> None:
    """Write `lists.row` and a bias into an entry."""
    most = largest(lists.row)
    scale = most / np.float32(127.0) if most > 0.0 and most < FARTHEST else np.float32(1.0)
    inverse = np.float32(1.0) / scale
    for k in range(lists.row.shape[0]):
        lists.codes[place, k] = np.int8(np.rint(min(max(lists.row[k] * inverse, -127.0), 127.0)))
    lists.scale[place] = scale
    lists.bias[place] = bias


@inner
def append(lists: Lists, which: int, slot: int) -> int:
    """Place of a new entry at the end of a list; the caller writes it, and has made room for a block."""
    if lists.head[which] < 0 or lists.fill[which] == BLOCK:
        lists.counts[FREE] -= 1
        block = lists.free[lists.counts[FREE]]
        lists.after[block] = lists.head[which]
        lists.owner[block] = which
        lists.fill[which] = 0
        lists.head[which] = block
    place = lists.head[which] * BLOCK + lists.fill[which]
    lists.slot[place] = slot
    lists.fill[which] += 1
    lists.size[which] += 1
    lists.counts[HELD] += 1
    lists.place[slot] = place
    return int(place)


@inner
def copy_entry(lists: Lists, place: int, to: int) -> None:
    """Copy what an entry holds of its item."""
    for k in range(lists.codes.shape[1]):
        lists.codes[to, k] = lists.codes[place, k]
    lists.scale[to], lists.bias[to], lists.apart[to] = (
        lists.scale[place],
        lists.bias[place],
        lists.apart[place],
    )


@inner
def take_out(lists: Lists, place: int) -> None:
    """Remove an entry: the list's last one takes its place."""
    which = lists.owner[place // BLOCK]
    block = lists.head[which]
    last = block * BLOCK + lists.fill[which] - 1
    if last != place:
        copy_entry(lists, last, place)
        lists.slot[place] = lists.slot[last]
        lists.place[lists.slot[place]] = place
    lists.fill[which] -= 1
    lists.size[which] -= 1
    lists.counts[HELD] -= 1
    if lists.fill[which] == 0:
        lists.head[which] = lists.after[block]
        lists.fill[which] = BLOCK if lists.head[which] >= 0 else 0
        lists.free[lists.counts[FREE]] = block
        lists.counts[FREE] += 1


@inner
def put(lists: Lists, slot: int, bias: np.float32, which: int, weight: np.float32) -> None:
    """Put the item whose vector is in `lists.row` into a list, out of the one it is in."""
    old = lists.place[slot]
    place = append(lists, which, slot)
    write(lists, place, bias)
    lists.apart[place] = distance(lists, which, bias, weight)
    lists.top_bias[which] = max(lists.top_bias[which], bias)
    if old >= 0:
        take_out(lists, old)


@inner
def load(lists: Lists, items: Items, columns: Columns, slot: int) -> np.float32:
    """Bring an item's vector into `lists.row`; returns its bias."""
    for k in range(lists.row.shape[0]):
        lists.row[k] = items.floats[slot, columns.vector + k]
    return stored_bias(items, columns, slot)


@reduction
def square_of(codes: NDArray[np.int8], place: int) -> np.float32:
    """Squared length of an entry's codes."""
    total = np.float32(0.0)
    for k in range(codes.shape[1]):
        total += np.float32(codes[place, k]) * np.float32(codes[place, k])
    return total


@inner
def unpack(lists: Lists, place: int) -> None:
    """Bring an entry's vector into `lists.row`."""
    for k in range(lists.row.shape[0]):
        lists.row[k] = lists.scale[place] * np.float32(lists.codes[place, k])
