"""When a worker commits: what commits cost enters, the moment of the next one leaves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_NEWEST = 8  # commits whose cost sets the pace: a slow one alone must not
_AIM = 0.95  # of the share of time that commits may take


@dataclass(frozen=True, slots=True)
class Pace:
    """When to commit: often enough to be fresh, seldom enough to cost little.

    A commit loses nothing by coming late: learning is deterministic and the log is the redo log.

    Attributes:
        shortest_s, longest_s: bounds of the interval.
        share: most of the time that commits may take.
        events: commit after this many events instead, whatever the clock says (0: by the clock).
    """

    shortest_s: float = 0.25
    longest_s: float = 30.0
    share: float = 0.1
    events: int = 0

    def owed_s(self, owed_s: float, cost: float, took: float) -> float:
        """By how much commits came too early for their share, one more of them counted.

        Args:
            cost: seconds of that commit.
            took: seconds from the end of the one before to its end.
        """
        owed_s += cost / (_AIM * self.share) - took
        return min(max(0.0, owed_s), _NEWEST * self.longest_s)

    def interval_s(self, costs: Sequence[float], owed_s: float = 0.0) -> float:
        """Time to let pass before the next commit.

        It is taken to cost what is usual, or more where costs rise, as they do while longer intervals
        change more rows. What is owed is made up for little by little, so that one slow sync makes no long
        interval and the share holds all the same.

        Args:
            costs: seconds of the newest commits.

        >>> round(Pace().interval_s([0.1, 0.1]), 2), Pace().interval_s([0.01])
        (0.95, 0.25)
        """
        aim = _AIM * self.share
        usual = max(median(costs), min(costs[-2:]))
        wanted = usual * (1.0 - aim) / aim + owed_s / _NEWEST
        return min(self.longest_s, max(self.shortest_s, wanted))


class CommitTimer:
    """Says when the next commit is due."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._due = self._ended = 0.0
        self._costs: deque[float] = deque(maxlen=_NEWEST)  # seconds of the newest commits
        self._owed = 0.0  # seconds by which commits came too early for their share

    def start(self) -> None:
        """Count from now."""
        self._ended = time.monotonic()
        self._due = self._ended + self._pace.shortest_s

    def due(self, pending: int = 0) -> bool:
        """Whether to commit now, so many events being learned and not durable."""
        if self._pace.events:
            return pending >= self._pace.events
        return time.monotonic() >= self._due

    def committed(self, cost_s: float) -> None:
        """A commit that cost this has just ended."""
        ended = time.monotonic()
        self._costs.append(cost_s)
        self._owed = self._pace.owed_s(self._owed, cost_s, ended - self._ended)
        self._ended = ended
        self._due = ended + self._pace.interval_s(list(self._costs), self._owed)
