"""Records of users enter; an idempotent producer writes them to a topic, each user's into one partition.

The partition of a key is that of Kafka's own default (murmur2), so other producers agree with it.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConfigurationError, KafkaError, TopicAlreadyExistsError
from numpy.typing import NDArray

from consumers.file_records import Records
from streaming.errors import BrokerError, UsageError
from streaming.events import Ids
from streaming.kernels import kernel

HEADER = "freshet-replay"  # run:number, so that a run that was cut short finds its last record
MOST_PENDING = 100_000  # records sent and not yet acknowledged
WAIT_S = 300.0  # longer than the client's delivery_timeout_ms, after which it gives up by itself
_CLIENT_LOG = logging.getLogger("kafka")
_SOURCE = re.compile(r"([A-Za-z0-9._-]+)(?:#(\d+))?\[(\d+)\]")
_UNKNOWN_TOPIC = 3
_FORBIDDEN_TOPIC = 29
# Larger batches than the client's own: history is sent at full speed.
_PRODUCER = {"linger_ms": 5, "batch_size": 131_072, "compression_type": "zstd"}


class Topic(NamedTuple):
    """A topic as it stands.

    Attributes:
        id: given by Kafka; another one after the topic was deleted and made anew.
        allowed: operations that this client may do on it.
    """

    name: str
    id: str
    partitions: int
    allowed: frozenset[str]


class Place(NamedTuple):
    """A partition as a version's source names it; the generation rises when its offsets begin anew."""

    topic: str
    generation: int
    partition: int


def place_of(source: str) -> Place | None:
    """The place of a source, None for one that is no partition.

    >>> place_of("events#2[7]"), place_of("/data/events.jsonl")
    (Place(topic='events', generation=2, partition=7), None)
    """
    match = _SOURCE.fullmatch(source)
    return Place(match[1], int(match[2] or 1), int(match[3])) if match else None


def accepted(settings: Mapping[str, Any], client: type) -> dict[str, Any]:
    """Those settings that a class of kafka-python knows; its classes differ."""
    known = client.DEFAULT_CONFIG  # type: ignore[attr-defined]
    return {name: value for name, value in settings.items() if name in known}


@contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Kafka's errors as ours.

    Raises:
        BrokerError: what Kafka answered, or that it did not.
    """
    try:
        yield
    except KafkaError as error:
        raised = BrokerError(f"{doing}: {said(error)} `freshet doctor` checks the broker.")
        raised.retriable = bool(error.retriable)
        raise raised from error


def opened(kind: type, settings: Mapping[str, Any]) -> Any:
    """A client of kafka-python that has found its Kafka.

    Args:
        kind: KafkaAdminClient, KafkaConsumer or KafkaProducer.
        settings: of which it takes those that it knows.

    Raises:
        UsageError: the settings fit neither each other nor this machine.
        KafkaError: Kafka cannot be reached, or refuses.
    """
    # Otherwise its warnings would stand between the lines of a command; its errors are raised in any case.
    if not _CLIENT_LOG.handlers:
        _CLIENT_LOG.addHandler(logging.NullHandler())
    try:
        return kind(**accepted(settings, kind))
    except (KafkaConfigurationError, ValueError, OSError) as error:
        raise UsageError(f"[kafka] cannot be used: {error}. Correct the settings.") from error


def said(error: BaseException) -> str:
    """A Kafka error as one sentence."""
    text = " ".join((str(error) or type(error).__name__).split())
    return text if text.endswith(".") else f"{text}."


@contextmanager
def admin_of(settings: Mapping[str, Any], **others: Any) -> Iterator[KafkaAdminClient]:
    """A client that describes and makes topics.

    Raises:
        BrokerError: Kafka cannot be reached, or refuses.
    """
    with broker_errors(f"Kafka at {addresses(settings)}"):
        client = opened(KafkaAdminClient, {**settings, **others})
        try:
            yield client
        finally:
            client.close()


@contextmanager
def consumer_of(settings: Mapping[str, Any], **others: Any) -> Iterator[KafkaConsumer]:
    """A client that reads partitions which it is assigned, and belongs to no group.

    Raises:
        BrokerError: Kafka cannot be reached, or refuses.
    """
    fixed: dict[str, Any] = {"group_id": None, "enable_auto_commit": False, "auto_offset_reset": "earliest"}
    fixed |= {"key_deserializer": None, "value_deserializer": None}
    with broker_errors(f"Kafka at {addresses(settings)}"):
        client = opened(KafkaConsumer, {**settings, **fixed, **others})
        try:
            yield client
        finally:
            client.close()


def addresses(settings: Mapping[str, Any]) -> str:
    """The bootstrap addresses as text."""
    given = settings.get("bootstrap_servers", "localhost")
    return given if isinstance(given, str) else ",".join(map(str, given))


def topic_of(admin: KafkaAdminClient, name: str) -> Topic | None:
    """A topic, None where there is none.

    Raises:
        BrokerError: it may not be described.
    """
    found = admin.describe_topics([name])[0]
    if found["error_code"] == _FORBIDDEN_TOPIC:
        raise BrokerError(
            f'Topic "{name}" may not be described by this client. Grant it Describe on that topic.'
        )
    if found["error_code"] == _UNKNOWN_TOPIC:
        return None
    # Partitions without a leader are in an error of their own, and are partitions all the same.
    allowed = frozenset(found.get("authorized_operations") or ())
    return Topic(name, str(found["topic_id"]), len(found["partitions"]), allowed)


def made_topic(admin: KafkaAdminClient, name: str, configs: Mapping[str, str] | None = None) -> Topic:
    """Make a topic with the broker's own number of partitions and replicas; one that exists is kept."""
    try:
        admin.create_topics({name: {"configs": dict(configs or {})}}, wait_for_metadata=True)
    except TopicAlreadyExistsError:
        admin.wait_for_topics([name])
    topic = topic_of(admin, name)
    if topic is None:
        raise BrokerError(f'Topic "{name}" was made and is not there. Try again.')
    return topic


def topic_configs(admin: KafkaAdminClient, name: str) -> dict[str, str]:
    """All settings of a topic, its own and the broker's; none where they may not be read."""
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
    return {key: str(entry["value"]) for key, entry in found.get("topic", {}).get(name, {}).items()}


@kernel
def _murmur2(data: Any, start: Any, end: Any, count: int, out: Any) -> None:
    for n in range(len(start)):
        length = end[n] - start[n]
        h = np.int64(0x9747B28C ^ (length & 0xFFFFFFFF))
        at = start[n]
        for _ in range(length // 4):
            word = np.int64(0)
            for byte in range(4):
                word |= np.int64(data[at + byte]) << (8 * byte)
            word = (word * 0x5BD1E995) & 0xFFFFFFFF
            word ^= word >> 24
            word = (word * 0x5BD1E995) & 0xFFFFFFFF
            h = ((h * 0x5BD1E995) & 0xFFFFFFFF) ^ word
            at += 4
        if at < end[n]:
            for byte in range(end[n] - at):
                h ^= np.int64(data[at + byte]) << (8 * byte)
            h = (h * 0x5BD1E995) & 0xFFFFFFFF
        h ^= h >> 13
        h = (h * 0x5BD1E995) & 0xFFFFFFFF
        h ^= h >> 15
        out[n] = (h & 0x7FFFFFFF) % count


def partitions_of(keys: Ids, count: int) -> NDArray[np.int32]:
    """The partition of each key among `count`, as Kafka's default partitioner gives it.

        murmur2(key, seed 0x9747b28c) & 0x7fffffff  mod  count

    Source: Austin Appleby's MurmurHash2, as in org.apache.kafka.common.utils.Utils.

    >>> keys = Ids(np.frombuffer(b"u1user-000123", np.uint8), np.array([0, 2]), np.array([2, 13]))
    >>> partitions_of(keys, 7).tolist()
    [5, 4]
    """
    out = np.empty(len(keys), np.int32)
    _murmur2(keys.data, keys.start, keys.end, count, out)
    return out


class RecordsRefusedError(BrokerError):
    """Kafka did not take some records.

    Attributes:
        numbers: positions of the records in their source.
    """

    def __init__(self, message: str, numbers: list[int]) -> None:
        super().__init__(message)
        self.numbers = numbers


class KeyedProducer:
    """Writes records keyed by user, in order within each partition, each once.

    Args:
        topic: it exists.
        settings: kafka-python's own. Idempotence, acknowledgement by all replicas and plain bytes are
            fixed here: without them a record may be lost, repeated or out of order.
        run: name of the run, which every record carries with its number.

    Raises:
        BrokerError: Kafka cannot be reached.
    """

    def __init__(self, topic: Topic, settings: Mapping[str, Any], run: str) -> None:
        fixed = {"enable_idempotence": True, "acks": "all", "key_serializer": None, "value_serializer": None}
        self.topic, self.sent = topic, 0
        self._run = run
        self._pending: deque[tuple[int, Any]] = deque()
        self._refused: list[tuple[int, BaseException]] = []
        with broker_errors(f"Kafka at {addresses(settings)}"):
            self._producer = opened(KafkaProducer, {**_PRODUCER, **settings, **fixed})

    def send(
        self, records: Records, partitions: NDArray[np.int32], timestamps_ms: NDArray[np.int64] | None = None
    ) -> None:
        """Send records; they are acknowledged after `flush`.

        Args:
            partitions: (N,) of each record.
            timestamps_ms: (N,) of each record; the present time when None.

        Raises:
            RecordsRefusedError: Kafka did not take some of those sent so far.
            BrokerError: Kafka cannot be reached.
        """
        name, users, values = self.topic.name, records.users, records.values
        keys, texts = users.data.data, values.data.data
        stamps = [None] * len(records) if timestamps_ms is None else timestamps_ms.tolist()
        rows = zip(
            records.numbers.tolist(), partitions.tolist(), stamps,
            users.start.tolist(), users.end.tolist(), values.start.tolist(), values.end.tolist(),
            strict=True,
        )  # fmt: skip
        for number, partition, stamp, key, key_end, text, text_end in rows:
            header = (HEADER, b"%s:%d" % (self._run.encode(), number))
            try:
                future = self._producer.send(
                    name, bytes(texts[text:text_end]), bytes(keys[key:key_end]), [header], partition, stamp
                )
            except KafkaError as error:
                self._refused.append((number, error))
                break
            self._pending.append((number, future))
        self._settle(MOST_PENDING)

    def flush(self) -> None:
        """Wait until all records are acknowledged.

        Raises:
            RecordsRefusedError: Kafka did not take some of them.
        """
        # Not by the client's own flush, which fails where a batch had to be split.
        self._settle(0)

    def close(self) -> None:
        """Send what is left, wait for it and close the connections."""
        with broker_errors(f'Topic "{self.topic.name}" cannot be written'):
            self._producer.close(WAIT_S)

    def __enter__(self) -> KeyedProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, most: int) -> None:
        """Forget what is acknowledged, and wait where more than `most` records are not."""
        pending = self._pending
        while pending and (len(pending) > most or pending[0][1].is_done):
            number, future = pending.popleft()
            try:
                future.get(WAIT_S)
                self.sent += 1
            except KafkaError as error:
                self._refused.append((number, error))
        if self._refused:
            self._refuse()

    def _refuse(self) -> None:
        """Wait for all that is under way, then say what was not taken."""
        for number, future in self._pending:
            try:
                future.get(WAIT_S)
                self.sent += 1
            except KafkaError as refusal:
                self._refused.append((number, refusal))
        self._pending.clear()
        refused, self._refused = self._refused, []
        number, error = refused[0]
        raise RecordsRefusedError(
            f'{len(refused)} records were not taken by topic "{self.topic.name}", the first is number '
            f"{number}: {said(error)} Mend the cause and run the same command again: it sends them, and "
            "what comes behind them.",
            sorted(number for number, _ in refused),
        ) from error
