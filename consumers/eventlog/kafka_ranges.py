"""Ranges of a topic's partitions, asked for in any order, leave decoded as they were learned before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from kafka import errors as kafka_errors

from consumers.eventlog.batch_reader import install
from consumers.eventlog.contract import Slice
from consumers.eventlog.kafka_client import connected
from consumers.eventlog.kafka_part import Token, parsed_name
from consumers.eventlog.kafka_topic import Topic
from consumers.eventlog.record_batches import OFFSET, VALUE, VALUE_END, RecordBatch, joined, packed
from state.ledger import JournalSlice, Source
from streaming.decoding import JsonDecoder, no_events
from streaming.errors import BrokerError, InputError, InputVanishedError
from streaming.events import BadRecord
from streaming.rules import EventRules

_BATCHES = 64  # record batches of one call of the client
_MOST_BYTES = 64 * 2**20  # of records that wait for their turn
_PATIENCE_S = 30.0  # without a record that must be there
_FROM_SNAPSHOT = "Only what comes after a snapshot can be learned again then: --from-snapshot NUMBER."


@dataclass(slots=True)
class _Part:
    """A partition while its ranges are read; `left` are records that were fetched and not asked for yet."""

    number: int
    decoder: JsonDecoder
    left: deque[RecordBatch] = field(default_factory=deque)


class TopicRanges:
    """Reads ranges of offsets again, through the reader and the decoder that read them first.

    What is there between two records, because of compaction or a transaction, is passed by its offsets.

    Args:
        topic: its name.
        rules: what makes a record an event.
        client: settings of kafka-python's consumer, `bootstrap_servers` among them.
        sources: those of the topic that will be asked for, as the store knows them.
        slices: source → its slices that will be asked for, at least one.
        time_units: source → unit of its times, as far as it was decided before the first slice.

    Raises:
        BrokerError: Kafka cannot be reached.
        InputVanishedError: the topic no longer has a record that will be asked for.
        InputError: there is no such topic, or it may not be read.
    """

    def __init__(
        self,
        topic: str,
        rules: EventRules,
        client: Mapping[str, Any],
        sources: Sequence[Source],
        slices: Mapping[str, Sequence[JournalSlice]],
        time_units: Mapping[str, str],
    ) -> None:
        self._parts = {}
        for source in sources:
            generation, number = parsed_name(topic, source.name) or (1, 0)
            # A partition of a topic that was made anew goes on in the unit of the one before it.
            before = source.time_unit if generation > 1 else None
            unit = time_units.get(source.name, before)
            self._parts[source.name] = _Part(number, JsonDecoder(rules, unit))
        self._servers = str(client["bootstrap_servers"])
        self._consumer = connected(client)
        self._at: tuple[int, int] | None = None  # partition and offset that the consumer fetches next
        self._heard = time.monotonic()
        try:
            self._by_batch = install(self._consumer)
            self._topic = Topic(topic, self._servers, self._consumer)
            self._check(sources, slices)
        except BaseException:
            self.close()
            raise

    def read(self, name: str, first: int, stop: int, max_events: int, timeout_s: float) -> Slice | None:
        """The records of a source from `first` on, below `stop`; at most `max_events`, None where none came.

        Raises:
            BrokerError: none came for long.
            InputVanishedError: retention, or whoever deletes topics, was faster.
            InputError: the topic may not be read, or its bytes are broken.
        """
        part = self._parts[name]
        if part.left and part.left[0].first != first:
            part.left.clear()  # the journal passes over offsets here
        if not part.left:
            self._fetch(name, part, first, timeout_s)
        batch = _taken(part.left, stop, max_events)
        if batch is None:
            return None
        events, bad = no_events(), list[BadRecord]()
        if len(batch):
            starts, ends = np.maximum(batch.spans[VALUE], 0), np.maximum(batch.spans[VALUE_END], 0)
            events, bad = part.decoder.decode(batch.data, starts, ends, batch.spans[OFFSET])
        return Slice(name, first, batch.next_offset, events, bad, time.time(), part.decoder.time_unit)

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close(autocommit=False)

    def _fetch(self, name: str, part: _Part, first: int, timeout_s: float) -> None:
        where = self._topic.at(part.number)
        if sum(len(batch.data) for other in self._parts.values() for batch in other.left) > _MOST_BYTES:
            for other in self._parts.values():
                other.left.clear()  # to be fetched once more when their turn comes
        if self._at != (part.number, first):
            self._consumer.assign([where])
            self._consumer.seek(where, first)
        self._at = None
        try:
            found = self._consumer.poll(timeout_ms=int(timeout_s * 1000), max_records=_BATCHES)
            self._check_identity(name)
        except kafka_errors.KafkaError as error:
            self._face(name, first, error)
            return
        items = found.get(where, [])
        if items and self._by_batch:
            part.left.extend(items)
        elif items:
            part.left.append(packed(items, part.number, first, items[-1].offset + 1))
        elif (position := self._consumer.position(where)) > first:
            part.left.append(packed([], part.number, first, position))  # nothing that can be read
        if part.left:
            self._heard = time.monotonic()
        elif time.monotonic() - self._heard > _PATIENCE_S:
            raise BrokerError(
                f"{name}@{first}: Kafka at {self._servers} has given no record for {_PATIENCE_S:.0f} s. "
                "Check that it runs: `freshet doctor`."
            )
        self._at = part.number, part.left[-1].next_offset if part.left else first

    def _face(self, name: str, first: int, error: kafka_errors.KafkaError) -> None:
        """Raise what an error of the client means, unless it may pass."""
        if isinstance(error, kafka_errors.OffsetOutOfRangeError):
            raise InputVanishedError(
                f"{name}@{first} is not in the log any more. {_FROM_SNAPSHOT}"
            ) from error
        if not error.retriable:
            raise InputError(
                f"{name}@{first} cannot be read: {error}. Check the topic and its ACLs."
            ) from error
        if time.monotonic() - self._heard > _PATIENCE_S:
            raise BrokerError(
                f"{name}@{first}: Kafka at {self._servers} does not give its records: "
                f"{type(error).__name__}: {error}. Check that it runs: `freshet doctor`."
            ) from error

    def _check_identity(self, name: str) -> None:
        now = self._topic.id_known_to(self._consumer)
        if now is not None and self._topic_id and now != self._topic_id:
            raise _made_anew(name)

    def _check(self, sources: Sequence[Source], slices: Mapping[str, Sequence[JournalSlice]]) -> None:
        """Raise unless the topic is the one that was learned, and has all that will be asked for."""
        there = self._topic.partitions()
        self._topic_id = self._topic.id_known_to(self._consumer) or ""
        for source in sources:
            known = Token.read(source.token).topic_id if source.token else ""
            if (known and known != self._topic_id) or self._parts[source.name].number not in there:
                raise _made_anew(source.name)
        first, last = self._topic.ask(partial(self._topic.bounds, there))
        for name, parts in slices.items():
            number, begin, end = self._parts[name].number, parts[0].first, parts[-1].next_offset
            if begin < first[number]:
                raise InputVanishedError(
                    f"{name}@{begin}: retention has passed this record, which was learned; the log begins at "
                    f"{first[number]} now. {_FROM_SNAPSHOT}"
                )
            if end > last[number]:
                raise InputVanishedError(
                    f"{name}@{end - 1}: the log lost this record, which was learned; it ends at "
                    f"{last[number]} now. {_FROM_SNAPSHOT}"
                )


def _made_anew(name: str) -> InputVanishedError:
    return InputVanishedError(
        f"{name}: the topic was deleted and made anew since its records were learned. {_FROM_SNAPSHOT}"
    )


def _cut(batch: RecordBatch, offset: int) -> tuple[RecordBatch, RecordBatch]:
    """What lies below an offset, and the rest."""
    k = int(np.searchsorted(batch.spans[OFFSET], offset))
    return (
        replace(batch, next_offset=offset, spans=batch.spans[:, :k]),
        replace(batch, first=offset, spans=batch.spans[:, k:]),
    )


def _taken(left: deque[RecordBatch], stop: int, most: int) -> RecordBatch | None:
    """From the left: what lies below `stop`, small batches joined, no more than `most` records."""
    parts: list[RecordBatch] = []
    count = 0
    while left and left[0].first < stop and count < most:
        batch = left.popleft()
        border = stop
        if len(batch) > most - count:
            border = min(stop, int(batch.spans[OFFSET, most - count]))
        if batch.next_offset > border:
            batch, rest = _cut(batch, border)
            left.appendleft(rest)
        parts.append(batch)
        count += len(batch)
    return joined(parts) if parts else None
