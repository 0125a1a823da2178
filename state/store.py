"""What a version asks of its store: bytes under bytes, many at once, written all or none.

Keys start with a letter for their kind:

    u<id>                   row of a user               i<id>      row of an item
    c<kind><id>             count of an id without a row
    d<day><id>              users by the day of their newest event (only with a time to live)
    j<number>               journal: slices of the log in the order learned
    o<number>               a source of events: its name, its next offset
    p<name>                 dense parameters of the learner
    r<block>                ring of recent items
    e<block>                newest evaluated events, one by one
    m<name>                 format, spec, totals
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

FORMAT = 1  # of keys and values; written under b"mformat"


class Store(Protocol):
    """An ordered key-value store with one writer."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, None where there is none."""
        ...

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) whose key starts with `prefix` (b"": all there are), in key order.

        Raises:
            StoreError: it is damaged behind the pairs given so far.
        """
        ...

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        """Write all of it or nothing; durable when it returns. Deletes come first.

        Raises:
            StoreFullError: no space is left; what was durable before still is.
            StoreReadOnlyError: the directory cannot be written.
        """
        ...

    def checkpoint(self, path: Path) -> None:
        """A consistent copy of all that is durable, in a directory that must not exist yet."""
        ...

    def sizes(self) -> dict[str, int]:
        """Bytes by part ("sst", "memtable", …), for metrics."""
        ...

    def close(self) -> None:
        """Release the store. What was not written is not kept."""
        ...


def after(prefix: bytes) -> bytes:
    """The smallest key greater than all keys with this prefix.

    >>> after(b"u")
    b'v'
    """
    return prefix[:-1] + bytes([prefix[-1] + 1])
