"""An event log over the simulator: options enter, slices of events and their oracle ranks leave."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from consumers.eventlog.contract import Slice
from streaming.errors import InputError, InputVanishedError, SettingError, UsageError
from streaming.simulator import Simulator, SimulatorOptions

KEPT = 100_000  # newest events whose oracle ranks are held


class SimulatorLog:
    """One source, "simulator[seed]", whose offsets are the numbers of the simulator's events.

    It can be read again from any position: seeking generates what comes before
    (about 10 s for a million events).

    Args:
        options: of the simulated world.
        limit: number of events in the log; None for an endless one.
        rate: events per second of wall time, counted from the first poll; None
            for as fast as they are asked for.
        keep: newest events whose oracle ranks are held.

    Raises:
        SettingError: limit, rate or keep is not above 0.
    """

    def __init__(
        self,
        options: SimulatorOptions | None = None,
        *,
        limit: int | None = None,
        rate: float | None = None,
        keep: int = KEPT,
    ) -> None:
        for name, value in (("limit", limit), ("rate", rate), ("keep", keep)):
            if value is not None and not 0 < value < float("inf"):
                raise SettingError(f"simulator.{name}: expected a number above 0, got {value}.")
        self.simulator = Simulator(options)
        self.source = f"simulator[{self.simulator.options.seed}]"
        self._limit = limit
        self._rate = rate
        self._ranks = np.empty(keep, np.float32)
        self._first_rank = 0  # offset of the first event since the last seek
        self._origin: tuple[float, float, int] | None = None  # monotonic, wall clock, offset at first poll

    @property
    def repeatable(self) -> bool:
        """True: the same options give the same events."""
        return True

    @property
    def ended(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.simulator.position >= self._limit

    def sources(self) -> list[str]:
        """The one source."""
        return [self.source]

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on from this offset, by generating all events before it.

        Raises:
            UsageError: the offset is below 0.
            InputVanishedError: the offset lies beyond the limit.
        """
        position = positions.get(self.source, 0)
        if position < 0:
            raise UsageError(f"{self.source}: expected an offset from 0, got {position}.")
        if self._limit is not None and position > self._limit:
            raise InputVanishedError(
                f"{self.source}: expected at least {position} events, since so many were learned, "
                f"but the limit is {self._limit}. Raise the limit."
            )
        if position < self.simulator.position:
            self.simulator = Simulator(self.simulator.options)
        self.simulator.skip(position - self.simulator.position)
        self._first_rank = position
        self._origin = None

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next slice; with a rate, None where no event falls due within the timeout."""
        count = self._wait(min(max_events, self._ranks.shape[0]), timeout_s)
        if count <= 0:
            return None
        batch = self.simulator.events(count)
        offsets = np.arange(batch.first, batch.first + count)
        self._ranks[offsets % self._ranks.shape[0]] = batch.oracle_rank
        next_offset = batch.first + count
        return Slice(self.source, batch.first, next_offset, batch.to_events(), [], self._arrived(next_offset))

    def lag(self) -> dict[str, int | None]:
        """Events that are due (with a rate) or left before the limit; None in an endless log."""
        return {self.source: self._due()}

    def committed(self, positions: Mapping[str, int]) -> None:
        """Nothing outside wants to know."""

    def close(self) -> None:
        """Nothing is open."""

    def oracle_ranks(self, first: int, next_offset: int) -> NDArray[np.float32]:
        """Oracle ranks of the events first … next_offset - 1.

        Raises:
            InputError: some of them are not among the newest that are held, or not yet polled.
        """
        position = self.simulator.position
        oldest = max(self._first_rank, position - self._ranks.shape[0])
        if not oldest <= first <= next_offset <= position:
            raise InputError(
                f"{self.source}: oracle ranks are held for offsets {oldest} to {position}, "
                f"got {first} to {next_offset}. Ask right after the poll, or raise keep."
            )
        return self._ranks[np.arange(first, next_offset) % self._ranks.shape[0]]

    def _wait(self, most: int, timeout_s: float) -> int:
        """How many events may be generated now, at most `most`; waits for the first to fall due."""
        if self._origin is None:
            self._origin = time.monotonic(), time.time(), self.simulator.position
        due = self._due()
        if due == 0 and not self.ended and self._rate is not None:
            began, _, offset = self._origin
            next_due = began + (self.simulator.position + 1 - offset) / self._rate
            time.sleep(max(0.0, min(timeout_s, next_due - time.monotonic())))
            due = self._due()
        return most if due is None else min(most, due)

    def _due(self) -> int | None:
        """Events that may be generated now; None for any number."""
        position = self.simulator.position
        left = None if self._limit is None else max(0, self._limit - position)
        if self._rate is None:
            return left
        if self._origin is None:
            return 0
        began, _, offset = self._origin
        due = offset + int((time.monotonic() - began) * self._rate) - position
        return max(0, due if left is None else min(left, due))

    def _arrived(self, next_offset: int) -> float:
        """Wall-clock seconds at which the event before this offset fell due."""
        if self._rate is None or self._origin is None:
            return time.time()
        _, wall, offset = self._origin
        return wall + (next_offset - offset) / self._rate
