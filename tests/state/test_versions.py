"""The registry and the snapshots stay whole, whatever a kill, damage or a restore leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rocksdict import AccessType, Options, Rdict

from state.learned import Learned
from state.spec import new_spec
from state.store import Store
from state.versions import Registry, Version
from streaming.errors import StoreError, StoreLockedError, VersionError
from streaming.events import EventBatch
from tests.state.mounts import disk, remount
from tests.state.streams import lively, teach

STREAM = lively(900, seed=3)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


@pytest.fixture
def version(registry: Registry) -> Version:
    return registry.create("mine", new_spec("popularity", {"evaluation_rate": 0.2}))


def learn(version: Version, events: EventBatch) -> None:
    with version.open() as store:
        teach(Learned(version.spec, store), events, commit=100)


def snapshot(version: Version, keep: int = 5) -> int:
    with version.open() as store:
        return version.snapshot(store, keep)


def everything(path: Path) -> dict[bytes, bytes]:
    database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only(False))
    try:
        return dict(database.items())
    finally:
        database.close()


def test_created_version_is_listed_with_its_spec(registry: Registry, version: Version) -> None:
    assert registry.names() == ["mine"]
    assert registry.get("mine").spec == version.spec
    assert not version.learned_anything and version.snapshots() == []
    with pytest.raises(StoreError, match="no store here yet"), version.reading():
        pass


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "ü", "a" * 65, "-x", "a b"])
def test_name_that_cannot_be_is_refused(registry: Registry, name: str) -> None:
    with pytest.raises(VersionError, match="cannot name a version"):
        registry.create(name, new_spec("popularity", {}))
    assert registry.names() == []


def test_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/versions: .* \(Not a directory\)\. Mend this"):
        Registry(tmp_path / "file").create("mine", new_spec("popularity", {}))


def test_disk_that_cannot_be_written_leaves_no_half_of_a_version(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "1m"):
        registry = Registry(tmp_path / "disk")
        registry.create("mine", new_spec("popularity", {}))
        remount(tmp_path / "disk", "ro")
        with pytest.raises(StoreError, match="Read-only file system"):
            registry.create("yours", new_spec("popularity", {}))
        remount(tmp_path / "disk", "rw")
        assert [p.name for p in (tmp_path / "disk/versions").iterdir()] == ["mine"]


def test_taken_and_unknown_names_are_refused(registry: Registry, version: Version) -> None:
    with pytest.raises(VersionError, match='a version "mine" already'):
        registry.create("mine", version.spec)
    with pytest.raises(VersionError, match='no version "mime"') as caught:
        registry.get("mime")
    assert 'Did you mean "mine"' in str(caught.value)


def test_what_kills_left_half_made_is_no_version(
    registry: Registry, version: Version, tmp_path: Path
) -> None:
    versions = tmp_path / "versions"
    shutil.copytree(version.path, versions / f".mine.{os.getpid()}")  # killed while it was created
    shutil.copytree(version.path, versions / ".gone.gone")  # killed while it was deleted
    (versions / "empty").mkdir()
    assert registry.names() == ["mine"]
    registry.create("new", version.spec)
    registry.delete("mine")
    assert registry.names() == ["new"]
    assert not (versions / ".gone.gone").exists()


def test_deleted_version_leaves_nothing(registry: Registry, version: Version, tmp_path: Path) -> None:
    learn(version, STREAM.part(0, 100))
    snapshot(version)
    registry.delete("mine")
    assert registry.names() == [] and list((tmp_path / "versions").iterdir()) == []
    registry.create("mine", version.spec)


def test_held_version_is_neither_deleted_nor_restored(registry: Registry, version: Version) -> None:
    learn(version, STREAM.part(0, 100))
    number = snapshot(version)
    code = (
        "import sys; from pathlib import Path; from state.rocksdb import RocksStore; "
        f"store = RocksStore(Path({str(version.store_path)!r})); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for act in (lambda: registry.delete("mine"), lambda: version.restore(number), lambda: version.open()):
            with pytest.raises(StoreLockedError, match="another process holds this store"):
                act()
        with version.reading() as store:
            assert store.count(b"i") > 0
        other.stdin.close()
    version.restore(number)


def test_snapshot_is_the_store_as_of_its_event(version: Version) -> None:
    learn(version, STREAM.part(0, 400))
    assert snapshot(version) == 400
    kept = everything(version.store_path)
    learn(version, STREAM)
    assert everything(version.snapshot_path(400)) == kept
    with version.reading(400) as store:
        assert dict(store.scan(b"")) == kept
    with pytest.raises(VersionError, match=r"no snapshot after event 7\. Snapshots: 400"), version.reading(7):
        pass


def test_oldest_snapshots_go_and_the_new_one_stays(version: Version) -> None:
    for size in (100, 200, 300, 400):
        learn(version, STREAM.part(0, size))
        snapshot(version, keep=2)
    assert version.snapshots() == [300, 400]
    version.restore(300)
    learn(version, STREAM.part(0, 350))
    assert snapshot(version, keep=1) == 350
    assert version.snapshots() == [350]


def test_half_made_snapshot_of_a_kill_is_ignored_and_removed(version: Version) -> None:
    learn(version, STREAM.part(0, 100))
    half = version.path / "snapshots" / ".100.new"
    half.mkdir(parents=True)
    (half / "CURRENT").write_text("half")
    assert version.snapshots() == []
    assert snapshot(version) == 100
    assert version.snapshots() == [100] and not half.exists()


def test_restored_version_that_learns_on_equals_one_that_never_left(version: Version) -> None:
    learn(version, STREAM.part(0, 300))
    number, identity = snapshot(version), version.identity
    learn(version, STREAM)
    never_left = everything(version.store_path)
    version.restore(number)
    assert version.identity != identity
    assert [path.name for path in version.path.glob("store-*")] == ["store-000002"]
    learn(version, STREAM)
    assert everything(version.store_path) == never_left
    version.restore(number)
    assert everything(version.store_path) == everything(version.snapshot_path(number))


def test_store_that_a_killed_restore_left_is_removed_by_the_next(version: Version) -> None:
    learn(version, STREAM.part(0, 100))
    number = snapshot(version)
    for name in ("store-000000", "store-000002"):  # killed after its last step, and before it
        shutil.copytree(version.store_path, version.path / name)
    version.restore(number)
    assert [path.name for path in version.path.glob("store-*")] == ["store-000002"]
    assert everything(version.store_path) == everything(version.snapshot_path(number))


def test_snapshot_of_another_past_is_replaced(version: Version) -> None:
    learn(version, STREAM.part(0, 200))
    snapshot(version)
    learn(version, STREAM.part(0, 400))
    snapshot(version)
    version.restore(200)
    learn(version, lively(400, seed=4))
    assert snapshot(version) == 400
    assert everything(version.snapshot_path(400)) == everything(version.store_path)


@pytest.mark.parametrize("file", ["CURRENT", "MANIFEST-*"])
def test_store_too_damaged_to_open_can_be_restored_or_deleted(
    registry: Registry, version: Version, file: str
) -> None:
    learn(version, STREAM.part(0, 200))
    number = snapshot(version)
    kept = everything(version.store_path)
    for path in version.store_path.glob(file):
        path.write_bytes(b"damaged\n")
    with pytest.raises(StoreError):
        version.open()
    version.restore(number)
    assert everything(version.store_path) == kept
    for path in version.store_path.glob(file):
        path.write_bytes(b"damaged\n")
    registry.delete("mine")
    assert registry.names() == []


def test_scan_says_when_a_block_is_damaged(version: Version) -> None:
    def ids(store: Store) -> int:
        return sum(1 for _ in store.scan(b"u"))

    with version.open() as store:
        store.write((b"u%06d" % k, os.urandom(64)) for k in range(5000))
    Rdict(str(version.store_path), Options(raw_mode=True)).close()
    with version.open() as store:
        assert ids(store) == store.count(b"u") == 5000
    file = max(version.store_path.glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with version.open() as store:
        for read in (
            lambda: ids(store),
            lambda: store.count(b"u"),
            lambda: store.get_many([b"u%06d" % k for k in range(5000)]),
        ):
            with pytest.raises(StoreError, match=r"is damaged.*versions restore"):
                read()
