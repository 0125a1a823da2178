"""What the holder of a version's store does for others: a command with arguments enters, its result leaves.

A new command is one function, listed in COMMANDS.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state.rocksdb import RocksStore
from state.sequences_directory import SequenceDirectory
from state.store import Store
from state.versions import NAME, Version, checkpoint_of, half_made
from streaming.errors import UsageError

if TYPE_CHECKING:
    from state.erasure import Forgetful


@dataclass(frozen=True, slots=True)
class Holder:
    """What a command may use: a version whose store this process alone writes; all of it is durable.

    Attributes:
        learned: gives the version in memory; made at the first call where no worker runs.
    """

    version: Version
    store: Store
    learned: Callable[[], Forgetful]


Command = Callable[[Holder, Mapping[str, Any]], dict[str, Any]]


def _snapshot(holder: Holder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what is durable now."""
    number = holder.version.snapshot(holder.store, int(arguments["keep"]))
    return {"snapshot": number, "snapshots": holder.version.snapshots()}


def _fork(holder: Holder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Put a checkpoint of what is durable now into the version that another process is making."""
    name, asker = str(arguments["name"]), int(arguments["asker"])
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot name a version.")
    begun = time.perf_counter()
    holder.store.checkpoint(checkpoint_of(holder.version.path.parent / half_made(name, asker)))
    return {"seconds": round(time.perf_counter() - begun, 4)}


def _forget(holder: Holder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Follow the list of erasures to its end; the ids given are among those that it names."""
    from state.erasure import forget
    from state.erasure_list import read_erasures

    known = [(kind, str(name)) for kind, name in arguments["known"]]
    rows = forget(holder.learned(), read_erasures(holder.version.home), known)
    if arguments["purge"] and isinstance(holder.store, RocksStore):
        holder.store.purge()
    return {"rows": rows}


def _checkpoint(holder: Holder, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Put a checkpoint of what is durable now into a directory that is not there yet."""
    holder.store.checkpoint(Path(arguments["path"]))
    return {}


COMMANDS: dict[str, Command] = {
    "snapshot": _snapshot,
    "fork": _fork,
    "forget": _forget,
    "checkpoint": _checkpoint,
}


def held_in(version: Version, store: Store) -> Forgetful:
    """What the store of a version, or of its sequences, holds."""
    if isinstance(version, SequenceDirectory):
        from state.sequences import open_sequences, settled_options

        return open_sequences(version.spec, store, settled_options(version.spec, store, {}))
    from state.learned import Learned  # loads compiled kernels, which few commands need

    return Learned(version.spec, store)
