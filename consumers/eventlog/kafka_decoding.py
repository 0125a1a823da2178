"""Record batches of a topic enter; slices leave, and what is strange about keys and times is counted."""

from __future__ import annotations

import time

import numpy as np
import structlog

from consumers.eventlog.batch_scan import differing_keys
from consumers.eventlog.contract import Slice
from consumers.eventlog.kafka_part import Part
from consumers.eventlog.record_batches import (
    KEY,
    KEY_END,
    OFFSET,
    TIMESTAMP,
    VALUE,
    VALUE_END,
    RecordBatch,
    with_bytes,
)
from streaming.decoding import no_events
from streaming.events import BadRecord, EventBatch

logger = structlog.get_logger()


def slice_of(
    part: Part, first: int, next_offset: int, events: EventBatch, bad: list[BadRecord], arrived: float
) -> Slice:
    """A slice of a partition, with its name, unit and token; `arrived` in seconds since 1970."""
    unit, token = part.decoder.time_unit, str(part.token)
    return Slice(part.name, first, next_offset, events, bad, arrived, unit, token)


class KafkaDecoding:
    """Decodes the batches of a topic, and looks at what only a topic has: keys beside the events.

    Args:
        topic: for messages.
        learned_until_s: event time up to which other sources were learned, 0 for none.

    Attributes:
        key_mismatches: records so far whose key is not their event's user.
        older_events: events so far that are older than `learned_until_s`.
    """

    def __init__(self, topic: str, learned_until_s: int) -> None:
        self.key_mismatches = 0
        self.older_events = 0
        self._topic, self._learned_until_us = topic, learned_until_s * 1_000_000

    def decode(self, part: Part, batch: RecordBatch) -> Slice:
        """The slice of a batch; its token is the one that the part has now."""
        if not len(batch):
            return slice_of(part, batch.first, batch.next_offset, no_events(), [], time.time())
        spans, arrived = batch.spans, time.time()
        events, bad = part.decoder.decode(
            batch.data, np.maximum(spans[VALUE], 0), np.maximum(spans[VALUE_END], 0), spans[OFFSET]
        )
        newest = int(spans[TIMESTAMP].max())
        if newest > 0:
            part.newest_s = arrived = newest / 1000
        self._compare_keys(part, batch, events)
        self._count_older(part, events)
        bad = with_bytes(bad, batch)
        return slice_of(part, batch.first, batch.next_offset, events, bad, arrived)

    def summarise(self) -> None:
        """Log what was strange."""
        if self.key_mismatches:
            logger.warning("keys_were_not_users", topic=self._topic, records=self.key_mismatches)
        if self.older_events:
            logger.info("older_events_learned", topic=self._topic, events=self.older_events)

    def _compare_keys(self, part: Part, batch: RecordBatch, events: EventBatch) -> None:
        rows = np.searchsorted(batch.spans[OFFSET], events.offsets)
        starts, ends = batch.spans[KEY][rows], batch.spans[KEY_END][rows]
        users = events.users
        other = int(differing_keys(batch.data, starts, ends, users.data, users.start, users.end))
        self.key_mismatches += other
        if other and not part.told_key:
            part.told_key = True
            logger.warning(
                "key_is_not_the_user",
                source=part.name,
                offset_first=batch.first,
                offset_last=batch.next_offset - 1,
                records=other,
                effect="a user's events may lie in several partitions, and be learned out of order",
            )

    def _count_older(self, part: Part, events: EventBatch) -> None:
        if not self._learned_until_us:
            return
        older = int((events.ts < self._learned_until_us).sum())
        if older and not self.older_events:
            logger.warning(
                "events_older_than_learned",
                source=part.name,
                learned_until_s=self._learned_until_us // 1_000_000,
                remedy="if files held them too, they are learned twice: begin with --start TIME",
            )
        self.older_events += older
