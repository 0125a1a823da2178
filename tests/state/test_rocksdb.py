"""RocksDB's troubles, each made for real, come out as errors that say what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import Options, Rdict

from state.rocksdb import FORMAT_KEY, RocksStore
from streaming.errors import (
    StoreError,
    StoreFormatError,
    StoreFullError,
    StoreLockedError,
    StoreReadOnlyError,
)
from tests.state.mounts import disk, remount

HOLDER = """
import sys
from pathlib import Path
from state.rocksdb import RocksStore
store = RocksStore(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_store_that_another_process_holds_is_refused_until_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "store")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match="another process holds this store") as caught:
            RocksStore(tmp_path / "store")
        assert caught.value.retriable
        assert str(tmp_path / "store") in str(caught.value)
        holder.kill()
    RocksStore(tmp_path / "store").close()


def test_store_is_locked_within_a_process_too(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "store"), pytest.raises(StoreLockedError):
        RocksStore(tmp_path / "store")


@pytest.mark.parametrize("raw", [True, False])
def test_foreign_rocksdb_is_refused_and_left_as_it_is(tmp_path: Path, raw: bool) -> None:
    foreign = Rdict(str(tmp_path / "store"), Options(raw_mode=raw))
    foreign[b"somebody's"] = b"data"
    foreign.close()
    with pytest.raises(StoreError, match="store"):
        RocksStore(tmp_path / "store")
    again = Rdict(str(tmp_path / "store"), Options(raw_mode=raw))
    assert dict(again.items()) == {b"somebody's": b"data"}
    again.close()


def test_store_of_another_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "store") as store:
        store.write([(FORMAT_KEY, b"99")])
    with pytest.raises(StoreFormatError, match=r"format 99.*format 1"):
        RocksStore(tmp_path / "store")
    with pytest.raises(StoreFormatError):  # the lock was given back
        RocksStore(tmp_path / "store")


def test_store_that_was_cut_off_while_it_was_made_is_begun_again(tmp_path: Path) -> None:
    Rdict(str(tmp_path / "store"), Options(raw_mode=True)).close()
    with RocksStore(tmp_path / "store") as store:
        assert store.get_many([FORMAT_KEY]) == [b"1"]


def test_reading_a_store_that_is_not_there_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="freshet work"):
        RocksStore(tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()


def test_read_only_disk_is_named_and_the_store_opens_once_it_is_writable(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with disk(place, "16m"):
        with RocksStore(place / "store") as store:
            store.write([(b"ua", b"1")])
        remount(place, "ro")
        with pytest.raises(StoreReadOnlyError, match="Make it writable"):
            RocksStore(place / "store")
        with pytest.raises(StoreReadOnlyError, match="Make it writable"):
            RocksStore(place / "new")
        remount(place, "rw")
        with RocksStore(place / "store") as store:
            assert store.get_many([b"ua"]) == [b"1"]


def test_path_that_is_a_file_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("not a directory")
    with pytest.raises(StoreError, match="store"):
        RocksStore(tmp_path / "store")


def test_full_disk_keeps_what_was_written_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with disk(place, "3m"):
        kept = 0
        store = RocksStore(place / "store")
        with pytest.raises(StoreFullError, match="free some space") as caught:
            while True:
                store.write([(b"u%06d" % kept, b"x" * 100_000)])
                kept += 1
        assert caught.value.retriable
        assert kept > 3
        with pytest.raises(StoreError):
            store.close()
        with pytest.raises(StoreFullError), RocksStore(place / "store") as store:
            store.write([(b"ubig", b"y" * 4_000_000)])
        remount(place, "size=60m")
        with RocksStore(place / "store") as store:
            assert [key for key, _ in store.scan(b"u")] == [b"u%06d" % k for k in range(kept)]
            store.write([(b"ubig", b"y" * 4_000_000)])
            assert store.get_many([b"ubig"]) == [b"y" * 4_000_000]


def test_secondary_sees_what_the_writer_wrote_since(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "store") as writer:
        writer.write([(b"ua", b"1")])
        with RocksStore(tmp_path / "store", read_only=True, secondary=tmp_path / "own") as reader:
            assert reader.get_many([b"ua"]) == [b"1"]
            writer.write([(b"ua", b"2")])
            assert reader.get_many([b"ua"]) == [b"1"]
            reader.catch_up()
            assert reader.get_many([b"ua"]) == [b"2"]


def test_checkpoint_is_a_store_of_its_own(tmp_path: Path) -> None:
    with RocksStore(tmp_path / "store") as store:
        store.write([(b"ua", b"1")])
        store.checkpoint(tmp_path / "copies" / "one")
        store.write([(b"ua", b"2")])
        with pytest.raises(StoreError):
            store.checkpoint(tmp_path / "copies" / "one")
    with RocksStore(tmp_path / "copies" / "one") as copy:
        assert copy.get_many([b"ua"]) == [b"1"]
