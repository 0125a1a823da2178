"""Bytes of a file or of standard input enter, numbered lines leave, in blocks of bounded size."""

from __future__ import annotations

import gzip
import os
import select
import stat
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from streaming.decoding import RAW_BYTES
from streaming.errors import InputError, InputFormatError, InputVanishedError
from streaming.events import BadRecord
from streaming.rules import EventRules, over_long

BLOCK_BYTES = 1 << 20
_ZSTD_BYTES = 1 << 13  # compressed bytes at a time: what they expand to is held in memory
_BOM = b"\xef\xbb\xbf"


class ByteSource(Protocol):
    """Where bytes come from."""

    name: str
    grows: bool  # whether more bytes may come after read() returned none

    def read(self, records: int) -> bytes:
        """The next bytes, b"" if there are none now. `records` were read so far, for messages."""
        ...

    def wait(self, seconds: float) -> None:
        """Return when more bytes may have come, after `seconds` at the latest."""
        ...

    def progress(self) -> tuple[int, int]:
        """Bytes read, bytes in all."""
        ...

    def close(self) -> None: ...


class FileBytes:
    """Bytes of a plain, gzip or zstd file.

    Raises:
        InputVanishedError: the file is gone, was replaced or has been cut below what was read.
        InputFormatError: a compressed file is damaged or cut short.
        InputError: it cannot be read.
    """

    def __init__(self, path: str, *, follow: bool = False) -> None:
        self.name = path
        self._compression = next((c for c in ("gz", "zst") if path.endswith(f".{c}")), None)
        self.grows = follow and self._compression is None
        self._file = open_file(path)
        self._identity = _identity(os.fstat(self._file.fileno()))
        self._damage: Exception | None = None
        self._part: Callable[[int], bytes] = self._file.read
        if self._compression == "gz":
            self._part = gzip.GzipFile(fileobj=self._file).read1
        elif self._compression == "zst":
            self._part = _ZstdParts(self._file)

    def read(self, records: int) -> bytes:
        if self._file.closed:
            return b""
        self.check(records)
        parts: list[bytes] = []
        size = 0
        # What was read before the damage is handed out first.
        most = min(BLOCK_BYTES, self.room())
        while size < most and self._damage is None:
            try:
                part = self._part(most - size)
            except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
                self._damage = error
                break
            if not part:
                break
            parts.append(part)
            size += len(part)
        if self._damage is not None and not parts:
            raise self._damaged(records) from self._damage
        return b"".join(parts)

    def room(self) -> int:
        """Bytes that may be read now, where not all that is there may be."""
        return BLOCK_BYTES

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def progress(self) -> tuple[int, int]:
        size = size_of(self.name)
        return (size if self._file.closed else self._file.tell()), size

    def close(self) -> None:
        self._file.close()

    def _damaged(self, records: int) -> InputError:
        where = f"{self.name} after record {records}, byte {self._file.tell()}"
        if isinstance(self._damage, OSError) and not isinstance(self._damage, gzip.BadGzipFile):
            return InputError(f"cannot read {where}: {self._damage}. Mend it and run the same command again.")
        what = "is cut short" if isinstance(self._damage, EOFError) else f"is damaged ({self._damage})"
        kind = "gzip" if self._compression == "gz" else "zstd"
        return InputFormatError(
            f"{where}: the {kind} data {what}; all records before were read. "
            "Put the whole file in its place and run the same command again."
        )

    def check(self, records: int) -> None:
        try:
            status = os.stat(self.name)
        except OSError as error:
            raise InputVanishedError(
                f"{self.name} disappeared after record {records} ({error.strerror}). "
                "Put it back and run the same command again."
            ) from error
        if _identity(status) != self._identity:
            raise InputVanishedError(
                f"{self.name} was replaced by another file after record {records}. "
                "Give the new file a name of its own; to follow a log, append to it."
            )
        if status.st_size < self._file.tell():
            raise InputVanishedError(
                f"{self.name} has {status.st_size} bytes, fewer than the {self._file.tell()} read "
                f"up to record {records}. Put the whole file back and run the same command again."
            )


class _ZstdParts:
    """Decompress frame after frame; an unfinished frame at the end of the file is an EOFError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""

    def __call__(self, _: int) -> bytes:
        while True:
            data = self._rest or self._file.read(_ZSTD_BYTES)
            if not data:
                if self._frame is not None:
                    raise EOFError
                return b""
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            frame = self._frame
            part = frame.decompress(data)
            self._rest = frame.unused_data if frame.eof else b""
            if frame.eof:
                self._frame = None
            if part:
                return part


class StreamBytes:
    """Bytes of standard input, or of another pipe, as they come."""

    def __init__(self, stream: BinaryIO) -> None:
        self.name = "-"
        self.grows = True
        self._fd = stream.fileno()
        self._read = 0

    def read(self, records: int) -> bytes:
        if not self.grows or not select.select([self._fd], [], [], 0)[0]:
            return b""
        try:
            data = os.read(self._fd, BLOCK_BYTES)
        except OSError as error:
            raise InputError(f"cannot read standard input after record {records}: {error}.") from error
        self.grows = bool(data)
        self._read += len(data)
        return data

    def wait(self, seconds: float) -> None:
        select.select([self._fd], [], [], seconds)

    def progress(self) -> tuple[int, int]:
        return self._read, self._read

    def close(self) -> None:
        self.grows = False


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


def size_of(path: str) -> int:
    """Bytes of a file, 0 where it is gone."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def open_file(path: str) -> BinaryIO:
    """Open a regular file, or say why not."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{path} is a directory; name the files in it, for example {path}/*.jsonl.")
        if not stat.S_ISREG(mode):
            raise InputError(f"{path} is no regular file and cannot be read again; pipe it in, and read -.")
        return open(path, "rb", buffering=0)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. Check the name, or wait until it is written.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
