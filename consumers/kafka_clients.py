"""Settings enter; clients of Kafka and what they see of its topics leave, their errors as Freshet's own."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConfigurationError, KafkaError, TopicAlreadyExistsError

from streaming.errors import BrokerError, UsageError

_CLIENT_LOG = logging.getLogger("kafka")
_SOURCE = re.compile(r"([A-Za-z0-9._-]+)(?:#(\d+))?\[(\d+)\]")
_UNKNOWN_TOPIC = 3
_FORBIDDEN_TOPIC = 29
_HEARD_S = 10.0  # until all nodes have heard of a new topic


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
    until = time.monotonic() + _HEARD_S
    while True:
        topic = topic_of(admin, name)
        if topic is not None and topic.partitions:
            return topic
        # Each node hears of it in its own time, and the one that is asked now may be another one.
        if time.monotonic() > until:
            raise BrokerError(f'Topic "{name}" was made and is not there. Try again.')
        time.sleep(0.1)


def topic_configs(admin: KafkaAdminClient, name: str) -> dict[str, str]:
    """All settings of a topic, its own and the broker's; none where they may not be read."""
    found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name)], config_filter="all")
    return {key: str(entry["value"]) for key, entry in found.get("topic", {}).get(name, {}).items()}
