"""Bytes of a file or of standard input enter, numbered lines leave, in blocks of bounded size."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consumers.eventlog.byte_sources import ByteSource
from streaming.decoding import RAW_BYTES
from streaming.events import BadRecord
from streaming.rules import EventRules, over_long

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Lines:
    """N lines: line k is `data[start[k]:end[k]]`; or one that was too long to be kept."""

    data: NDArray[np.uint8]
    start: NDArray[np.int64]  # (N,)
    end: NDArray[np.int64]  # (N,)
    first: int  # number of line 0, from 0
    too_long: BadRecord | None = None


class LineReader:
    """Lines of a source, counted from 0. A line longer than the rules allow is not held in memory.

    Args:
        ends: whether the line ends belong to the lines; without them, CRLF is cut off like LF.

    Attributes:
        number: number of the next line.
        ended: whether all was read and nothing more will come.
        arrived: wall-clock seconds of the last read that brought bytes.
    """

    def __init__(self, source: ByteSource, rules: EventRules, *, ends: bool = False) -> None:
        self.source = source
        self.number = 0
        self.ended = False
        self.arrived = 0.0
        self._rules = rules
        self._ends = ends
        self._data: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._breaks: NDArray[np.int64] = np.zeros(0, np.int64)  # positions of LF in the block
        self._next = 0  # index in _breaks
        self._from = 0  # where the next line starts in the block
        self._head = b""  # start of a line too long to be kept
        self._lost = 0  # its bytes so far, 0 if there is none
        self._last = b""  # its last byte so far
        self._silent = False  # whether it was delivered before its end had come
        self._found: BadRecord | None = None  # a line too long, now complete

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were read but not yet given out."""
        return len(self._data) - self._from

    def take(self, most: int) -> Lines | None:
        """The next lines, at most `most`; None if there are none now."""
        while True:
            if self._found is not None:
                found, self._found = self._found, None
                return self._given(found)
            if self._next < len(self._breaks):
                stop = min(self._next + most, len(self._breaks))
                breaks = self._breaks[self._next : stop]
                self._next = stop
                return self._cut(breaks, breaks + 1)
            if not self._fill():
                break
        if self.source.grows or self.ended:
            return None
        self.ended = True
        if self._lost and not self._silent:
            return self._given(self._complete())
        if self.waiting_bytes:
            end = np.array([len(self._data)])
            return self._cut(end, end)
        return None

    def skip(self, lines: int) -> int:
        """Go past so many lines; returns how many of them there were."""
        goal = self.number + lines
        while self.number < goal and self.take(goal - self.number) is not None:
            pass
        if self.number == goal - 1 and (self.waiting_bytes or self._lost):
            # An earlier run, which did not follow, took the unfinished line for a record.
            self._lose(self._data[self._from :].tobytes())
            self._silent = True
            self.number += 1
        return lines - (goal - self.number)

    def _given(self, bad: BadRecord) -> Lines:
        none = np.zeros(0, np.int64)
        self.number += 1
        return Lines(self._data, none, none, self.number - 1, bad)

    def _cut(self, end: NDArray[np.int64], after: NDArray[np.int64]) -> Lines:
        start = np.concatenate([np.array([self._from]), after[:-1]])
        self._from = int(after[-1])
        if self.number == 0 and self._data[: len(_BOM)].tobytes() == _BOM:
            start[0] = min(start[0] + len(_BOM), end[0])
        end = after if self._ends else end - ((end > start) & (self._data[end - 1] == 13))
        first = self.number
        self.number += len(start)
        return Lines(self._data, start, end, first)

    def _fill(self) -> bool:
        """Read another block behind the unfinished line; False if nothing came."""
        data = self.source.read(self.number)
        if not data:
            return False
        self.arrived = time.time()
        tail = self._data[self._from :].tobytes()
        # Room for CR and the byte order mark, so that this judges as the decoder does.
        if len(tail) > self._rules.max_record_bytes + 4:
            self._lose(tail)
            tail = b""
        if self._lost:
            cut = data.find(b"\n")
            part = data if cut < 0 else data[:cut]
            self._lost += len(part)
            self._last = part[-1:] or self._last
            data = b"" if cut < 0 else data[cut + 1 :]
            if cut >= 0:
                found = self._complete()
                self._found = None if self._silent else found
                self._silent = False
        self._data = np.frombuffer(tail + data, np.uint8)
        self._breaks = np.flatnonzero(self._data == 10)
        self._next = self._from = 0
        return True

    def _lose(self, line: bytes) -> None:
        """Keep of the unfinished line only its head and its length."""
        if not self._lost:
            if self.number == 0:
                line = line.removeprefix(_BOM)
            self._head, self._lost, self._last = line[:RAW_BYTES], max(len(line), 1), line[-1:]
        self._data = self._data[:0]
        self._breaks = self._breaks[:0]
        self._next = self._from = 0

    def _complete(self) -> BadRecord:
        length = self._lost - (self._last == b"\r")
        bad = BadRecord(self.number, over_long(length, self._rules), self._head, length, self.number + 1)
        self._head, self._lost, self._last = b"", 0, b""
        return bad


def numbered(bad: list[BadRecord]) -> list[BadRecord]:
    """Bad lines with their line numbers: record 0 is line 1."""
    return [replace(record, line=record.offset + 1) for record in bad]
