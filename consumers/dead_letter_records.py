"""Bad records as the dead letter topic holds them: headers beside their bytes, and dead letters from these.

A record has the bad record's key and value, and headers that name the version that refused it, its topic,
partition, offset, source and the reason. A record with the header `freshet-retried` says instead that the
position in its other headers was sent again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from consumers.dead_letters import DeadLetter
from consumers.kafka_clients import place_of
from streaming.errors import BrokerError

Headers = list[tuple[str, bytes]]


class TopicLetter(NamedTuple):
    """A dead letter with all of its bytes.

    Attributes:
        topic, partition: where it stood.
    """

    letter: DeadLetter
    topic: str
    partition: int
    key: bytes | None
    value: bytes | None


def headers_of(version: str, source: str, offset: int, reason: str) -> Headers:
    """The headers of a bad record.

    Raises:
        BrokerError: its source is no partition of a topic.
    """
    place = place_of(source)
    if place is None:
        raise BrokerError(f"{source} is no partition of a topic, so no topic can take its bad records.")
    values = {
        "topic": place.topic,
        "partition": str(place.partition),
        "offset": str(offset),
        "source": source,
        "reason": reason,
        "version": version,
    }
    return [(f"freshet-{name}", value.encode("utf-8", "backslashreplace")) for name, value in values.items()]


def letter_of(record: Any) -> tuple[str, TopicLetter] | None:
    """The version and the dead letter of a record, None where somebody else wrote it."""
    headers = dict(record.headers)
    try:
        topic, source, reason, version = (
            headers[f"freshet-{name}"].decode() for name in ("topic", "source", "reason", "version")
        )
        partition, offset = int(headers["freshet-partition"]), int(headers["freshet-offset"])
        length = int(headers["freshet-length"]) if "freshet-length" in headers else None
    except (KeyError, ValueError):
        return None
    raw = (record.value or b"").decode("utf-8", "backslashreplace")
    letter = DeadLetter(source, offset, reason, raw, length=length, retried="freshet-retried" in headers)
    return version, TopicLetter(letter, topic, partition, record.key, record.value)
