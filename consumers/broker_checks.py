"""A Kafka and a home directory enter; findings leave: can workers live with this broker and this topic?

Nothing is written to Kafka: rights are read from what the broker says that this client may do, and the
right to commit offsets is tried on a partition that cannot exist.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import (
    AuthorizationError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    NotCoordinatorError,
    SaslAuthenticationFailedError,
)
from kafka.structs import OffsetAndMetadata

from consumers.dead_letter_topic import dead_letter_topic
from consumers.findings import Finding
from consumers.lag import Lag, read_lag
from consumers.producing import (
    Topic,
    addresses,
    admin_of,
    consumer_of,
    said,
    topic_configs,
    topic_of,
)
from state.versions import Registry
from streaming.errors import BrokerError, FreshetError, UsageError

CLIENT = "3.0"  # of kafka-python: the batch reader is made for this minor version
LEAST_BROKER = (2, 8)  # from here on topics have ids, by which one that was made anew is noticed
CLOCK_SKEW_S = 5.0
CONNECT_MS = 5_000
LAG_SHARE = 0.5  # of the retention; records that wait longer are in danger
_COORDINATOR_S = 20.0  # the broker makes the topic of all groups' offsets at its first use
_POLL_S = 5.0
_VAGUE = (KafkaTimeoutError, NodeNotReadyError)  # say nothing of the cause
_NO_PARTITION = 2**31 - 1
_CONFIGS = "kafka-configs.sh --alter --entity-type topics --entity-name {} --add-config {}"
_ACLS = "kafka-acls.sh --add --allow-principal User:NAME {}"


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the checks of a topic look at."""

    admin: KafkaAdminClient
    settings: Mapping[str, Any]
    topic: Topic
    configs: Mapping[str, str]  # none where they may not be read
    versions: list[str]
    lags: list[Lag]


def examine_broker(
    settings: Mapping[str, Any], topic: str, home: Path, connect_ms: int = CONNECT_MS
) -> list[Finding]:
    """All findings about the Kafka at hand.

    Args:
        settings: of Kafka's clients, under kafka-python's own names.
        topic: of the events.
        home: whose versions learn from it.
        connect_ms: how long to try to reach it.
    """
    with _refusals() as refused:
        try:
            with admin_of(settings, bootstrap_timeout_ms=connect_ms) as admin:
                return [_reached(admin, settings), _versions(admin), *_of_topic(admin, settings, topic, home)]
        except (BrokerError, UsageError) as error:
            cause = refused[-1] if refused else error.__cause__ or error
            return [Finding("kafka", False, said(cause), _reach_remedy(cause, settings))]


@contextmanager
def _refusals() -> Iterator[list[Exception]]:
    """The errors of failed connections: the client only logs them, and in the end says that time is over."""
    refused: list[Exception] = []

    class Refusals(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            given = record.args if isinstance(record.args, tuple) else ()
            refused.extend(one for one in given if isinstance(one, Exception) and type(one) not in _VAGUE)

    handler, log = Refusals(logging.WARNING), logging.getLogger("kafka.net")
    log.addHandler(handler)
    try:
        yield refused
    finally:
        log.removeHandler(handler)


def _reach_remedy(cause: BaseException, settings: Mapping[str, Any]) -> str:
    if isinstance(cause, UsageError | FileNotFoundError | PermissionError):
        return "Correct the settings in [kafka]."
    if isinstance(cause, SaslAuthenticationFailedError | AuthorizationError):
        return "Correct kafka.security_protocol, kafka.sasl_mechanism, the user or the password."
    if "SSL" in str(cause) or "certificate" in str(cause):
        return "Correct kafka.ssl_cafile, kafka.ssl_certfile and kafka.ssl_keyfile."
    return (
        f"See that Kafka runs at {addresses(settings)} and can be reached from here, and that "
        "kafka.bootstrap_servers and kafka.security_protocol fit its listener."
    )


def _reached(admin: KafkaAdminClient, settings: Mapping[str, Any]) -> Finding:
    cluster = admin.describe_cluster()
    count = len(cluster["brokers"])
    nodes = ", ".join(f"{broker['host']}:{broker['port']}" for broker in cluster["brokers"])
    remedy = ""
    if any(broker.get("is_fenced") for broker in cluster["brokers"]):
        remedy = "Start the brokers that are fenced."
    return Finding(
        "kafka", not remedy, f"{count} brokers of cluster {cluster['cluster_id']}: {nodes}", remedy
    )


def _versions(admin: KafkaAdminClient) -> Finding:
    broker = admin._manager.broker_version
    client = metadata.version("kafka-python")
    detail = f"broker {'.'.join(map(str, broker))} or later, kafka-python {client}"
    if broker < LEAST_BROKER:
        least = ".".join(map(str, LEAST_BROKER))
        remedy = f"Use Kafka {least} or newer: an older one does not tell when a topic was made anew."
        return Finding("kafka versions", False, detail, remedy)
    if not client.startswith(f"{CLIENT}."):
        remedy = f"Install kafka-python {CLIENT}, as the lock names it: with another, reading is far slower."
        return Finding("kafka versions", False, detail, remedy)
    return Finding("kafka versions", True, detail)


def _of_topic(
    admin: KafkaAdminClient, settings: Mapping[str, Any], name: str, home: Path
) -> Iterator[Finding]:
    topic = _guarded("topic", lambda: topic_of(admin, name))
    if isinstance(topic, Finding):
        yield topic
        return
    if topic is None:
        remedy = (
            f"Make it: `kafka-topics.sh --create --topic {name} --partitions 4`, or correct events.topic."
        )
        yield Finding("topic", False, f'there is no "{name}"', remedy)
        return
    registry = Registry(home)
    configs = _guarded("topic settings", lambda: topic_configs(admin, name))
    lags = _guarded("lag", lambda: read_lag(map(registry.get, registry.names()), settings))
    seen = _Seen(
        admin,
        settings,
        topic,
        {} if isinstance(configs, Finding) else configs,
        registry.names(),
        []
        if isinstance(lags, Finding)
        else [row for row in lags if row.source.startswith((f"{name}[", f"{name}#"))],
    )
    yield from (found for found in (configs, lags) if isinstance(found, Finding))
    checks: tuple[Callable[[_Seen], Finding], ...] = (
        _partitions, _cleanup, _retention, _record_clock, _may_read, _may_commit, _dead_letters,
    )  # fmt: skip
    for check in checks:
        yield _guarded(check.__name__.strip("_").replace("_", " "), partial(check, seen))


def _guarded(name: str, look: Callable[[], Any]) -> Any:
    """What a look gives, or the finding that it failed."""
    try:
        return look()
    except AuthorizationError as error:
        return Finding(name, False, f"not allowed: {said(error)}", "Grant this client the right to see it.")
    except (KafkaError, FreshetError) as error:
        return Finding(name, False, said(error), "See that all brokers run, then try again.")


def _partitions(seen: _Seen) -> Finding:
    found = seen.admin.describe_topics([seen.topic.name])[0]["partitions"]
    headless = [part["partition_index"] for part in found if part["leader_id"] < 0]
    behind = [
        part["partition_index"] for part in found if len(part["isr_nodes"]) < len(part["replica_nodes"])
    ]
    replicas = min(len(part["replica_nodes"]) for part in found)
    detail = f'"{seen.topic.name}" has {len(found)} partitions, {replicas} replicas each'
    if headless:
        remedy = "Start the brokers that hold them."
        return Finding("topic", False, f"{detail}; no leader for partitions {headless}", remedy)
    if behind:
        remedy = "Start the brokers that are missing: a further failure may lose records."
        return Finding("topic", False, f"{detail}; replicas are missing for partitions {behind}", remedy)
    known = {row.source for row in seen.lags if row.end is None}
    if known:
        remedy = "Was the topic made anew? Start the worker with --on-lost-offsets to choose where to go on."
        return Finding("topic", False, f"{detail}; versions stand in {', '.join(sorted(known))}", remedy)
    return Finding("topic", True, detail)


def _cleanup(seen: _Seen) -> Finding:
    policy = seen.configs.get("cleanup.policy")
    if policy is None:
        return Finding("cleanup.policy", True, "cannot be seen")
    if "compact" in policy:
        command = _CONFIGS.format(seen.topic.name, "cleanup.policy=delete")
        remedy = f"Compaction deletes all but the newest event of each user. Set delete: `{command}`."
        return Finding("cleanup.policy", False, policy, remedy)
    return Finding("cleanup.policy", True, policy)


def _retention(seen: _Seen) -> Finding:
    """Whether records will still be there when the slowest version comes to them."""
    if not seen.configs:
        return Finding("retention", True, "cannot be seen")
    keep_ms, keep_bytes = int(seen.configs["retention.ms"]), int(seen.configs["retention.bytes"])
    kept = "for ever" if keep_ms < 0 else f"for {_days(keep_ms / 1e3)}"
    size = "" if keep_bytes < 0 else f", at most {keep_bytes:,} bytes of each partition"
    detail = f"records are kept {kept}{size}"
    lost = [row for row in seen.lags if row.lost]
    if lost:
        said_lost = ", ".join(f"{row.version} lost {row.lost:,} of {row.source}" for row in lost)
        command = _CONFIGS.format(seen.topic.name, f"retention.ms={max(4 * keep_ms, 604_800_000)}")
        remedy = (
            f"Keep records for longer: `{command}`; then start the worker with --on-lost-offsets earliest."
        )
        return Finding("retention", False, f"{detail}; {said_lost}", remedy)
    late = max(seen.lags, key=lambda row: row.time_behind_s or 0.0, default=None)
    if late is None:
        return Finding("retention", True, f"{detail}; no version learns from it yet")
    age = late.time_behind_s or 0.0
    detail += f"; {late.version} is at most {_days(age)} behind"
    if 0 <= keep_ms < age * 1e3 / LAG_SHARE:
        remedy = "Start its worker, or keep records for longer: they may be deleted before they are learned."
        return Finding("retention", False, detail, remedy)
    return Finding("retention", True, detail)


def _record_clock(seen: _Seen) -> Finding:
    """The newest record's time: this is as much as can be seen of the clocks of producers and brokers."""
    stamp = _newest_stamp(seen)
    if stamp is None:
        return Finding("record clock", True, "the topic has no records to compare with")
    whose = "brokers" if seen.configs.get("message.timestamp.type") == "LogAppendTime" else "producers"
    ahead = stamp - time.time()
    if ahead > CLOCK_SKEW_S:
        remedy = f"Let a time service keep the clocks of this machine and of the {whose}."
        return Finding("record clock", False, f"the newest record is {ahead:.0f} s in the future", remedy)
    return Finding(
        "record clock", True, f"the newest record, by the clock of the {whose}, is {_days(-ahead)} old"
    )


def _newest_stamp(seen: _Seen) -> float | None:
    """Time of the newest record of each partition's end, the largest, seconds since 1970."""
    name = seen.topic.name
    with consumer_of(seen.settings, allow_auto_create_topics=False) as consumer:
        where = [TopicPartition(name, k) for k in range(seen.topic.partitions)]
        first, end = consumer.beginning_offsets(where), consumer.end_offsets(where)
        full = {place for place in where if end[place] > first[place]}
        if not full:
            return None
        consumer.assign(sorted(full))
        for place in full:
            consumer.seek(place, end[place] - 1)
        newest, until = None, time.monotonic() + _POLL_S
        # The last offset may hold a mark of a transaction, and no record.
        while any(consumer.position(place) < end[place] for place in full) and time.monotonic() < until:
            for records in consumer.poll(timeout_ms=200).values():
                newest = max(newest or 0.0, max(record.timestamp for record in records) / 1e3)
        return newest


def _may_read(seen: _Seen) -> Finding:
    name, allowed = seen.topic.name, seen.topic.allowed
    missing = [right for right in ("Describe", "Read") if right.upper() not in allowed]
    if missing:
        operations = " ".join(f"--operation {right}" for right in missing)
        remedy = f"Grant it: `{_ACLS.format(f'{operations} --topic {name}')}`."
        return Finding("may read", False, f'no {" and no ".join(missing)} on topic "{name}"', remedy)
    others = {"WRITE": "replay and retry", "DESCRIBE_CONFIGS": "the checks of retention and cleanup.policy"}
    without = [
        f"{use} cannot be done without {right}" for right, use in others.items() if right not in allowed
    ]
    return Finding("may read", True, "; ".join(['yes, "' + name + '"', *without]))


def _may_commit(seen: _Seen) -> Finding:
    """Whether offsets of the versions' groups may be written: tried on a partition that cannot exist."""
    groups = [f"freshet.{version}" for version in seen.versions] or ["freshet.doctor"]
    place = TopicPartition(seen.topic.name, _NO_PARTITION)
    offsets = {place: OffsetAndMetadata(0, "", -1)}
    for group in groups:
        try:
            answer = _patient(partial(seen.admin.alter_group_offsets, group, offsets))[place]
        except AuthorizationError as error:
            answer = type(error)
        if issubclass(answer, AuthorizationError):
            rights = f"--operation Read --operation Describe --group {group}"
            remedy = (
                f"Grant it: `{_ACLS.format(rights)}`; without it lag tools see nothing, and learning goes on."
            )
            return Finding("may commit", False, f"not to the group {group}: {answer.__name__}", remedy)
    return Finding("may commit", True, f"yes, to {', '.join(groups)}")


def _patient(ask: Callable[[], Any]) -> Any:
    """Ask until the group's coordinator is there."""
    until = time.monotonic() + _COORDINATOR_S
    while True:
        try:
            return ask()
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _dead_letters(seen: _Seen) -> Finding:
    """Whether bad records can be set aside, whole."""
    name = dead_letter_topic(seen.topic.name)
    try:
        topic = topic_of(seen.admin, name)
    except BrokerError:
        rights = f"--operation Describe --operation Read --operation Write --operation Create --topic {name}"
        remedy = f"Grant it: `{_ACLS.format(rights)}`; else the first bad record stops the worker."
        return Finding("dead letters", False, f'"{name}" may not be seen', remedy)
    if topic is None:
        return _dead_letters_to_come(seen, name)
    missing = [right for right in ("Write", "Read") if right.upper() not in topic.allowed]
    if missing:
        operations = " ".join(f"--operation {right}" for right in missing)
        remedy = f"Grant it: `{_ACLS.format(f'{operations} --topic {name}')}`."
        return Finding("dead letters", False, f'no {" and no ".join(missing)} on topic "{name}"', remedy)
    return _dead_letters_kept(seen, name)


def _dead_letters_to_come(seen: _Seen, name: str) -> Finding:
    allowed = seen.admin.describe_topics([name])[0].get("authorized_operations") or ()
    if "CREATE" in allowed:
        return Finding("dead letters", True, f'"{name}" will be made with the first bad record')
    remedy = f"Make the topic {name}, or grant Create: else the first bad record stops the worker."
    return Finding("dead letters", False, f'there is no "{name}", and it may not be made', remedy)


def _dead_letters_kept(seen: _Seen, name: str) -> Finding:
    try:
        configs = topic_configs(seen.admin, name)
    except AuthorizationError:
        configs = {}
    if "compact" in configs.get("cleanup.policy", ""):
        command = _CONFIGS.format(name, "cleanup.policy=delete")
        return Finding("dead letters", False, f'"{name}" is compacted', f"Set delete: `{command}`.")
    most, here = (int(c.get("max.message.bytes", "-1")) for c in (seen.configs, configs))
    if 0 <= here < most:
        command = _CONFIGS.format(name, f"max.message.bytes={most + 65_536}")
        detail = f'"{name}" takes {here:,} bytes a record, "{seen.topic.name}" {most:,}'
        return Finding("dead letters", False, detail, f"Else large ones are cut. Set: `{command}`.")
    return Finding("dead letters", True, f'"{name}" takes them')


def _days(seconds: float) -> str:
    """A duration in the unit that fits.

    >>> _days(45), _days(7_200), _days(604_800)
    ('45 s', '2 h', '7 d')
    """
    for unit, size in ((" d", 86_400), (" h", 3_600), (" min", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == " d"):
            return f"{seconds / size:.3g}{unit}"
    return f"{max(0.0, seconds):.3g} s"
