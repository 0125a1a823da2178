"""The registry: names of versions enter, directories with a spec, a store and snapshots leave.

    HOME/versions/NAME/spec.toml           what the version is
                       current             name of the directory of its store
                       store-000001/       RocksDB: rows, parameters, offsets, journal
                       snapshots/N/        RocksDB checkpoints after event N
                       dead-letters.jsonl  records that were refused
                       identity            of this copy of the store, kept outside of it
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from state.ledger import Ledger
from state.rocksdb import RocksStore
from state.spec import Spec, read_spec, write_spec
from streaming.errors import VersionError, nearest

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
    def reading(self) -> Iterator[RocksStore]:
        """The store as of its last commit, also while a worker writes to it.

        Raises:
            StoreError: nothing was learned yet.
        """
        with tempfile.TemporaryDirectory(prefix="freshet-reader-") as private:
            with RocksStore(self.store_path, read_only=True, secondary=Path(private)) as store:
                store.catch_up()
                yield store

    def snapshots(self) -> list[int]:
        """Event numbers of the snapshots, oldest first."""
        kept = self.path / "snapshots"
        return sorted(int(p.name) for p in kept.iterdir() if p.name.isdigit()) if kept.is_dir() else []

    def snapshot(self, store: RocksStore, keep: int) -> int:
        """Keep what is durable in `store`, the store in use; the oldest snapshots beyond `keep` go.

        Returns:
            The number of the newest event in it.
        """
        number = Ledger.read(store).number
        target = self._snapshot_path(number)
        if not target.exists():
            half = target.with_name(f".{number}.{os.getpid()}")
            shutil.rmtree(half, ignore_errors=True)
            store.checkpoint(half)
            half.rename(target)
        for old in self.snapshots()[:-keep]:
            shutil.rmtree(self._snapshot_path(old))
        return number

    def restore(self, number: int) -> None:
        """Go back to a snapshot: the store in use is replaced by a copy of it, in one step.

        Raises:
            VersionError: there is no such snapshot.
            StoreLockedError: a worker has the store.
        """
        if number not in self.snapshots():
            kept = ", ".join(map(str, self.snapshots())) or "none"
            raise VersionError(f'version "{self.name}" has no snapshot after event {number}. Snapshots: {kept}.')
        old = self.store_path
        new = self.path / f"store-{int(old.name.rpartition('-')[2]) + 1:06d}"
        with self.open():
            shutil.rmtree(new, ignore_errors=True)
            with RocksStore(self._snapshot_path(number)) as snapshot:
                snapshot.checkpoint(new)
            _write_whole(self.path / "current", new.name)
            _write_whole(self.path / "identity", uuid.uuid4().hex)
        shutil.rmtree(old)

    def _snapshot_path(self, number: int) -> Path:
        return self.path / "snapshots" / f"{number:012d}"


class Registry:
    """The versions of a home directory."""

    def __init__(self, home: Path) -> None:
        self._versions = home / "versions"

    def names(self) -> list[str]:
        """Names of all versions."""
        if not self._versions.is_dir():
            return []
        return sorted(p.name for p in self._versions.iterdir() if (p / "spec.toml").exists())

    def get(self, name: str) -> Version:
        """A version.

        Raises:
            VersionError: there is none of that name.
        """
        if name not in self.names():
            known = ", ".join(self.names()) or "none yet; make one with `freshet versions create NAME`"
            raise VersionError(f'There is no version "{name}".{nearest(name, self.names())} Known: {known}.')
        path = self._versions / name
        return Version(name, path, read_spec(path / "spec.toml"))

    def create(self, name: str, spec: Spec) -> Version:
        """Make a version; it is there whole or not at all.

        Raises:
            VersionError: the name is taken, or cannot be one.
        """
        if not _NAME.fullmatch(name):
            raise VersionError(
                f"{name!r} cannot name a version; use letters, digits, '.', '_', '-', at most 64, a letter or digit first."
            )
        path = self._versions / name
        if path.exists():
            raise VersionError(f'There is a version "{name}" already. Choose another name, or delete it first.')
        half = self._versions / f".{name}.{os.getpid()}"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        write_spec(half / "spec.toml", spec)
        (half / "current").write_text("store-000001\n")
        (half / "identity").write_text(uuid.uuid4().hex + "\n")
        half.rename(path)
        return self.get(name)

    def delete(self, name: str) -> None:
        """Remove a version and all it learned.

        Raises:
            VersionError: there is none of that name.
            StoreLockedError: a worker has its store.
        """
        version = self.get(name)
        if version.learned_anything:
            version.open().close()
        # Renamed first: a kill meanwhile leaves no half of a version behind under its name.
        gone = self._versions / f".{name}.deleted"
        shutil.rmtree(gone, ignore_errors=True)
        version.path.rename(gone)
        shutil.rmtree(gone)


def _write_whole(path: Path, text: str) -> None:
    """Replace a small file; a kill leaves the old or the new text."""
    half = path.with_name(f".{path.name}.new")
    with half.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)
