"""What the worker asks of an event log: ordered events with positions, read again from any of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from streaming.events import BadRecord, EventBatch


@dataclass(frozen=True, slots=True)
class Slice:
    """Offsets first … next_offset - 1 of one source, decoded.

    Every offset in the range is accounted for: it is in `events`, in `bad`, or
    was blank (an empty line, a control record).

    Attributes:
        source: name of the partition (an absolute path, or topic[partition]).
        arrived: wall-clock seconds at which the newest record was there to be read.
        time_unit: unit of the source's numeric times once it is decided ("s", "ms" or "us"); to be
            kept with the offsets, so that a later run reads the rest in the same unit.
        token: to be kept with the offsets, so that a later run knows the source again; None changes nothing.
    """

    source: str
    first: int
    next_offset: int
    events: EventBatch
    bad: list[BadRecord]
    arrived: float
    time_unit: str | None = None
    token: str | None = None


class EventLog(Protocol):
    """Partitioned, ordered events. Sources are named; positions are offsets of the next record."""

    @property
    def repeatable(self) -> bool:
        """Whether the same positions can be read again (standard input cannot)."""
        ...

    def sources(self) -> list[str]:
        """Names of the partitions, in the order in which they are read."""
        ...

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on from these offsets; sources not named start at 0. Called once, before the first poll.

        Raises:
            InputVanishedError: a source holds fewer records than its position.
        """
        ...

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next slice of at most about `max_events` records, or None when none came in `timeout_s`."""
        ...

    @property
    def ended(self) -> bool:
        """Whether every source was read to its end and nothing more will come."""
        ...

    def lag(self) -> dict[str, int | None]:
        """Records (or bytes, where records are not counted) still to be read, None when unknown."""
        ...

    def committed(self, positions: Mapping[str, int]) -> None:
        """Told after each commit, for lag tools only."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
