"""A Kafka and a home directory enter; findings leave: can workers live with this broker and this topic?

Nothing is written to Kafka.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
)

from consumers.broker_rights import SET_CONFIG, Seen, dead_letters, may_commit, may_read
from consumers.findings import Finding
from consumers.kafka_clients import addresses, admin_of, consumer_of, said, topic_configs, topic_of
from consumers.lag import read_lag
from state.versions import Registry
from streaming.errors import BrokerError, FreshetError, UsageError

CLIENT = "3.0"  # of kafka-python: the batch reader is made for this minor version
LEAST_BROKER = (2, 8)  # from here on topics have ids, by which one that was made anew is noticed
CLOCK_SKEW_S = 5.0
CONNECT_MS = 5_000
LAG_SHARE = 0.5  # of the retention; records that wait longer are in danger
_POLL_S = 5.0
_DENIED = (SaslAuthenticationFailedError, AuthorizationError)
_VAGUE = (KafkaTimeoutError, NodeNotReadyError, RequestTimedOutError)  # say nothing of the cause


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
            plain = [one for one in refused if isinstance(one, _DENIED)] or refused
            cause = plain[0] if plain else error.__cause__ or error
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
    # Kafka closes the connection after a failed login, sometimes before its answer was read.
    closed = "SASL" in settings.get("security_protocol", "") and "disconnected" in str(cause)
    if isinstance(cause, _DENIED) or closed:
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
    lags = _guarded("lag", lambda: read_lag(registry.readable(), settings))
    seen = Seen(
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
    checks: tuple[Callable[[Seen], Finding], ...] = (
        _partitions, _cleanup, _retention, _record_clock, may_read, may_commit, dead_letters,
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


def _partitions(seen: Seen) -> Finding:
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


def _cleanup(seen: Seen) -> Finding:
    policy = seen.configs.get("cleanup.policy")
    if policy is None:
        return Finding("cleanup.policy", True, "cannot be seen")
    if "compact" in policy:
        command = SET_CONFIG.format(seen.topic.name, "cleanup.policy=delete")
        remedy = f"Compaction deletes all but the newest event of each user. Set delete: `{command}`."
        return Finding("cleanup.policy", False, policy, remedy)
    return Finding("cleanup.policy", True, policy)


def _retention(seen: Seen) -> Finding:
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
        command = SET_CONFIG.format(seen.topic.name, f"retention.ms={max(4 * keep_ms, 604_800_000)}")
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


def _record_clock(seen: Seen) -> Finding:
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


def _newest_stamp(seen: Seen) -> float | None:
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


def _days(seconds: float) -> str:
    """A duration in the unit that fits.

    >>> _days(45), _days(7_200), _days(604_800)
    ('45 s', '2 h', '7 d')
    """
    for unit, size in ((" d", 86_400), (" h", 3_600), (" min", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == " d"):
            return f"{seconds / size:.3g}{unit}"
    return f"{max(0.0, seconds):.3g} s"
