"""A compacted topic enters, keyed by the item's id; a catalogue that follows it leaves.

The newest record of a key holds. A record without a value takes its item out; one whose value is no item is
refused, and what was said of that item before holds on.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from consumers.catalogue_input import Reading
from consumers.catalogue_records import NoItemError, item_of
from consumers.kafka_clients import addresses, broker_errors, opened
from consumers.kafka_settings import client_settings
from consumers.settings import Settings
from state.catalogue import Catalogue, CatalogueItem
from streaming.errors import BrokerError

_POLL_MS = 500
_SILENCE_S = 60.0  # without a record, until Kafka is taken to be silent
_FIXED: dict[str, Any] = {
    "group_id": None,
    "enable_auto_commit": False,
    "auto_offset_reset": "earliest",
    "isolation_level": "read_committed",
    "allow_auto_create_topics": False,
    "metrics_enabled": False,
}


class CatalogueTopic:
    """A catalogue in a topic.

    Raises:
        SettingError: no Kafka is set.
        BrokerError: Kafka cannot be reached, or has no such topic.
    """

    def __init__(self, settings: Settings) -> None:
        client = {**client_settings(settings, KafkaConsumer), **_FIXED}
        self._topic, self._fields = settings.items.topic, settings.items.fields
        self._longest = settings.events.max_id_bytes
        self._doing = f"Kafka at {addresses(client)}, topic {self._topic}"
        self.catalogue = Catalogue(serve_unlisted=settings.items.unlisted == "serve")
        self._read_all = False
        with broker_errors(self._doing):
            self._consumer = opened(KafkaConsumer, client)
            try:
                self._assign()
            except (KafkaError, BrokerError):
                self._consumer.close()
                raise

    def refresh(self) -> Reading | None:
        """Take in the records that have come; at the first call, all up to the present end of the topic.

        Raises:
            BrokerError: Kafka cannot be reached; the next call goes on where this one ended.
        """
        reading = Reading()
        with broker_errors(self._doing):
            self._assign()
            if not self._read_all:
                self._take_all(reading)
                self._read_all = True
            while records := self._consumer.poll(timeout_ms=0):
                self._take(records, reading)
        return reading if reading.records else None

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()

    def _assign(self) -> None:
        """Read all partitions, those among them that were added since."""
        found = self._consumer.partitions_for_topic(self._topic)
        if not found:
            raise BrokerError(
                f'{self._doing}: there is no such topic. Make it, with cleanup.policy = "compact", or '
                "correct items.topic."
            )
        wanted = {TopicPartition(self._topic, number) for number in found}
        if wanted - self._consumer.assignment():
            self._consumer.assign(sorted(wanted | self._consumer.assignment()))

    def _take_all(self, reading: Reading) -> None:
        ends = self._consumer.end_offsets(self._consumer.assignment())
        heard = time.monotonic()
        while any(self._consumer.position(place) < end for place, end in ends.items()):
            records = self._consumer.poll(timeout_ms=_POLL_MS)
            if records:
                heard = time.monotonic()
                self._take(records, reading)
            elif time.monotonic() - heard > _SILENCE_S:
                raise BrokerError(f"{self._doing}: no record came for {_SILENCE_S:.0f} s. Try again.")

    def _take(self, records: dict[TopicPartition, list[Any]], reading: Reading) -> None:
        changes: dict[str, CatalogueItem | None] = {}
        for part in records.values():
            for record in part:
                reading.records += 1
                try:
                    name, item = self._item(record)
                except NoItemError as error:
                    reading.refuse(f"{record.topic}[{record.partition}]@{record.offset}", str(error))
                    continue
                changes[name] = item
        self.catalogue.update(changes)

    def _item(self, record: Any) -> tuple[str, CatalogueItem | None]:
        if not record.key:
            raise NoItemError("expected the item's id as the key, got a record without a key")
        try:
            name = record.key.decode()
            value = None if record.value is None else msgspec.json.decode(record.value)
        except UnicodeDecodeError as error:
            raise NoItemError(f"its key must be UTF-8, got {record.key[:40]!r}") from error
        except msgspec.DecodeError as error:
            raise NoItemError(f"expected JSON, got what is none: {error}") from error
        if record.value is None:
            return name, None
        return name, item_of(value, self._fields, self._longest, key=name)
