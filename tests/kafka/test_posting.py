"""Events that are posted to the server where Kafka is the event log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaConsumer, TopicPartition
from starlette.testclient import TestClient

from consumers import posting
from consumers.posting import Intake, KafkaPosts
from consumers.server import build
from consumers.serving import Serving
from streaming.rules import EventRules
from tests.consumers.served import HERE
from tests.kafka.conftest import Reachable


@contextmanager
def posting_to(home: Path, bootstrap: str, topic: str, reached_ms: int = 60_000) -> Iterator[TestClient]:
    """A client of a server that posts to a topic."""
    log = KafkaPosts(topic, {"bootstrap_servers": bootstrap, "bootstrap_timeout_ms": reached_ms})
    with closing(Serving(home)) as serving, closing(Intake(log)) as intake:
        app = build(serving, intake, EventRules())
        with TestClient(app, base_url=HERE) as client:
            yield client


def test_posted_events_are_in_the_topic_keyed_by_user(
    broker: Reachable, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic(partitions=4)
    events = [{"user": f"u{k % 5}", "item": f"i{k}", "ts": 1_700_000_000 + k} for k in range(40)]
    with posting_to(tmp_path, broker.bootstrap, topic) as api:
        assert api.post("/v1/events", json=events).json() == {"events": 40, "log": "kafka"}
        assert api.post("/v1/events", json={"user": "u1", "item": "now"}).status_code == 200
        assert api.post("/v1/events", json=[*events, {"user": 1.5}]).status_code == 422
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")) as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in range(4)])
        found = []
        while len(found) < 41:
            found += [record for part in consumer.poll(1000).values() for record in part]
    read = [json.loads(record.value) for record in found]
    assert [record.key.decode() for record in found] == [event["user"] for event in read]
    # Other producers may write numbers in another unit, so times are written as text.
    assert all(isinstance(event["ts"], str) for event in read)
    for user in {event["user"] for event in events}:
        mine = [record for record in found if record.key.decode() == user]
        assert len({record.partition for record in mine}) == 1
        items = [json.loads(record.value)["item"] for record in mine]
        assert [item for item in items if item != "now"] == [e["item"] for e in events if e["user"] == user]


def test_topic_that_is_missing_or_out_of_reach_is_said_and_nothing_breaks(
    broker: Reachable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(posting._PRODUCER, "max_block_ms", 1_000)
    with posting_to(tmp_path, broker.bootstrap, "freshet-test-nowhere") as api:
        answer = api.post("/v1/events", json={"user": "u", "item": "i"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert "freshet-test-nowhere" in answer.json()["error"]["message"]
    with posting_to(tmp_path, "127.0.0.1:1", "events", 300) as api:
        answer = api.post("/v1/events", json={"user": "u", "item": "i"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert api.get("/livez").status_code == 200
