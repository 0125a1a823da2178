"""A consumer of kafka-python enters; record batches leave by a queue, errors behind what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka import errors as kafka_errors

from consumers.eventlog.batch_reader import install
from consumers.eventlog.kafka_part import Part
from consumers.eventlog.record_batches import RecordBatch, next_batch, packed

_BATCHES = 64  # record batches of one call of the client
_MOST_BYTES = 16 * 2**20  # of records that wait to be decoded


class Fetching:
    """What was fetched and not handed out yet.

    Args:
        consumer: that has not polled yet.
        parts: the partitions by number, as the log knows them; new ones may come in.
        look: called after each answer, before it is believed; it may raise a KafkaError.
    """

    def __init__(self, consumer: KafkaConsumer, parts: Mapping[int, Part], look: Callable[[], None]) -> None:
        self._consumer, self._parts, self._look = consumer, parts, look
        self._by_batch = install(consumer)
        self._queue: deque[RecordBatch] = deque()
        self._failure: kafka_errors.KafkaError | None = None

    def __len__(self) -> int:
        return len(self._queue)

    def fill(self, max_events: int, timeout_s: float) -> kafka_errors.KafkaError | None:
        """Fetch what is there into the empty queue, and wait for the first of it.

        Returns:
            The client's error where there is nothing to be learned before it.
        """
        if self._failure is None:
            try:
                self._poll(max_events, timeout_s)
            except kafka_errors.KafkaError as error:
                self._failure = error
        if self._queue:
            return None
        failure, self._failure = self._failure, None
        return failure

    def next(self, most: int) -> RecordBatch:
        """The next batch, of at most `most` records; the queue is not empty."""
        return next_batch(self._queue, most)

    def _poll(self, max_events: int, timeout_s: float) -> None:
        most = _BATCHES if self._by_batch else max_events
        wait_ms, events, size = int(timeout_s * 1000), 0, 0
        while events < max_events and size < _MOST_BYTES:
            found = self._consumer.poll(timeout_ms=wait_ms, max_records=most)
            self._look()
            if not found:
                break
            for where, items in found.items():
                batches = items if self._by_batch else [self._packed(where.partition, items)]
                self._queue.extend(batches)
                events += sum(len(batch) for batch in batches)
                size += sum(len(batch.data) for batch in batches)
            wait_ms = 0

    def _packed(self, number: int, records: Sequence[Any]) -> RecordBatch:
        part = self._parts[number]
        first, part.fetched = part.fetched, records[-1].offset + 1
        return packed(records, number, first, part.fetched)
