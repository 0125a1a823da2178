"""The list of erasures and a version enter; rows that are gone leave, and the events that are passed over.

The log still holds the events of an id that was forgotten, so a replay or a rebuild would bring it back.
Each erasure therefore stands in a list (`erasure_list`), and each version's ledger says from which record
on how many of them hold. From there on the id's events up to the erasure are passed over: what is learned
remains a function of log, list and ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from state.erasure_list import Erasures, Kind, read_erasures
from state.ids import IdTable
from state.ledger import Ledger
from state.store import Store
from streaming.errors import StoreError
from streaming.events import EventBatch, Ids

if TYPE_CHECKING:
    from state.spec import Spec

_BATCH = 65_536  # ids that are hashed at one go


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


def passed_after(passed: Passed, followed: int, read: Callable[[], Erasures]) -> Passed:
    """What to pass over once so many erasures are followed: `passed`, where it holds that many.

    Raises:
        StoreError: the list that is read has fewer.
    """
    if passed.count == followed:
        return passed
    erasures = read()
    check_whole(erasures, followed)
    return Passed(erasures.first(followed))


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
