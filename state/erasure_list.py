"""Ids to be forgotten enter; a list in the home directory leaves that does not say which ids they are.

HOME/erasures.jsonl  one erasure a line, with a keyed hash in the place of the id
     erasure-salt    the key, which only its owner may read

The list is only ever appended to.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.durable import synced
from streaming.errors import StoreError
from streaming.events import Ids
from streaming.siphash import hash_each

Kind = Literal["user", "item"]

_SALT_BYTES = 32  # a key of 16 bytes for users, one for items
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


def list_size(home: Path) -> int:
    """Bytes of the list, which tell whether there is more of it than before."""
    try:
        return _list_path(home).stat().st_size
    except FileNotFoundError:
        return 0


def now_us(at_least_s: int) -> int:
    """Until when events are passed over that are forgotten now: the clock, or the newest event's second."""
    return max(time.time_ns() // 1000, (at_least_s + 1) * 1_000_000 - 1)


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
