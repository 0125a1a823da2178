"""A version and the settings enter; the log that it learns from leaves, and where its bad records go."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Literal, NamedTuple

from consumers.dead_letters import DeadLetterLog, DeadLetters
from consumers.eventlog.files import FilesLog
from consumers.eventlog.segments import Segments, is_segments
from consumers.kafka_settings import client_settings
from consumers.settings import Settings
from state.ledger import Ledger
from state.versions import Version
from streaming.errors import UsageError
from streaming.rules import EventRules

if TYPE_CHECKING:
    from consumers.eventlog.kafka import KafkaLog

KAFKA = "kafka"  # in the place of a file
_START = '--start must be earliest, latest, or a time with its zone such as 2026-11-24T12:00:00Z, got "{}".'


def is_topic(
    from_: list[str] | None, settings: Settings, *, until_end: bool, follow: bool, format: str | None
) -> bool:
    """Whether the log is the topic in the settings, by the options of a command.

    Raises:
        UsageError: the options contradict each other.
    """
    if follow and until_end:
        raise UsageError("--follow waits for more and --until-end stops at the end; give one of them.")
    topic = from_ == [KAFKA] or (from_ is None and bool(settings.kafka.bootstrap_servers))
    if topic and (follow or format):
        raise UsageError("--follow and --format are for files; Kafka is followed, and holds JSON.")
    return topic


def known_files(events: Path, sources: list[str], *, follow: bool) -> list[str]:
    """What a version reads that is told nothing: what it read before, else what the server was sent.

    Raises:
        UsageError: there is neither.
    """
    here = os.path.abspath(events)
    others = [name for name in sources if os.path.dirname(name) != here]
    if follow and not others:
        Segments(events).settle()  # the server may begin later than this worker
    sent = len(others) < len(sources) or (not others and is_segments(events))
    paths = [*others, str(events)] if sent else others
    if not paths:
        raise UsageError(
            "The version has learned nothing yet and the server was sent no events, so --from must name "
            "event files; or give --follow, to wait for what `freshet serve` is sent."
        )
    return paths


def files_log(
    paths: list[str], ledger: Ledger, rules: EventRules, *, follow: bool, format: str | None
) -> FilesLog:
    """Event files, read on from where a ledger stands."""
    units = {s.name: s.time_unit for s in ledger.sources if s.time_unit}
    return FilesLog(paths, rules, follow=follow, format=format, time_units=units)


class KafkaOptions(NamedTuple):
    """Where a topic is begun, and what is done where it is not as it was."""

    start: str | int
    on_lost: Literal["earliest", "latest", "stop"]
    take_over: bool
    until_end: bool


def started_at(text: str) -> str | int:
    """`--start`: "earliest", "latest", or milliseconds since 1970.

    Raises:
        UsageError: it is neither, nor a time with its zone.

    >>> started_at("latest"), started_at("1970-01-01T00:01:00Z"), started_at("60000")
    ('latest', 60000, 60000)
    """
    if text in ("earliest", "latest"):
        return text
    try:
        if text.isdecimal():
            return int(text)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return round(moment.timestamp() * 1000)
    except ValueError as error:
        raise UsageError(_START.format(text)) from error
    raise UsageError(_START.format(text))


def kafka_log(
    version: Version, ledger: Ledger, rules: EventRules, settings: Settings, options: KafkaOptions
) -> KafkaLog:
    """The topic in the settings, read on from where a ledger stands."""
    from kafka import KafkaConsumer

    from consumers.eventlog.group_offsets import GroupOffsets
    from consumers.eventlog.kafka import KafkaLog

    client = client_settings(settings, KafkaConsumer)
    topic, sources = settings.events.topic, ledger.sources
    # A restored or rebuilt store has a new identity; those it had here are still this machine's own.
    path = version.path / "kafka-identities"
    earlier = path.read_text().split() if path.exists() else []
    if version.identity not in earlier:
        with path.open("a") as file:
            file.write(version.identity + "\n")
    group = GroupOffsets(
        client, f"freshet.{version.name}", version.identity, earlier=earlier, take_over=options.take_over
    )
    try:
        return KafkaLog(
            topic,
            rules,
            client,
            known=sources,
            start=options.start,
            on_lost_offsets=options.on_lost,
            until_end=options.until_end,
            group=group,
            learned_until_s=ledger.watermark if any("[" not in s.name for s in sources) else 0,
        )
    except BaseException:
        group.close()
        raise


def dead_letters(version: Version, log: FilesLog | KafkaLog, settings: Settings, stop: Flag) -> DeadLetterLog:
    """Where bad records go: those of files into the version's own file, those of a topic into a topic."""
    if isinstance(log, FilesLog):
        return DeadLetters(version.dead_letters_path)
    from kafka import KafkaConsumer

    from consumers.dead_letter_topic import KafkaDeadLetters
    from consumers.dead_letters_waiting import PatientLetters

    letters = KafkaDeadLetters(log.topic, version.name, client_settings(settings, KafkaConsumer))
    return PatientLetters(letters, stop)
