"""Answers of a version: an id enters; its embedding, recommendations, similar ids or scores leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from state.answer_forms import (
    Embedding,
    Kind,
    Near,
    Recommendations,
    Recommended,
    RepresentedBy,
    Scored,
    Scores,
    Similar,
    check_count,
)
from state.catalogue_listing import Listing
from state.erasure import check_forgotten
from state.guests import Guests, checked
from state.learned import Learned
from state.ranking import Measure, top
from state.reasons import Reason, strongest
from state.sequences_reader import SequenceTables
from state.similar import nearest_items, nearest_users, neighbours
from state.versions import Version
from state.view import View
from streaming import learners
from streaming.errors import UnknownIdError, UsageError, VersionError

_SAMPLE = 64  # items whose mean is the average item of the reasons


class Answers:
    """What a version answers.

    Args:
        version: its name, which every answer carries.
        learned: the version in memory; while it learns, ask from the thread that learns.
        listing: the catalogue beside the version's items; None where every item may be served.
        sequences: embeddings by a transformer, for learners whose query it corrects; None for none.

    Attributes:
        represented: how the user of the last answer was represented.
    """

    def __init__(
        self,
        version: str,
        learned: View,
        listing: Listing | None = None,
        sequences: SequenceTables | None = None,
    ) -> None:
        self.version, self.learned, self.listing = version, learned, listing
        self._guest, self._sequences = Guests(learned, 1), sequences
        self.represented: RepresentedBy = "row"
        self._sequence: str | UnsetType = UNSET

    @property
    def as_of(self) -> datetime | None:
        """Event time of the newest event that the answers know; None before the first."""
        ledger = self.learned.ledger
        return _moment(ledger.watermark) if ledger.number else None

    def recommend(
        self,
        user: str,
        k: int = 10,
        *,
        include_recent: bool = False,
        category: str | None = None,
        reasons: bool = True,
    ) -> Recommendations:
        """The k items that score highest, without those of the user's history unless `include_recent`.

        Args:
            category: only items of this category of the catalogue.
            reasons: say why each item is there.

        Raises:
            UsageError: k is not between 1 and MOST, the id cannot be one, or there is no catalogue.
            UnknownIdError: no item was ever in the category.
        """
        check_count(k)
        allowed = self._allowed(category)
        represented = self._represent(user)
        best, figures = self._best(k, include_recent, allowed)
        why = self._reasons(best, self._allowed()) if reasons else [[] for _ in best]
        found = [
            Recommended(self._item(slot), score, because)
            for slot, score, because in zip(best.tolist(), figures.tolist(), why, strict=True)
        ]
        return Recommendations(user, self.version, represented, self.as_of, found, self._sequence)

    def score(self, user: str, items: Sequence[str]) -> Scores:
        """Scores of items for a user.

        Raises:
            UsageError: an id cannot be one.
        """
        represented = self._represent(user)
        slots = [self._slot(item) for item in items]
        known = np.unique(np.array([slot for slot in slots if slot >= 0], np.int64))
        if self.learned.copies is None or not self.learned.by_rows:
            scores = self._guest.scores(self.learned.model, self.learned.items.count)[known]
        else:
            known, scores = self._whole(known, np.zeros(len(known), np.float32))
        figures = dict(zip(known.tolist(), scores.tolist(), strict=True))
        found = [Scored(item, figures.get(slot)) for item, slot in zip(items, slots, strict=True)]
        if self.listing is not None:
            may = self.listing.catalogue.allows(items).tolist()
            found = [Scored(one.item, one.score, able) for one, able in zip(found, may, strict=True)]
        return Scores(user, self.version, represented, self.as_of, found, self._sequence)

    def embedding(self, kind: Kind, name: str) -> Embedding:
        """The vector of a user or an item.

        Raises:
            UnknownIdError: the version has no row of it.
            VersionError: its learner has no vectors.
            UsageError: the id cannot be one.
        """
        self._must_have_vectors(kind)
        self.represented = "row"
        if kind == "item":
            slot, rows = self._item_slot(name), self.learned.items.rows
            if self.learned.copies is not None:
                slot, rows = 0, self.learned.copies.rows(np.array([slot]))
            vector = rows.floats[slot, self.learned.layout.column("item", "vector")]
        else:
            self._known_user(name)
            self._represent(name)
            slot, rows = 0, self._guest.rows
            copies = self.learned.copies
            model = None if copies is None else copies.of(self._guest.history_slots())
            vector = self._guest.vectors(1, model)[0]
        last_seen = _moment(int(rows.seen[slot]))
        return Embedding(
            kind, name, self.version, len(vector), vector.tolist(), int(rows.events[slot]), last_seen
        )

    def similar(
        self,
        kind: Kind,
        name: str,
        k: int = 10,
        by: Measure | None = None,
        *,
        category: str | None = None,
    ) -> Similar:
        """The k nearest users or items; by cosine, unless said otherwise.

        Items of learners that keep lists of neighbours instead of vectors are found in these lists.
        Users are compared by the vectors that rank items for them, and all of the store are read.

        Raises:
            UnknownIdError: the version has no row of it.
            VersionError: its learner has neither vectors nor lists.
            UsageError: k is not between 1 and MOST, the id cannot be one, or lists have no such measure;
                a category without a catalogue, or of users.
        """
        check_count(k)
        if kind == "user" and category is not None:
            raise UsageError(f'Users are in no category, got "{category}". Leave it out.')
        allowed = self._allowed(category) if kind == "item" else None
        listed = self.learned.layout.neighbours[0] > 0 and self.learned.learner.explain is not None
        if kind == "item" and listed and not self._has_vectors("item"):
            if by is not None:
                raise UsageError(
                    f'The learner "{self.learned.learner.name}" of version "{self.version}" keeps lists of '
                    f"neighbours, no vectors, so there is no {by} of two items. Leave the measure out."
                )
            found = neighbours(self.learned, self._guest, self._item_slot(name), k, allowed)
            near = [Near(*one) for one in found]
            return Similar(kind, name, self.version, "neighbours", self.as_of, near)
        by = by or "cosine"
        self._must_have_vectors(kind)
        if kind == "item":
            nearest = nearest_items(self.learned, self._item_slot(name), k, by, allowed)
        else:
            self._known_user(name)
            mine = self._guest.vectors(1)[0].copy()
            nearest = nearest_users(self.learned, name, mine, k, by)
        near = [Near(i, -s if by == "euclidean" else s) for i, s in nearest]
        return Similar(kind, name, self.version, by, self.as_of, near)

    def _allowed(self, category: str | None = None) -> NDArray[np.bool_] | None:
        """(items,) whether each may be served; None where all may.

        Raises:
            UsageError: a category, and there is no catalogue.
            UnknownIdError: no item was ever in the category.
        """
        if self.listing is not None:
            return self.listing.allowed(self.learned.items, category)
        if category is not None:
            raise UsageError(
                f'Without a catalogue no item is in the category "{category}". Name one in items.file or '
                "items.topic, or leave the category out."
            )
        return None

    def _represent(self, user: str) -> RepresentedBy:
        """Bring the user's row in front of the kernels; say what of it they will see."""
        known = self._guest.load(user)
        layout = self.learned.layout
        if known and layout.user:
            self.represented = "sequence" if self._corrected(user) else "row"
            return self.represented
        self._sequence = UNSET
        by_history = layout.neighbours[0] > 0 and len(self._guest.history_slots()) > 0
        self.represented = "history" if known and by_history else "popularity"
        return self.represented

    def _corrected(self, user: str) -> bool:
        """Whether the guest's query is corrected by the user's sequence embedding; keeps the reason."""
        found = None
        if self._sequences is not None and self.learned.learner.query is not None:
            found = self._sequences.of(user, int(self._guest.rows.seen[0]), self.learned.ledger.watermark)
        self._sequence = UNSET if found is None else found.reason
        self._guest.correction = None if found is None else found.correction
        return self._guest.correction is not None

    def _best(
        self, k: int, include_recent: bool, allowed: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The k items that score highest for the guest, with their scores."""
        index, recent = self.learned.index, self._guest.history_slots()
        if index is not None and not index.exact and self.learned.copies is not None:
            query = self._guest.vectors(1, self.learned.copies.of(recent))[0]
            found, _ = index.search(query, k, allow=allowed, exclude=recent)
            found = found[found < self.learned.items.count]
            if include_recent:  # what repetition adds to their scores is not in the vectors
                found = np.concatenate([found, recent if allowed is None else recent[allowed[recent]]])
            best, figures = self._whole(found, np.zeros(len(found), np.float32))
            return best[:k], figures[:k]
        items = self.learned.items
        scores = self._guest.scores(self.learned.model, items.count)
        if not include_recent:
            scores[recent] = -np.inf
        if allowed is not None:
            scores[~allowed] = -np.inf
        best = top(scores, k, items.rows.events[: items.count])
        return self._whole(best, scores[best])

    def _whole(
        self, slots: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Items with their scores, best first, each from rows that were read whole."""
        copies = self.learned.copies
        if copies is None or not self.learned.by_rows or not len(slots):
            return slots, scores
        # The items of the history make the user's vector, so they are among the copies.
        all_slots = np.concatenate([slots, np.setdiff1d(self._guest.history_slots(), slots)])
        scores = self._guest.scores(copies.of(all_slots), len(all_slots))[: len(slots)]
        order = np.argsort(-scores, kind="stable")
        return slots[order], scores[order]

    def _reasons(self, slots: NDArray[np.int64], allowed: NDArray[np.bool_] | None) -> list[list[Reason]]:
        """What speaks for each item, the guest being the user; an item that is not served is not named."""
        if self.learned.learner.explain is None or not len(slots):
            return [[] for _ in slots]
        count = self.learned.items.count
        sample = np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int32)
        average = self._guest.parts(sample).mean(axis=0, dtype=np.float64)
        parts = self._guest.parts(slots.astype(np.int32)) - average  # (k, 3 + history)
        past = [
            self._item(s) if s >= 0 and (allowed is None or allowed[s]) else None
            for s in self._guest.past_slots()
        ]
        return [strongest(row, past) for row in parts.tolist()]

    def _has_vectors(self, kind: Kind) -> bool:
        if kind == "user" and self.learned.learner.query is not None:
            return True
        layout = self.learned.layout
        return any(f.name == "vector" for f in (layout.user if kind == "user" else layout.item))

    def _must_have_vectors(self, kind: Kind) -> None:
        if not self._has_vectors(kind):
            raise VersionError(
                f'The learner "{self.learned.learner.name}" of version "{self.version}" has no vectors of '
                f"{kind}s. Learners that have: {', '.join(learners_with_vectors())}."
            )

    def _item(self, slot: int) -> str:
        return self.learned.items.ids.id_of(slot).decode()

    def _slot(self, name: str) -> int:
        slot = self.learned.items.ids.slot_of(checked(name))
        return slot if slot < self.learned.items.count else -1  # one that came in this moment

    def _item_slot(self, name: str) -> int:
        slot = self._slot(name)
        if slot < 0:
            raise self._never_seen("item", name)
        return slot

    def _known_user(self, name: str) -> None:
        if not self._guest.load(name):
            raise self._never_seen("user", name)

    def _never_seen(self, kind: Kind, name: str) -> UnknownIdError:
        until = f"up to {self.as_of:%Y-%m-%d %H:%M:%S} UTC" if self.as_of else "as it has no events yet"
        return UnknownIdError(
            f'The {kind} "{name}" was never seen by version "{self.version}" {until}, or its row expired. '
            "Check the id, or learn events that name it."
        )


@contextmanager
def answers_of(version: Version, listing: Listing | None = None) -> Iterator[Answers]:
    """Answers of a version as of its last commit, also while a worker learns it.

    Args:
        listing: the catalogue, kept for this version alone.

    Raises:
        StoreError: nothing was learned yet, the store cannot be read, or something is to be forgotten first.
    """
    with version.reading() as store:
        learned = Learned(version.spec, store, user_cache=1)
        check_forgotten(version.home, learned.ledger.erased)
        yield Answers(version.name, learned, listing)


def recommend(learned: Learned, user: str, k: int) -> list[tuple[str, float, list[Reason]]]:
    """(item, score, reasons), best first, of a version that is in memory and may be learning.

    Call it from the thread that learns.
    """
    found = Answers(learned.spec.learner, learned).recommend(user, k)
    return [(one.item, one.score, one.because) for one in found.items]


def learners_with_vectors() -> list[str]:
    """Names of the learners whose items have vectors."""
    loaded = [learners.load(name) for name in learners.names()]
    return [one.name for one in loaded if any(f.name == "vector" for f in one.layout(one.options()).item)]


def _moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
