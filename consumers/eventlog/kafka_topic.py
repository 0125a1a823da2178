"""What is asked about a topic beside its records: partitions, identity, first and last offsets.

A fetch that waits for records holds up what is asked behind it, so questions have a client of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import structlog
from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors

from streaming.errors import BrokerError, InputError, nearest

logger = structlog.get_logger()

Bounds = tuple[dict[int, int], dict[int, int]]
_ANSWER_MS = 20_000
_HEARD_S = 2.0  # until all nodes of a Kafka have heard of a new topic


class Topic:
    """A topic, asked about through a client that never fetches.

    Args:
        name: of the topic.
        servers: of its Kafka, for messages.
        client: the client; whoever made it closes it.

    Attributes:
        reachable: whether the last question was answered.
    """

    def __init__(self, name: str, servers: str, client: KafkaConsumer) -> None:
        self.name = name
        self.reachable = True
        self._servers, self._client = servers, client
        client._cluster.set_topics([name])

    def at(self, number: int) -> TopicPartition:
        """A partition as kafka-python names it."""
        return TopicPartition(self.name, number)

    def partitions(self) -> list[int]:
        """The topic's partitions as Kafka names them now.

        Raises:
            InputError: there is no such topic.
        """
        numbers, until = self._asked_partitions(), time.monotonic() + _HEARD_S
        while not numbers and len(self._client._cluster.brokers()) > 1 and time.monotonic() < until:
            # A topic that was made just now may not be known yet to the node that was asked.
            time.sleep(0.1)
            numbers = self._asked_partitions()
        if not numbers:
            topics = self.ask(self._client.topics)
            raise InputError(
                f'The topic "{self.name}" is not on the Kafka at {self._servers}, or this user may not see '
                f"it.{nearest(self.name, topics)} Create it, or name another: events.topic."
            )
        return numbers

    def _asked_partitions(self) -> list[int]:
        self.ask(partial(self.refresh, _ANSWER_MS))
        return sorted(self._client._cluster.partitions_for_topic(self.name) or ())

    def refresh(self, timeout_ms: int) -> None:
        """Ask Kafka for the topic's id, partitions and leaders as they are from now on."""
        side, cluster = self._client, self._client._cluster
        # An answer that is under way may be older than the question.
        for _ in range(2 if cluster.metadata_refresh_in_progress else 1):
            try:
                answer = side._manager.call_soon(cluster.refresh_metadata)
                side._net.run(side._manager.wait_for, answer, timeout_ms)
            except kafka_errors.UnknownTopicOrPartitionError:
                return  # the topic has no partitions then

    def id_known_to(self, consumer: KafkaConsumer) -> str | None:
        """The topic's id as far as a client has heard."""
        found = consumer._cluster.topic_id(self.name)
        return str(found) if found is not None else None

    def bounds(self, numbers: Collection[int]) -> Bounds:
        """First offsets, and those behind the last record, by partition."""
        where = [self.at(number) for number in numbers]
        first = self._client.beginning_offsets(where, timeout_ms=_ANSWER_MS)
        last = self._client.end_offsets(where, timeout_ms=_ANSWER_MS)
        return {p.partition: o for p, o in first.items()}, {p.partition: o for p, o in last.items()}

    def offset_of(
        self, start: str | int, number: int, first: Mapping[int, int], last: Mapping[int, int]
    ) -> int:
        """Where `start` ("earliest", "latest" or milliseconds) lies in a partition."""
        if start == "earliest":
            return first[number]
        if start == "latest":
            return last[number]
        where = self.at(number)
        found = self._client.offsets_for_times({where: int(start)}, timeout_ms=_ANSWER_MS)[where]
        return last[number] if found is None or found.offset < 0 else int(found.offset)

    def last_offsets(self, numbers: Collection[int], timeout_ms: int) -> dict[int, int]:
        """Offsets behind the last records, by partition."""
        where = [self.at(number) for number in numbers]
        return {p.partition: o for p, o in self._client.end_offsets(where, timeout_ms=timeout_ms).items()}

    def ask_quietly(self, ask: Callable[[], Any]) -> Any:
        """The answer, or None where Kafka gives none, which is said once."""
        try:
            return ask()
        except kafka_errors.KafkaError as error:
            self.unheard(error)
            return None

    def ask(self, ask: Callable[[], Any]) -> Any:
        """The answer.

        Raises:
            BrokerError: Kafka gives none.
        """
        try:
            return ask()
        except kafka_errors.KafkaError as error:
            raise BrokerError(
                f"Kafka at {self._servers} does not answer for the topic {self.name}: "
                f"{type(error).__name__}: {error}. Check that it runs, and that this user may read the topic."
            ) from error

    def unheard(self, error: Exception) -> None:
        """Kafka did not answer."""
        if self.reachable:
            logger.warning(
                "kafka_unreachable", servers=self._servers, error=f"{type(error).__name__}: {error}"
            )
        self.reachable = False

    def heard(self) -> None:
        """Kafka answered."""
        if not self.reachable:
            logger.info("kafka_reached_again", servers=self._servers)
        self.reachable = True
