"""What every store keeps to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.memory import MemoryStore
from state.rocksdb import FORMAT_KEY, RocksStore
from state.store import Store, after

keys = st.binary(min_size=1, max_size=4).map(lambda key: b"u" + key)
values = st.binary(max_size=8)
writes = st.lists(
    st.tuples(st.dictionaries(keys, values, max_size=6), st.lists(keys, max_size=6)), max_size=5
)


@pytest.fixture(params=["memory", "rocksdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else RocksStore(tmp_path / "store")
    yield made
    made.close()


def test_values_come_back_under_their_keys_and_none_where_there_is_none(store: Store) -> None:
    store.write([(b"ua", b"1"), (b"ub", b""), (b"u\xff\x00", bytes(range(256)))])
    assert store.get_many([b"ub", b"ux", b"ua", b"u\xff\x00"]) == [b"", None, b"1", bytes(range(256))]
    assert store.get_many([]) == []


def test_scan_gives_all_with_the_prefix_in_key_order(store: Store) -> None:
    store.write([(b"v", b"no"), (b"ub", b"2"), (b"u", b"0"), (b"ua\xff", b"1"), (b"t\xff", b"no")])
    assert list(store.scan(b"u")) == [(b"u", b"0"), (b"ua\xff", b"1"), (b"ub", b"2")]
    assert list(store.scan(b"ua")) == [(b"ua\xff", b"1")]
    assert list(store.scan(b"q")) == []


def test_deletes_come_before_puts(store: Store) -> None:
    store.write([(b"ua", b"old"), (b"ub", b"old")])
    store.write([(b"ua", b"new")], [b"ua", b"ub", b"never-there"])
    assert list(store.scan(b"u")) == [(b"ua", b"new")]


def test_later_put_of_a_key_wins(store: Store) -> None:
    store.write([(b"ua", b"1"), (b"ua", b"2")])
    assert store.get_many([b"ua"]) == [b"2"]


@pytest.mark.parametrize("broken", ["puts", "deletes"])
def test_write_that_breaks_off_changes_nothing(store: Store, broken: str) -> None:
    store.write([(b"ua", b"old"), (b"ub", b"old")])

    def breaking(*pairs: object) -> Iterator[object]:
        yield from pairs
        raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        if broken == "puts":
            store.write(breaking((b"ua", b"new")), [b"ub"])  # type: ignore[arg-type]
        else:
            store.write([(b"ua", b"new")], breaking(b"ub"))  # type: ignore[arg-type]
    assert list(store.scan(b"u")) == [(b"ua", b"old"), (b"ub", b"old")]


def test_deletes_may_be_found_by_a_scan_of_the_same_store(store: Store) -> None:
    store.write([(b"u%d" % k, b"") for k in range(9)])
    store.write([(b"u3", b"again")], (key for key, _ in store.scan(b"u")))
    assert list(store.scan(b"u")) == [(b"u3", b"again")]


def test_sizes_are_bytes_by_part(store: Store) -> None:
    store.write([(b"ua", b"x" * 10_000)])
    sizes = store.sizes()
    assert sum(sizes.values()) >= 10_000
    assert all(isinstance(size, int) and size >= 0 for size in sizes.values())


@settings(max_examples=12)
@given(writes)
def test_stores_agree_on_any_writes_and_rocksdb_after_reopening(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[dict[bytes, bytes], list[bytes]]]
) -> None:
    path = tmp_path_factory.mktemp("agree") / "store"
    memory, model = MemoryStore(), dict[bytes, bytes]()
    with RocksStore(path) as rocks:
        for puts, deletes in batches:
            for key in deletes:
                model.pop(key, None)
            model |= puts
            for store in (memory, rocks):
                store.write(puts.items(), deletes)
        assert list(rocks.scan(b"u")) == list(memory.scan(b"u")) == sorted(model.items())
    with RocksStore(path) as rocks:
        assert list(rocks.scan(b"u")) == sorted(model.items())
        assert rocks.get_many([FORMAT_KEY]) == [b"1"]


@given(st.binary(min_size=1, max_size=3).filter(lambda p: p[-1] != 0xFF), st.binary(max_size=4))
def test_after_lies_behind_all_keys_of_a_prefix(prefix: bytes, rest: bytes) -> None:
    assert prefix + rest < after(prefix)
    assert after(prefix)[: len(prefix) - 1] == prefix[:-1]
