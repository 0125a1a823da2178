"""Files and directories that are whole under their names, or not there at all, wherever a kill comes."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import IO


def aside(path: Path) -> Path:
    """Rename a directory so that nobody takes it for what it was."""
    gone = path.with_name(f".{path.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    return gone


def remove(path: Path) -> None:
    """Remove a directory; a kill meanwhile leaves no half of it behind under its name."""
    shutil.rmtree(aside(path))


def synced(path: Path) -> None:
    """Make a file or a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, text: str) -> None:
    """Replace a small file; a kill leaves the old or the new text."""
    half = path.with_name(f".{path.name}.new")
    with half.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def locked(path: Path) -> IO[str]:
    """A file that no other process has locked, until it is closed; its directory is made where it is missing.

    Raises:
        OSError: it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
