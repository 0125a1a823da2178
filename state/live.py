"""Live tables: a worker's arrays lie in mapped files, and other processes read them while it learns.

HOME/versions/NAME/live/current       directory of the newest worker's tables, its RUN
RUN/head      int64 numbers on the tables as a whole (state/arena.py)
RUN/index     which file holds which array, its type and shape
RUN/N.ARRAY   an array; one that grew is another file

RUN is a directory in shared memory where there is room (there the tables may lie in huge pages: rows are
reached at random), else one beside `current`.

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
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.arena import FORMAT, GENERATION, HEAD_SIZE, HEARTBEAT_NS, LEFT, Arena
from streaming.errors import StoreError

FORMAT_NUMBER = 1
SHARED_MEMORY = Path("/dev/shm")

_HUGE = 1 << 21  # bytes of a huge page
_COLLAPSE = 25  # madvise: take huge pages now (Linux 6.1)


class LiveArena(Arena):
    """Arrays in mapped files of a directory, as readers find them by `LiveTables`.

    Args:
        path: the directory `live` of a version.
        identity: of the store that the tables belong to.
        shared: directory in memory where the files may lie; None for beside the store.

    Raises:
        StoreError: there is no room for the files, or they cannot be written.
    """

    def __init__(self, path: Path, identity: str, shared: Path | None = None) -> None:
        self._live, self._identity = path, identity
        name = f"{os.getpid()}-{time.time_ns()}"
        self._in_memory = _shared_run(shared, name) if shared is not None else None
        self._run = self._in_memory or path / name
        self._files: dict[str, dict[str, Any]] = {}
        self._given_up: list[str] = []
        self._made = 0
        self._changed = False
        try:
            path.mkdir(exist_ok=True)
            self._run.mkdir(parents=True)
            super().__init__()
            self._held = (self._run / "head").open("rb")
            fcntl.flock(self._held, fcntl.LOCK_EX)  # for as long as the worker lives
            # From here on `sweep` looks at it, and finds it held.
            _write_whole(self._run / "of", str(path.resolve()))
        except OSError as error:
            raise self._no_room(error) from error
        self.head[FORMAT] = FORMAT_NUMBER
        self.beat()

    def zeros(self, name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """A zeroed array in a file of its own, whose room is taken now."""
        kind = np.dtype(kind)
        size = int(np.prod(shape)) * kind.itemsize
        file = name if name == "head" else f"{self._made}.{name}"
        self._made += 1
        try:
            try:
                path, memory = _new_file(self._run / file, size)
            except OSError:
                if self._in_memory is None:
                    raise
                # Memory is full; a directory of this name beside the store takes what comes now.
                beside = self._live / self._run.name
                beside.mkdir(exist_ok=True)
                path, memory = _new_file(beside / file, size)
        except OSError as error:
            raise self._no_room(error) from error
        array = np.frombuffer(memory, kind, size // kind.itemsize).reshape(shape)
        if old := self._files.get(name):
            self._given_up.append(old["file"])
        self._files[name] = {"file": str(path), "type": kind.str, "shape": list(shape)}
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
            Path(file).unlink()
        self._given_up.clear()
        if self.head[GENERATION] == 1:
            before = run_of(self._live)
            _write_whole(self._live / "current", str(self._run.resolve()))
            if before is not None:
                shutil.rmtree(before, ignore_errors=True)
            for other in self._live.iterdir():
                if other.is_dir() and other.name != self._run.name:
                    shutil.rmtree(other, ignore_errors=True)

    def beat(self) -> None:
        """Say that the worker is at work, and has learned what there was."""
        self.head[HEARTBEAT_NS] = time.time_ns()

    def close(self) -> None:
        """The worker leaves, all that it learned being durable: memory is given back, a disk keeps them."""
        self.beat()
        self.head[LEFT] = 1
        self._held.close()
        if self._in_memory is not None:
            discard(self._live)

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
        self._path = Path(self.run)
        self.head: NDArray[np.int64] = _mapped(self._path / "head", np.dtype(np.int64), (HEAD_SIZE,))
        self._lock = (self._path / "head").open("rb")
        self.generation = -1
        self.identity = ""
        self.boot = ""
        self.arrays: Mapping[str, NDArray[Any]] = {}
        try:
            self.refresh()
        except FileNotFoundError:
            self._lock.close()
            raise

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
            name: _mapped(Path(at["file"]), np.dtype(at["type"]), tuple(at["shape"]))
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


def run_of(path: Path) -> Path | None:
    """Directory of the tables that a directory `live` names; None where it names none."""
    try:
        return Path((path / "current").read_text().strip())
    except (FileNotFoundError, NotADirectoryError):
        return None


def discard(path: Path) -> None:
    """Remove the tables of a directory `live`: they are not, or not for long, what the store says."""
    run = run_of(path)
    shutil.rmtree(path, ignore_errors=True)
    if run is not None:
        shutil.rmtree(run, ignore_errors=True)


def sweep(shared: Path = SHARED_MEMORY) -> None:
    """Remove from memory the tables of workers that are dead and whose version is gone, or has others."""
    for run in _own(shared).glob("*/"):
        try:
            named = run_of(Path((run / "of").read_text()))
            with (run / "head").open("rb") as head:
                fcntl.flock(head, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):  # it begins, or ends, or is at work
            continue
        if named != run:
            shutil.rmtree(run, ignore_errors=True)


def _own(shared: Path) -> Path:
    return shared / f"freshet-{os.getuid()}"


def _shared_run(shared: Path, name: str) -> Path | None:
    """A place in memory for the tables; None where there is none that is ours alone."""
    own = _own(shared)
    try:
        own.mkdir(mode=0o700, exist_ok=True)
        if own.stat().st_uid != os.getuid():
            return None
    except OSError:
        return None
    sweep(shared)
    return own / name


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


def _new_file(path: Path, size: int) -> tuple[Path, Any]:
    """A file with zeros, mapped to be written; no half of it is left where there is no room."""
    room = max(size, mmap.PAGESIZE) if size < _HUGE else -(-size // _HUGE) * _HUGE
    with path.open("xb+") as file:
        try:
            file.truncate(room)
            if hasattr(os, "posix_fallocate"):  # macOS has none
                # A page that found no room later would end the process.
                os.posix_fallocate(file.fileno(), 0, room)
            memory = _in_huge_pages(file.fileno(), room) if room >= _HUGE else None
            return path, memory or mmap.mmap(file.fileno(), room)
        except OSError:
            path.unlink()
            raise


def _in_huge_pages(file: int, room: int) -> Any | None:
    """Map a file at the start of a huge page, and have it lie in such; None where that is not to be had.

    Python's own mmap cannot choose the address.
    """
    system = ctypes.CDLL(None, use_errno=True)
    if not os.path.isdir("/sys/kernel/mm/transparent_hugepage"):
        return None
    system.mmap.restype = ctypes.c_void_p
    system.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    reserved = system.mmap(None, room + _HUGE, 0, flags, -1, 0)
    if reserved in (None, ctypes.c_void_p(-1).value):
        return None
    start = -(-reserved // _HUGE) * _HUGE
    read_write, fixed = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x10
    if system.mmap(start, room, read_write, fixed, file, 0) != start:
        system.munmap(ctypes.c_void_p(reserved), ctypes.c_size_t(room + _HUGE))
        return None
    # Files of a disk have none, and small pages do.
    system.madvise(ctypes.c_void_p(start), ctypes.c_size_t(room), _COLLAPSE)
    memory = (ctypes.c_char * room).from_address(start)
    ends = ctypes.c_void_p(reserved), ctypes.c_size_t(room + _HUGE)
    weakref.finalize(memory, system.munmap, *ends).atexit = False
    return memory


def _write_whole(path: Path, text: str) -> None:
    """Replace a small file; a reader finds the old or the new text."""
    half = path.with_name(f".{path.name}.new")
    half.write_text(text)
    half.replace(path)
