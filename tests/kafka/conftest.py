"""What the tests with a real Kafka share: one broker for all of them, and topics of their own."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from consumers import posting, server_events
from consumers.broker import Broker
from consumers.dead_letter_topic import dead_letter_topic

ADDRESS = "FRESHET_TEST_KAFKA"
# Retention, cleaning and deletion come within a second, and a topic that was deleted stays so.
PROPERTIES = {
    "auto.create.topics.enable": "false",
    "log.retention.check.interval.ms": "500",
    "log.initial.task.delay.ms": "500",
    "log.cleaner.backoff.ms": "500",
    "log.segment.delete.delay.ms": "500",
}


WAIT_S = 60.0


def leader_of(admin: KafkaAdminClient, topic: str) -> int:
    """The node that leads a topic's one partition, once the node that is asked has heard of it."""
    until = time.monotonic() + WAIT_S
    while True:
        partitions = admin.describe_topics([topic])[0]["partitions"]
        if len(partitions) == 1 and partitions[0]["leader_id"] > 0:
            number: int = partitions[0]["leader_id"]
            return number
        assert time.monotonic() < until, partitions
        time.sleep(0.05)


def add_partitions(admin: KafkaAdminClient, topic: str, count: int) -> None:
    """Let a topic have that many partitions, and wait until the broker tells clients so."""
    admin.create_partitions({topic: count})
    until = time.monotonic() + WAIT_S
    while True:
        partitions = admin.describe_topics([topic])[0]["partitions"]
        if len([one for one in partitions if one["leader_id"] > 0]) == count:
            return
        assert time.monotonic() < until, partitions
        time.sleep(0.05)


class Reachable(Protocol):
    """A Kafka that clients can reach; tests that stop or kill it start one of their own."""

    @property
    def bootstrap(self) -> str: ...


class Given:
    """A Kafka that somebody else runs."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let posts wait as long as a machine may stall; a server would have told its client before."""
    for name in ("max_block_ms", "request_timeout_ms"):
        monkeypatch.setitem(posting._PRODUCER, name, int(1e3 * WAIT_S))
    monkeypatch.setitem(posting._PRODUCER, "delivery_timeout_ms", int(2e3 * WAIT_S))
    monkeypatch.setattr(posting, "_WAIT_S", WAIT_S)
    monkeypatch.setattr(server_events, "_WRITE_S", 2 * WAIT_S)


@pytest.fixture(scope="session")
def broker() -> Iterator[Reachable]:
    """The Kafka that all tests share: the one at FRESHET_TEST_KAFKA, else one that is started here."""
    address = os.environ.get(ADDRESS)
    if address:
        yield Given(address)
        return
    with Broker(properties=PROPERTIES) as started:
        yield started


@pytest.fixture(scope="session")
def admin(broker: Reachable) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    yield client
    client.close()


@pytest.fixture
def new_topic(admin: KafkaAdminClient) -> Iterator[Callable[..., str]]:
    """Makes topics with names of their own: `new_topic(partitions=4, config={"retention.ms": "1"})`."""
    made: list[str] = []

    def make(partitions: int = 1, config: Mapping[str, str] | None = None) -> str:
        name = f"freshet-test-{uuid.uuid4().hex[:12]}"
        made.append(name)
        topic = {"num_partitions": partitions, "configs": dict(config or {})}
        admin.create_topics({name: topic}, wait_for_metadata=True)
        return name

    yield make
    left = {name for one in made for name in (one, dead_letter_topic(one))} & set(admin.list_topics())
    if left:
        admin.delete_topics(sorted(left))


@pytest.fixture
def topic(new_topic: Callable[..., str]) -> str:
    """A topic of one partition."""
    return new_topic()


@pytest.fixture
def produce(broker: Reachable) -> Callable[..., list[int]]:
    """Writes records and returns their offsets: `produce(topic, values, keys=…, partition=0, **settings)`.

    The settings are the producer's own, as `compression_type="lz4"`. A value that is None is a tombstone.
    """

    def write(
        topic: str,
        values: Iterable[bytes | None],
        keys: Iterable[bytes | None] | None = None,
        partition: int | None = 0,
        headers: list[tuple[str, bytes]] | None = None,
        timestamp_ms: int | None = None,
        **settings: Any,
    ) -> list[int]:
        values = list(values)
        keys = [None] * len(values) if keys is None else list(keys)
        with KafkaProducer(bootstrap_servers=broker.bootstrap, **settings) as producer:
            sent = [
                producer.send(topic, value, key, headers or [], partition, timestamp_ms)
                for value, key in zip(values, keys, strict=True)
            ]
            producer.flush()
            return [one.get().offset for one in sent]

    return write
