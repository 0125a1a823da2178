"""Versions and a Kafka enter; how far each version is behind each partition leaves.

The positions are those in the versions' own stores, as of their last commits, read beside running workers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from msgspec import Struct

from consumers.kafka_clients import Place, consumer_of, place_of
from state.ledger import Ledger, Source
from state.versions import Version

_WAIT_S = 5.0  # for the first records that are not learned


class Lag(Struct, frozen=True):
    """One version and one source.

    Attributes:
        source: topic[partition], or a file.
        position: first offset that is not learned; None where nothing of the partition is.
        first: oldest offset that Kafka keeps; None for files, and for topics that are gone.
        end: offset behind the newest record.
        behind: records that wait.
        time_behind_s: age of the oldest record that waits, by its timestamp; 0 where none does, None where
            Kafka did not give it in time.
        lost: records that Kafka deleted before they were learned.
    """

    version: str
    source: str
    position: int | None
    first: int | None = None
    end: int | None = None
    behind: int | None = None
    time_behind_s: float | None = None
    lost: int = 0


def read_lag(versions: Iterable[Version], settings: Mapping[str, Any] | None) -> list[Lag]:
    """The lag of versions.

    Args:
        settings: of Kafka's clients; None where there is no Kafka.

    Raises:
        BrokerError: Kafka cannot be reached.
    """
    found: list[tuple[str, dict[Place, Source]]] = []
    lags: list[Lag] = []
    for version in versions:
        sources = _sources(version)
        places = _places(sources) if settings is not None else {}
        there = {source.name for source in sources if source.token is None or settings is None}
        lags += [Lag(version.name, s.name, s.next_offset) for s in sources if s.name in there]
        if places:
            found.append((version.name, places))
    if settings is None or not found:
        return lags
    own = {"isolation_level": settings.get("isolation_level", "read_committed")}
    with consumer_of(settings, **own, allow_auto_create_topics=False) as consumer:
        topics = {place.topic for _, places in found for place in places}
        partitions = {topic: consumer.partitions_for_topic(topic) or set() for topic in sorted(topics)}
        where = [TopicPartition(topic, k) for topic, numbers in partitions.items() for k in sorted(numbers)]
        first, end = consumer.beginning_offsets(where), consumer.end_offsets(where)
        rows = [row for name, places in found for row in _rows(name, places, first, end)]
        return lags + _timed(consumer, rows)


def _sources(version: Version) -> list[Source]:
    if not version.learned_anything:
        return []
    with version.reading() as store:
        return Ledger.read(store).sources


def _places(sources: Iterable[Source]) -> dict[Place, Source]:
    """Each partition's newest generation."""
    newest: dict[Place, Source] = {}
    for source in sources:
        place = place_of(source.name) if source.token is not None else None
        if place is not None:
            same = [p for p in newest if (p.topic, p.partition) == (place.topic, place.partition)]
            if not same or same[0].generation < place.generation:
                for old in same:
                    del newest[old]
                newest[place] = source
    return newest


def _rows(
    version: str,
    places: Mapping[Place, Source],
    first: Mapping[TopicPartition, int],
    end: Mapping[TopicPartition, int],
) -> list[Lag]:
    """One row for each partition that the version has learned from or that its topics have."""
    known = {TopicPartition(place.topic, place.partition): source for place, source in places.items()}
    topics = {place.topic for place in places}
    rows = []
    for where in sorted({*known, *(place for place in end if place.topic in topics)}):
        source = known.get(where)
        name = source.name if source is not None else f"{where.topic}[{where.partition}]"
        position = source.next_offset if source is not None else None
        if where not in end:
            rows.append(Lag(version, name, position))
            continue
        start = first[where] if position is None else max(position, first[where])
        lost = start - position if position is not None else 0
        rows.append(
            Lag(version, name, position, first[where], end[where], max(0, end[where] - start), None, lost)
        )
    return rows


def _timed(consumer: KafkaConsumer, rows: list[Lag]) -> list[Lag]:
    """The same rows with the age of the oldest record that waits."""
    at: dict[tuple[TopicPartition, int], float | None] = {}
    for row in rows:
        place = place_of(row.source)
        if place is not None and row.behind and row.first is not None:
            where = TopicPartition(place.topic, place.partition)
            at[where, max(row.position or 0, row.first)] = None
    _look(consumer, at)
    now = time.time()
    timed = []
    for row in rows:
        place = place_of(row.source)
        age: float | None = 0.0 if row.behind == 0 else None
        if place is not None and row.behind and row.first is not None:
            where = TopicPartition(place.topic, place.partition)
            stamp = at[where, max(row.position or 0, row.first)]
            age = round(max(0.0, now - stamp), 3) if stamp is not None else None
        timed.append(
            Lag(row.version, row.source, row.position, row.first, row.end, row.behind, age, row.lost)
        )
    return timed


def _look(consumer: KafkaConsumer, at: dict[tuple[TopicPartition, int], float | None]) -> None:
    """Fill in the times, in seconds since 1970, of the first records from these offsets on."""
    waiting = list(at)
    until = time.monotonic() + _WAIT_S
    while waiting and time.monotonic() < until:
        # One offset of each partition at a time.
        now = dict(reversed(waiting))
        consumer.assign(list(now))
        consumer.resume(*now)
        for where, offset in now.items():
            consumer.seek(where, offset)
        while now and time.monotonic() < until:
            for where, records in consumer.poll(timeout_ms=200, max_records=len(now)).items():
                offset = now.pop(where)
                at[where, offset] = records[0].timestamp / 1e3
                waiting.remove((where, offset))
                consumer.pause(where)
