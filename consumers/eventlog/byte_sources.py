"""Names of files, plain or compressed, and standard input enter; their bytes leave, in blocks."""

from __future__ import annotations

import gzip
import os
import select
import stat
import time
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

import zstandard

from streaming.errors import InputError, InputFormatError, InputVanishedError

BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 256  # of what was read last, by which a file that was written anew is known
_ZSTD_BYTES = 1 << 13  # compressed bytes at a time: what they expand to is held in memory


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

    def close(self) -> None:
        """Release what is open."""
        ...


class FileBytes:
    """Bytes of a plain, gzip or zstd file.

    Raises:
        InputVanishedError: the file is gone, was replaced, written anew or cut below what was read.
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
        self._tail = b""  # what was read last of a file that grows
        self._part: Callable[[int], bytes] = self._file.read
        if self._compression == "gz":
            self._part = gzip.GzipFile(fileobj=self._file).read1
        elif self._compression == "zst":
            self._part = _ZstdParts(self._file)

    def read(self, records: int) -> bytes:
        """The next bytes, decompressed; those before a damage come first."""
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
        data = b"".join(parts)
        if self.grows and data:
            self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        return data

    def room(self) -> int:
        """Bytes that may be read now, where not all that is there may be."""
        return BLOCK_BYTES

    def wait(self, seconds: float) -> None:
        """Wait; a file does not say when it grows."""
        time.sleep(seconds)

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes in all, as they lie on the disk."""
        size = size_of(self.name)
        return (size if self._file.closed else self._file.tell()), size

    def close(self) -> None:
        """Close the file."""
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
        """Raise unless the file is still the one that was opened, and no shorter than what was read."""
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
        at = self._file.tell() - len(self._tail)
        if self._tail and os.pread(self._file.fileno(), len(self._tail), at) != self._tail:
            raise InputVanishedError(
                f"{self.name} was written anew after record {records}: what was read is no longer in it. "
                "Give the new file a name of its own; to follow a log, append to it."
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
        """What has come, without waiting for more."""
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
        """Wait until bytes come, or the pipe ends."""
        select.select([self._fd], [], [], seconds)

    def progress(self) -> tuple[int, int]:
        """Bytes read, twice: how many will come nobody knows."""
        return self._read, self._read

    def close(self) -> None:
        """Read no more."""
        self.grows = False


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
