"""Where the sequences of a version lie: a version enters, the directory of its transformer's worker leaves.

HOME/versions/NAME/sequences/store        RocksDB of the sequences
                             of           identity of the version's store that they belong to
                             live/        tables of the newest worker, for servers to read
                             snapshots/N  beside the version's snapshot N
                             worker.json  where the worker takes commands

Sequences belong to one copy of a version's store: where that was replaced, they are begun anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from state.directories import VersionDirectory
from state.durable import aside, write_whole
from state.ledger import unsealed
from state.rocksdb import RocksStore
from state.store import Store
from state.versions import Version
from streaming.errors import StoreError, StoreLockedError

logger = structlog.get_logger()

SEQUENCES = "sequences"  # the directory in that of a version
SESSIONS = b"msessions"  # options, gate, totals
MODES = ("auto", "open", "shut")  # of the gate, by number
FACT_MODE, FACT_IDLE, FACT_DIMENSION = range(3)  # places in the array of facts that servers read
_CACHE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class SequenceDirectory(Version):
    """Paths of a version's sequences, with its spec; its name tells the consumer group from the version's."""

    @property
    def store_path(self) -> Path:
        """Directory of the RocksDB."""
        return self.path / "store"

    @property
    def home(self) -> Path:
        """The home directory."""
        return self.path.parents[2]

    @property
    def identity(self) -> str:
        """Of the version's copy of its store."""
        return (self.path.parent / "identity").read_text().strip()

    @property
    def learned_anything(self) -> bool:
        """Whether there are sequences, and of this copy of the version's store."""
        return (self.store_path / "CURRENT").exists() and self.belongs

    @property
    def belongs(self) -> bool:
        """Whether what lies here is of this copy of the version's store."""
        try:
            return (self.path / "of").read_text().strip() == self.identity
        except FileNotFoundError:
            return False

    def open(self) -> RocksStore:
        """The store, for its one writer; begun anew where it belongs to a copy that was replaced.

        Raises:
            StoreLockedError: another process has it.
        """
        self.path.mkdir(exist_ok=True)
        if not self.belongs:
            if self.store_path.exists():
                with RocksStore(self.store_path, cache_bytes=_CACHE_BYTES):
                    gone = aside(self.store_path)  # nobody else writes it
                shutil.rmtree(gone)
            write_whole(self.path / "of", self.identity)
        return RocksStore(self.store_path, cache_bytes=_CACHE_BYTES)


def sequences_of(version: Version) -> SequenceDirectory:
    """The directory of a version's sequences; it need not be there."""
    return SequenceDirectory(f"{version.name}.sessions", version.path / SEQUENCES, version.spec)


def state_of(store: Store) -> dict[str, Any] | None:
    """Options, gate, its mode and totals of sequences; None before the first commit."""
    value = store.get_many([SESSIONS])[0]
    found: dict[str, Any] | None = None if value is None else json.loads(unsealed(SESSIONS, value))
    return found


@contextmanager
def holding_sequences(version: VersionDirectory) -> Iterator[None]:
    """Keep transformers' workers from a version's sequences, where there are any; they may be damaged.

    Raises:
        StoreLockedError: a worker has them.
    """
    store = version.path / SEQUENCES / "store"
    with ExitStack() as held:
        if (store / "CURRENT").exists():
            try:
                held.enter_context(RocksStore(store, cache_bytes=_CACHE_BYTES))
            except StoreLockedError:
                raise
            except StoreError as damage:
                logger.warning("store_damaged", path=str(store), reason=str(damage))
        yield
