"""Record batches of Kafka as their bytes, with the spans of keys, values and headers in them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from kafka.errors import CorruptRecordError
from kafka.record.util import decode_varint
from numpy.typing import NDArray

from streaming.events import BadRecord

# Rows of `RecordBatch.spans`.
OFFSET, TIMESTAMP, KEY, KEY_END, VALUE, VALUE_END, HEADERS, HEADERS_END = range(8)


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
    return replace(batches[-1], first=batches[0].first, data=read_only(data), spans=spans)


def next_batch(queue: deque[RecordBatch], most: int) -> RecordBatch:
    """From the left of a queue: small batches of a partition joined, one of more than `most` divided."""
    first = queue.popleft()
    if len(first) > most:
        first, rest = first.split(most)
        queue.appendleft(rest)
        return first
    parts, count = [first], len(first)
    while queue and queue[0].partition == first.partition:
        count += len(queue[0])
        if count > most:
            break
        parts.append(queue.popleft())
    return joined(parts)


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


def with_bytes(bad: Sequence[BadRecord], batch: RecordBatch) -> list[BadRecord]:
    """Bad records of a batch, each with its key and all of its bytes."""
    rows = np.searchsorted(batch.spans[OFFSET], [record.offset for record in bad]).tolist()
    return [
        replace(record, key=batch.key(k), whole=batch.value(k) if record.length is not None else None)
        for record, k in zip(bad, rows, strict=True)
    ]


def read_only(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes, read-only: kernels are compiled for one kind of array, not for two."""
    view = data.view()
    view.flags.writeable = False
    return view
