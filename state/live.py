"""Live tables: a worker's arrays lie in mapped files, and other processes read them while it learns.

HOME/versions/NAME/live/current       name of the directory of the newest worker's tables
                        RUN/head      int64 numbers on the tables as a whole (state/arena.py)
                        RUN/index     which file holds which array, its type and shape
                        RUN/N.ARRAY   an array; one that grew is another file

A row is whole where the event that touched it last is done, and it was not touched while it was read.
Where rows change hands (a user makes room for another, an item is gone), a sequence number is odd
meanwhile. A worker that was killed leaves the files as they were at that moment: rows of the event that
it was at are not whole, and stay so; whoever wants one of them reads the store.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.arena import FORMAT, GENERATION, HEAD_SIZE, HEARTBEAT_NS, LEFT, Arena
from streaming.errors import StoreError

FORMAT_NUMBER = 1


class LiveArena(Arena):
    """Arrays in mapped files of a directory, as readers find them by `LiveTables`.

    Args:
        path: the directory `live` of a version.
        identity: of the store that the tables belong to.

    Raises:
        StoreError: there is no room for the files, or they cannot be written.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self._live, self._identity = path, identity
        self._run = path / f"{os.getpid()}-{time.time_ns()}"
        self._files: dict[str, dict[str, Any]] = {}
        self._given_up: list[str] = []
        self._made = 0
        self._changed = False
        try:
            self._run.mkdir(parents=True)
            super().__init__()
            self._held = (self._run / "head").open("rb")
            fcntl.flock(self._held, fcntl.LOCK_EX)  # for as long as the worker lives
        except OSError as error:
            raise self._no_room(error) from error
        self.head[FORMAT] = FORMAT_NUMBER
        self.beat()

    def zeros(self, name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """A zeroed array in a file of its own, whose room on the disk is taken now."""
        kind = np.dtype(kind)
        size = int(np.prod(shape)) * kind.itemsize
        room = max(size, mmap.PAGESIZE)
        file = name if name == "head" else f"{self._made}.{name}"
        self._made += 1
        try:
            with (self._run / file).open("xb+") as opened:
                opened.truncate(room)
                if hasattr(os, "posix_fallocate"):  # macOS has none
                    # A page that found no room later would end the process.
                    os.posix_fallocate(opened.fileno(), 0, room)
                mapped = mmap.mmap(opened.fileno(), room)
        except OSError as error:
            raise self._no_room(error) from error
        array = np.frombuffer(mapped, kind, size // kind.itemsize).reshape(shape)
        if old := self._files.get(name):
            self._given_up.append(old["file"])
        self._files[name] = {"file": file, "type": kind.str, "shape": list(shape)}
        self._changed = True
        return array

    def publish(self) -> None:
        """Name the arrays that are in use now; the first time, readers move over from an earlier worker."""
        if not self._changed:
            return
        self._changed = False
        index = {"identity": self._identity, "boot": boot(), "arrays": self._files}
        _write_whole(self._run / "index", json.dumps(index))
        self.head[GENERATION] += 1
        for file in self._given_up:
            (self._run / file).unlink()
        self._given_up.clear()
        if self.head[GENERATION] == 1:
            _write_whole(self._live / "current", self._run.name)
            for other in self._live.iterdir():
                if other.is_dir() and other != self._run:
                    shutil.rmtree(other, ignore_errors=True)

    def beat(self) -> None:
        """Say that the worker is at work, and has learned what there was."""
        self.head[HEARTBEAT_NS] = time.time_ns()

    def close(self) -> None:
        """The worker leaves; its tables stay as they are now."""
        self.beat()
        self.head[LEFT] = 1
        self._held.close()

    def _no_room(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self._run}: the live tables cannot be written there ({error.strerror}). Make room, or set "
            'worker.live_tables = "off": servers then read the store, and are less fresh.'
        )


class LiveTables:
    """The arrays of a worker, mapped for reading.

    Args:
        path: the directory `live` of a version.

    Raises:
        FileNotFoundError: there are none, or they were replaced in this moment.
    """

    def __init__(self, path: Path) -> None:
        self.run = (path / "current").read_text().strip()
        self._path = path / self.run
        self.head: NDArray[np.int64] = _mapped(self._path / "head", np.dtype(np.int64), (HEAD_SIZE,))
        self._lock = (self._path / "head").open("rb")
        self.generation = -1
        self.identity = ""
        self.boot = ""
        self.arrays: Mapping[str, NDArray[Any]] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Map the arrays that are in use now; whether they are others than before.

        Raises:
            FileNotFoundError: they were replaced in this moment.
        """
        generation = int(self.head[GENERATION])
        if generation == self.generation:
            return False
        index = json.loads((self._path / "index").read_text())
        found = {
            name: _mapped(self._path / at["file"], np.dtype(at["type"]), tuple(at["shape"]))
            for name, at in index["arrays"].items()
            if name != "head"
        }
        self.arrays, self.identity, self.boot = found, index["identity"], index["boot"]
        self.generation = generation
        return True

    @property
    def alive(self) -> bool:
        """Whether the worker is still there."""
        if self.head[LEFT]:
            return False
        try:
            fcntl.flock(self._lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return False

    @property
    def age_s(self) -> float:
        """Seconds since the worker last said that it has learned what there was."""
        return max(0.0, (time.time_ns() - int(self.head[HEARTBEAT_NS])) / 1e9)

    def close(self) -> None:
        """Give up the files; arrays that somebody still has stay mapped."""
        self._lock.close()


def discard(path: Path) -> None:
    """Remove the tables in the directory `live`: another process than a worker changed the store."""
    shutil.rmtree(path, ignore_errors=True)


def boot() -> str:
    """Of this start of the machine: what was not synced may be anything after another one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""


def _mapped(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array over a file that another process writes.

    It is of the type that kernels were compiled for, which is that of arrays which may be written; the
    memory is mapped for reading only, so that writing to it would end the process.
    """
    count = int(np.prod(shape))
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    address = np.frombuffer(mapped, np.uint8).ctypes.data
    memory = (ctypes.c_char * max(1, count * kind.itemsize)).from_address(address)
    memory.mapped = mapped  # type: ignore[attr-defined]  # stays while the array does
    array: NDArray[Any] = np.ndarray(shape, kind, memory)  # type: ignore[arg-type]  # any buffer will do
    return array


def _write_whole(path: Path, text: str) -> None:
    """Replace a small file; a reader finds the old or the new text."""
    half = path.with_name(f".{path.name}.new")
    half.write_text(text)
    half.replace(path)
