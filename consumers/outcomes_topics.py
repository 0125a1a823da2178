"""Exposures and events in Kafka: all partitions of both topics enter one process; lines leave.

A partition is a source of its own: what is late in it, and how far it has come, depends on its own records.
One process reads all of them, so both sides of a user meet, however many partitions each topic has.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from kafka import KafkaConsumer

from consumers.eventlog.contract import Slice
from consumers.eventlog.kafka import KafkaLog, OnLost
from consumers.eventlog.kafka_part import parsed_name
from consumers.eventlog.record_batches import TIMESTAMP, VALUE, VALUE_END, RecordBatch
from consumers.eventlog.segments import EVENTS
from consumers.exposing import EXPOSURES
from consumers.exposure_topic import made_exposure_topic
from consumers.kafka_settings import client_settings
from consumers.outcomes_logs import OutcomeLog
from consumers.outcomes_records import Lines
from consumers.settings import Settings
from state.experiments import Trial
from state.ledger import Source
from streaming.errors import UsageError
from streaming.rules import EventRules

_POLL_S = 0.05
_EVENTS = 20_000  # records of one read, at most
_LOOK_S = 1.0  # between two looks at where the partitions end
_ANSWER_MS = 500
_EARLIER_MS = 60_000


class KafkaLines(KafkaLog):
    """A topic whose records are handed out as they are; `batch` holds those of the last `poll`."""

    batch: RecordBatch | None = None

    def _decoded(self, batch: RecordBatch) -> Slice:
        self.batch = batch
        return super()._decoded(replace(batch, spans=batch.spans[:, :0]))

    def at_end(self, numbers_of_ends: Mapping[int, int]) -> list[int]:
        """Partitions of which all records before these offsets were handed out."""
        return [n for n, end in numbers_of_ends.items() if self._parts[n].position >= end]

    def ends(self) -> dict[int, int]:
        """Where the partitions end now; none where Kafka does not answer."""
        found: dict[int, int] | None = self._topic.ask_quietly(
            partial(self._topic.last_offsets, list(self._parts), _ANSWER_MS)
        )
        if found is not None:
            self._topic.heard()
        return found or {}

    def left(self) -> list[int]:
        """Partitions that are known to hold more."""
        if self._until_end:
            return [n for n, end in self._last.items() if self._parts[n].position < end]
        return [part.number for part in self._parts.values() if self._behind(part)]

    def numbers(self) -> list[int]:
        """All partitions."""
        return sorted(self._parts)

    def hold(self, numbers: Collection[int]) -> None:
        """Fetch nothing of these partitions, and all of the others."""
        wanted = {self._topic.at(number) for number in numbers}
        paused = self._consumer.paused()
        self._consumer.pause(*(wanted - paused))
        self._consumer.resume(*(paused - wanted))


class TopicLog:
    """One of the two topics.

    Args:
        name: of the log, which its sources have with the partition's number: `events[3]`.
        topic: in Kafka.
        client: settings of kafka-python's consumer.
        position: [source, next offset, token] of each partition, as the store kept them.
        start_ms: the first record that is read where there is no position, milliseconds since 1970.

    Raises:
        UsageError: the position is of another kind of log.
        BrokerError: Kafka cannot be reached.
        InputError: there is no such topic, or it may not be read.
        InputVanishedError: what comes next is gone, and nothing says where to go on.
    """

    def __init__(
        self,
        name: str,
        topic: str,
        client: Mapping[str, Any],
        position: Sequence[Any],
        start_ms: int,
        *,
        on_lost: OnLost = "stop",
        until_end: bool = False,
    ) -> None:
        self.name, self._topic = name, topic
        if not all(isinstance(part, list | tuple) for part in position):
            raise UsageError(
                "This experiment was joined from the logs of the home directory before, and Kafka cannot go "
                "on from there. Leave kafka.bootstrap_servers empty until it has ended."
            )
        self._stands = {source: (int(offset), str(token)) for source, offset, token in position}
        known = [Source(source, offset, None, token) for source, (offset, token) in self._stands.items()]
        self._log = KafkaLines(
            topic, EventRules(), client, known=known, start=start_ms, on_lost_offsets=on_lost,
            until_end=until_end,
        )  # fmt: skip
        self._looked, self._unconfirmed, self._until_end = -_LOOK_S, False, until_end
        self._silent: set[str] = set()
        try:
            self._log.seek({source: offset for source, (offset, _) in self._stands.items()})
        except BaseException:
            self._log.close()
            raise

    @property
    def sources(self) -> list[str]:
        """One for each partition."""
        return [self._named(number) for number in self._log.numbers()]

    @property
    def position(self) -> list[list[Any]]:
        """[source, next offset, token] of each partition, sorted."""
        return [[source, offset, token] for source, (offset, token) in sorted(self._stands.items())]

    @property
    def ended(self) -> bool:
        """Whether all was read up to what was the end at the start, or, at the last look, to the end."""
        return self._log.ended if self._until_end else self._silent >= set(self.sources)

    def read(self, most: int) -> Lines | None:
        """The next records of one partition; `most` bounds nothing, the client's fetches do.

        Raises:
            InputVanishedError: what comes next is gone.
            InputError: the topic may not be read.
        """
        self._log.batch = None
        found = self._log.poll(_EVENTS, _POLL_S)
        if found is None:
            return None
        self._stands[found.source] = (found.next_offset, found.token or "")
        self._unconfirmed = True
        parsed, batch = parsed_name(self._topic, found.source), self._log.batch
        assert parsed is not None, "a slice is of this topic"
        source = self._named(parsed[1])
        self._silent.discard(source)
        if batch is None:  # where a partition begins
            nothing = np.zeros(0, np.int64)
            return Lines(source, np.zeros(0, np.uint8), nothing, nothing)
        spans = np.maximum(batch.spans, 0)  # a record without a value is an empty line
        return Lines(source, batch.data, spans[VALUE], spans[VALUE_END], batch.spans[TIMESTAMP])

    def silent(self) -> list[str]:
        """Partitions that end where they were read to: Kafka is asked, once a second."""
        if time.monotonic() - self._looked < _LOOK_S:
            return []
        self._looked = time.monotonic()
        self._silent = {self._named(number) for number in self._log.at_end(self._log.ends())}
        return sorted(self._silent)

    def behind(self) -> list[str]:
        """Partitions that are known to hold more."""
        return [self._named(number) for number in self._log.left()]

    def hold(self, sources: Collection[str]) -> None:
        """Fetch nothing of these partitions."""
        self._log.hold([number for number in self._log.numbers() if self._named(number) in sources])

    def confirm(self) -> None:
        """Make sure that what was read was of the topic that it seemed to be.

        Raises:
            InputVanishedError: the topic was made anew meanwhile.
        """
        if self._unconfirmed:
            self._log.confirm()
            self._unconfirmed = False

    def close(self) -> None:
        """Close the connections."""
        self._log.close()

    def _named(self, number: int) -> str:
        return f"{self.name}[{number}]"


def topic_logs(
    settings: Settings,
    trial: Trial,
    positions: Mapping[str, Any],
    *,
    on_lost: OnLost = "stop",
    until_end: bool = False,
) -> list[OutcomeLog]:
    """Both topics, from where the store says, else from the beginning of the experiment on.

    Raises:
        BrokerError: Kafka cannot be reached.
        InputError: a topic is missing, or may not be read.
        InputVanishedError: what comes next is gone, and nothing says where to go on.
    """
    client = client_settings(settings, KafkaConsumer)
    made_exposure_topic(settings)
    # By the records' own times, which a producer's clock gives: a little earlier costs nothing.
    start_ms = (trial.phases[0].since_us - trial.lateness_us) // 1000 - _EARLIER_MS
    found: list[OutcomeLog] = []
    try:
        for name, topic in ((EXPOSURES, settings.events.exposures_topic), (EVENTS, settings.events.topic)):
            kept = positions.get(name, [])
            found.append(TopicLog(name, topic, client, kept, start_ms, on_lost=on_lost, until_end=until_end))
    except BaseException:
        for one in found:
            one.close()
        raise
    return found
