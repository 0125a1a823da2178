"""The registry: names of versions enter, directories with a spec, a store and snapshots leave.

HOME/versions/NAME/spec.toml           what the version is
                   current             name of the directory of its store
                   store-000001/       RocksDB: rows, parameters, offsets, journal
                   snapshots/N/        RocksDB checkpoints after event N; of a fork also its beginning
                   dead-letters.jsonl  records that were refused
                   identity            of this copy of the store, kept outside of it
                   live/               tables of the newest worker, for servers to read (state/live.py)
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from state.directories import VersionDirectory, alive
from state.durable import aside, remove, synced, write_whole
from state.ledger import Ledger
from state.lineage import read_lineage
from state.live import discard
from state.rocksdb import RocksStore
from state.spec import Spec, read_spec, write_spec
from state.store import Store
from streaming.errors import SettingError, StoreError, VersionError, nearest

logger = structlog.get_logger()

FIRST_STORE = "store-000001"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Version(VersionDirectory):
    """A version's directory and spec."""

    spec: Spec

    @contextmanager
    def reading(self, snapshot: int | None = None) -> Iterator[RocksStore]:
        """The store as of its last commit, also while a worker writes to it; or one of its snapshots.

        Raises:
            StoreError: nothing was learned yet.
            VersionError: there is no such snapshot.
        """
        if snapshot is not None:
            with RocksStore(self.snapshot_path(snapshot), read_only=True) as store:
                yield store
            return
        with (
            tempfile.TemporaryDirectory(prefix="freshet-reader-") as private,
            RocksStore(self.store_path, read_only=True, secondary=Path(private)) as store,
        ):
            store.catch_up()
            yield store

    def snapshots(self) -> list[int]:
        """Event numbers of the snapshots, oldest first."""
        kept = self.path / "snapshots"
        return sorted(int(p.name) for p in kept.iterdir() if p.name.isdigit()) if kept.is_dir() else []

    def snapshot(self, store: Store, keep: int) -> int:
        """Keep what is durable in `store`, the store in use; the oldest snapshots beyond `keep` go.

        What the version began with, where that was not nothing, does not count and stays.

        Returns:
            The number of the newest event in it.
        """
        number = Ledger.read(store).number
        kept = self.path / "snapshots"
        kept.mkdir(exist_ok=True)
        # The store has one writer, so whatever is half made or half removed was left by a kill.
        for left in (*kept.glob(".*.new"), *kept.glob(".*.gone")):
            shutil.rmtree(left)
        half = kept / f".{number}.new"
        store.checkpoint(half)
        target = kept / f"{number:012d}"
        if target.exists():
            # After a restore the same number may stand for other events.
            remove(target)
        half.rename(target)
        beginnings = {origin.number for origin in read_lineage(store)}
        kept_now = [n for n in self.snapshots() if n not in beginnings]
        for old in [n for n in kept_now if n != number][: max(0, len(kept_now) - keep)]:
            remove(self.snapshot_path(old))
        return number

    def restore(self, number: int) -> None:
        """Go back to a snapshot: the store in use is replaced by a copy of it, in one step.

        What was forgotten since the snapshot is not in the copy either.

        Raises:
            VersionError: there is no such snapshot.
            StoreError: the list of erasures cannot be read.
            StoreLockedError: a worker has the store.
        """
        from state.erasure import follow  # loads compiled kernels, which few commands need

        source = self.snapshot_path(number)
        with self.holding():
            copy = self.path / ".restored"
            shutil.rmtree(copy, ignore_errors=True)
            with RocksStore(source) as snapshot:
                snapshot.checkpoint(copy)
            with RocksStore(copy) as store:
                follow(self.spec, store, self.home)
            self.adopt(copy)

    def adopt(self, made: Path) -> None:
        """Put a closed store, made in the version's directory, in the place of the one in use, in one step.

        The caller holds the store in use.
        """
        old = self.store_path
        new = self.path / f"store-{int(old.name.rpartition('-')[2]) + 1:06d}"
        shutil.rmtree(new, ignore_errors=True)
        made.rename(new)
        write_whole(self.path / "current", new.name)
        write_whole(self.path / "identity", uuid.uuid4().hex)
        # The old store, and what a kill left at an earlier time.
        for path in self.path.glob("store-*"):
            if path != new:
                shutil.rmtree(path, ignore_errors=True)

    def snapshot_path(self, number: int) -> Path:
        """Directory of a snapshot.

        Raises:
            VersionError: there is no such snapshot.
        """
        if number not in self.snapshots():
            kept = ", ".join(map(str, self.snapshots())) or "none"
            raise VersionError(
                f'version "{self.name}" has no snapshot after event {number}. Snapshots: {kept}.'
            )
        return self.path / "snapshots" / f"{number:012d}"


class Registry:
    """The versions of a home directory."""

    def __init__(self, home: Path) -> None:
        self._versions = home / "versions"

    def names(self) -> list[str]:
        """Names of all versions."""
        if not self._versions.is_dir():
            return []
        # Half-made and half-removed directories have names that no version can have.
        found = (p for p in self._versions.iterdir() if (p / "spec.toml").exists())
        return sorted(p.name for p in found if NAME.fullmatch(p.name))

    def get(self, name: str) -> Version:
        """A version.

        Raises:
            VersionError: there is none of that name.
        """
        path = self.path_of(name)
        return Version(name, path, read_spec(path / "spec.toml"))

    def readable(self) -> Iterator[Version]:
        """All versions whose spec can be read; the others are warned of."""
        for name in self.names():
            try:
                yield self.get(name)
            except SettingError as error:
                logger.warning("version_damaged", version=name, reason=str(error))

    def path_of(self, name: str) -> Path:
        """Directory of a version, whose spec may be damaged.

        Raises:
            VersionError: there is none of that name.
        """
        if name not in self.names():
            known = ", ".join(self.names()) or "none yet; make one with `freshet versions create NAME`"
            raise VersionError(f'There is no version "{name}".{nearest(name, self.names())} Known: {known}.')
        return self._versions / name

    def create(self, name: str, spec: Spec) -> Version:
        """Make a version; it is there whole or not at all.

        Raises:
            VersionError: the name is taken, or cannot be one.
            StoreError: the home cannot be written.
        """
        with self.making(name, spec):
            pass  # a version that begins with nothing
        return self.get(name)

    @contextmanager
    def making(self, name: str, spec: Spec) -> Iterator[Path]:
        """Make a version; what the block puts into its directory, the version has from the beginning.

        Yields:
            The directory, under a name that no version can have: `half_made(name, pid)`.

        Raises:
            VersionError: the name is taken, or cannot be one.
            StoreError: the home cannot be written.
        """
        if not NAME.fullmatch(name):
            raise VersionError(
                f"{name!r} cannot name a version; use letters, digits, '.', '_', '-', at most 64, "
                "a letter or digit first."
            )
        path, half = self._versions / name, self._versions / half_made(name, os.getpid())
        taken = VersionError(f'There is a version "{name}" already. Choose another name, or delete it first.')
        if path.exists():
            raise taken
        self._forget_half_made()
        try:
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            write_spec(half / "spec.toml", spec)
            (half / "current").write_text(FIRST_STORE + "\n")
            (half / "identity").write_text(uuid.uuid4().hex + "\n")
            yield half
            for each in ("spec.toml", "current", "identity", "."):
                synced(half / each)
            half.rename(path)
            synced(self._versions)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
                raise taken from error
            raise StoreError(
                f'{self._versions}: the version "{name}" cannot be written there ({error.strerror}). '
                "Mend this, or name another home with --home."
            ) from error
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _forget_half_made(self) -> None:
        """Remove what killed processes left."""
        for left in self._versions.glob(".*"):
            pid = left.name.rpartition(".")[2]
            if pid.isdigit() and not alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)

    def delete(self, name: str) -> None:
        """Remove a version and all it learned; its spec may be damaged.

        Raises:
            VersionError: there is none of that name.
            StoreLockedError: a worker has its store.
        """
        version = VersionDirectory(name, self.path_of(name))
        for gone in self._versions.glob(".*.gone"):
            shutil.rmtree(gone, ignore_errors=True)  # what a kill left of a deletion
        if not (version.path / "current").exists() or not version.learned_anything:
            remove(version.path)
            return
        with version.holding():
            discard(version.live_path)
            gone = aside(version.path)
        shutil.rmtree(gone)


def half_made(name: str, pid: int) -> str:
    """Name of the directory where a process makes a version; no version can have it."""
    return f".{name}.{pid}"


def checkpoint_of(half: Path) -> Path:
    """Where a checkpoint that a version is to begin with belongs in its directory."""
    return half / FIRST_STORE
