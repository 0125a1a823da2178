"""What becomes of a version's sequences when it is forked, kept, brought back or shown.

Whoever holds them, a transformer's worker or nobody, is asked as the version's own worker is. Promoting and
rolling back move a pointer alone: the sequences lie with their version.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consumers.control import ask, worker_of
from state.durable import aside, remove, write_whole
from state.ledger import Ledger
from state.live import discard
from state.rocksdb import RocksStore
from state.sequences_directory import (
    MODES,
    SEQUENCES,
    SequenceDirectory,
    holding_sequences,
    sequences_of,
    state_of,
)
from state.versions import Version
from streaming.session.gate import Gate


def fork_sequences(source: Version, half: Path) -> None:
    """Let a fork that is being made go on from its source's sequences, where there are any.

    Args:
        half: directory of the half-made version, which has its identity.
    """
    directory = sequences_of(source)
    if directory.learned_anything:
        ask(directory, "checkpoint", path=str((half / SEQUENCES / "store").absolute()))
        write_whole(half / SEQUENCES / "of", (half / "identity").read_text().strip())


def keep_sequences(version: Version, number: int) -> None:
    """Keep the sequences beside a snapshot of their version, where there are any."""
    directory = sequences_of(version)
    if directory.learned_anything:
        kept = directory.path / "snapshots"
        kept.mkdir(exist_ok=True)
        half = kept / f".{number}.new"
        shutil.rmtree(half, ignore_errors=True)
        ask(directory, "checkpoint", path=str(half.absolute()))
        if _kept(directory, number).exists():
            remove(_kept(directory, number))
        half.rename(_kept(directory, number))
    drop_without_snapshot(version)


def drop_without_snapshot(version: Version) -> None:
    """Remove sequences that were kept beside a snapshot which is gone."""
    kept = sequences_of(version).path / "snapshots"
    numbers = set(version.snapshots())
    for path in kept.iterdir() if kept.is_dir() else ():
        if path.name.isdigit() and int(path.name) not in numbers:
            remove(path)


@contextmanager
def bringing_back(version: Version, number: int) -> Iterator[None]:
    """While a version goes back to a snapshot, hold its sequences; they go back with it.

    Where none were kept beside the snapshot, they are begun anew. A kill at any moment leaves them as they
    were kept, or to be begun anew.

    Raises:
        StoreLockedError: a transformer's worker has them.
    """
    directory = sequences_of(version)
    with holding_sequences(version):
        yield
    kept = _kept(directory, number)
    if not kept.exists():
        return
    discard(directory.live_path)
    copy = directory.path / ".restored"
    shutil.rmtree(copy, ignore_errors=True)
    with RocksStore(kept) as snapshot:
        snapshot.checkpoint(copy)
    if directory.store_path.exists():
        shutil.rmtree(aside(directory.store_path))
    copy.rename(directory.store_path)
    write_whole(directory.path / "of", version.identity)


def shown_sequences(version: Version) -> dict[str, Any] | None:
    """What `freshet versions show` says of a version's sequences; None where there are none."""
    directory = sequences_of(version)
    if not directory.learned_anything:
        return None
    with directory.reading() as store:
        state, ledger = state_of(store), Ledger.read(store)
        if state is None:
            return None
    mode = state["mode"]
    standings = Gate.restored(state["gate"]).standings()
    return {
        "events": ledger.number,
        "offsets": {source.name: source.next_offset for source in ledger.sources},
        "worker": worker_of(directory),
        "options": state["options"] | {"idle_s": state["idle_s"]},
        "steps": {name: state["counts"][name] for name in ("due", "left_out")},
        "gate": [
            {
                "history": one.shortest,
                "open": mode == MODES[1] or (mode == MODES[0] and one.open),
                "reason": one.reason if mode == MODES[0] else f'{mode}: sessions.gate = "{mode}"',
            }
            for one in standings
        ],
    }


def sequences_in_words(shown: Mapping[str, Any] | None) -> dict[str, object]:
    """The same in lines for people."""
    if shown is None:
        return {}
    worker = f"worker {shown['worker']}" if shown["worker"] else "no worker"
    gate = {f"gate from {one['history']} items": one["reason"] for one in shown["gate"]}
    return {"sequences": f"{shown['events']:,} events followed, {worker}", **gate}


def _kept(directory: SequenceDirectory, number: int) -> Path:
    return directory.path / "snapshots" / f"{number:012d}"
