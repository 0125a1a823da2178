"""Lines of JSON enter, slices of events leave."""

from __future__ import annotations

import numpy as np

from consumers.eventlog.contract import Slice
from consumers.eventlog.lines import LineReader, numbered
from streaming.decoding import JsonDecoder, no_events
from streaming.rules import EventRules


class JsonLinesReader:
    """Events of a source of JSON lines; offsets count its lines from 0."""

    def __init__(self, lines: LineReader, rules: EventRules, time_unit: str | None) -> None:
        self.lines = lines
        self._decoder = JsonDecoder(rules, time_unit)

    @property
    def time_unit(self) -> str | None:
        """Unit of times given as numbers, None until it is decided."""
        return self._decoder.time_unit

    @time_unit.setter
    def time_unit(self, unit: str | None) -> None:
        self._decoder.time_unit = unit

    @property
    def ended(self) -> bool:
        """Whether all lines were read and no more will come."""
        return self.lines.ended

    def read(self, most: int) -> Slice | None:
        """The next lines, at most `most`, decoded; None if there are none now."""
        lines = self.lines.take(most)
        if lines is None:
            return None
        if lines.too_long is not None:
            events, bad = no_events(), [lines.too_long]
        else:
            offsets = np.arange(lines.first, self.lines.number)
            events, bad = self._decoder.decode(lines.data, lines.start, lines.end, offsets)
        return Slice(
            self.lines.source.name,
            lines.first,
            self.lines.number,
            events,
            numbered(bad),
            self.lines.arrived,
            self.time_unit,
        )

    def skip(self, records: int) -> int:
        """Go past so many lines; returns how many of them there were."""
        return self.lines.skip(records)

    def remaining(self) -> int:
        """Bytes still to be read."""
        read, size = self.lines.source.progress()
        return max(0, size - read) + self.lines.waiting_bytes
