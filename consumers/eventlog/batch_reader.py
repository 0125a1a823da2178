"""kafka-python's consumer enters; it gives whole record batches then, scanned by a compiled kernel.

kafka-python makes a Python object of each record. `install` gives its consumer a reader that scans
a whole batch instead. Fetching, sessions, decompression, leader epochs and transactions stay
kafka-python's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import kafka
import numpy as np
import structlog
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from numpy.typing import NDArray

from consumers.eventlog.batch_scan import crc32c, scan_records
from consumers.eventlog.record_batches import OFFSET, TIMESTAMP, RecordBatch, packed, read_only

logger = structlog.get_logger()

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
_NO_BYTES = read_only(np.zeros(0, np.uint8))
_NO_SPANS = np.zeros((8, 0), np.int64)


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
        data = read_only(np.frombuffer(batch._buffer, np.uint8))
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


def _intact(batch: Any) -> bool:
    if batch.magic < 2:
        return bool(batch.validate_crc())
    data = read_only(np.frombuffer(batch._buffer, np.uint8))
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
