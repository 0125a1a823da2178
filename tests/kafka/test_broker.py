from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from consumers.broker import Broker
from consumers.kafka_jars import LOCK, kafka_runtime, locked_jars
from streaming.errors import BrokerError, UsageError

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0


def read(bootstrap: str, topic: str, count: int) -> list[bytes | None]:
    """The values of a topic's first records."""
    values: list[bytes | None] = []
    until = time.monotonic() + WAIT_S
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    try:
        consumer.assign([TopicPartition(topic, 0)])
        while len(values) < count and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=200).values():
                values += [record.value for record in records]
    finally:
        consumer.close()
    return values


def write(bootstrap: str, topic: str, values: list[bytes]) -> None:
    with KafkaProducer(bootstrap_servers=bootstrap) as producer:
        sent = [producer.send(topic, value, partition=0) for value in values]
        for one in sent:
            one.get(WAIT_S)


def test_records_are_read_as_they_were_written(
    broker: Broker, topic: str, produce: Callable[..., list[int]]
) -> None:
    assert produce(topic, [b"a", None, b"c"], keys=[b"k", b"k", None]) == [0, 1, 2]
    assert read(broker.bootstrap, topic, 3) == [b"a", None, b"c"]


