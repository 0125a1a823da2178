"""The store of an experiment's outcomes: where it lies, who has entered, and the newest verdict.

u<user>     an open window: exposures and events      n<user>   the user has entered, or was left out
mjoin       positions in both logs, sums by arm       mverdict  what `freshet experiment status` shows
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from pathlib import Path
from typing import Any

import msgspec

from state.rocksdb import RocksStore

OUTCOMES = "outcomes"  # the directory in a home directory
JOIN, VERDICT = b"mjoin", b"mverdict"
WINDOW, ENTERED = b"u", b"n"
_CACHE_BYTES = 16 << 20


def store_path(home: Path, name: str) -> Path:
    """Where the outcomes of an experiment lie."""
    return home / OUTCOMES / name


def opened_store(home: Path, name: str) -> RocksStore:
    """The store of an experiment, to write.

    Raises:
        StoreLockedError: another process joins it.
    """
    return RocksStore(store_path(home, name), cache_bytes=_CACHE_BYTES)


def read_verdict(home: Path, name: str) -> dict[str, Any] | None:
    """The newest verdict, whether a process joins or not; None before the first commit."""
    path = store_path(home, name)
    if not (path / "CURRENT").exists():
        return None
    with RocksStore(path, read_only=True, cache_bytes=_CACHE_BYTES) as store:
        kept = store.get_many([VERDICT])[0]
    found: dict[str, Any] | None = msgspec.json.decode(kept) if kept is not None else None
    return found


class Entered(MutableSet[str]):
    """Users who have entered, in the store; changes stay here until they are committed."""

    def __init__(self, store: RocksStore) -> None:
        self._store = store
        self.changes: dict[str, bool] = {}
        self._known: dict[str, bool] = {}

    def prefetch(self, users: Iterable[str]) -> None:
        """Look up the users of a batch at one go."""
        names = list(dict.fromkeys(users))
        found = self._store.get_many([ENTERED + name.encode() for name in names])
        self._known = {name: value is not None for name, value in zip(names, found, strict=True)}

    def __contains__(self, user: object) -> bool:
        name = str(user)
        known = self.changes.get(name, self._known.get(name))
        if known is None:
            known = self._known[name] = self._store.get_many([ENTERED + name.encode()])[0] is not None
        return known

    def __iter__(self) -> Iterator[str]:
        stored = {key[1:].decode() for key, _ in self._store.scan(ENTERED)}
        stored |= {name for name, there in self.changes.items() if there}
        return iter(sorted(stored - {name for name, there in self.changes.items() if not there}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, value: str) -> None:
        self.changes[value] = True

    def discard(self, value: str) -> None:
        self.changes[value] = False

    def committed(self) -> None:
        """The changes are in the store."""
        self.changes, self._known = {}, {}
