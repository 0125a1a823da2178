"""A process beside a server that reads a store: keys enter, values as of a commit leave.

RocksDB's secondary instances catch up with the writer while they hold the interpreter, a tenth of a
second for 77,000 rows; here that stops no request but those that wait for a row of the store.

    python -m state.store_process STORE     frames on standard input and output, see `_read` and `_write`
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from state.rocksdb import RocksStore
from streaming.errors import FreshetError, StoreError

_COUNT, _LENGTH = struct.Struct("<qi"), struct.Struct("<i")
_ABSENT = -1


class StoreProcess:
    """The values of a store whose writer is another process; only read, and by key.

    Args:
        path: directory of the RocksDB.

        newest: number of the newest commit, which answers must know; asked when the keys are, so that
            a row which left the worker's memory a moment ago is read as it was then.
    """

    def __init__(self, path: Path, newest: Callable[[], int]) -> None:
        self.path, self._newest = path, newest
        self._process: subprocess.Popen[bytes] | None = None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, None where there is none.

        Raises:
            StoreError: the store cannot be read.
        """
        if not keys:
            return []
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-m", "state.store_process", str(self.path)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        sent, received = self._process.stdin, self._process.stdout
        assert sent is not None and received is not None  # both are pipes
        try:
            _write(sent, self._newest(), keys)
            answer = _read(received)
        except OSError as error:
            raise StoreError(f"{self.path}: the process that reads it has ended. Ask again.") from error
        if answer is None:
            raise StoreError(f"{self.path}: the process that reads it has ended. Ask again.")
        failed, values = answer
        if failed:
            raise StoreError((values[0] or b"").decode())
        return values

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._process = None


def _write(to: IO[bytes], number: int, values: Sequence[bytes | None]) -> None:
    """number, count, then each value's length and bytes; -1 for none."""
    parts = [_COUNT.pack(number, len(values))]
    for value in values:
        parts += [_LENGTH.pack(_ABSENT)] if value is None else [_LENGTH.pack(len(value)), value]
    to.write(b"".join(parts))
    to.flush()


def _read(source: IO[bytes]) -> tuple[int, list[bytes | None]] | None:
    """(number, values) of a frame, None at the end."""
    head = source.read(_COUNT.size)
    if len(head) < _COUNT.size:
        return None
    number, count = _COUNT.unpack(head)
    values: list[bytes | None] = []
    for _ in range(count):
        (length,) = _LENGTH.unpack(source.read(_LENGTH.size))
        values.append(None if length == _ABSENT else source.read(length))
    return number, values


def _serve(path: Path, source: IO[bytes], to: IO[bytes]) -> None:
    store: RocksStore | None = None
    known = -1
    while (asked := _read(source)) is not None:
        at_least, keys = asked
        try:
            store = store or _opened(path)
            if at_least > known:
                store.catch_up()
                known = at_least
            _write(to, 0, store.get_many([key for key in keys if key is not None]))
        except FreshetError as error:
            _write(to, 1, [str(error).encode()])
    if store is not None:
        store.close()


def _opened(path: Path) -> RocksStore:
    """A secondary instance; its log lies in a directory that is gone, so that a kill leaves none."""
    with tempfile.TemporaryDirectory(prefix="freshet-reader-") as private:
        return RocksStore(path, read_only=True, secondary=Path(private))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
