"""Bad records of a topic enter; `<topic>.dlq` gets them, with their bytes, where they stood and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import structlog
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from consumers.dead_letter_records import Headers, TopicLetter, headers_of, letter_of
from consumers.dead_letters import DeadLetter
from consumers.kafka_clients import (
    addresses,
    admin_of,
    broker_errors,
    consumer_of,
    made_topic,
    opened,
    said,
    topic_configs,
    topic_of,
)
from consumers.producing import WAIT_S
from streaming.errors import BrokerError
from streaming.events import BadRecord

logger = structlog.get_logger()

RAW_BYTES = 1_000  # of a record that the topic refuses as too large
_HEADER_BYTES = 65_536  # room for the headers beside the largest record
_MOST_UNSURE = 10_000  # records that are sent and may not be acknowledged yet
_RETRY_EVENTS = 500  # of one transaction
_RETRY_TIMEOUT_MS = 10_000  # after which Kafka ends a transaction whose process was killed
_POLLS = 60  # of a second each, without a record, until Kafka is taken to be silent
_FIXED = {"enable_idempotence": True, "acks": "all", "key_serializer": None, "value_serializer": None}
_LARGEST = 2**30
_MOST_BYTES = 1_048_588  # of a record, where Kafka does not say
_OVERHEAD_BYTES = 200  # of a record and its batch, beside their contents


class _Unsure(NamedTuple):
    """A record that is sent and not known to be acknowledged."""

    value: bytes
    key: bytes | None
    headers: Headers
    future: Any


def dead_letter_topic(topic: str) -> str:
    """The topic that takes the bad records of a topic.

    >>> dead_letter_topic("events")
    'events.dlq'
    """
    return f"{topic}.dlq"


class KafkaDeadLetters:
    """The dead letters of one version in a topic. One process appends; any may read.

    A record is written at least once: after a kill it may stand there twice. `read` gives it once.

    Args:
        topic: the topic whose bad records these are. The one for them is made with the first record, and
            takes records as large as this one.
        version: whose worker refuses them.
        settings: of Kafka's clients, under kafka-python's own names.
    """

    def __init__(self, topic: str, version: str, settings: Mapping[str, Any]) -> None:
        self.topic, self.version = dead_letter_topic(topic), version
        self._events, self._settings = topic, settings
        self._producer: KafkaProducer | None = None
        self._unsure: list[_Unsure] = []
        self._kept: list[_Unsure] = []  # not taken, to be sent by the next sync
        self._most_bytes = 0  # of a record that the topic takes

    @property
    def place(self) -> str:
        """The topic."""
        return f"topic {self.topic}"

    def append(self, source: str, bad: BadRecord) -> None:
        """Add a record; durable after `sync`.

        Raises:
            BrokerError: Kafka cannot be reached; the record is not added.
        """
        headers = headers_of(self.version, source, bad.offset, bad.reason)
        if bad.whole is None and bad.length is not None:
            headers.append(("freshet-length", b"%d" % bad.length))
        self._send(bad.raw if bad.whole is None else bad.whole, bad.key, headers)
        if len(self._unsure) >= _MOST_UNSURE:
            self.sync()

    def sync(self, timeout_s: float = WAIT_S) -> None:
        """Wait until Kafka has acknowledged all appended records; the worker calls this before each commit.

        Raises:
            BrokerError: Kafka did not take some, or has not in this time; they are kept, and the same call
                may be tried again.
        """
        failed: list[tuple[_Unsure, KafkaError]] = []
        until = time.monotonic() + timeout_s
        for one in self._unsure:
            try:
                one.future.get(max(0.0, until - time.monotonic()))
            except KafkaError as error:
                if not one.future.is_done:  # it is still on its way
                    raise self._failed(len(self._unsure), error) from error
                failed.append((one, error))
        self._unsure = []
        if failed:
            # After some errors an idempotent producer takes nothing more, so the next try has a new one.
            self._dropped()
            self._kept += [one for one, _ in failed]
            raise self._failed(len(self._kept), failed[0][1])
        if self._kept:
            kept, self._kept = self._kept, []
            for k, one in enumerate(kept):
                try:
                    self._send(one.value, one.key, one.headers)
                except BrokerError:
                    self._kept = kept[k:]
                    raise
            self.sync(timeout_s)

    def read(self) -> Iterator[DeadLetter]:
        """Every record of this version, once for each (source, offset), in the order of the topic.

        Raises:
            BrokerError: Kafka cannot be reached.
        """
        return (found.letter for found in self.letters())

    def letters(self) -> Iterator[TopicLetter]:
        """As `read`, with the bytes.

        Raises:
            BrokerError: Kafka cannot be reached.
        """
        with admin_of(self._settings) as admin:
            if topic_of(admin, self.topic) is None:
                return
        with consumer_of(self._settings, isolation_level="read_committed") as consumer:
            retried = {
                (letter.letter.source, letter.letter.offset)
                for letter in self._found(consumer)
                if letter.letter.retried
            }
            seen: set[tuple[str, int]] = set()
            for found in self._found(consumer):
                letter = found.letter
                where = (letter.source, letter.offset)
                if letter.retried or where in seen:
                    continue
                seen.add(where)
                if where in retried:
                    letter = DeadLetter(
                        letter.source,
                        letter.offset,
                        letter.reason,
                        letter.raw,
                        length=letter.length,
                        retried=True,
                    )
                yield found._replace(letter=letter)

    def retry(self, letters: Iterable[TopicLetter], tell: Callable[[int], None]) -> int:
        """Send records to their partitions again, and note it here in the same transactions.

        So each is sent once for readers of committed records, also when this is killed and called again.

        Args:
            letters: those not sent again yet.
            tell: told how many are sent.

        Returns:
            Their number.

        Raises:
            BrokerError: Kafka cannot be reached, or refuses; what was told is sent.
        """
        own = {
            "transactional_id": f"freshet.retry.{self.version}",
            "transaction_timeout_ms": _RETRY_TIMEOUT_MS,
        }
        done = 0
        with broker_errors("The records cannot be sent again"):
            producer = opened(KafkaProducer, {**self._settings, **_FIXED, **own})
            try:
                producer.init_transactions()
                waiting: list[TopicLetter] = []
                for letter in letters:
                    waiting.append(letter)
                    if len(waiting) == _RETRY_EVENTS:
                        done += self._sent_again(producer, waiting)
                        tell(done)
                        waiting = []
                done += self._sent_again(producer, waiting)
                tell(done)
            finally:
                producer.close(WAIT_S)
        return done

    def close(self, timeout_s: float = WAIT_S) -> None:
        """Make all records durable and leave.

        Raises:
            BrokerError: Kafka did not take some, or not in this time.
        """
        try:
            self.sync(timeout_s)
        finally:
            self._dropped()

    def _dropped(self) -> None:
        if self._producer is not None:
            if self._unsure:
                # Its own close waits for what is on its way, fails, and leaves its thread behind.
                self._producer._sender.force_close()
            self._producer.close(WAIT_S)
            self._producer = None

    def _send(self, value: bytes, key: bytes | None, headers: Headers) -> None:
        try:
            producer = self._opened()
            size = len(value) + len(key or b"") + sum(len(name) + len(text) for name, text in headers)
            if size > self._most_bytes - _OVERHEAD_BYTES and len(value) > RAW_BYTES:
                logger.warning("dead_letter_cut", topic=self.topic, bytes=len(value), most=self._most_bytes)
                headers = [*headers, ("freshet-length", b"%d" % len(value))]
                value = value[:RAW_BYTES]
            future = producer.send(self.topic, value, key, headers)
        except KafkaError as error:
            raise self._failed(1, error) from error
        self._unsure.append(_Unsure(value, key, headers, future))

    def _opened(self) -> KafkaProducer:
        if self._producer is None:
            with admin_of(self._settings) as admin:
                if topic_of(admin, self.topic) is None:
                    most = int(topic_configs(admin, self._events).get("max.message.bytes", _MOST_BYTES))
                    made_topic(admin, self.topic, {"max.message.bytes": str(most + _HEADER_BYTES)})
                    logger.info("topic_made", topic=self.topic)
                self._most_bytes = int(topic_configs(admin, self.topic).get("max.message.bytes", _MOST_BYTES))
            own = {"linger_ms": 5, "max_request_size": _LARGEST}
            self._producer = opened(KafkaProducer, {**self._settings, **_FIXED, **own})
        return self._producer

    def _found(self, consumer: KafkaConsumer) -> Iterator[TopicLetter]:
        """All records of this version as they stand in the topic, those that say "sent again" too."""
        places = [
            TopicPartition(self.topic, k) for k in sorted(consumer.partitions_for_topic(self.topic) or ())
        ]
        consumer.assign(places)
        ends, silent = consumer.end_offsets(places), 0
        consumer.seek_to_beginning(*places)
        while any(consumer.position(place) < ends[place] for place in places):
            polled = consumer.poll(timeout_ms=1_000)
            silent = 0 if polled else silent + 1
            if silent == _POLLS:
                raise BrokerError(
                    f"{self.topic} gives no records. See whether its replicas are up; try again."
                )
            for record in (record for records in polled.values() for record in records):
                letter = letter_of(record)
                if letter is not None and letter[0] == self.version:
                    yield letter[1]

    def _sent_again(self, producer: KafkaProducer, letters: list[TopicLetter]) -> int:
        if not letters:
            return 0
        producer.begin_transaction()
        try:
            futures = []
            for letter in letters:
                where = f"{letter.letter.source}@{letter.letter.offset}".encode()
                note = headers_of(
                    self.version, letter.letter.source, letter.letter.offset, letter.letter.reason
                )
                again = [("freshet-retried", where)]
                futures += [
                    producer.send(letter.topic, letter.value, letter.key, again, letter.partition),
                    producer.send(self.topic, b"", letter.key, [*note, *again]),
                ]
            for future in futures:
                future.get(WAIT_S)
            producer.commit_transaction()
        except BaseException:
            producer.abort_transaction()
            raise
        return len(letters)

    def _failed(self, count: int, error: KafkaError) -> BrokerError:
        raised = BrokerError(
            f"{count} bad records were not taken by topic {self.topic} at {addresses(self._settings)}: "
            f"{said(error)} Nothing behind them is committed. Mend it (`freshet doctor` looks) and go on."
        )
        raised.retriable = bool(error.retriable)
        return raised
