"""`freshet forget`: an id enters; all versions forget it, for good."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, table
from consumers.control import ask
from consumers.dead_letters import DeadLetter, DeadLetters
from consumers.event_rules import event_rules
from consumers.outcomes_forgetting import forget_in_all
from consumers.outcomes_store import OUTCOMES
from consumers.sessions_care import drop_without_snapshot
from state.durable import remove
from state.erasure_list import Kind, add_erasure, now_us, read_erasures
from state.guests import checked
from state.ledger import Ledger
from state.lineage import read_lineage
from state.releases import Releases
from state.sequences_directory import sequences_of
from state.versions import Registry, Version
from streaming.errors import FreshetError, StoreLockedError, UsageError

_WAIT_S = 30.0  # for another process to give a store back, or for a worker that starts to listen
_AGAIN_S = 0.2


class _Drop(NamedTuple):
    """Which snapshots that hold a row are removed: those taken, and what a version began with."""

    snapshots: bool
    beginnings: bool


def forget(
    kind: Kind | None = None,
    id_: str | None = None,
    /,
    *,
    undo: Switch = False,
    purge: Switch = False,
    drop_snapshots: Switch = False,
    drop_beginnings: Switch = False,
    json: Switch = False,
) -> int:
    """Forget a user or an item in all versions: rows, counts and bad records go, and do not come back.

    A running worker does it between two commits. Events of the user up to now are passed over by every
    version from here on, later ones begin a new row; an item stays away until --undo. Without an id, what
    is still to be forgotten in any version is done: run that where a version could not be reached.

    Parameters
    ----------
    kind
        What the id names: user or item.
    id_
        The id; put "--" before one that begins with "-".
    undo
        Take an item back: events from here on are learned again.
    purge
        Write the files of the stores anew, too, so that no deleted byte stays until RocksDB gets to it;
        a worker stands still meanwhile, some seconds for a million rows.
    drop_snapshots
        Remove the snapshots that hold the row. Otherwise they keep it, and `restore` leaves it out. What a
        version began with, as a fork or with vectors, stays: it cannot be rebuilt without.
    drop_beginnings
        Remove these, too; `rebuild` then begins with a later snapshot.
    json
        Print {erasures, versions: [{version, rows, dead_letters, snapshots, error}]}.
    """
    if (kind is None) != (id_ is None):
        raise UsageError("`freshet forget` needs user or item, and an id; or neither.")
    if undo and kind != "item":
        raise UsageError("--undo takes an item back; what a user had is gone, and new events begin anew.")
    if (drop_snapshots or drop_beginnings) and (kind is None or undo):
        raise UsageError("--drop-snapshots and --drop-beginnings need the id whose rows are looked for.")
    home = current_settings().home
    registry = Registry(home)
    known: list[tuple[Kind, str]] = []
    if kind is not None and id_ is not None:
        until = now_us(_newest(registry)) if kind == "user" else 0
        add_erasure(home, kind, checked(id_), until, undo=undo)
        known = [] if undo else [(kind, id_)]
        if kind == "user":
            Releases(home).remove_override(id_, "forgotten")
    drop = _Drop(drop_snapshots, drop_beginnings)
    done = [_in_version(registry, name, known, purge, drop) for name in registry.names()]
    done += _in_experiments()
    report = {"erasures": len(read_erasures(home)), "versions": done}
    emit(
        report,
        json,
        lambda: table(list(_NOTHING), [list(each.values()) for each in done]) if done else "no versions",
    )
    for each in done:
        if each["error"] is not None:
            print(f"error: {each['version']}: {each['error']}", file=sys.stderr)
    if any(each["error"] is not None for each in done):
        print("Not all is forgotten yet. Mend this, then run `freshet forget`.", file=sys.stderr)
        return 1
    return 0


_NOTHING: dict[str, Any] = {"version": "", "rows": 0, "dead_letters": 0, "snapshots": [], "error": None}


def _in_experiments() -> list[dict[str, Any]]:
    """Have the experiments forget; a line where one could not."""
    settings = current_settings()
    try:
        if (settings.home / OUTCOMES).exists():
            forget_in_all(settings.home, event_rules(settings))
    except FreshetError as error:
        return [{**_NOTHING, "version": "experiments", "error": str(error)}]
    return []


def _in_version(
    registry: Registry, name: str, known: list[tuple[Kind, str]], purge: bool, drop: _Drop
) -> dict[str, Any]:
    """What came of it in one version; an error does not keep the others from their part."""
    done = {**_NOTHING, "version": name}
    try:
        version = registry.get(name)
        if version.learned_anything:
            done["rows"] = _asked(version, known, purge)["rows"]
        if (sequences := sequences_of(version)).learned_anything:
            done["rows"] += _asked(sequences, known, purge)["rows"]
        for kind, id_ in known:
            if kind == "user":
                done["dead_letters"] = _without_letters(version, id_)
            done["snapshots"] = _dropped(version, list(_holding(version, kind, id_)), drop)
    except FreshetError as error:
        done["error"] = str(error)
    return done


def _dropped(version: Version, holding: list[int], drop: _Drop) -> list[int]:
    """Remove snapshots that hold a row, as far as is wanted; returns those that are left."""
    if not holding:
        return []
    with version.reading() as store:
        origins = read_lineage(store)
    beginning = origins[-1].number if origins else None
    left = [number for number in holding if not (drop.beginnings if number == beginning else drop.snapshots)]
    for number in set(holding) - set(left):
        remove(version.snapshot_path(number))
    drop_without_snapshot(version)
    if drop.snapshots and left:
        print(
            f"{version.name}: the snapshot after event {beginning} holds the row. The version began with it "
            "and cannot be rebuilt without; --drop-beginnings removes it all the same.",
            file=sys.stderr,
        )
    return left


def _asked(version: Version, known: list[tuple[Kind, str]], purge: bool) -> dict[str, Any]:
    """Have the version's worker forget, or do it here; waits while another process holds the store."""
    last = time.monotonic() + _WAIT_S
    while True:
        try:
            return ask(version, "forget", known=known, purge=purge)
        except StoreLockedError:
            if time.monotonic() > last:
                raise
            time.sleep(_AGAIN_S)


def _newest(registry: Registry) -> int:
    """Time of the newest event that any version has learned, in seconds; 0 where there is none."""
    return max(_watermarks(registry.readable()), default=0)


def _watermarks(versions: Iterable[Version]) -> Iterator[int]:
    for version in versions:
        if version.learned_anything:
            with version.reading() as store:
                yield Ledger.read(store).watermark


def _holding(version: Version, kind: Kind, id_: str) -> Iterator[int]:
    """Snapshots that hold a row of the id."""
    for number in version.snapshots():
        with version.reading(number) as snapshot:
            if snapshot.get_many([kind[:1].encode() + id_.encode()]) != [None]:
                yield number


def _without_letters(version: Version, user: str) -> int:
    """Blank the version's bad records of a user; returns how many there were."""
    field = current_settings().events.fields.user
    word = re.compile(rf"(?<!\w){re.escape(user)}(?!\w)")

    def concerns(letter: DeadLetter) -> bool:
        try:
            record = msgspec.json.decode(letter.raw)
        except msgspec.DecodeError:
            record = None  # it may be cut, or a row of CSV
        named = record.get(field) if isinstance(record, dict) else None
        if isinstance(named, str | int):
            return str(named) == user
        return word.search(letter.raw) is not None or word.search(letter.reason) is not None

    return DeadLetters(version.dead_letters_path).blank(concerns)
