"""Rows of CSV and TSV files enter, slices of events leave."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

import numpy as np

from consumers.eventlog.contract import Slice
from consumers.eventlog.lines import LineReader
from streaming.decoding import RAW_BYTES, Columns, settle
from streaming.errors import InputFormatError, nearest
from streaming.events import BadRecord
from streaming.rules import (
    Event,
    EventRules,
    event_from_mapping,
    number_in,
    over_long,
)

_LINES = 256  # fed to the CSV parser at a time


class _StarvedError(Exception):
    """The next row is not complete yet; more lines may come."""


class _Feed(Iterator[str]):
    """Lines for `csv.reader`, from a queue that keeps those of the unfinished row."""

    def __init__(self, lines: LineReader, rules: EventRules) -> None:
        self._lines = lines
        self._rules = rules
        self._bytes = 0
        self.queue: deque[bytes | BadRecord] = deque()
        self.used = 0

    def more(self) -> bool:
        """Fetch lines; False if the source has ended."""
        lines = self._lines.take(_LINES)
        if lines is None:
            if self._lines.ended:
                return False
            raise _StarvedError
        if lines.too_long is not None:
            self.queue.append(lines.too_long)
        for start, end in zip(lines.start.tolist(), lines.end.tolist(), strict=True):
            self.queue.append(self._kept(lines.data[start:end].tobytes()))
        return True

    def _kept(self, line: bytes) -> bytes | BadRecord:
        length = len(line.rstrip(b"\r\n"))
        if length <= self._rules.max_record_bytes:
            return line
        return BadRecord(0, over_long(length, self._rules), line[:RAW_BYTES], length)

    def begin(self) -> None:
        self.used = self._bytes = 0

    def __next__(self) -> str:
        # After the last line of the file, take() may still hand one out: the one without a line end.
        while self.used == len(self.queue):
            if not self.more():
                raise StopIteration
        line = self.queue[self.used]
        limit = self._rules.max_record_bytes
        if isinstance(line, BadRecord) or self._bytes + len(line) > limit + 2:
            raise csv.Error(f"no end of the row within {limit} bytes (events.max_record_bytes)")
        self._bytes += len(line)
        self.used += 1
        return line.decode("utf-8", "surrogateescape")


class CsvReader:
    """Events of a CSV or TSV source with a header row; offsets count the rows below it.

    A row that cannot be parsed (a quote that does not close, say) spoils its first
    line only: reading goes on at the next.
    """

    def __init__(self, lines: LineReader, rules: EventRules, delimiter: str, time_unit: str | None) -> None:
        self.lines = lines
        self.position = 0
        self.time_unit = rules.given_unit or time_unit
        self._rules = rules
        self._feed = _Feed(lines, rules)
        self._rows = csv.reader(self._feed, delimiter=delimiter, strict=True)
        self._line = 1
        self._header: list[str] | None = None
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether all rows were read and no more will come."""
        return self._ended

    def read(self, most: int) -> Slice | None:
        """The next rows, at most `most`, decoded; None if there are none now."""
        rows: list[list[str] | BadRecord] = []
        raws: list[bytes] = []
        lines: list[int] = []
        first = self.position
        while len(rows) < most and (row := self._row()) is not None:
            rows.append(row[0])
            raws.append(row[1])
            lines.append(row[2])
        if not rows:
            return None
        records = [self._record(row) for row in rows]

        def judge(k: int, unit: str | None) -> Event | str | None:
            record = records[k]
            return event_from_mapping(record, self._rules, unit) if isinstance(record, dict) else record

        def refuse(k: int, reason: str) -> BadRecord:
            row = rows[k]
            length = row.length if isinstance(row, BadRecord) else len(raws[k])
            long = length if length is not None and length > RAW_BYTES else None
            return BadRecord(first + k, reason, raws[k][:RAW_BYTES], long, lines[k])

        offsets = np.arange(first, first + len(rows))
        columns = Columns.doubtful(np.zeros(0, np.uint8), len(rows))
        events, bad, self.time_unit = settle(columns, offsets, self._rules, self.time_unit, judge, refuse)
        self.position += len(rows)
        return Slice(
            self.lines.source.name, first, self.position, events, bad, self.lines.arrived, self.time_unit
        )

    def mappings(self, most: int) -> list[dict[str, object] | str | None] | None:
        """What the next rows say, at most `most`: column → cell, a reason against it, or None for a blank.

        Returns:
            None if there are none now.
        """
        rows: list[dict[str, object] | str | None] = []
        while len(rows) < most and (row := self._row()) is not None:
            rows.append(self._record(row[0]))
        self.position += len(rows)
        return rows or None

    def skip(self, records: int) -> int:
        """Go past so many rows; returns how many of them there were."""
        first = self.position
        while self.position < first + records and self._row() is not None:
            self.position += 1
        return self.position - first

    def remaining(self) -> int:
        """Bytes still to be read."""
        read, size = self.lines.source.progress()
        queued = sum(len(line) for line in self._feed.queue if isinstance(line, bytes))
        return max(0, size - read) + self.lines.waiting_bytes + queued

    def _row(self) -> tuple[list[str] | BadRecord, bytes, int] | None:
        """The next row below the header, its bytes, and the line at which it starts."""
        if self._ended:
            return None
        try:
            if self._header is None:
                if (row := self._parsed()) is None:
                    return None
                self._header = self._checked(row[0])
            return self._parsed()
        except _StarvedError:
            return None

    def _parsed(self) -> tuple[list[str] | BadRecord, bytes, int] | None:
        feed, line = self._feed, self._line
        feed.begin()
        while not feed.queue:
            if not feed.more():
                self._ended = True
                return None
        row: list[str] | BadRecord | None
        spoiled = feed.queue[0]
        if isinstance(spoiled, BadRecord):
            feed.queue.popleft()
            self._line += 1
            return spoiled, spoiled.raw, line
        try:
            row = next(self._rows)
        except csv.Error as error:
            row = BadRecord(0, f"the row is not CSV ({error}).", b"")
            feed.used = 1
        raw = b"".join(
            text for text in (feed.queue.popleft() for _ in range(feed.used)) if isinstance(text, bytes)
        )
        self._line += feed.used
        return row, raw.rstrip(b"\r\n"), line

    def _checked(self, header: list[str] | BadRecord) -> list[str]:
        path = self.lines.source.name
        if isinstance(header, BadRecord):
            raise InputFormatError(
                f"{path} has no header row: {header.reason} Its first line must name the columns."
            )
        names = [name.strip() for name in header]
        check_columns(path, names, self._rules)
        return names

    def _record(self, row: list[str] | BadRecord) -> dict[str, object] | str | None:
        if isinstance(row, BadRecord):
            return row.reason
        header = self._header or []
        if not row:
            return None
        if len(row) > len(header):
            return f"the row has {len(row)} cells; expected {len(header)} as in the header."
        record: dict[str, object] = {name: cell or None for name, cell in zip(header, row, strict=False)}
        for name in (self._rules.name("ts"), self._rules.name("value")):
            cell = record.get(name)
            if isinstance(cell, str):
                number = number_in(cell)
                record[name] = cell if number is None else number
        return record


def check_columns(path: str, names: list[str], rules: EventRules) -> None:
    """Raise an InputFormatError where a column that every event needs is missing."""
    for field in ("user", "item", "ts"):
        name = rules.name(field)
        if name not in names:
            raise InputFormatError(
                f"{path} has no column {name!r}; it has {', '.join(names[:20])}.{nearest(name, names)} "
                f'Name the column that holds the {field}: [events.fields] {field} = "…".'
            )
