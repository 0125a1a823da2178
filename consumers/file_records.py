"""Files of events enter; the same events leave as records that a topic can take: key, value, time.

A JSON line is its own record, byte for byte. A row of CSV or parquet becomes a JSON object with the
columns that hold user, item, ts, type and value, under their own names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from consumers.eventlog.byte_sources import FileBytes
from consumers.eventlog.files import format_of
from consumers.eventlog.lines import LineReader
from consumers.eventlog.parquet import ParquetReader
from consumers.eventlog.tabular import CsvReader
from streaming.decoding import JsonDecoder
from streaming.events import Ids
from streaming.rules import MICROSECONDS, Event, EventRules, event_from_mapping

MOST = 4096  # records of one piece


@dataclass(frozen=True, slots=True)
class Records:
    """N events in the order of their source, as a topic takes them.

    Attributes:
        numbers: position of each in its source, strictly ascending.
        users: the keys.
        values: the records' bytes, as spans.
        ts: event time in microseconds since 1970.
        left_out: records before, between or behind these that are no events.
    """

    numbers: NDArray[np.int64]  # (N,)
    users: Ids
    values: Ids
    ts: NDArray[np.int64]  # (N,)
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.numbers)


class _Rows(Protocol):
    """A reader of tables."""

    position: int
    time_unit: str | None

    def mappings(self, most: int) -> list[dict[str, object] | str | None] | None: ...


class FileRecords:
    """The events of one file, in order.

    Args:
        path: .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz or .zst) or .parquet.
        rules: what makes a record an event.

    Raises:
        InputError: the file is missing or cannot be read.
        InputFormatError: its name promises no known format, or its content breaks the promise.
    """

    def __init__(self, path: str, rules: EventRules) -> None:
        self.source = os.path.abspath(path)
        self._rules = rules
        self._format = format_of(self.source)
        self._bytes: FileBytes | ParquetReader
        if self._format == "parquet":
            self._bytes = ParquetReader(self.source, rules, None)
        else:
            self._bytes = FileBytes(self.source)

    def __iter__(self) -> Iterator[Records]:
        """Pieces of a few thousand events.

        Raises:
            InputError: the file cannot be read to its end.
        """
        if isinstance(self._bytes, ParquetReader):
            return self._rows(self._bytes)
        if self._format == "jsonl":
            return self._lines(LineReader(self._bytes, self._rules))
        lines = LineReader(self._bytes, self._rules, ends=True)
        return self._rows(CsvReader(lines, self._rules, "\t" if self._format == "tsv" else ",", None))

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes in all, as they lie on the disk."""
        return self._bytes.progress()

    def close(self) -> None:
        """Close the file."""
        self._bytes.close()

    def _lines(self, lines: LineReader) -> Iterator[Records]:
        decoder = JsonDecoder(self._rules)
        while (found := lines.take(MOST)) is not None:
            if found.too_long is not None:
                yield made([], [], [], [], left_out=1)
                continue
            at = np.arange(len(found.start))
            events, bad = decoder.decode(found.data, found.start, found.end, at)
            kept = events.offsets
            values = Ids(found.data, found.start[kept], found.end[kept])
            yield Records(found.first + kept, events.users, values, events.ts, len(bad))

    def _rows(self, reader: _Rows) -> Iterator[Records]:
        while (rows := reader.mappings(MOST)) is not None:
            first = reader.position - len(rows)
            events: list[Event] = []
            kept: list[int] = []
            values: list[bytes] = []
            bad = 0
            for k, row in enumerate(rows):
                event = (
                    event_from_mapping(row, self._rules, reader.time_unit) if isinstance(row, dict) else row
                )
                if isinstance(event, Event) and isinstance(row, dict):
                    reader.time_unit = reader.time_unit or event.unit
                    events.append(event)
                    kept.append(first + k)
                    values.append(self._json(row, event, reader.time_unit))
                elif event is not None:
                    bad += 1
            yield made(kept, [e.user for e in events], values, [e.ts for e in events], bad)

    def _json(self, row: dict[str, object], event: Event, unit: str | None) -> bytes:
        """One row as JSON; its time in the unit in which the topic will be read."""
        wanted = {self._rules.name(field) for field in ("user", "item", "ts", "type", "value")}
        record = {name: cell for name, cell in row.items() if name in wanted and cell is not None}
        read_as = self._rules.given_unit
        if read_as is not None and event.unit is not None and unit != read_as:
            record[self._rules.name("ts")] = event.ts / MICROSECONDS[read_as]
        return msgspec.json.encode(record)


def made(
    numbers: list[int], users: list[bytes], values: list[bytes], ts: list[int], left_out: int = 0
) -> Records:
    """Records of lists."""
    return Records(np.array(numbers, np.int64), spans(users), spans(values), np.array(ts, np.int64), left_out)


def spans(pieces: list[bytes]) -> Ids:
    """Texts that lie one after the other.

    >>> spans([b"ab", b"c"])[1]
    'c'
    """
    bounds = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return Ids(np.frombuffer(b"".join(pieces), np.uint8), bounds[:-1], bounds[1:])
