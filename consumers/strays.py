"""Learned batches enter; how many of their events came from another partition than their user's row leaves.

A topic is keyed by user, so that a user's events lie in one partition and are learned in their order. Where
a producer keys otherwise, or partitions were added, that no longer holds. Nothing is changed by it here.
"""

from __future__ import annotations

import re

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.eventlog.contract import Slice
from state.ledger import Source
from state.users import UserTable

logger = structlog.get_logger()

_PARTITION = re.compile(r"([A-Za-z0-9._-]+)(?:#\d+)?\[(\d+)\]")  # as `eventlog.kafka_part` names sources


class Strays:
    """Counts the events of users in two partitions of a topic, and says so once.

    Attributes:
        found: such events so far.
    """

    def __init__(self) -> None:
        self.found = 0
        self._others: dict[int, NDArray[np.bool_] | None] = {}
        self._sources = 0

    def look(self, users: UserTable, slots: NDArray[np.int32], sources: list[Source], found: Slice) -> None:
        """Compare a batch with the rows of its users.

        Args:
            slots: (N,) of each event's user, -1 for one without a row.
            sources: of the ledger, by partition number; `found` is of one of them.
        """
        if len(sources) != self._sources:
            self._others, self._sources = {}, len(sources)
        others = self._of(found.source, sources)
        if others is None:
            return
        count = int(np.count_nonzero(others[users.partition[slots[slots >= 0]]]))
        if count and not self.found:
            logger.warning(
                "user_in_two_partitions",
                source=found.source,
                offset_first=found.first,
                offset_last=found.next_offset - 1,
                events=count,
                effect="the events of such a user may be learned out of order",
                remedy="key the topic by user, and keep its number of partitions",
            )
        self.found += count

    def _of(self, name: str, sources: list[Source]) -> NDArray[np.bool_] | None:
        """By partition number of the ledger, whether it is another partition of the same topic."""
        number = next(k for k, source in enumerate(sources) if source.name == name)
        if number not in self._others:
            self._others[number] = others_of(number, [source.name for source in sources])
        return self._others[number]


def others_of(number: int, names: list[str]) -> NDArray[np.bool_] | None:
    """Which sources are other partitions of the topic of one of them; None where there is none.

    A partition stays the same one where its topic was made anew.

    >>> others_of(0, ["events[0]", "events[1]", "events#2[0]", "a.jsonl", "clicks[2]"]).tolist()
    [False, True, False, False, False]
    """
    places = [match.groups() if (match := _PARTITION.fullmatch(name)) else None for name in names]
    mine = places[number]
    if mine is None:
        return None
    others = np.array([p is not None and p[0] == mine[0] and p[1] != mine[1] for p in places])
    return others if others.any() else None
