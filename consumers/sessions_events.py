"""Events of sequences in one pass: each is compared, remembered for training, then enters its user's history.

`observe` does what a version's own loop does, for the transformer beside it; `prepare` and `read_sequences`
gather what a step and a refresh need. These three are bound to the version's learner, so that their code is
kept on disk.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import inner, kernel, mix
from streaming.learners.contract import Event, History, Model, Recent, Rows, touch
from streaming.learners.decay import half_life_scale
from streaming.learners.loop import rank_of
from streaming.learners.pooling import gather, repeat_term
from streaming.learners.reductions import dot_rows
from streaming.session import gate as gates
from streaming.session.cutting import last_items
from streaming.session.examples import Examples, draw_negatives, fill, note, pick
from streaming.session.loss import Batch
from streaming.session.options import Options


class Block(NamedTuple):
    """Events that are taken at one go; their users' rows in the version stand in the model's first slots."""

    user: NDArray[np.int32]  # (n,) slots
    item: NDArray[np.int32]  # (n,) numbers
    known: NDArray[np.int32]  # (n,) items numbered up to each
    time: NDArray[np.int64]  # (n,) seconds
    weight: NDArray[np.float32]  # (n,)
    first: int  # number of the first event
    at: int  # events that the version had learned when its rows were read
    noted: bool  # whether these events are trained


class Scratch(NamedTuple):
    """What one event needs and the next one overwrites."""

    slots: NDArray[np.int32]  # (L,)
    gaps: NDArray[np.uint8]  # (L,)
    kept: NDArray[np.float32]  # (2, D) δ / τ, h / τ
    scores: NDArray[np.float32]  # (2, items) plain, corrected


class Watch(NamedTuple):
    """What events are held against."""

    examples: Examples
    record: gates.Record
    rule: gates.Rule
    idle_s: int
    negatives: int
    done: int  # rows that were touched by a later event are not refreshed yet


def new_scratch(options: Options, items: int) -> Scratch:
    """Room for one event among so many items."""
    return Scratch(
        np.zeros(options.length, np.int32),
        np.zeros(options.length, np.uint8),
        np.zeros((2, options.dimension), np.float32),
        np.zeros((2, items), np.float32),
    )


def drawn(numbers: NDArray[np.int64], seed: np.uint64, rate: float) -> NDArray[np.bool_]:
    """(n,) whether the query is kept beside the correction at these events, for the next one to compare."""
    out = np.zeros(len(numbers), np.bool_)
    _draw(numbers, seed, rate, out)
    return out


@kernel
def _draw(numbers: NDArray[np.int64], seed: np.uint64, rate: float, out: NDArray[np.bool_]) -> None:
    for i in range(numbers.shape[0]):
        out[i] = np.float64(mix(seed + np.uint64(numbers[i])) >> np.uint64(11)) < rate * 2.0**53


@inner
def copy_history(history: History, slot: int, to: History, place: int) -> None:
    """A user's history into another table, of the same width or a shorter one: then the newest items."""
    wide, width = history.serial.shape[1], to.serial.shape[1]
    pushed = int(history.pushed[slot])
    to.pushed[place] = pushed
    for k in range(min(pushed, wide, width)):
        source, target = (pushed - 1 - k) % wide, (pushed - 1 - k) % width
        to.serial[place, target] = history.serial[slot, source]
        to.time[place, target] = history.time[slot, source]


@inner
def push(history: History, recent: Recent, slot: int, item: int, time: int) -> None:
    """A positive event enters the user's history and the ring of recent items."""
    place = history.pushed[slot] % history.serial.shape[1]
    history.serial[slot, place] = item
    history.time[slot, place] = time
    history.pushed[slot] += 1
    size = recent.serial.shape[0]
    if size > 0:
        place = recent.pushed[0] % size
        if recent.pushed[0] >= size:
            recent.occurrences[recent.serial[place]] -= 1
        recent.serial[place] = item
        recent.occurrences[item] += 1
        recent.pushed[0] += 1


@inner
def compare(model: Model, event: Event, floats: NDArray[np.float32], scratch: Scratch, watch: Watch) -> None:
    """Rank the event's item among all by h and by h + δ, as both stood at the user's last refresh."""
    rows, d = model.items.floats, scratch.kept.shape[1]
    for k in range(d):
        scratch.kept[0, k] = floats[k]
        scratch.kept[1, k] = floats[d + k]
    found = gather(model, event)
    scale = np.float32(half_life_scale(event.number, model.options.bias_half_life))
    plain, corrected = scratch.scores[0, : event.known], scratch.scores[1, : event.known]
    for j in range(event.known):
        plain[j] = corrected[j] = -np.inf
        if model.slot_of[j] >= 0:
            plain[j] = dot_rows(rows, j, scratch.kept, 1, d) + scale * rows[j, d]
            corrected[j] = plain[j] + dot_rows(rows, j, scratch.kept, 0, d)
    for c in range(found):
        slot = model.workspace.slot[c]
        plain[slot] += repeat_term(model, c)
        corrected[slot] += repeat_term(model, c)
    bucket = gates.bucket_of(int(model.history.pushed[event.user]))
    gates.compare(
        watch.record, watch.rule, bucket, rank_of(plain, event.item), rank_of(corrected, event.item)
    )


@inner
def is_kept(floats: NDArray[np.float32], d: int) -> bool:
    """Whether a query stands beside the correction."""
    kept = False
    for k in range(d, 2 * d):
        kept |= floats[k] != 0.0
    return kept


def observe(model: Model, rows: Rows, history: History, block: Block, scratch: Scratch, watch: Watch) -> None:
    """Events in order.

    Args:
        model: copies of the version's items by number, rows of the events' users in its first slots.
        rows, history: of the users of the sequences.
    """
    d = scratch.kept.shape[1]
    for i in range(block.user.shape[0]):
        slot, item, time, number = block.user[i], block.item[i], block.time[i], block.first + i
        copy_history(history, slot, model.history, i)
        event = Event(i, item, int(block.known[i]), block.at, time, 1.0, block.weight[i], 0)
        filled = last_items(model, i, time, watch.idle_s, scratch.slots, scratch.gaps)
        if block.weight[i] > 0.0 and filled > 0 and model.slot_of[item] >= 0:
            refreshed = rows.touched[slot] <= watch.done
            if refreshed and is_kept(rows.floats[slot], d):
                compare(model, event, rows.floats[slot], scratch, watch)
            if block.noted:
                note(watch.examples, model, event, scratch.slots, scratch.gaps, watch.negatives)
        touch(rows.touched, slot, number)
        rows.seen[slot] = max(rows.seen[slot], time)
        rows.events[slot] += 1
        if block.weight[i] > 0.0:
            push(history, model.recent, slot, item, time)


def read_sequences(
    model: Model,
    seen: NDArray[np.int64],
    users: NDArray[np.int64],
    idle_s: int,
    scratch: Scratch,
    rows: NDArray[np.float32],
    mask: NDArray[np.bool_],
    gaps: NDArray[np.int32],
) -> None:
    """Vectors of users' last items, as of their newest event.

    Args:
        model: with the history of the sequences.
        users: (n,) slots.
        rows: (n, L, D); mask, gaps: (n, L).
    """
    items = model.items.floats
    for i in range(users.shape[0]):
        last_items(model, users[i], seen[users[i]], idle_s, scratch.slots, scratch.gaps)
        for m in range(mask.shape[1]):
            slot = scratch.slots[m]
            mask[i, m] = slot >= 0
            gaps[i, m] = scratch.gaps[m]
            for k in range(rows.shape[2]):
                rows[i, m, k] = items[slot, k] if slot >= 0 else np.float32(0.0)


def prepare(
    model: Model,
    batch: Batch,
    examples: Examples,
    picks: NDArray[np.int64],
    known: int,
    at: int,
    remembered: int,
    new: int,
    key: np.uint64,
) -> None:
    """The sequences of a step: negatives, and the newest and some earlier examples.

    Args:
        known: items numbered so far.
        at: events that the version had learned when its rows were read.
        new: how many of the newest examples are taken.
        key: random key of the step.
    """
    draw_negatives(batch, model, known, at, key)
    pick(examples.pushed[0], remembered, new, key, picks)
    fill(batch, examples, picks, model)


@kernel
def copy_histories(history: History, users: NDArray[np.int64], to: History) -> None:
    """Histories of users into the first slots of another table."""
    for i in range(users.shape[0]):
        copy_history(history, users[i], to, i)
