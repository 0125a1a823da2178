"""The forms of answers: what a version says of recommendations, embeddings, similar ids and scores."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from state.reasons import Reason
from streaming.errors import UsageError

Kind = Literal["user", "item"]
RepresentedBy = Literal["row", "sequence", "history", "popularity"]

MOST = 10_000  # answers to one question


class Recommended(msgspec.Struct, frozen=True):
    """An item with its score and what speaks for it, the strongest first."""

    item: str
    score: float
    because: list[Reason]


class Recommendations(msgspec.Struct, frozen=True):
    """Items for a user, best first; `as_of` is the event time of the newest event that is in them.

    Attributes:
        sequence: why a sequence embedding is in the scores, or is not; absent where none are made.
    """

    user: str
    version: str
    represented_by: RepresentedBy
    as_of: datetime | None
    items: list[Recommended]
    sequence: str | msgspec.UnsetType = msgspec.UNSET


class Embedding(msgspec.Struct, frozen=True):
    """A vector; a user's includes what was pooled from the history, where the learner pools."""

    kind: Kind
    id: str
    version: str
    dimension: int
    vector: list[float]
    events: int
    last_seen: datetime


class Near(msgspec.Struct, frozen=True):
    """An id with its dot product, cosine or Euclidean distance, or its weight among an item's neighbours."""

    id: str
    score: float


class Similar(msgspec.Struct, frozen=True):
    """Ids of the same kind, nearest first."""

    kind: Kind
    id: str
    version: str
    by: Literal["dot", "cosine", "euclidean", "neighbours"]
    as_of: datetime | None
    similar: list[Near]


class Scored(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item with its score; None where the version has never seen it.

    Attributes:
        available: whether the catalogue lets it be served; absent without a catalogue.
    """

    item: str
    score: float | None
    available: bool | None = None


class Scores(msgspec.Struct, frozen=True):
    """Scores of items for a user, in the order asked for; `sequence` as in `Recommendations`."""

    user: str
    version: str
    represented_by: RepresentedBy
    as_of: datetime | None
    scores: list[Scored]
    sequence: str | msgspec.UnsetType = msgspec.UNSET


def check_count(k: int) -> None:
    """Refuse a number of answers that cannot be.

    Raises:
        UsageError: k is not between 1 and MOST.
    """
    if not 1 <= k <= MOST:
        raise UsageError(f"The number of answers (-k) must be between 1 and {MOST}, got {k}.")
