"""A store in memory: for backtests, and to run the contract suite against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from state.store import Store


class MemoryStore(Store):
    """A dict that is sorted when it is scanned."""

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, None where there is none."""
        return [self._values.get(key) for key in keys]

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) whose key starts with `prefix`, in key order."""
        yield from sorted((k, v) for k, v in self._values.items() if k.startswith(prefix))

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        """Deletes, then puts."""
        gone, new = list(deletes), dict(puts)  # all of it before any of it
        for key in gone:
            self._values.pop(key, None)
        self._values.update(new)

    def checkpoint(self, path: Path) -> None:
        """A store in memory has no directory to copy.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a store in memory cannot be checkpointed; use a RocksDB store")

    def sizes(self) -> dict[str, int]:
        """Bytes of keys and values."""
        return {"memory": sum(len(k) + len(v) for k, v in self._values.items())}

    def close(self) -> None:
        """Nothing to release."""
