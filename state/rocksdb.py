"""The store of a version in RocksDB."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from state.store import FORMAT, Store, after
from streaming.errors import (
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
)

_MB = 1 << 20
FORMAT_KEY = b"mformat"


class RocksStore(Store):
    """Keys and values in one RocksDB directory, one writer.

    Args:
        path: directory; made where absent, unless `read_only`.
        read_only: follow another process's store as a secondary instance; its private files are
            kept in `secondary`.
        cache_bytes: block cache.

    Raises:
        StoreLockedError: another process writes to it.
        StoreFormatError: it has another format than this program.
    """

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        secondary: Path | None = None,
        cache_bytes: int = 64 * _MB,
    ) -> None:
        self.path, self._cache_bytes = path, cache_bytes
        self._write = WriteOptions()
        self._write.sync = True
        self._write.memtable_insert_hint_per_batch = True
        if read_only and not (path / "CURRENT").exists():
            raise StoreError(f"{path}: there is no store here yet. Run `freshet work` first.")
        _refuse_foreign(path)
        try:
            if not read_only:
                path.mkdir(parents=True, exist_ok=True)
            access = AccessType.secondary(str(secondary)) if secondary else AccessType.read_write()
            if read_only and not secondary:
                access = AccessType.read_only(False)
            self._db = Rdict(str(path), _options(cache_bytes, read_only), access_type=access)
        except Exception as error:  # rocksdict raises bare Exception; `_named` keeps its text and the cause
            raise _named(error, path) from error
        try:
            self._check_format(read_only)
        except StoreError:
            self.close()
            raise

    def _check_format(self, read_only: bool) -> None:
        written = self.get_many([FORMAT_KEY])[0]
        if written is None:
            if next(self._db.keys(), None) is not None:
                raise _foreign(self.path)
            if not read_only:
                self.write([(FORMAT_KEY, str(FORMAT).encode())])
        elif written != str(FORMAT).encode():
            raise StoreFormatError(
                f"{self.path}: the store has format {written.decode(errors='replace')}, this Freshet reads "
                f"and writes format {FORMAT}. Use the Freshet that wrote it, or learn the version again: "
                "`freshet versions create NEW`, then `freshet work NEW --from …`."
            )

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of keys, None where there is none."""
        if not keys:
            return []
        try:
            values = cast(list[bytes | None], self._db[list(keys)])
        except Exception as error:  # see __init__
            raise _named(error, self.path) from error
        return values

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All (key, value) whose key starts with `prefix`, in key order.

        Raises:
            StoreError: the file is damaged behind the pairs given so far.
        """
        end = after(prefix) if prefix else None
        last = prefix
        pairs = cast(Iterator[tuple[bytes, bytes]], self._db.items(from_key=prefix))
        for key, value in pairs:
            if end is not None and key >= end:
                return
            last = key
            yield key, value
        self._check_ended(last)

    def count(self, prefix: bytes) -> int:
        """Number of keys that start with `prefix`."""
        end, last, count = after(prefix), prefix, 0
        for key in cast(Iterator[bytes], self._db.keys(from_key=prefix)):
            if key >= end:
                return count
            last = key
            count += 1
        self._check_ended(last)
        return count

    def _check_ended(self, last: bytes) -> None:
        """Raise where a scan that ran out at `last` met damage: rocksdict's iterators just end there."""
        try:
            place = self._db.iter()
            place.seek(last)
            if place.valid():
                place.next()
            place.status()
        except Exception as error:  # see __init__
            raise _named(error, self.path) from error

    def write(self, puts: Iterable[tuple[bytes, bytes]], deletes: Iterable[bytes] = ()) -> None:
        """One WriteBatch, its WAL synced before it returns."""
        batch = WriteBatch(raw_mode=True)
        for key in deletes:
            batch.delete(key)
        put = batch.put
        for key, value in puts:
            put(key, value)
        try:
            self._db.write(batch, self._write)
        except Exception as error:  # see __init__
            raise _named(error, self.path) from error

    def checkpoint(self, path: Path) -> None:
        """Hard links to the same files: quick, and small until they are compacted away."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as error:  # see __init__
            raise _named(error, path) from error

    def purge(self) -> None:
        """Write all files anew, so that what was deleted is in none of them; seconds for a million rows.

        Raises:
            StoreError: it failed, and the store may be closed.
        """
        try:
            self._db.flush()
            self._db.compact_range(None, None)
            # The manifest names keys of files that are gone, until the store is opened again.
            self._db.close()
            self._db = Rdict(str(self.path), _options(self._cache_bytes, False))
        except Exception as error:  # see __init__
            raise _named(error, self.path) from error

    def catch_up(self) -> None:
        """See what the writer wrote since (only where opened with `secondary`)."""
        self._db.try_catch_up_with_primary()

    def sizes(self) -> dict[str, int]:
        """Bytes of sorted files and of memory that is not flushed yet."""
        properties = {
            "sst": "rocksdb.total-sst-files-size",
            "memtable": "rocksdb.cur-size-all-mem-tables",
            "block_cache": "rocksdb.block-cache-usage",
        }
        return {part: self._db.property_int_value(name) or 0 for part, name in properties.items()}

    def close(self) -> None:
        """Close the files and give the lock back.

        Raises:
            StoreError: memory could not be flushed; what was written is in the log of RocksDB still.
        """
        try:
            self._db.close()
        except Exception as error:  # see __init__
            raise _named(error, self.path) from error

    def __enter__(self) -> RocksStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StoreError as second:
            if error is None:
                raise
            # Closing fails on a full disk, too; the first error says what happened.
            error.add_note(f"Closing the store failed as well: {second}")


def _options(cache_bytes: int, read_only: bool) -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(not read_only)
    # One writer, batches in key order: the concurrent memtable only costs.
    options.set_allow_concurrent_memtable_write(False)
    options.set_write_buffer_size(64 * _MB)
    options.set_max_total_wal_size(256 * _MB)
    options.set_keep_log_file_num(2)
    # A secondary keeps files open that the writer has removed.
    options.set_max_open_files(-1)
    blocks = BlockBasedOptions()
    blocks.set_block_cache(Cache(cache_bytes))
    # Most look-ups are of users that are new: the filter answers them without reading a block.
    blocks.set_bloom_filter(10, False)
    options.set_block_based_table_factory(blocks)
    return options


def _refuse_foreign(path: Path) -> None:
    """Raise where rocksdict keeps Python objects: opening it with plain bytes would spoil its settings."""
    config = path / "rocksdict-config.json"
    if config.is_file() and b'"raw_mode":false' in config.read_bytes().replace(b" ", b""):
        raise _foreign(path)


def _foreign(path: Path) -> StoreFormatError:
    return StoreFormatError(f"{path}: this RocksDB was not written by Freshet. Choose another home.")


def _named(error: Exception, path: Path) -> StoreError:
    """RocksDB's error under the name that says what to do."""
    text = str(error)
    if "lock" in text.lower() and ("LOCK" in text or "No locks" in text):
        return StoreLockedError(
            f"{path}: another process holds this store ({text}). "
            "Stop that worker, or wait until it has ended."
        )
    if "No space left" in text:
        return StoreFullError(
            f"{path}: no space is left on the device. All that was committed is safe; free some space and "
            f"run the same command again. ({text})"
        )
    if "Corruption" in text:
        return StoreError(
            f"{path}: a file of the store is damaged ({text}). Go back to a snapshot with "
            "`freshet versions restore`, or make the store again from its log with "
            "`freshet versions rebuild --replace`."
        )
    writable = os.access(path if path.exists() else path.parent, os.W_OK)
    denied = (
        "Read-only file system" in text or "Permission denied" in text or isinstance(error, PermissionError)
    )
    if denied or (isinstance(error, OSError) and not writable):
        return StoreReadOnlyError(
            f"{path}: the store cannot be written ({text}). Make it writable, or set --home."
        )
    return StoreError(f"{path}: {text}")
