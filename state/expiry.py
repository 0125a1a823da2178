"""Time to live: rows whose newest event is too old are taken out, by the time of events alone.

At fixed event numbers the version looks at its watermark, the newest event time. A row whose newest
event lies in a bucket of time that ended a time to live before the watermark is gone from then on:
if its id is seen again, it begins anew. Users are found through an index of keys d<bucket><id>, so
that nobody has to read all rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from state.items import ItemTable
from state.store import Store
from state.users import UserTable

CHECK_EVENTS = 16_384  # events between two looks at the watermark
_BUCKETS = 16  # of a time to live: a row lives one to 1 + 1/16 of it


class Expiry:
    """Which rows have outlived their time.

    Args:
        users_s, items_s: time to live in seconds, 0 for ever.
    """

    def __init__(self, users_s: int, items_s: int) -> None:
        self._ttl = {"users": users_s, "items": items_s}
        self.width = max(1, users_s // _BUCKETS)
        self.oldest = {"users": 0, "items": 0}  # times before these are gone
        self._swept = self.oldest["users"]
        self._deletes: list[bytes] = []

    @property
    def any(self) -> bool:
        """Whether anything expires at all."""
        return any(self._ttl.values())

    @property
    def edge(self) -> int:
        """An event that is older counts as if it had come then."""
        return max(self.oldest.values())

    def check(self, users: UserTable, items: ItemTable, watermark: int, number: int) -> int:
        """Take out what is too old as of `watermark`; returns how many rows of memory that were."""
        gone = 0
        if self._ttl["items"]:
            self.oldest["items"] = max(self.oldest["items"], watermark - self._ttl["items"])
            old = np.flatnonzero(items.rows.seen[: items.count] < self.oldest["items"])
            for slot in old[::-1].tolist():
                self._deletes.append(b"i" + items.discard(slot, number))
            gone += len(old)
        if self._ttl["users"]:
            edge = (watermark - self._ttl["users"]) // self.width * self.width
            self.oldest["users"] = users.oldest = max(self.oldest["users"], edge)
            gone += len(names := users.expire())
            self._deletes.extend(b"u" + name for name in names)
        return gone

    def index_key(self, seen: int, name: bytes) -> bytes:
        """The key by which a user's row is found when its time has come."""
        return b"d" + struct.pack(">Q", seen // self.width) + name

    def puts(self, users: UserTable, committed: int) -> Iterator[tuple[bytes, bytes]]:
        """Index keys of users whose bucket changed after event `committed`."""
        if self._ttl["users"]:
            for name, _, new in self._moved(users, committed):
                yield self.index_key(new, name), b""

    def deletes(self, users: UserTable, store: Store, committed: int) -> Iterator[bytes]:
        """Rows and index keys that are gone. Puts of the same commit come after, and win."""
        yield from self._deletes
        if not self._ttl["users"]:
            return
        for name, old, _ in self._moved(users, committed):
            if old is not None:
                yield self.index_key(old, name)
        if self.oldest["users"] > self._swept:
            edge = struct.pack(">Q", self.oldest["users"] // self.width)
            for key, _ in store.scan(b"d"):
                if key[1:9] >= edge:
                    break
                yield key
                if users.ids.slot_of(key[9:].decode()) < 0:
                    yield b"u" + key[9:]

    def _moved(self, users: UserTable, committed: int) -> Iterator[tuple[bytes, int | None, int]]:
        for slot in users.changed(committed).tolist():
            old, new = int(users.stored_seen[slot]), int(users.rows.seen[slot])
            if old == users.NOT_STORED:
                yield users.ids.id_of(slot), None, new
            elif old // self.width != new // self.width:
                yield users.ids.id_of(slot), old, new

    def committed(self) -> None:
        """What `puts` and `deletes` gave is durable."""
        self._deletes.clear()
        self._swept = self.oldest["users"]

    def state(self) -> dict[str, int]:
        """For the store."""
        return dict(self.oldest)

    def restore(self, state: dict[str, int], users: UserTable) -> None:
        """Go on from what `state` gave."""
        self.oldest = dict(state)
        self._swept = users.oldest = self.oldest["users"]
