"""Small and read-only disks for tests that need real ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test needs {command[0]}, which failed here: {done.stderr.strip()}")


@contextmanager
def disk(path: Path, size: str) -> Iterator[None]:
    """A disk of this size at `path` while the block runs; skips where mounting is not allowed."""
    try:
        path.mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", f"size={size}", "freshet-test", str(path))
    except FileNotFoundError:
        pytest.skip("this test needs mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    """Change a disk that is mounted: "ro", "rw", "size=…"."""
    _run("mount", "-o", f"remount,{options}", str(path))
