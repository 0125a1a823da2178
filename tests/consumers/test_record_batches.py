"""The batch reader against kafka-python's own, on batches that kafka-python's builder made."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords, default_records
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.util import calc_crc32c
from kafka.structs import TopicPartition

from consumers.eventlog import batch_reader
from consumers.eventlog.batch_reader import BatchRecords, install
from consumers.eventlog.batch_scan import crc32c
from consumers.eventlog.record_batches import OFFSET, TIMESTAMP, RecordBatch, joined

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
PARTITION = TopicPartition("events", 3)
ABORT, COMMIT = struct.pack(">hh", 0, 0), struct.pack(">hh", 0, 1)
LOG_APPEND, CONTROL = 0x08, 0x20

Header = tuple[str, bytes | None]
Read = tuple[int, int, bytes | None, bytes | None, list[Header]]


class Record(NamedTuple):
    delta: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]


class Aborted(NamedTuple):
    producer_id: int
    first_offset: int


def batch_of(
    records: Sequence[Record],
    base: int = 0,
    *,
    codec: int = 0,
    producer: int = -1,
    transactional: bool = False,
    attributes: int = 0,
    last_delta: int | None = None,
    epoch: int = 5,
) -> bytes:
    """A batch as a broker would hold it."""
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0, 0, 2**30)
    for record in records:
        builder.append(record.delta, record.timestamp, record.key, record.value, record.headers)
    made = bytearray(builder.build())
    struct.pack_into(">q", made, 0, base)
    struct.pack_into(">i", made, 12, epoch)
    struct.pack_into(">h", made, 21, struct.unpack_from(">h", made, 21)[0] | attributes)
    if last_delta is not None:
        struct.pack_into(">i", made, 23, last_delta)
    return sealed(made)


def sealed(batch: bytearray) -> bytes:
    struct.pack_into(">I", batch, 17, crc_of(batch[21:]))
    return bytes(batch)


def crc_of(batch: bytes | bytearray | memoryview) -> int:
    data = np.frombuffer(bytes(batch), np.uint8)
    return int(crc32c(data, 0, len(data)))


@pytest.fixture(autouse=True, scope="module")
def quick_checksums() -> Iterator[None]:
    """kafka-python's own checksum takes a second for 5 MB; the two are compared below."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default_records, "calc_crc32c", crc_of)
        yield


@given(st.binary(max_size=100))
def test_checksum_is_that_of_kafka_python(data: bytes) -> None:
    assert crc_of(data) == calc_crc32c(data)


def marker(base: int, producer: int, kind: bytes) -> bytes:
    record = Record(0, 1, kind, b"\0" * 6, [])
    return batch_of([record], base, producer=producer, transactional=True, attributes=CONTROL)


def reader(cls: Any, data: bytes, fetch: int, committed: bool, aborted: Sequence[Aborted], crcs: bool) -> Any:
    return cls(
        fetch,
        PARTITION,
        MemoryRecords(data),
        isolation_level=IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED,
        aborted_transactions=list(aborted),
        check_crcs=crcs,
    )


def all_of(part: Any) -> list[Any]:
    found = []
    while part:  # what is broken is raised after what came before it
        found += part.take()
    return found


def stock(
    data: bytes, fetch: int = 0, committed: bool = False, aborted: Sequence[Aborted] = (), crcs: bool = True
) -> tuple[list[Read], int]:
    """What kafka-python reads, and from which offset it would fetch next."""
    part = reader(Fetcher.PartitionRecords, data, fetch, committed, aborted, crcs)
    found = [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in all_of(part)]
    return found, part.next_fetch_offset


def ours(
    data: bytes, fetch: int = 0, committed: bool = False, aborted: Sequence[Aborted] = (), crcs: bool = True
) -> tuple[list[Read], int]:
    """The same from the batch reader; also that the batches account for every offset."""
    part = reader(BatchRecords, data, fetch, committed, aborted, crcs)
    batches: list[RecordBatch] = all_of(part)
    position = fetch
    for batch in batches:
        assert batch.first == position < batch.next_offset
        position = batch.next_offset
    assert position == part.next_fetch_offset
    return [one for batch in batches for one in records_of(batch)], part.next_fetch_offset


def records_of(batch: RecordBatch) -> list[Read]:
    return [
        (
            int(batch.spans[OFFSET, k]),
            int(batch.spans[TIMESTAMP, k]),
            batch.key(k),
            batch.value(k),
            batch.headers(k),
        )
        for k in range(len(batch))
    ]


def simple(count: int, value: bytes = b'{"user":"u","item":"i","ts":1}') -> list[Record]:
    return [Record(k, 1_000 + k, b"u%d" % k, value, []) for k in range(count)]


nullable = st.none() | st.binary(max_size=40)
headers = st.lists(st.tuples(st.text(max_size=5), nullable), max_size=3)
contents = st.tuples(st.integers(0, 3), st.integers(0, 2**41), nullable, nullable, headers)


@st.composite
def logs(draw: st.DrawFn) -> tuple[bytes, int]:
    """Batches one behind the other, with gaps inside and between them; and an offset within."""
    data, base = b"", draw(st.integers(0, 2**40))
    start = base
    for rows in draw(st.lists(st.lists(contents, min_size=1, max_size=12), min_size=1, max_size=4)):
        delta, records = 0, []
        for gap, timestamp, key, value, heads in rows:
            delta += gap
            records.append(Record(delta, timestamp, key, value, heads))
            delta += 1
        last = delta - 1 + draw(st.integers(0, 3))
        data += batch_of(
            records,
            base,
            codec=draw(st.sampled_from(sorted(CODECS.values()))),
            attributes=draw(st.sampled_from([0, LOG_APPEND])),
            last_delta=last,
        )
        base += last + 1 + draw(st.integers(0, 3))
    return data, draw(st.integers(start, base - 1))


@settings(max_examples=150, deadline=None)
@given(logs())
def test_reads_what_the_stock_reader_reads_from_any_offset(log: tuple[bytes, int]) -> None:
    data, fetch = log
    (found, position), (expected, stock_position) = ours(data, fetch), stock(data, fetch)
    assert found == expected
    # Where nothing is left at the offset asked for, the stock reader may stay below it.
    assert position == max(fetch, stock_position)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [1, 2_000])
def test_reads_a_batch_of_one_and_of_many(codec: str, count: int) -> None:
    check(codec, count)


def test_reads_a_batch_of_100_000() -> None:
    check("lz4", 100_000)


def check(codec: str, count: int) -> None:
    data = batch_of(simple(count), 7, codec=CODECS[codec])
    expected, position = stock(data, 7, crcs=False)
    assert ours(data, 7) == (expected, position)
    assert len(expected) == count


@pytest.mark.parametrize("codec", CODECS)
def test_reads_a_record_of_5_mb(codec: str) -> None:
    value = b"0123456789abcdef" * (5 * 2**16)
    data = batch_of([Record(0, 1, None, value, [("h", value)])], codec=CODECS[codec])
    assert ours(data) == stock(data, crcs=False)


@pytest.mark.parametrize("committed", [True, False])
def test_leaves_out_markers_and_aborted_transactions(committed: bool) -> None:
    one: dict[str, Any] = {"producer": 1, "transactional": True}
    two: dict[str, Any] = {"producer": 2, "transactional": True}
    data = b"".join(
        [
            batch_of(simple(3), 0, **one),  # aborted below
            batch_of(simple(2), 3, **two),
            batch_of(simple(1), 5),
            marker(6, 1, ABORT),
            batch_of(simple(2), 7, **one),  # the next transaction of the same producer
            marker(9, 2, COMMIT),
            marker(10, 1, COMMIT),
            batch_of(simple(2), 11, **two),  # aborted again, at the end
            marker(13, 2, ABORT),
        ]
    )
    aborted = [Aborted(2, 11), Aborted(1, 0)]
    found, position = ours(data, 0, committed, aborted)
    assert (found, position) == stock(data, 0, committed, aborted)
    assert (len(found), position) == (5 if committed else 10, 14)


def test_accounts_for_offsets_without_records() -> None:
    data = batch_of(simple(2), 0, producer=1, transactional=True) + marker(2, 1, COMMIT)
    part = reader(BatchRecords, data, 0, True, [], True)
    assert [(b.first, b.next_offset, len(b)) for b in part.take(1)] == [(0, 2, 2)]
    assert part.next_fetch_offset == 2
    assert [(b.first, b.next_offset, len(b)) for b in part.take(9)] == [(2, 3, 0)]
    assert not part


def test_reads_a_batch_that_compaction_has_emptied() -> None:
    emptied = bytearray(batch_of(simple(1), 4, producer=1, last_delta=5))
    del emptied[61:]
    struct.pack_into(">i", emptied, 8, len(emptied) - 12)
    struct.pack_into(">i", emptied, 57, 0)
    data = sealed(emptied) + batch_of(simple(1), 10)
    assert ours(data, 4) == stock(data, 4)


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1])
def test_reads_formats_before_kafka_0_11(magic: int, codec: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, codec, 2**20)
    for k in range(5):
        builder.append(k, timestamp=100 + k, key=b"k", value=None if k == 2 else b"value %d" % k)
    data = bytes(builder.build()) + batch_of(simple(2), 5)
    (found, position), (expected, stock_position) = ours(data, 2), stock(data, 2)
    unknown = -1  # time of a record that has none
    assert found == [(r[0], unknown if r[1] is None else r[1], *r[2:]) for r in expected]
    assert position == stock_position == 7


@pytest.mark.parametrize("place", [30, 61, 80])
def test_refuses_a_batch_whose_checksum_does_not_fit(place: int) -> None:
    broken = bytearray(batch_of(simple(3), 11))
    broken[place] ^= 1
    with pytest.raises(CorruptRecordError, match=r"events\[3\]: the record batch at offset 11"):
        ours(bytes(broken), 11)
    with pytest.raises(CorruptRecordError):
        stock(bytes(broken), 11)


def test_gives_what_comes_before_a_broken_batch_first() -> None:
    broken = bytearray(batch_of(simple(3), 2))
    broken[70] ^= 1
    part = reader(BatchRecords, batch_of(simple(2)) + bytes(broken), 0, False, [], True)
    assert [len(batch) for batch in part.take(10)] == [2]
    assert part.next_fetch_offset == 2
    with pytest.raises(CorruptRecordError):
        part.take(10)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_never_reads_beyond_a_batch_with_wrong_lengths(place: int, byte: int) -> None:
    """With a checksum that fits, so that only the structure can be wrong."""
    wrong = bytearray(batch_of([Record(k, k, b"key", b"v" * 20, [("h", b"x")]) for k in range(9)]))
    wrong[61 + place % (len(wrong) - 61)] = byte
    data = sealed(wrong)
    try:
        expected = stock(data)
    except CorruptRecordError:
        with pytest.raises(CorruptRecordError):
            ours(data)
        return
    offsets = [record[0] for record in expected[0]]
    # The stock reader skips a record whose offset is below 0 as one before the fetch.
    if offsets == sorted(set(offsets)) and len(offsets) == 9:
        assert ours(data) == expected
    else:  # which the stock reader passes on
        with pytest.raises(CorruptRecordError, match="is broken in its record"):
            ours(data)


def test_splits_and_joins_batches() -> None:
    data = batch_of(simple(5), 0) + batch_of([Record(0, 9, None, None, [])], 5) + batch_of(simple(4), 6)
    part = reader(BatchRecords, data, 0, False, [], True)
    whole = joined(part.take())
    assert records_of(whole) == stock(data)[0]
    head, tail = whole.split(3)
    assert (head.first, head.next_offset, tail.first, tail.next_offset) == (0, 3, 3, 10)
    assert records_of(head) + records_of(tail) == stock(data)[0]


def test_stays_with_the_stock_reader_in_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = SimpleNamespace(_fetcher=SimpleNamespace(PartitionRecords=Fetcher.PartitionRecords))
    assert install(consumer)
    assert consumer._fetcher.PartitionRecords is BatchRecords
    monkeypatch.setattr(batch_reader.kafka, "__version__", "3.1.0")
    other = SimpleNamespace(_fetcher=SimpleNamespace(PartitionRecords=Fetcher.PartitionRecords))
    assert not install(other)
    assert other._fetcher.PartitionRecords is Fetcher.PartitionRecords
    assert not install(SimpleNamespace())
