"""Files as an event log: JSON lines, CSV and parquet enter, slices of events leave.

Each file is a partition; a directory of segments stands for all of them.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Protocol

from consumers.eventlog.byte_sources import FileBytes, StreamBytes, open_file, size_of
from consumers.eventlog.contract import Slice
from consumers.eventlog.json_lines import JsonLinesReader
from consumers.eventlog.lines import LineReader
from consumers.eventlog.parquet import ParquetReader
from consumers.eventlog.segments import SegmentBytes, Segments, is_segments, segments_in
from consumers.eventlog.tabular import CsvReader
from streaming.errors import InputFormatError, InputVanishedError, SettingError, nearest
from streaming.rules import EventRules

FORMATS = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
}
STDIN = "-"
_POLL_S = 0.05


class _Reader(Protocol):
    """One source while it is read."""

    time_unit: str | None

    @property
    def ended(self) -> bool: ...

    def read(self, most: int) -> Slice | None: ...

    def skip(self, records: int) -> int: ...

    def remaining(self) -> int: ...


class FilesLog:
    """An `EventLog` over files, read one after the other, then, with `follow`, in turn as they grow.

    Args:
        paths: files; their format is that of their name (.jsonl, .ndjson, .json, .csv, .tsv, .parquet;
            the text formats also with .gz or .zst behind); "-" is standard input; a directory of segments
            is each of them in turn, and with `follow` those that are begun later, too.
        rules: what makes a record an event.
        follow: wait for lines that are appended. An unfinished last line is left until its end comes;
            without `follow` it is a record. Compressed and parquet files do not grow.
        format: "jsonl", "csv", "tsv" or "parquet" for all paths, whatever their names.
        stdin: what "-" reads (the process's standard input).
        time_units: source → unit of its times, as decided by an earlier run.

    Raises:
        InputError: a path is missing, a directory, or cannot be read.
        InputFormatError: a name promises no known format, or the content breaks the promise.
        SettingError: an unknown format, or a path given twice.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        rules: EventRules,
        *,
        follow: bool = False,
        format: str | None = None,
        stdin: BinaryIO | None = None,
        time_units: Mapping[str, str] | None = None,
    ) -> None:
        self._rules = rules
        self._follow = follow
        self._stdin = stdin
        self._units: dict[str, str] = dict(time_units or {})
        self._directories = [Path(os.path.abspath(path)) for path in paths if is_segments(path)]
        for directory in self._directories:
            Segments(directory).settle()
        self._formats = _formats(paths, format)
        self._readers: dict[str, _Reader] = {}
        self._bytes: dict[str, FileBytes | StreamBytes | ParquetReader] = {}
        self._first: dict[str, int] = {}  # offset of the first record of this run, for standard input
        self._done: set[str] = set()  # read to the end, nothing more will come
        self._caught_up: set[str] = set()  # read to the end once
        self._turn = 0

    @property
    def repeatable(self) -> bool:
        """False where standard input is among the sources."""
        return STDIN not in self._formats

    @property
    def ended(self) -> bool:
        """Whether all sources were read to their ends and none may grow."""
        grows = self._follow and bool(self._directories)
        return len(self._done) == len(self._formats) and not grows

    @property
    def time_units(self) -> dict[str, str]:
        """Source → unit of its numeric times, for the sources where it is decided."""
        return dict(self._units)

    def sources(self) -> list[str]:
        """Absolute paths of the files, in the order in which they are read."""
        return list(self._formats)

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go past the records that were learned.

        Raises:
            InputVanishedError: a file has fewer.
        """
        for source, position in positions.items():
            if source not in self._formats or position == 0:
                continue
            if source == STDIN:
                # It cannot be read again: its records are counted on from those of the earlier run.
                self._first[source] = position
                continue
            found = self._reader(source).skip(position)
            if found < position:
                raise InputVanishedError(
                    f"{source} has {found} records, fewer than the {position} that were learned from it. "
                    "Put the whole file back, or create a new version for the new file."
                )

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next slice, or None when no record came.

        Raises:
            InputError: a file is damaged, was cut short or replaced, or is gone.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._next(max_events)
            if found is not None or self.ended:
                return found
            if self._begun_segments():
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._wait(min(left, _POLL_S))

    def lag(self) -> dict[str, int | None]:
        """Bytes still to be read; rows for parquet; standard input, of which nobody knows, is left out.

        Of compressed files the compressed bytes not yet read and the lines not yet given out.
        """
        lag: dict[str, int | None] = {}
        for source in self._formats:
            if source == STDIN:
                continue
            if source in self._done:
                lag[source] = 0
            elif source in self._readers or self._formats[source] == "parquet":
                lag[source] = self._reader(source).remaining()
            else:
                lag[source] = size_of(source)
        return lag

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes in all, as they lie on the disk; of standard input those read so far."""
        read = total = 0
        for source in self._formats:
            if source in self._bytes:
                done, size = self._bytes[source].progress()
            else:
                done, size = 0, 0 if source == STDIN else size_of(source)
            read, total = read + done, total + size
        return read, total

    def committed(self, positions: Mapping[str, int]) -> None:
        """Files keep no positions."""

    def close(self) -> None:
        """Close all files."""
        for opened in self._bytes.values():
            opened.close()
        self._done.update(self._formats)

    def _next(self, most: int) -> Slice | None:
        """The next slice that is there now: of the source whose turn it is, else of those behind it."""
        names = list(self._formats)
        for _ in names:
            source = names[self._turn]
            if source not in self._done:
                found = self._read(source, most)
                if found is not None:
                    if len(self._caught_up) == len(names):
                        self._turn = (self._turn + 1) % len(names)
                    return found
                if source not in self._done and not self._follow:
                    return None
                self._caught_up.add(source)
            self._turn = (self._turn + 1) % len(names)
        return None

    def _begun_segments(self) -> bool:
        """Take in the segments that were begun since; whether there are any."""
        if not self._follow:
            return False
        there = [os.fspath(path) for directory in self._directories for path in segments_in(directory)]
        new = [source for source in there if source not in self._formats]
        self._formats |= dict.fromkeys(new, "jsonl")
        if new:
            self._turn = 0  # what is left in the segments before them comes first
        return bool(new)

    def _read(self, source: str, most: int) -> Slice | None:
        reader = self._reader(source)
        found = reader.read(most)
        if found is None:
            if reader.ended:
                self._done.add(source)
                self._bytes[source].close()
            return None
        if found.time_unit is not None:
            self._units[source] = found.time_unit
        first = self._first.get(source, 0)
        return _shifted(found, first) if first else found

    def _wait(self, seconds: float) -> None:
        waiting = self._bytes.get(STDIN)
        if isinstance(waiting, StreamBytes) and STDIN not in self._done:
            waiting.wait(seconds)
        else:
            time.sleep(seconds)

    def _reader(self, source: str) -> _Reader:
        if source not in self._readers:
            self._readers[source] = self._opened(source)
        return self._readers[source]

    def _opened(self, source: str) -> _Reader:
        kind, unit = self._formats[source], self._units.get(source)
        if kind == "parquet":
            table = ParquetReader(source, self._rules, unit)
            self._bytes[source] = table
            return table
        opened: StreamBytes | FileBytes
        if source == STDIN:
            opened = StreamBytes(self._stdin or sys.stdin.buffer)
        elif Path(source).parent in self._directories:
            opened = SegmentBytes(source, follow=self._follow)
        else:
            opened = FileBytes(source, follow=self._follow)
        self._bytes[source] = opened
        if kind == "jsonl":
            return JsonLinesReader(LineReader(opened, self._rules), self._rules, unit)
        lines = LineReader(opened, self._rules, ends=True)
        return CsvReader(lines, self._rules, "\t" if kind == "tsv" else ",", unit)


def _formats(paths: Sequence[str | os.PathLike[str]], given: str | None) -> dict[str, str]:
    """Source → format, in the order given; every file is there and can be opened."""
    if given is not None and given not in FORMATS:
        raise SettingError(
            f"format must be one of {', '.join(sorted(set(FORMATS.values())))}, got {given!r}."
            + nearest(given, FORMATS)
        )
    formats: dict[str, str] = {}
    for path in _expanded(paths):
        source = path if path == STDIN else os.path.abspath(path)
        if source in formats:
            raise SettingError(f"{source} is given twice; each file is read once.")
        if source != STDIN:
            open_file(source).close()
        formats[source] = FORMATS[given] if given else format_of(source)
    if not paths:
        raise SettingError("no event file is given; name one or more, or - for standard input.")
    return formats


def _expanded(paths: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """The paths, the segments of a directory in its place."""
    for path in paths:
        if is_segments(path):
            yield from map(os.fspath, segments_in(Path(path)))
        else:
            yield os.fspath(path)


def format_of(source: str) -> str:
    """The format that a file's name promises.

    Raises:
        InputFormatError: it promises none that is known.

    >>> format_of("events.csv.gz")
    'csv'
    """
    if source == STDIN:
        return "jsonl"
    name = os.path.basename(source)
    stem = name.removesuffix(".gz").removesuffix(".zst")
    kind = FORMATS.get(stem.rpartition(".")[2].lower()) if "." in stem else None
    if kind is None or (kind == "parquet" and stem != name):
        known = ", ".join(f".{suffix}" for suffix in FORMATS)
        raise InputFormatError(
            f"the name of {source} promises no known format; expected {known} "
            "(the text formats also with .gz or .zst behind). Rename it, or name the format with --format."
        )
    return kind


def _shifted(found: Slice, first: int) -> Slice:
    """The same slice, its offsets counted from `first`."""
    return replace(
        found,
        first=found.first + first,
        next_offset=found.next_offset + first,
        events=replace(found.events, offsets=found.events.offsets + first),
        bad=[replace(record, offset=record.offset + first) for record in found.bad],
    )
