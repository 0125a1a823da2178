"""Bad records enter, a file of JSON lines leaves: what was refused, where it stood and why."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from state.durable import synced
from streaming.errors import InputError, InputFormatError, StoreError, StoreFullError, StoreReadOnlyError
from streaming.events import BadRecord

FORGOTTEN = "forgotten"  # reason of a record that was of a forgotten user
_BUFFER_BYTES = 1 << 18
_TAIL_BYTES = 1 << 16


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """One refused record.

    Attributes:
        source: file or topic[partition].
        offset: position in the source.
        reason: what was expected, what came.
        raw: the record's first bytes as text; what is not UTF-8 stands as \\xNN.
        line: line of the file, where lines have numbers.
        length: bytes of the whole record, where `raw` holds only its start.
        retried: whether it was sent to its topic again.
    """

    source: str
    offset: int
    reason: str
    raw: str
    line: int | None = None
    length: int | None = None
    retried: bool = False


class DeadLetterLog(Protocol):
    """Where a worker sets bad records aside: a file, or a topic."""

    @property
    def place(self) -> str:
        """Its name, for people."""
        ...

    def append(self, source: str, bad: BadRecord) -> None:
        """Add a record; durable after `sync`."""
        ...

    def sync(self) -> None:
        """Make all appended records durable; where that fails, the same call may be tried again."""
        ...

    def read(self) -> Iterator[DeadLetter]:
        """Every record, once for each (source, offset)."""
        ...

    def close(self) -> None:
        """Make all records durable and leave."""
        ...


class DeadLetters:
    """The dead letters of one version. One process appends; any may read.

    A record is written at least once: after a kill it may stand there twice. `read` gives it once.

    Args:
        path: the file; made with the first record.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd: int | None = None
        self._end = 0
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._unsynced = False

    @property
    def place(self) -> str:
        """The file."""
        return str(self.path)

    def append(self, source: str, bad: BadRecord) -> None:
        """Add a record; durable after `sync`.

        Raises:
            StoreFullError, StoreReadOnlyError, StoreError: the file cannot be written.
        """
        letter = DeadLetter(
            source, bad.offset, bad.reason, bad.raw.decode("utf-8", "backslashreplace"), bad.line, bad.length
        )
        line = msgspec.json.encode(letter) + b"\n"
        self._pending.append(line)
        self._pending_bytes += len(line)
        if self._pending_bytes >= _BUFFER_BYTES:
            self._write()

    def sync(self) -> None:
        """Make all appended records durable; the worker calls this before each commit.

        Raises:
            StoreFullError, StoreReadOnlyError, StoreError: the file cannot be written; the records are
                kept, and the same call may be tried again.
        """
        self._write()
        if self._unsynced and self._fd is not None:
            try:
                os.fsync(self._fd)
            except OSError as error:
                raise self._failed(error) from error
            self._unsynced = False

    def read(self) -> Iterator[DeadLetter]:
        """Every record that is in the file, once for each (source, offset), in the order written.

        Raises:
            InputFormatError: a line in the middle of the file is damaged.
            InputError: the file cannot be read.
        """
        seen: dict[str, set[int]] = {}
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        return  # torn by a kill, or being written; its record comes again
                    letter = self._letter(line, number)
                    offsets = seen.setdefault(letter.source, set())
                    if letter.offset not in offsets:
                        offsets.add(letter.offset)
                        yield letter
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"the dead letters {self.path} cannot be read: {error.strerror}.") from error

    def blank(self, concerns: Callable[[DeadLetter], bool]) -> int:
        """Write over what records hold, in their place; returns how many. A worker may append meanwhile.

        Raises:
            InputFormatError: a line in the middle of the file is damaged.
            StoreFullError, StoreReadOnlyError, StoreError: the file cannot be written.
        """
        count = start = 0
        try:
            with self.path.open("r+b") as file:
                for number, line in enumerate(iter(file.readline, b""), 1):
                    if line.endswith(b"\n") and concerns(letter := self._letter(line, number)):
                        file.seek(start)
                        file.write(_blanked(letter, len(line)))
                        count += letter.reason != FORGOTTEN
                    start += len(line)
                    file.seek(start)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._failed(error) from error
        return count

    def close(self) -> None:
        """Make all records durable and close the file."""
        try:
            self.sync()
        finally:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _letter(self, line: bytes, number: int) -> DeadLetter:
        try:
            return msgspec.json.decode(line, type=DeadLetter)
        except ValueError as error:
            raise InputFormatError(
                f"the dead letters {self.path} are damaged at line {number} ({error}). Remove that line."
            ) from error

    def _write(self) -> None:
        if not self._pending:
            return
        data = b"".join(self._pending)
        try:
            fd = self._open()
            written = 0
            while written < len(data):
                written += os.write(fd, data[written:])
        except OSError as error:
            if self._fd is not None:
                _cut(self._fd, self._end)  # no torn line in the middle once there is room again
            raise self._failed(error) from error
        self._end += len(data)
        self._pending, self._pending_bytes = [], 0
        self._unsynced = True

    def _open(self) -> int:
        if self._fd is None:
            new = not self.path.exists()
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            self._end = _whole_lines(self._fd)
            _cut(self._fd, self._end)
            if new:
                synced(self.path.parent)
        return self._fd

    def _failed(self, error: OSError) -> StoreError:
        where = f"the dead letters {self.path} cannot be written: {error.strerror}."
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StoreFullError(f"{where} Make room on the device and run the same command again.")
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            return StoreReadOnlyError(f"{where} Make the file writable and run the same command again.")
        return StoreError(where)


def _blanked(letter: DeadLetter, length: int) -> bytes:
    """A line of this length that says where the record stood and nothing of what it held."""
    named = letter.length if letter.length is not None else len(letter.raw.encode())
    for kept in (named, None):
        line = msgspec.json.encode(DeadLetter(letter.source, letter.offset, FORGOTTEN, "", letter.line, kept))
        if len(line) < length:
            break
    return line.ljust(length - 1) + b"\n"


def _whole_lines(fd: int) -> int:
    """Bytes up to the last line end: what lies behind was torn by a kill."""
    stop = os.fstat(fd).st_size
    while stop > 0:
        start = max(0, stop - _TAIL_BYTES)
        found = os.pread(fd, stop - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        stop = start
    return 0


def _cut(fd: int, size: int) -> None:
    if os.fstat(fd).st_size > size:
        os.ftruncate(fd, size)
