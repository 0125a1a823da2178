"""The embedded event log: lines enter, durable in files of a directory; followers read what is durable.

DIRECTORY/00000000000000000000.jsonl   events, one JSON object a line; full at 64 MB, then the next number
          durable                      number of the newest segment, and how many of its bytes are durable
          lock                         held by the one process that appends now

A line is read only once it is durable, so that nobody learns what a power cut takes back. Who opens the
directory settles it first: the half line that a killed appender left is cut off, what is whole is synced.
"""

from __future__ import annotations

import errno
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from consumers.eventlog.byte_sources import FileBytes
from state.durable import locked, synced
from streaming.errors import StoreError, StoreFullError, StoreReadOnlyError

EVENTS = "events"  # the directory in a home directory
SEGMENT_BYTES = 64 << 20
_NAME = re.compile(r"[0-9]{20}\.jsonl")
_MARK, _LOCK = "durable", "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_TAIL = 1 << 20  # bytes that are searched at a time for the end of the last whole line


class Mark(NamedTuple):
    """How far the log is durable: all segments before this one, and so many bytes of it."""

    segment: int
    length: int


class Segments:
    """The appender's end of the log; any number of processes may have one, each write is one at a time.

    Args:
        directory: made where it is missing.
        segment_bytes: a segment that would become longer is followed by the next.
    """

    def __init__(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes

    def settle(self) -> Mark:
        """Bring directory and mark in order after a kill or a power cut.

        Raises:
            StoreError: the directory cannot be read or written.
        """
        with self._holding():
            return self._settled()

    def append(self, lines: Sequence[bytes]) -> Mark:
        """Make lines durable, all of them or none.

        1. lock    wait until no other process appends
        2. settle  cut off what a killed appender left
        3. roll    begin the next segment where this one is full
        4. write   all lines at one go, synced
        5. mark    let followers read them

        Args:
            lines: without their ends.

        Raises:
            StoreFullError: there is no room; nothing was appended.
            StoreError: the directory cannot be written.
        """
        data = b"".join(line + b"\n" for line in lines)
        with self._holding():  # 1
            mark = self._settled()  # 2
            if mark.length and mark.length + len(data) > self._segment_bytes:
                mark = self._rolled(mark)  # 3
            with open(self._path(mark.segment), "ab", buffering=0) as file:
                try:
                    _write(file.fileno(), data)  # 4
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), mark.length)
                    raise
            mark = Mark(mark.segment, mark.length + len(data))
            self._set(mark)  # 5
            return mark

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """The lock, with what the system says against it in our own form."""
        try:
            with locked(self.directory / _LOCK):
                yield
        except OSError as error:
            raise self._raised(error) from error

    def _settled(self) -> Mark:
        """The mark, after whatever lies behind it was cut to whole lines and synced."""
        numbers = [_number(path) for path in segments_in(self.directory)]
        segment = numbers[-1] if numbers else 0
        path, noted = self._path(segment), read_mark(self.directory)
        size = path.stat().st_size if numbers else 0
        if numbers and noted == Mark(segment, size):
            return noted
        with path.open("ab", buffering=0) as file:
            length = _whole_lines(path, size)
            if length < size:
                os.ftruncate(file.fileno(), length)
            os.fsync(file.fileno())
        synced(self.directory)
        mark = Mark(segment, length)
        self._set(mark)
        return mark

    def _rolled(self, mark: Mark) -> Mark:
        following = Mark(mark.segment + 1, 0)
        self._path(following.segment).touch(exist_ok=False)
        synced(self.directory)
        self._set(following)
        return following

    def _set(self, mark: Mark) -> None:
        """Written in place, so that it needs no room on a full disk; its readers check the checksum."""
        text = b"%020d %020d" % mark
        file = os.open(self.directory / _MARK, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, b"%s %08x\n" % (text, zlib.crc32(text)), 0)
        finally:
            os.close(file)

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:020d}.jsonl"

    def _raised(self, error: OSError) -> StoreError:
        kind = (
            StoreFullError
            if error.errno in _FULL
            else StoreReadOnlyError
            if error.errno in _READ_ONLY
            else StoreError
        )
        return kind(
            f"{self.directory}: events cannot be written there ({error.strerror}); none of them was taken. "
            "Make room or mend the directory, then send them again."
        )


class SegmentBytes(FileBytes):
    """Durable bytes of a segment; with `follow`, it grows until the next segment has begun."""

    def __init__(self, path: str, *, follow: bool = False) -> None:
        super().__init__(path, follow=follow)
        self._follow, self._directory = follow, Path(path).parent
        self._segment, self._durable = _number(Path(path)), 0

    def read(self, records: int) -> bytes:
        """The next durable bytes."""
        mark = None if self._file.closed else read_mark(self._directory)
        if mark is not None:
            # What the mark said before the read decides: a segment gets nothing more once it is passed.
            passed = mark.segment > self._segment
            self.grows = self._follow and not passed
            self._durable = os.fstat(self._file.fileno()).st_size if passed else mark.length
        return super().read(records)

    def room(self) -> int:
        """Bytes that may be read now."""
        return max(0, self._durable - self._file.tell())


def is_segments(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a directory of segments."""
    directory = Path(path)
    return directory.is_dir() and ((directory / _MARK).exists() or bool(segments_in(directory)))


def segments_in(directory: Path) -> list[Path]:
    """The segments of a directory, the oldest first."""
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))


def read_mark(directory: Path) -> Mark | None:
    """How far the log is durable; None where the mark is missing, or is being written just now."""
    try:
        text = (directory / _MARK).read_bytes()
        numbers, checksum = text[:41], int(text[42:50], 16)
        return Mark(int(numbers[:20]), int(numbers[21:])) if zlib.crc32(numbers) == checksum else None
    except (FileNotFoundError, ValueError):
        return None


def _number(path: Path) -> int:
    return int(path.name.removesuffix(".jsonl"))


def _whole_lines(path: Path, size: int) -> int:
    """Bytes up to the end of the last whole line."""
    with path.open("rb") as file:
        end = size
        while end > 0:
            start = max(0, end - _TAIL)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]
