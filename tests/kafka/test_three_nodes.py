"""A worker over three nodes of Kafka: the leader is killed, another leads, and each event is learned once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from consumers.broker import Broker
from state.audit import verify
from tests.consumers.worked import lines
from tests.kafka.conftest import leader_of
from tests.kafka.test_work_kafka import (
    ended,
    flags,
    ledger,
    made,
    same_but_for_the_source,
    wait_for,
    work,
    worker,
)

TOPIC = "events"
RECORDS = 600


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_worker_goes_on_when_the_leader_is_killed_and_another_leads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = lines(RECORDS, seed=31)
    file = Path("events.jsonl")
    file.write_text("".join(line + "\n" for line in records))
    mine, whole = made("mine"), made("whole")
    with Broker(nodes=3) as broker:
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.create_topics({TOPIC: {"num_partitions": 1}}, wait_for_metadata=True)
        first = leader_of(admin, TOPIC)
        producer: Any = KafkaProducer(
            bootstrap_servers=broker.bootstrap, acks="all", enable_idempotence=True, max_block_ms=60_000
        )

        def send(start: int, stop: int) -> None:
            for line in records[start:stop]:
                producer.send(TOPIC, line.encode(), partition=0)
            producer.flush()

        with producer, worker(flags(broker.bootstrap, TOPIC), mine.name) as process:
            send(0, 200)
            wait_for(lambda: mine.learned_anything and ledger(mine).records >= 150, process)
            send(200, 300)  # some of them may be on their way to the worker
            broker.nodes[first - 1].kill()
            for start in range(300, RECORDS, 100):
                send(start, start + 100)
            wait_for(lambda: ledger(mine).records == RECORDS, process)
            assert leader_of(admin, TOPIC) != first
            broker.nodes[first - 1].start()
            assert all(node.alive for node in broker.nodes)
            assert ended(process)["offsets"] == {f"{TOPIC}[0]": RECORDS}
        admin.close()
    work(capsys, flags("localhost:1", TOPIC), whole.name, "--from", str(file))
    assert same_but_for_the_source(mine, whole)
    with mine.reading() as store:
        assert not verify(store, mine.spec).problems
