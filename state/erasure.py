"""Ids to be forgotten: a list in the home directory enters; rows that are gone and events passed over leave.

The log still holds the events of an id that was forgotten, so a replay or a rebuild would bring it back.
Each erasure therefore stands in a list, which is only ever appended to, and each version's ledger says
from which record on how many of them hold. From there on the id's events up to the erasure are passed
over: what is learned remains a function of log, list and ledger.

HOME/erasures.jsonl  one erasure a line, with a keyed hash in the place of the id
     erasure-salt    the key, which only its owner may read
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.durable import synced
from state.ids import IdTable
from state.ledger import Ledger
from state.store import Store
from streaming.errors import StoreError
from streaming.events import EventBatch, Ids
from streaming.siphash import hash_each

if TYPE_CHECKING:
    from state.spec import Spec

Kind = Literal["user", "item"]

_SALT_BYTES = 32  # a key of 16 bytes for users, one for items
_BATCH = 65_536  # ids that are hashed at one go
_FOREVER = 2**63 - 1


class Erasure(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the list.

    Attributes:
        id: SipHash-2-4 of the id's bytes under the home's key, 16 hexadecimal digits.
        until: microseconds since 1970; events up to here are passed over. For items that is all of them.
        undo: takes the erasures of the item before this line back.
    """

    kind: Kind
    id: str
    until: int
    undo: bool = False


class _Table(Protocol):
    @property
    def ids(self) -> IdTable: ...


class Forgetful(Protocol):
    """What can forget ids; `state.learned.Learned` says what each part means."""

    store: Store
    ledger: Ledger

    @property
    def users(self) -> _Table: ...
    @property
    def items(self) -> _Table: ...
    def counted(self, kind: Kind) -> IdTable:
        """Ids that have no row yet."""
        ...

    def forget(self, users: Sequence[bytes], items: Sequence[bytes], erased: int) -> int:
        """Let go of rows for good."""
        ...

    def commit(self) -> int:
        """Make it durable."""
        ...


@dataclass(frozen=True, slots=True)
class Erasures:
    """The list as it was read.

    Attributes:
        keys: (4,) two words for users, two for items; none where nothing was forgotten.
    """

    entries: tuple[Erasure, ...] = ()
    keys: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def first(self, count: int) -> Erasures:
        """The list as it was after `count` lines."""
        return Erasures(self.entries[:count], self.keys)

    def hashes(self, kind: Kind, ids: Ids) -> NDArray[np.uint64]:
        """(N,) keyed hashes of ids."""
        assert self.keys is not None, "a list that has entries has a key"
        return hash_each(self.keys[:2] if kind == "user" else self.keys[2:], ids)


class _Known(NamedTuple):
    """Hashes in ascending order, and until when (microseconds) each holds."""

    hashes: NDArray[np.uint64]
    until: NDArray[np.int64]

    def hit(self, hashes: NDArray[np.uint64], ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found: NDArray[np.bool_] = (self.hashes[place] == hashes) & (ts <= self.until[place])
        return found


class Passed:
    """Which events are passed over under a list."""

    def __init__(self, erasures: Erasures) -> None:
        self.count = len(erasures)
        self._erasures = erasures
        until: dict[Kind, dict[int, int]] = {"user": {}, "item": {}}
        for entry in erasures.entries:
            of_kind, name = until[entry.kind], int(entry.id, 16)
            if entry.undo:
                of_kind.pop(name, None)
            else:
                of_kind[name] = max(entry.until, of_kind.get(name, 0))
        self._known: dict[Kind, _Known] = {}
        for kind, of_kind in until.items():
            if of_kind:
                pairs = sorted(of_kind.items())
                hashes = np.array([name for name, _ in pairs], np.uint64)
                self._known[kind] = _Known(hashes, np.array([end for _, end in pairs], np.int64))

    def users(self, users: Ids, ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N,) whether records of these users at these times are passed over."""
        known = self._known.get("user")
        if known is None:
            return np.zeros(len(users), np.bool_)
        return known.hit(self._erasures.hashes("user", users), ts)

    def without(self, events: EventBatch) -> EventBatch:
        """The events that are to be learned, without a copy where that is all of them."""
        gone = np.zeros(len(events), np.bool_)
        for kind, known in self._known.items():
            ids = events.users if kind == "user" else events.items
            gone |= known.hit(self._erasures.hashes(kind, ids), events.ts)
        if not gone.any():
            return events
        kept = np.flatnonzero(~gone)
        users, items = events.users, events.items
        return EventBatch(
            Ids(users.data, users.start[kept], users.end[kept]),
            Ids(items.data, items.start[kept], items.end[kept]),
            events.offsets[kept],
            events.ts[kept],
            events.values[kept],
            events.weights[kept],
        )


def read_erasures(home: Path) -> Erasures:
    """The list of a home directory.

    Raises:
        StoreError: it is damaged, or its key is missing.
    """
    try:
        data = _list_path(home).read_bytes()
    except FileNotFoundError:
        return Erasures()
    lines = data[: data.rfind(b"\n") + 1].splitlines()  # what lies behind was torn by a kill: never promised
    try:
        entries = tuple(msgspec.json.decode(line, type=Erasure) for line in lines)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"{_list_path(home)}: this is no list of erasures ({error}). Put the file back as it was: "
            "without it, ids that were forgotten would come back."
        ) from error
    return Erasures(entries, _read_keys(home) if entries else None)


def add_erasure(home: Path, kind: Kind, name: str, until: int, *, undo: bool = False) -> int:
    """Write an erasure to the list; durable when it returns.

    Args:
        until: microseconds since 1970 up to which events of a user are passed over; `now_us` gives it.
        undo: takes an item back.

    Returns:
        The length of the list with it.

    Raises:
        StoreError: the home cannot be written, or the list is damaged.
    """
    try:
        with _list_path(home).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = read_erasures(home)
            keys = before.keys if before.keys is not None else _made_keys(home)
            digest = f"{int(Erasures((), keys).hashes(kind, Ids.of([name.encode()]))[0]):016x}"
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            until = until if kind == "user" else _FOREVER
            file.write(msgspec.json.encode(Erasure(kind, digest, until, undo)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        synced(home)
    except OSError as error:
        raise StoreError(
            f"{_list_path(home)}: the erasure cannot be written ({error.strerror}). Nothing was forgotten; "
            "mend this and run the same command again."
        ) from error
    return len(before) + 1


def forget(learned: Forgetful, erasures: Erasures, known: Sequence[tuple[Kind, str]] = ()) -> int:
    """Let a version forget what the list names and it has not forgotten yet; durable when it returns.

    Args:
        learned: a version, or what goes with one; all that it learned is committed.
        known: ids among those to be forgotten. Where these are not all, every id of the version is hashed.

    Returns:
        Rows that are gone.

    Raises:
        StoreError: the version has forgotten more than the list names, so the list is not whole.
    """
    done = learned.ledger.erased
    check_whole(erasures, done)
    if done == len(erasures):
        if done > Ledger.read(learned.store).erased:  # the disk was full when it was to be written
            learned.commit()
        return 0
    wanted: dict[Kind, set[int]] = {"user": set(), "item": set()}
    for entry in erasures.entries[done:]:
        if entry.undo:
            wanted[entry.kind].discard(int(entry.id, 16))
        else:
            wanted[entry.kind].add(int(entry.id, 16))
    names: dict[Kind, list[bytes]] = {"user": [], "item": []}
    for kind, hashes in wanted.items():
        given = [name.encode() for of_kind, name in known if of_kind == kind]
        if hashes and hashes - set(erasures.hashes(kind, Ids.of(given)).tolist()):
            candidates = _ids_of(learned, kind)
        else:
            candidates = iter([Ids.of(given)])
        ordered = np.array(sorted(hashes), np.uint64)
        for ids in candidates if hashes else ():
            hit = np.isin(erasures.hashes(kind, ids), ordered)
            names[kind] += [ids[k].encode() for k in np.flatnonzero(hit).tolist()]
    return learned.forget(sorted(set(names["user"])), sorted(set(names["item"])), len(erasures))


def follow(spec: Spec, store: Store, home: Path) -> None:
    """Follow the list of a home directory to its end in a store that this process alone writes.

    Raises:
        StoreError: the list cannot be read, or is not whole.
    """
    from state.learned import Learned  # loads the learner's kernels, mostly for nothing

    erasures = read_erasures(home)
    if len(erasures) != Ledger.read(store).erased:
        forget(Learned(spec, store), erasures)


def check_whole(erasures: Erasures, done: int) -> None:
    """Raise where a version has forgotten more than the list names.

    Raises:
        StoreError: so it is.
    """
    if done > len(erasures):
        raise StoreError(
            f"The version has followed {done} erasures, the list of its home has {len(erasures)}: "
            "erasures.jsonl was lost in part. Put the whole file and erasure-salt back."
        )


def check_forgotten(home: Path, done: int) -> None:
    """Raise where a version may still know an id that is to be forgotten, so that it answers nothing.

    Args:
        done: `Ledger.erased` of the version.

    Raises:
        StoreError: it has not followed the whole list.
    """
    erasures = read_erasures(home)
    check_whole(erasures, done)
    if done < len(erasures):
        raise StoreError(
            f"{len(erasures) - done} erasures are not done in this version yet, so it gives no answers. "
            "`freshet forget` does what is left to do; a worker does it when it starts."
        )


def list_size(home: Path) -> int:
    """Bytes of the list, which tell whether there is more of it than before."""
    try:
        return _list_path(home).stat().st_size
    except FileNotFoundError:
        return 0


def _ids_of(learned: Forgetful, kind: Kind) -> Iterator[Ids]:
    """All ids of a kind that a version knows: in memory, in the store, and those that are only counted."""
    if kind == "item":
        yield from _ids_in(learned.items.ids)
    else:
        yield from _ids_in(learned.users.ids)
        yield from _ids_in_store(learned.store, b"u")
    yield from _ids_in(learned.counted(kind))


def _ids_in(table: IdTable) -> Iterator[Ids]:
    arrays = table.arrays
    slots = np.flatnonzero(arrays.length > 0)
    for first in range(0, len(slots), _BATCH):
        part = slots[first : first + _BATCH]
        yield Ids(arrays.data, arrays.start[part], arrays.start[part] + arrays.length[part])


def _ids_in_store(store: Store, prefix: bytes) -> Iterator[Ids]:
    keys = (key[len(prefix) :] for key, _ in store.scan(prefix))
    while part := list(islice(keys, _BATCH)):
        yield Ids.of(part)


def _list_path(home: Path) -> Path:
    return home / "erasures.jsonl"


def _salt_path(home: Path) -> Path:
    return home / "erasure-salt"


def _read_keys(home: Path) -> NDArray[np.uint64]:
    path = _salt_path(home)
    try:
        salt = path.read_bytes()
    except OSError as error:
        raise StoreError(
            f"{path}: the key of the erasures cannot be read ({error.strerror}). Put it back: without it "
            "nobody can tell which ids were forgotten."
        ) from error
    if len(salt) != _SALT_BYTES:
        raise StoreError(f"{path}: expected {_SALT_BYTES} bytes, got {len(salt)}. Put the key back.")
    return np.frombuffer(salt, "<u8").astype(np.uint64)


def _made_keys(home: Path) -> NDArray[np.uint64]:
    """The key; a new one where there is none. The caller has the list's lock, and the list is empty."""
    path = _salt_path(home)
    if not path.exists():
        half = path.with_name(f".{path.name}.new")
        half.unlink(missing_ok=True)
        with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(_SALT_BYTES))
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
    return _read_keys(home)


def now_us(at_least_s: int) -> int:
    """Until when events are passed over that are forgotten now: the clock, or the newest event's second."""
    return max(time.time_ns() // 1000, (at_least_s + 1) * 1_000_000 - 1)
