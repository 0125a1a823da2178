"""Why an item is recommended: the parts of its score enter, those worth naming leave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from state.guests import OWN_PARTS

_OWN_KINDS: tuple[Literal["taste", "popularity", "repetition"], ...] = ("taste", "popularity", "repetition")
_WORDS = {"taste": "your taste", "popularity": "popular now", "repetition": "had before"}
_HISTORY_REASONS = 2  # items of the history that are named
_WORTH_NAMING = 0.1  # share of what speaks for an item below which a part is not named


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that speaks for an item.

    Attributes:
        item: the item of the user's history that does, where kind is "history".
        part: what it adds to the score, beyond what it adds to that of an average item.
    """

    kind: Literal["taste", "popularity", "repetition", "history"]
    item: str | UnsetType = UNSET
    part: float


def strongest(parts: Sequence[float], past: Sequence[str | None]) -> list[Reason]:
    """The parts of a score that are worth naming, the strongest first."""
    by_item: dict[str, float] = {}
    for item, part in zip(past, parts[OWN_PARTS:], strict=False):
        if item is not None:
            by_item[item] = by_item.get(item, 0.0) + part
    named = sorted(by_item.items(), key=lambda pair: -pair[1])[:_HISTORY_REASONS]
    reasons = [Reason(kind=kind, part=part) for kind, part in zip(_OWN_KINDS, parts, strict=False)]
    reasons += [Reason(kind="history", item=item, part=part) for item, part in named]
    least = _WORTH_NAMING * sum(reason.part for reason in reasons if reason.part > 0.0)
    worth = [reason for reason in reasons if reason.part > 0.0 and reason.part >= least]
    return sorted(worth, key=lambda reason: -reason.part)


def in_words(reasons: Sequence[Reason]) -> str:
    """Reasons as short words.

    >>> in_words([Reason(kind="history", item="a", part=2.0), Reason(kind="popularity", part=1.0)])
    'because of a; popular now'
    """
    items = [reason.item for reason in reasons if reason.item is not UNSET]
    words = [f"because of {', '.join(map(str, items))}"] if items else []
    return "; ".join(words + [_WORDS[reason.kind] for reason in reasons if reason.kind in _WORDS])
