"""The registry: names of versions enter, directories with a spec, a store and snapshots leave.

HOME/versions/NAME/spec.toml           what the version is
                   current             name of the directory of its store
                   store-000001/       RocksDB: rows, parameters, offsets, journal
                   snapshots/N/        RocksDB checkpoints after event N
                   dead-letters.jsonl  records that were refused
                   identity            of this copy of the store, kept outside of it
"""

from __future__ import annotations

import fcntl
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

from state.ledger import Ledger
from state.rocksdb import RocksStore
from state.spec import Spec, read_spec, write_spec
from state.store import Store
from streaming.errors import StoreError, StoreLockedError, StoreReadOnlyError, VersionError, nearest

logger = structlog.get_logger()

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Version:
    """A version's directory and spec."""

    name: str
    path: Path
    spec: Spec

    @property
    def store_path(self) -> Path:
        """Directory of the RocksDB in use."""
        return self.path / (self.path / "current").read_text().strip()

    @property
    def dead_letters_path(self) -> Path:
        """File of the records that were refused."""
        return self.path / "dead-letters.jsonl"

    @property
    def identity(self) -> str:
        """Of this copy of the store."""
        return (self.path / "identity").read_text().strip()

    @property
    def learned_anything(self) -> bool:
        """Whether there is a store yet."""
        return (self.store_path / "CURRENT").exists()

    def open(self) -> RocksStore:
        """The store, for its one writer.

        Raises:
            StoreLockedError: another process has it.
        """
        return RocksStore(self.store_path)

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
            _remove(target)
        half.rename(target)
        others = [n for n in self.snapshots() if n != number]
        for old in others[: max(0, len(others) + 1 - keep)]:
            _remove(self.snapshot_path(old))
        return number

    def restore(self, number: int) -> None:
        """Go back to a snapshot: the store in use is replaced by a copy of it, in one step.

        Raises:
            VersionError: there is no such snapshot.
            StoreLockedError: a worker has the store.
        """
        source = self.snapshot_path(number)
        with self.holding():
            copy = self.path / ".restored"
            shutil.rmtree(copy, ignore_errors=True)
            with RocksStore(source) as snapshot:
                snapshot.checkpoint(copy)
            self.adopt(copy)

    def adopt(self, made: Path) -> None:
        """Put a closed store, made in the version's directory, in the place of the one in use, in one step.

        The caller holds the store in use.
        """
        old = self.store_path
        new = self.path / f"store-{int(old.name.rpartition('-')[2]) + 1:06d}"
        shutil.rmtree(new, ignore_errors=True)
        made.rename(new)
        _write_whole(self.path / "current", new.name)
        _write_whole(self.path / "identity", uuid.uuid4().hex)
        # The old store, and what a kill left at an earlier time.
        for path in self.path.glob("store-*"):
            if path != new:
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Keep every other process from the store in use, even where that is too damaged to be opened.

        Raises:
            StoreLockedError: a worker has the store.
        """
        try:
            store = self.open()
        except (StoreLockedError, StoreReadOnlyError):
            raise
        except StoreError as damage:
            with self._lock_file(damage):
                yield
            return
        with store:
            yield

    @contextmanager
    def _lock_file(self, damage: StoreError) -> Iterator[None]:
        """The lock that RocksDB takes, taken without RocksDB."""
        with (self.store_path / "LOCK").open("a") as lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreLockedError(
                    f"{self.store_path}: another process holds this store. "
                    "Stop that worker, or wait until it has ended."
                ) from error
            logger.warning("store_damaged", path=str(self.store_path), reason=str(damage))
            yield

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
        return sorted(p.name for p in found if _NAME.fullmatch(p.name))

    def get(self, name: str) -> Version:
        """A version.

        Raises:
            VersionError: there is none of that name.
        """
        path = self.path_of(name)
        return Version(name, path, read_spec(path / "spec.toml"))

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
        if not _NAME.fullmatch(name):
            raise VersionError(
                f"{name!r} cannot name a version; use letters, digits, '.', '_', '-', at most 64, "
                "a letter or digit first."
            )
        path = self._versions / name
        if path.exists():
            raise VersionError(
                f'There is a version "{name}" already. Choose another name, or delete it first.'
            )
        half = self._versions / f".{name}.{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        try:
            half.mkdir(parents=True)
            write_spec(half / "spec.toml", spec)
            (half / "current").write_text("store-000001\n")
            (half / "identity").write_text(uuid.uuid4().hex + "\n")
            half.rename(path)
        except OSError as error:
            shutil.rmtree(half, ignore_errors=True)
            raise StoreError(
                f'{self._versions}: the version "{name}" cannot be written there ({error.strerror}). '
                "Mend this, or name another home with --home."
            ) from error
        return self.get(name)

    def delete(self, name: str) -> None:
        """Remove a version and all it learned.

        Raises:
            VersionError: there is none of that name.
            StoreLockedError: a worker has its store.
        """
        version = self.get(name)
        for gone in self._versions.glob(".*.gone"):
            shutil.rmtree(gone, ignore_errors=True)  # what a kill left of a deletion
        if not version.learned_anything:
            _remove(version.path)
            return
        with version.holding():
            gone = _aside(version.path)
        shutil.rmtree(gone)


def _aside(path: Path) -> Path:
    """Rename a directory so that nobody takes it for what it was."""
    gone = path.with_name(f".{path.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    return gone


def _remove(path: Path) -> None:
    """Remove a directory; a kill meanwhile leaves no half of it behind under its name."""
    shutil.rmtree(_aside(path))


def _write_whole(path: Path, text: str) -> None:
    """Replace a small file; a kill leaves the old or the new text."""
    half = path.with_name(f".{path.name}.new")
    with half.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
