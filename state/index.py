"""The items that score highest for a user: rows that a learner is changing enter, slots and scores leave.

Up to EXACT_MOST items, every row is scored at every search. Above, candidates come from lists of near
items (state/lists.py), which `refresh` makes follow the rows, and their scores from the rows as they are
now: a candidate may be missed, a score is never old. How much of the lists is read is steered by recall,
which is measured on a part of the searches.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.item_source import Columns, Items, ItemSource, columns_of, scale_of
from state.list_building import built, usual_size
from state.list_changes import follow_rows, measure, move_strays, place_items, remove_from, split
from state.lists import HELD, LISTS, Lists, grown_lists, rescaled
from state.nearest import best_of, reach_of, scan

EXACT_MOST = 100_000  # items that are all scored
RECALL_AT = 10
AIM = 0.985  # recall that the reading of lists is steered to
_WIDTH = 6.0  # spreads by which a list's best item is taken to stand above its mean, at first
_FEW = 50  # where a mask leaves fewer than one item in this many, all that it leaves are scored
_LEAST = 10_000  # entries that a search reads at least, or one in
_LEAST_SHARE = 20  # this many, where that is more;
_MOST_SHARE = 4  # at most it reads one in this many
_NONE = np.zeros(0, np.bool_)
_NO_SLOTS = np.zeros(0, np.int32)
_NOBODY = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What one `refresh` did.

    Attributes:
        rows: entries written over.
        new, gone: items.
        moved: items that are now in another list.
        seconds: of this thread on a processor.
    """

    rows: int = 0
    new: int = 0
    gone: int = 0
    moved: int = 0
    seconds: float = 0.0


class Recall(NamedTuple):
    """Share of the 10 best items that searches found, the newest samples counting most; and their number."""

    at_10: float
    samples: int


class _Question(NamedTuple):
    query: NDArray[np.float32]
    allow: NDArray[np.bool_]
    cosine: bool


class _State(NamedTuple):
    """Lists, and the event at whose scale they hold biases."""

    lists: Lists
    start: int


class ItemIndex:
    """Finds items by the inner product of their vectors with a query, plus their bias.

    `search` may be called from many threads while one calls `refresh`.

    Args:
        source: the rows.
        exact_most: items up to which all are scored.
        sample_every: of how many searches one is compared with exact search.
    """

    def __init__(self, source: ItemSource, *, exact_most: int = EXACT_MOST, sample_every: int = 500) -> None:
        self._source, self._exact_most, self._sample_every = source, exact_most, sample_every
        self._state: _State | None = None
        self._since = 0  # events up to here are in the lists
        self._turn = 0  # list that is looked at next
        self._bound = 0.15  # part of a list's spread by which an item's place in it may change
        self._due = np.inf  # lists that are to be looked at
        self._looked = 0  # items in this round for which the nearest mean was sought
        self._width = _WIDTH
        self._searches = 0
        self._found, self._asked, self._samples = 0.0, 0.0, 0
        self._every = _NO_SLOTS
        self._refreshing = threading.Lock()
        self._question: _Question | None = None

    @property
    def recall(self) -> Recall:
        """As sampled; 1 where every search was exact."""
        return Recall(self._found / self._asked if self._asked else 1.0, self._samples)

    @property
    def exact(self) -> bool:
        """Whether all items are scored at every search."""
        return self._state is None

    # -- searching ------------------------------------------------------------------------------

    def search(
        self,
        query: NDArray[np.float32],
        k: int,
        *,
        allow: NDArray[np.bool_] | None = None,
        exclude: NDArray[np.int64] | None = None,
        cosine: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best items: (slots, scores), best first.

        Of equal scores, that of the item with more events comes first, then that of the earlier slot.

        Args:
            query: (d,) as `Learner.query` gives it; an item's vector where similar items are wanted.
            allow: (slots,) which may be found; a slot beyond its end may not.
            exclude: slots that may not.
            cosine: score by the cosine alone, not by inner product and bias.
        """
        query, mask = np.ascontiguousarray(query, np.float32), _NONE if allow is None else allow
        if cosine:
            length = float(np.sqrt(query @ query))
            query = query / np.float32(length or 1.0)
        items, state = self._source.items(), self._state
        without = _NOBODY if exclude is None else exclude
        if state is not None:
            self._searches += 1
            if self._searches % self._sample_every == 0:
                self._question = _Question(query.copy(), mask, cosine)
            chosen = self._candidates(items, state, query, k + len(without), mask, cosine)
        else:
            chosen = self._all(items.known)
        return self._best(items, query, k, chosen, mask, cosine, without)

    def _best(
        self,
        items: Items,
        query: NDArray[np.float32],
        k: int,
        chosen: NDArray[np.int32],
        mask: NDArray[np.bool_],
        cosine: bool,
        without: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k best of the chosen, by their rows."""
        room = min(k + len(without), max(1, len(chosen)))
        scores, slots = np.empty(room, np.float32), np.empty(room, np.int32)
        columns = columns_of(self._source, items.number)
        size = best_of(items, columns, query, cosine, chosen, mask, scores, slots)
        order = np.lexsort((slots[:size], -items.events[slots[:size]].astype(np.int64), -scores[:size]))
        best, near = slots[:size][order].astype(np.int64), scores[:size][order]
        if len(without):
            keep = ~np.isin(best, without)
            best, near = best[keep], near[keep]
        return best[:k], near[:k]

    def _all(self, count: int) -> NDArray[np.int32]:
        every = self._every
        if len(every) < count:
            self._every = every = np.arange(count + count // 4 + 1024, dtype=np.int32)
        return every[:count]

    def _candidates(
        self,
        items: Items,
        state: _State,
        query: NDArray[np.float32],
        k: int,
        mask: NDArray[np.bool_],
        cosine: bool,
    ) -> NDArray[np.int32]:
        """Slots among which the k best are likely to be, each once."""
        if len(mask):
            left = np.flatnonzero(mask[: items.known]) if _is_few(mask, items.known) else None
            if left is not None:
                return left.astype(np.int32)
        if k > items.known // 100:
            return self._all(items.known)
        lists, wanted = state.lists, 2 * k + 50
        scale = scale_of(self._source, items.number, state.start)
        reach = np.full(len(lists.head), -np.inf, np.float32)
        reach_of(lists, query, cosine, self._width, scale, reach)
        order = np.argsort(-reach[: lists.counts[LISTS]])
        scores, slots = np.empty(wanted, np.float32), np.empty(wanted, np.int32)
        kept, kept_slots = np.empty(k, np.float32), np.empty(k, np.int32)
        least = max(_LEAST, items.known // _LEAST_SHARE)
        most = max(items.known // _MOST_SHARE, least)
        found, _ = scan(
            lists, items.events, query, cosine, scale, mask, order, reach, least, most, k,
            scores, slots, kept, kept_slots,
        )  # fmt: skip
        return np.unique(slots[:found])

    # -- following ------------------------------------------------------------------------------

    def refresh(self, budget_s: float = 0.02) -> Refreshed:
        """Make the lists follow the rows.

        New, changed and gone items are always taken in, whatever that takes. Then, list by list and as
        much changed, items move between lists until the budget is spent; a list that is begun is ended.
        A search that was put aside for it is compared with exact search.

        Args:
            budget_s: seconds of this thread on a processor.
        """
        with self._refreshing:
            begun = time.thread_time()
            items = self._source.items()
            if items.known <= self._exact_most * (1.0 if self._state is None else 0.8):
                self._state = None
                return Refreshed(seconds=time.thread_time() - begun)
            columns = columns_of(self._source, items.number)
            if self._state is None:
                self._since = items.number
                self._state = _State(built(items, columns, self._source.dimension), columns.start)
                return Refreshed(new=items.known, seconds=time.thread_time() - begun)
            gone, rows, new = self._take_in(items, columns)
            # One round for as many changes as there are items: nothing is looked at where nothing changes.
            lists, held = (int(self._lists().counts[which]) for which in (LISTS, HELD))
            self._due = min(lists, self._due + lists * (gone + rows + new) / max(1, held))
            moved = 0
            while self._due >= 1.0:
                moved += self._tend(columns)
                self._due -= 1.0
                if time.thread_time() - begun >= budget_s:
                    break
            self._sample()
            return Refreshed(rows, new, gone, moved, time.thread_time() - begun)

    def _lists(self) -> Lists:
        assert self._state is not None
        return self._state.lists

    def _take_in(self, items: Items, columns: Columns) -> tuple[int, int, int]:
        """Gone, changed and new items; returns how many of each."""
        assert self._state is not None
        lists, start = self._state
        if items.known > len(lists.place):
            lists = grown_lists(lists, items.known + items.known // 2, len(lists.head))
            self._state = _State(lists, start)
        if columns.start != start:
            lists = rescaled(lists, np.float32(scale_of(self._source, columns.start, start)))
            self._state = _State(lists, columns.start)
        if items.number < self._since:
            self._since = -1  # the tables went back, as after a worker was killed: any row may be another
        held = len(lists.place)
        before = int(lists.counts[HELD])
        remove_from(lists, items.known, held)
        gone, rows, new = before - int(lists.counts[HELD]), 0, 0
        other = np.empty(65_536, np.int32)
        for first in range(0, items.known, len(other)):
            last = min(first + len(other), items.known)
            written, others = follow_rows(lists, items, columns, self._since, first, last, other)
            place_items(lists, items, columns, other[:others], np.full(others, -1, np.int32))
            rows, new = rows + written, new + others
        self._since = items.number
        return gone, rows, new

    def _tend(self, columns: Columns) -> int:
        """Look at one list: measure it anew, split it where it is long, move items that went astray."""
        lists = self._lists()
        if self._turn >= lists.counts[LISTS]:
            self._end_round(int(lists.counts[HELD]))
        which, self._turn = self._turn, self._turn + 1
        scale = columns.scale
        slots = np.empty(max(1, int(lists.size[which])), np.int32)
        n = measure(lists, which, slots, scale)
        if n > 3 * usual_size(int(lists.counts[HELD])):
            if lists.counts[LISTS] == len(lists.head):
                start = self._state.start if self._state else 0
                lists = grown_lists(lists, len(lists.place), 2 * len(lists.head))
                self._state = _State(lists, start)
            new = int(lists.counts[LISTS])
            lists.counts[LISTS] += 1
            halves = split(lists, slots[:n], which, new, scale)
            measure(lists, which, slots, scale)
            measure(lists, new, np.empty(max(1, halves), np.int32), scale)
            return halves
        looked, moved = move_strays(lists, slots[:n], which, self._bound, scale)
        self._looked += looked
        return int(moved)

    def _end_round(self, held: int) -> None:
        """All lists were looked at: widen the bound where much was sought for little, and begin again."""
        if self._looked > held // 10:
            self._bound = min(1.0, self._bound * 1.25)
        elif self._looked < held // 50:
            self._bound = max(0.05, self._bound / 1.1)
        self._looked = self._turn = 0

    def _sample(self) -> None:
        """Compare the last search that was put aside with exact search, and steer by it."""
        question, self._question = self._question, None
        state = self._state
        if question is None or state is None:
            return
        items, (query, mask, cosine) = self._source.items(), question
        if len(mask) and _is_few(mask, items.known):
            return  # that search was exact
        chosen = self._candidates(items, state, query, RECALL_AT, mask, cosine)
        near, _ = self._best(items, query, RECALL_AT, chosen, mask, cosine, _NOBODY)
        every = self._all(items.known)
        best, _ = self._best(items, query, RECALL_AT, every, mask, cosine, _NOBODY)
        if not len(best):
            return
        share = len(np.intersect1d(near, best)) / len(best)
        self._found, self._asked = 0.98 * self._found + share, 0.98 * self._asked + 1.0
        self._samples += 1
        self._width = min(8.0, max(3.0, self._width + (AIM - share)))


def follow(index: ItemIndex, stop: threading.Event, *, share: float = 0.1, every_s: float = 0.25) -> None:
    """Refresh an index until told to stop; for a thread of its own.

    Args:
        share: part of a processor that this may take; building lists anew takes more, for seconds.
        every_s: seconds from one refresh to the next, or more where the share demands it.
    """
    while not stop.is_set():
        spent = index.refresh(share * every_s).seconds
        stop.wait(max(every_s, spent / share) - spent)


def _is_few(mask: NDArray[np.bool_], count: int) -> bool:
    return int(np.count_nonzero(mask[:count])) <= max(_LEAST, count // _FEW)
