"""Record batches of Kafka enter as their bytes; spans of keys, values and headers leave, a batch at a time.

kafka-python makes a Python object of each record. `install` gives its consumer a reader that scans
a whole batch with a compiled kernel instead. Fetching, sessions, decompression, leader epochs and
transactions stay kafka-python's own.

Format: https://kafka.apache.org/documentation/#recordbatch
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import kafka
import numpy as np
import structlog
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record.util import decode_varint
from numpy.typing import NDArray

from streaming.events import BadRecord
from streaming.kernels import crc_by_eight, crc_tables, inner, kernel

logger = structlog.get_logger()

# Rows of `RecordBatch.spans`.
OFFSET, TIMESTAMP, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADERS_END = range(8)
HOOKED_VERSION = "3.0."  # the reader was compared with this minor version of kafka-python
_ATTRIBUTES = 21  # byte of a batch from which its checksum counts
_STOCK: Any = getattr(Fetcher, "PartitionRecords", object)
_HOOKS = (
    "_unpack_records",
    "_maybe_skip_record",
    "_consume_aborted_transactions_up_to",
    "_contains_abort_marker",
    "_is_batch_aborted",
    "drain",
)


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Offsets first … next_offset - 1 of a partition, with the N records that are still there.

    A batch of none stands for offsets that hold no record to read: a control record, an aborted
    transaction, what compaction has removed.

    Attributes:
        leader_epoch: of the leader that appended the batch, -1 where it is unknown.
        data: bytes that the spans point into, read-only.
        spans: (8, N) offset, timestamp in milliseconds, then start and end of key, value and headers;
            start and end of a null are -1.
    """

    partition: int
    first: int
    next_offset: int
    leader_epoch: int
    data: NDArray[np.uint8]
    spans: NDArray[np.int64]  # (8, N)

    def __len__(self) -> int:
        return int(self.spans.shape[1])

    def key(self, k: int) -> bytes | None:
        """The key of record k."""
        return self._bytes(k, KEY)

    def value(self, k: int) -> bytes | None:
        """The value of record k."""
        return self._bytes(k, VALUE)

    def headers(self, k: int) -> list[tuple[str, bytes | None]]:
        """The headers of record k.

        Raises:
            CorruptRecordError: a name is not UTF-8.
        """
        start, end = self.spans[HEADERS:, k].tolist()
        data, position, found = self.data[start:end].tobytes(), 0, []
        while position < len(data):
            length, position = decode_varint(data, position)
            name = data[position : position + length]
            size, position = decode_varint(data, position + length)
            value = data[position : position + size] if size >= 0 else None
            position += max(size, 0)
            try:
                found.append((name.decode(), value))
            except UnicodeDecodeError as error:
                offset = self.spans[OFFSET, k]
                raise CorruptRecordError(f"header {name!r} at offset {offset} is not UTF-8.") from error
        return found

    def _bytes(self, k: int, start: int) -> bytes | None:
        begin, end = self.spans[start : start + 2, k].tolist()
        return None if begin < 0 else self.data[begin:end].tobytes()

    def split(self, most: int) -> tuple[RecordBatch, RecordBatch]:
        """The first `most` records, and the rest; there are more than that."""
        border = int(self.spans[OFFSET, most])
        return (
            replace(self, next_offset=border, spans=self.spans[:, :most]),
            replace(self, first=border, spans=self.spans[:, most:]),
        )


def joined(batches: Sequence[RecordBatch]) -> RecordBatch:
    """Batches of one partition that follow each other, as one."""
    if len(batches) == 1:
        return batches[0]
    starts = np.cumsum([0, *(len(batch.data) for batch in batches)])
    spans = np.concatenate([batch.spans for batch in batches], axis=1)
    moved = np.repeat(starts[:-1], [len(batch) for batch in batches])
    spans[KEY:] += np.where(spans[KEY:] < 0, 0, moved)
    data = np.concatenate([batch.data for batch in batches])
    return replace(batches[-1], first=batches[0].first, data=_read_only(data), spans=spans)


def packed(records: Sequence[Any], partition: int, first: int, next_offset: int) -> RecordBatch:
    """Records as kafka-python's own reader gives them, as a batch; their headers are left out."""
    parts: list[bytes] = []
    spans = np.full((8, len(records)), -1, np.int64)
    position = 0
    for k, record in enumerate(records):
        spans[OFFSET, k], spans[TIMESTAMP, k] = (
            record.offset,
            -1 if record.timestamp is None else record.timestamp,
        )
        for row, part in ((KEY, record.key), (VALUE, record.value)):
            if part is not None:
                parts.append(bytes(part))
                spans[row, k], spans[row + 1, k] = position, position + len(part)
                position += len(part)
    data = np.frombuffer(b"".join(parts), np.uint8)
    epoch = max((getattr(record, "leader_epoch", -1) for record in records), default=-1)
    return RecordBatch(partition, first, next_offset, epoch, data, spans)


class BatchRecords(_STOCK):  # type: ignore[misc]
    """kafka-python's `PartitionRecords`, one `RecordBatch` for each record batch of a fetch.

    What it yields accounts for every offset, so batches without a record come out too.
    """

    def _maybe_skip_record(self, record: RecordBatch) -> bool:
        return False  # records before the offset asked for are cut off below

    def _unpack_records(
        self, tp: Any, records: Any, key_deserializer: None, value_deserializer: None
    ) -> Iterator[RecordBatch]:
        first = self.fetch_offset
        while (batch := records.next_batch()) is not None:
            if self.check_crcs and not _intact(batch):
                raise CorruptRecordError(
                    f"{tp.topic}[{tp.partition}]: the record batch at offset {batch.base_offset} "
                    "does not fit its checksum"
                )
            if batch.magic == 2:
                self.leader_epoch = batch.leader_epoch
                found = self._scan(batch, tp, first)
            else:
                found = _old(batch, tp.partition, first)
            if found.next_offset <= first:
                continue
            self.records_read += len(found)
            self.bytes_read += batch.size_in_bytes if batch.magic == 2 else len(found.data)
            self.next_fetch_offset = first = found.next_offset
            yield found
        self.drain()

    def _scan(self, batch: Any, tp: Any, first: int) -> RecordBatch:
        empty = RecordBatch(tp.partition, first, batch.next_offset, batch.leader_epoch, _NO_BYTES, _NO_SPANS)
        if self._left_out(batch) or batch.records_count == 0 or batch.next_offset <= first:
            return empty
        batch._maybe_uncompress()
        data = _read_only(np.frombuffer(batch._buffer, np.uint8))
        spans = _scanned(batch, data, batch._pos, tp)
        if batch.timestamp_type == batch.LOG_APPEND_TIME:
            spans[TIMESTAMP] = batch.max_timestamp
        before = int(np.searchsorted(spans[OFFSET], first))
        return replace(empty, data=data, spans=spans[:, before:])

    def _left_out(self, batch: Any) -> bool:
        """Whether a batch holds a transaction's marker, or records of a transaction that was aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)


def install(consumer: Any) -> bool:
    """Let a KafkaConsumer that has not polled yet give record batches; `max_poll_records` then counts them.

    Returns:
        False where kafka-python is of another minor version: the consumer stays as it is.
    """
    fetcher: Any = getattr(consumer, "_fetcher", None)
    fits = kafka.__version__.startswith(HOOKED_VERSION) and all(hasattr(_STOCK, hook) for hook in _HOOKS)
    if not fits or getattr(fetcher, "PartitionRecords", None) is not _STOCK:
        logger.warning(
            "batch_reader_not_installed",
            kafka_python=kafka.__version__,
            expected=f"{HOOKED_VERSION}x",
            effect="records are read one by one, at about a tenth of the speed",
        )
        return False
    fetcher.PartitionRecords = BatchRecords
    return True


def _intact(batch: Any) -> bool:
    if batch.magic < 2:
        return bool(batch.validate_crc())
    data = _read_only(np.frombuffer(batch._buffer, np.uint8))
    return bool(crc32c(data, _ATTRIBUTES, len(data)) == batch.crc)


def _scanned(batch: Any, data: NDArray[np.uint8], start: int, tp: Any) -> NDArray[np.int64]:
    """The spans of a decompressed batch whose records begin at `start`.

    Raises:
        CorruptRecordError: the bytes are no records.
    """
    count, left = batch.records_count, len(data) - start
    where = f"{tp.topic}[{tp.partition}]: the record batch at offset {batch.base_offset}"
    if not 0 <= count <= left:
        raise CorruptRecordError(f"{where} cannot hold {count} records in {left} bytes")
    spans = np.empty((8, count), np.int64)
    end = scan_records(data, start, batch.base_offset, batch.first_timestamp, spans)
    if end < 0:
        raise CorruptRecordError(f"{where} is broken in its record {-end} of {count}")
    if end != len(data):
        raise CorruptRecordError(f"{where} has {len(data) - end} bytes behind its last record")
    return spans


def _old(batch: Any, partition: int, first: int) -> RecordBatch:
    """A batch of the formats before Kafka 0.11."""
    records = []
    for record in batch:
        if not record.validate_crc():
            raise CorruptRecordError(f"the record at offset {record.offset} does not fit its checksum")
        if record.offset >= first:
            records.append(record)
    return packed(records, partition, first, records[-1].offset + 1 if records else first)


def _read_only(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes, read-only: kernels are compiled for one kind of array, not for two."""
    view = data.view()
    view.flags.writeable = False
    return view


_NO_BYTES = _read_only(np.zeros(0, np.uint8))
_NO_SPANS = np.zeros((8, 0), np.int64)


@inner
def _varint(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """A zigzag varint at `position`, and the position behind it; -1 there where it does not end."""
    bits = np.uint64(0)
    shift = np.uint64(0)
    while position < end and shift < np.uint64(64):
        byte = np.uint64(data[position])
        bits |= (byte & np.uint64(0x7F)) << shift
        position += 1
        if byte < np.uint64(0x80):
            return int(np.int64(bits >> np.uint64(1)) ^ -np.int64(bits & np.uint64(1))), position
        shift += np.uint64(7)
    return 0, -1


@inner
def _span(data: np.ndarray, position: int, end: int) -> tuple[int, int, int]:
    """Start and end of nullable bytes behind their length, and the position behind them (-1: broken)."""
    length, position = _varint(data, position, end)
    if position < 0 or length > end - position:
        return -1, -1, -1
    if length < 0:
        return -1, -1, position
    return position, position + length, position + length


@inner
def _headers(data: np.ndarray, position: int, end: int) -> tuple[int, int]:
    """Start of the headers and the position behind them, -1 where they are broken."""
    count, position = _varint(data, position, end)
    start = position
    if position < 0 or count < 0:
        return -1, -1
    for _ in range(count):
        name, _, position = _span(data, position, end)
        if position < 0 or name < 0:
            return -1, -1
        _, _, position = _span(data, position, end)
        if position < 0:
            return -1, -1
    return start, position


@kernel
def scan_records(
    data: np.ndarray, position: int, base_offset: int, first_timestamp: int, spans: np.ndarray
) -> int:
    """Write where the records of a decompressed batch lie.

    Args:
        data: bytes of the batch.
        position: at which its first record begins.
        base_offset, first_timestamp: of the batch.
        spans: (8, N) written.

    Returns:
        The position behind the last record, or -k where the k-th one is broken.
    """
    end = data.shape[0]
    newest = -1
    for k in range(spans.shape[1]):
        broken = -1 - k
        length, position = _varint(data, position, end)
        if position < 0 or length < 0 or length > end - position:
            return broken
        stop = position + length
        _, position = _varint(data, position, stop)  # attributes, of no use yet
        if position < 0:
            return broken
        timestamp, position = _varint(data, position, stop)
        if position < 0:
            return broken
        offset, position = _varint(data, position, stop)
        if position < 0:
            return broken
        if offset <= newest:  # the stock reader would pass them on; nothing below could make sense of them
            return broken
        newest = offset
        spans[OFFSET, k] = base_offset + offset
        spans[TIMESTAMP, k] = first_timestamp + timestamp
        spans[KEY, k], spans[KEY_END, k], position = _span(data, position, stop)
        if position < 0:
            return broken
        spans[VALUE, k], spans[VALUE_END, k], position = _span(data, position, stop)
        if position < 0:
            return broken
        spans[HEADERS, k], position = _headers(data, position, stop)
        if position != stop:
            return broken
        spans[HEADERS_END, k] = stop
    return position


_CASTAGNOLI = crc_tables(0x82F63B78)


@kernel
def crc32c(data: np.ndarray, start: int, end: int) -> np.uint32:
    """CRC-32C of `data[start:end]` (RFC 3720, appendix B.4).

    >>> data = np.frombuffer(b"123456789", np.uint8)
    >>> crc32c(data, 0, 9) == 0xE3069283
    True
    """
    return crc_by_eight(data, start, end, _CASTAGNOLI)


@kernel
def differing_keys(
    data: np.ndarray,
    key_start: np.ndarray,
    key_end: np.ndarray,
    users: np.ndarray,
    user_start: np.ndarray,
    user_end: np.ndarray,
) -> int:
    """How many of N keys are there and are not the user's id, byte by byte; a start of -1 is no key."""
    differing = 0
    for k in range(key_start.shape[0]):
        start, length = key_start[k], key_end[k] - key_start[k]
        if start < 0:
            continue
        if length != user_end[k] - user_start[k]:
            differing += 1
            continue
        for b in range(length):
            if data[start + b] != users[user_start[k] + b]:
                differing += 1
                break
    return differing


def with_bytes(bad: Sequence[BadRecord], batch: RecordBatch) -> list[BadRecord]:
    """Bad records of a batch, each with its key and all of its bytes."""
    rows = np.searchsorted(batch.spans[OFFSET], [record.offset for record in bad]).tolist()
    return [
        replace(record, key=batch.key(k), whole=batch.value(k) if record.length is not None else None)
        for record, k in zip(bad, rows, strict=True)
    ]


def warm_batches() -> None:
    """Compile what reads record batches."""
    data = np.frombuffer(b"", np.uint8)
    spans = np.zeros((8, 0), np.int64)
    scan_records(data, 0, 0, 0, spans)
    crc32c(data, 0, 0)
    differing_keys(data, spans[KEY], spans[KEY_END], data, spans[KEY], spans[KEY_END])
