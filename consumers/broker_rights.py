"""What was seen of a Kafka enters; findings leave: what this client may do there, and what it lacks.

Rights are read from what the broker says that this client may do. The right to commit offsets is tried on
a partition that cannot exist, so that nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import (
    AuthorizationError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
)
from kafka.structs import OffsetAndMetadata

from consumers.dead_letter_topic import dead_letter_topic
from consumers.findings import Finding
from consumers.kafka_clients import Topic, topic_configs, topic_of
from consumers.lag import Lag
from streaming.errors import BrokerError

SET_CONFIG = "kafka-configs.sh --alter --entity-type topics --entity-name {} --add-config {}"
_ACLS = "kafka-acls.sh --add --allow-principal User:NAME {}"
_COORDINATOR_S = 20.0  # the broker makes the topic of all groups' offsets at its first use
_NO_PARTITION = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What the checks of a topic look at."""

    admin: KafkaAdminClient
    settings: Mapping[str, Any]
    topic: Topic
    configs: Mapping[str, str]  # none where they may not be read
    versions: list[str]
    lags: list[Lag]


def may_read(seen: Seen) -> Finding:
    """Whether the events may be read."""
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


def may_commit(seen: Seen) -> Finding:
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


def dead_letters(seen: Seen) -> Finding:
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


def _dead_letters_to_come(seen: Seen, name: str) -> Finding:
    allowed = seen.admin.describe_topics([name])[0].get("authorized_operations") or ()
    if "CREATE" in allowed:
        return Finding("dead letters", True, f'"{name}" will be made with the first bad record')
    remedy = f"Make the topic {name}, or grant Create: else the first bad record stops the worker."
    return Finding("dead letters", False, f'there is no "{name}", and it may not be made', remedy)


def _dead_letters_kept(seen: Seen, name: str) -> Finding:
    try:
        configs = topic_configs(seen.admin, name)
    except AuthorizationError:
        configs = {}
    if "compact" in configs.get("cleanup.policy", ""):
        command = SET_CONFIG.format(name, "cleanup.policy=delete")
        return Finding("dead letters", False, f'"{name}" is compacted', f"Set delete: `{command}`.")
    most, here = (int(c.get("max.message.bytes", "-1")) for c in (seen.configs, configs))
    if 0 <= here < most:
        command = SET_CONFIG.format(name, f"max.message.bytes={most + 65_536}")
        detail = f'"{name}" takes {here:,} bytes a record, "{seen.topic.name}" {most:,}'
        return Finding("dead letters", False, detail, f"Else large ones are cut. Set: `{command}`.")
    return Finding("dead letters", True, f'"{name}" takes them')
