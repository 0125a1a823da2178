"""`freshet doctor` finds what is wrong with a broker, a topic and this client's rights."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import (
    ACL,
    ACLFilter,
    ACLOperation,
    ACLPermissionType,
    ConfigResource,
    ConfigResourceType,
    ResourcePattern,
    ResourceType,
)

from consumers.broker import Broker
from consumers.broker_checks import examine_broker
from consumers.cli import main
from consumers.findings import Finding
from tests.consumers.worked import made
from tests.kafka.conftest import WAIT_S
from tests.kafka.test_lag import stand

SECRET = "hush-4711"
PATIENT_MS = 60_000  # a broker that is there answers within it, however busy the machine is


def found(
    bootstrap: str, topic: str, home: Path, connect_ms: int = PATIENT_MS, **settings: Any
) -> dict[str, Finding]:
    findings = examine_broker({"bootstrap_servers": bootstrap, **settings}, topic, home, connect_ms)
    assert all(bool(one.remedy) != one.ok for one in findings)
    return {one.check: one for one in findings}


def test_all_is_well_with_a_topic_that_suits(
    broker: Any, new_topic: Any, produce: Any, tmp_path: Path
) -> None:
    topic = new_topic(2)
    produce(topic, [b"a", b"b"])
    made(tmp_path)
    findings = found(broker.bootstrap, topic, tmp_path)
    assert all(one.ok for one in findings.values()), findings
    assert list(findings) == [
        "kafka", "kafka versions", "topic", "cleanup.policy", "retention", "record clock", "may read",
        "may commit", "dead letters",
    ]  # fmt: skip
    assert "2 partitions" in findings["topic"].detail and "7 d" in findings["retention"].detail
    assert "freshet.mine" in findings["may commit"].detail


def test_command_lists_the_findings_and_fails_where_the_topic_is_missing(
    broker: Any, tmp_path: Path, capsys: Any
) -> None:
    options = ["--home", str(tmp_path), "--set", f"kafka.bootstrap_servers={broker.bootstrap}"]
    assert main(["doctor", "--json", *options, "--set", "events.topic=no-such-topic"]) == 1
    (one,) = [one for one in json.loads(capsys.readouterr().out) if not one["ok"]]
    assert one["check"] == "topic" and "kafka-topics.sh --create --topic no-such-topic" in one["remedy"]
    assert main(["doctor", "--json", "--home", str(tmp_path)]) == 0
    assert "kafka" not in {one["check"] for one in json.loads(capsys.readouterr().out)}


def test_broker_out_of_reach_is_the_only_finding(tmp_path: Path) -> None:
    findings = found("127.0.0.1:1", "events", tmp_path, 500)
    assert list(findings) == ["kafka"]
    assert "127.0.0.1:1" in findings["kafka"].remedy


def test_settings_that_cannot_be_used_are_found(broker: Any, tmp_path: Path) -> None:
    missing = str(tmp_path / "no-such-ca.pem")
    settings = {"security_protocol": "SSL", "ssl_cafile": missing}
    findings = found(broker.bootstrap, "events", tmp_path, 500, **settings)
    assert list(findings) == ["kafka"] and "[kafka]" in findings["kafka"].remedy


def test_topic_that_loses_events_is_found(
    broker: Any, admin: Any, new_topic: Any, produce: Any, tmp_path: Path
) -> None:
    topic = new_topic(1, {"cleanup.policy": "compact,delete", "retention.ms": "100000000"})
    produce(topic, [b"x"] * 5, keys=[b"k"] * 5, timestamp_ms=int((time.time() - 80_000) * 1e3))
    produce(topic, [b"y"], keys=[b"k"], timestamp_ms=int((time.time() + 600) * 1e3))
    stand(made(tmp_path), {f"{topic}[0]": 1})
    findings = found(broker.bootstrap, topic, tmp_path)
    assert "cleanup.policy=delete" in findings["cleanup.policy"].remedy
    assert not findings["retention"].ok and "mine is at most 22.2 h behind" in findings["retention"].detail
    assert not findings["record clock"].ok and "in the future" in findings["record clock"].detail
    admin.delete_records({TopicPartition(topic, 0): 4})
    assert f"mine lost 3 of {topic}[0]" in found(broker.bootstrap, topic, tmp_path)["retention"].detail


def test_version_that_stands_in_a_partition_that_is_gone_is_found(
    broker: Any, topic: str, tmp_path: Path
) -> None:
    stand(made(tmp_path), {f"{topic}[7]": 1})
    findings = found(broker.bootstrap, topic, tmp_path)
    assert not findings["topic"].ok and f"{topic}[7]" in findings["topic"].detail


def test_dead_letter_topic_that_loses_or_cuts_records_is_found(
    broker: Any, admin: Any, new_topic: Any, tmp_path: Path
) -> None:
    topic = new_topic(1)
    letters = f"{topic}.dlq"
    admin.create_topics({letters: {"configs": {"cleanup.policy": "compact"}}}, wait_for_metadata=True)
    assert "is compacted" in found(broker.bootstrap, topic, tmp_path)["dead letters"].detail
    configs = {"cleanup.policy": "delete", "max.message.bytes": "1000"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, letters, configs)], incremental=True)
    until = time.monotonic() + WAIT_S
    told = ""
    while "takes 1,000 bytes" not in told:  # the broker follows its settings a moment later
        assert time.monotonic() < until, told
        told = found(broker.bootstrap, topic, tmp_path)["dead letters"].detail


@pytest.fixture(scope="module")
def guarded() -> Iterator[Broker]:
    """A Kafka that asks the user "limited" for a password and lets it do what it was granted."""
    jaas = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_limited="{SECRET}";'
    properties = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "listener.name.limited.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.limited.plain.sasl.jaas.config": jaas,
    }
    with Broker(properties=properties, listeners={"LIMITED": "SASL_PLAINTEXT"}) as started:
        with KafkaAdminClient(bootstrap_servers=started.bootstrap) as admin:
            admin.create_topics({"events": {}}, wait_for_metadata=True)
        yield started


def limited(
    broker: Broker, home: Path, password: str = SECRET, connect_ms: int = PATIENT_MS
) -> dict[str, Finding]:
    findings = found(
        broker.address("LIMITED"),
        "events",
        home,
        connect_ms,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        sasl_plain_username="limited",
        sasl_plain_password=password,
    )
    assert password not in repr(findings)
    return findings


def grant(broker: Broker, kind: ResourceType, name: str, *operations: ACLOperation) -> None:
    pattern = ResourcePattern(kind, name)
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        wanted = [ACL("User:limited", "*", one, ACLPermissionType.ALLOW, pattern) for one in operations]
        admin.create_acls(wanted)
        every = ACLFilter("User:limited", "*", ACLOperation.ANY, ACLPermissionType.ANY, pattern)
        until = time.monotonic() + WAIT_S
        while not set(wanted) <= set(known := admin.describe_acls(every)[0]):  # told by what decides
            assert time.monotonic() < until, known


def test_each_right_that_is_missing_is_named_with_the_grant_for_it(guarded: Broker, tmp_path: Path) -> None:
    made(tmp_path)
    assert "may not be described" in limited(guarded, tmp_path)["topic"].detail
    grant(guarded, ResourceType.TOPIC, "events", ACLOperation.DESCRIBE)
    findings = limited(guarded, tmp_path)
    assert "--operation Read --topic events" in findings["may read"].remedy
    assert "--group freshet.mine" in findings["may commit"].remedy
    assert "--topic events.dlq" in findings["dead letters"].remedy
    grant(guarded, ResourceType.TOPIC, "events", ACLOperation.READ, ACLOperation.DESCRIBE_CONFIGS)
    grant(guarded, ResourceType.GROUP, "freshet.mine", ACLOperation.READ)
    grant(guarded, ResourceType.TOPIC, "events.dlq", ACLOperation.CREATE, ACLOperation.WRITE)
    findings = limited(guarded, tmp_path)
    assert all(one.ok for one in findings.values()), findings
    assert "replay and retry cannot be done without WRITE" in findings["may read"].detail


def test_wrong_password_is_found_and_never_shown(guarded: Broker, tmp_path: Path) -> None:
    for connect_ms in (2_000, 30_000):  # the client tries for all of the time: seldom is more needed
        findings = limited(guarded, tmp_path, "wrong-" + SECRET, connect_ms)
        if "the user or the password" in findings["kafka"].remedy:
            break
    assert list(findings) == ["kafka"] and "the user or the password" in findings["kafka"].remedy
