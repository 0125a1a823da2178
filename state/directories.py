"""The directory of a version, whatever state its files are in: a path enters, its parts leave."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from state.rocksdb import RocksStore
from streaming.errors import StoreError, StoreLockedError, StoreReadOnlyError

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class VersionDirectory:
    """Where a version lies; its spec may be damaged."""

    name: str
    path: Path

    @property
    def store_path(self) -> Path:
        """Directory of the RocksDB in use."""
        return self.path / (self.path / "current").read_text().strip()

    @property
    def home(self) -> Path:
        """The home directory, which has the list of erasures of all its versions."""
        return self.path.parents[1]

    @property
    def dead_letters_path(self) -> Path:
        """File of the records that were refused."""
        return self.path / "dead-letters.jsonl"

    @property
    def live_path(self) -> Path:
        """Directory of the tables that a worker shares with servers."""
        return self.path / "live"

    @property
    def identity(self) -> str:
        """Of this copy of the store."""
        return (self.path / "identity").read_text().strip()

    @property
    def learned_anything(self) -> bool:
        """Whether there is a store yet."""
        return (self.store_path / "CURRENT").exists()

    def open(self) -> RocksStore:
        """The store, for its one writer.

        Raises:
            StoreLockedError: another process has it.
        """
        return RocksStore(self.store_path)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep every other process from the store in use, even where that is too damaged to be opened.

        Raises:
            StoreLockedError: a worker has the store.
        """
        try:
            store = self.open()
        except (StoreLockedError, StoreReadOnlyError):
            raise
        except StoreError as damage:
            with self._lock_file(damage):
                yield
            return
        with store:
            yield

    @contextmanager
    def _lock_file(self, damage: StoreError) -> Iterator[None]:
        """The lock that RocksDB takes, taken without RocksDB."""
        with (self.store_path / "LOCK").open("a") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreLockedError(
                    f"{self.store_path}: another process holds this store. "
                    "Stop that worker, or wait until it has ended."
                ) from error
            logger.warning("store_damaged", path=str(self.store_path), reason=str(damage))
            yield


def alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
