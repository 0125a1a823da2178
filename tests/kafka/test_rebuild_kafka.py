"""A version that learned from a real Kafka is made again from its topic, to the byte, or says why not."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from consumers.cli import main
from state.ledger import journal_of
from state.versions import Version
from tests.consumers.worked import everything, lines, spoil
from tests.kafka.conftest import Reachable
from tests.kafka.test_eventlog_kafka import anew
from tests.kafka.test_work_kafka import flags, ledger, made, wait_for, work, worker

PARTITIONS = 4
Produce = Callable[..., list[int]]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def rebuilt(capsys: Captured, start: list[str], name: str, *words: str) -> dict[str, Any]:
    """`freshet versions rebuild --json`, which found no difference or mended it."""
    capsys.readouterr()
    code = main([*start, "versions", "rebuild", name, "--json", *words])
    printed = capsys.readouterr()
    assert code == 0, printed
    report: dict[str, Any] = json.loads(printed.out)
    return report


def refusal(capsys: Captured, start: list[str], name: str, *words: str) -> str:
    capsys.readouterr()
    assert main([*start, "versions", "rebuild", name, *words]) == 1
    return " ".join(capsys.readouterr().err.split())


def snapshot(version: Version) -> int:
    with version.open() as store:
        return version.snapshot(store, 5)


def learned_under_kills(broker: Reachable, topic: str, version: Version) -> None:
    """Records come to all partitions while workers learn; one of them is killed in between."""
    records = iter([line.encode() for line in lines(1000, seed=11)])
    start = flags(broker.bootstrap, topic)
    sent = 0
    with KafkaProducer(bootstrap_servers=broker.bootstrap) as producer:

        def send(count: int) -> int:
            nonlocal sent
            for _ in range(count):
                producer.send(topic, next(records), partition=(sent // 3) % PARTITIONS)
                sent += 1
            producer.flush()
            return sent

        send(100)
        for killed in (True, False):
            with worker(start, version.name) as process:
                for _ in range(15):
                    least = send(30) - 60
                    wait_for(
                        lambda least=least: version.learned_anything and ledger(version).records > least,
                        process,
                    )
                if killed:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                else:
                    wait_for(lambda: ledger(version).records == 1000, process)


@pytest.mark.slow
def test_rebuild_gives_the_same_bytes_after_kills_over_four_partitions(
    broker: Reachable, new_topic: Callable[..., str], capsys: Captured
) -> None:
    topic = new_topic(partitions=PARTITIONS)
    version = made(topic, learner="softmax")
    learned_under_kills(broker, topic, version)
    kept = everything(version.store_path)
    with version.reading() as store:
        order = [part.partition for part in journal_of(store)]
    assert len(order) > 3 * PARTITIONS and sorted(order) != order  # the partitions took turns
    start = flags(broker.bootstrap, topic)
    report = rebuilt(capsys, start, topic)
    assert (report["equal"], report["different"], report["records"]) == (True, 0, 1000)
    assert report["keys"] == len(kept)
    spoil(version.store_path, b"u")
    assert everything(version.store_path) != kept
    assert rebuilt(capsys, start, topic, "--replace")["different"] == 1
    assert everything(version.store_path) == kept


def test_rebuild_passes_files_transactions_and_what_was_passed_over(
    broker: Reachable, new_topic: Callable[..., str], produce: Produce, capsys: Captured
) -> None:
    topic = new_topic(partitions=2)
    start = flags(broker.bootstrap, topic)
    records = lines(200, seed=12)
    version = made(topic)
    Path("events.jsonl").write_text("".join(line + "\n" for line in records[:50]))
    work(capsys, start, topic, "--from", "events.jsonl")
    moment = int(time.time() * 1000)
    produce(topic, [b"{"] * 7, partition=0, timestamp_ms=moment - 1000)
    produce(topic, [b"{"] * 5, partition=1, timestamp_ms=moment - 1000)  # which has none that is learned
    with KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"tx-{topic}") as producer:
        producer.init_transactions()
        for k, end in enumerate((producer.commit_transaction, producer.abort_transaction) * 2):
            producer.begin_transaction()
            for line in records[50 + 30 * k : 80 + 30 * k]:
                producer.send(topic, line.encode(), partition=0, timestamp_ms=moment)
            producer.flush()
            end()
            if k == 1:
                work(capsys, start, topic, "--start", str(moment))
    work(capsys, start, topic, "--set", "events.max_id_bytes=64")  # other rules for the rest
    skipped = [source.skipped for source in ledger(version).sources]
    assert skipped == [0, 7, 5]
    report = rebuilt(capsys, start, topic, "--set", "worker.batch_events=7")
    assert (report["different"], report["records"]) == (0, ledger(version).records)
    assert ledger(version).number == 45 + 27 * 2  # one line in ten is no event


def test_rebuild_names_the_snapshot_where_retention_has_passed_the_beginning(
    broker: Reachable, topic: str, produce: Produce, capsys: Captured, admin: KafkaAdminClient
) -> None:
    start = flags(broker.bootstrap, topic)
    version = made(topic)
    produce(topic, [line.encode() for line in lines(100, seed=13)])
    work(capsys, start, topic)
    admin.delete_records({TopicPartition(topic, 0): 40})
    told = refusal(capsys, start, topic)
    assert f"{topic}[0]@0: retention has passed this record" in told
    assert "begins at 40" in told and "--from-snapshot NUMBER" in told
    number = snapshot(version)
    assert f"--from-snapshot {number}" in refusal(capsys, start, topic)
    produce(topic, [line.encode() for line in lines(100, seed=13, start=100)])
    work(capsys, start, topic)
    report = rebuilt(capsys, start, topic, "--from-snapshot", str(number))
    assert (report["different"], report["records"]) == (0, 100)


def test_rebuild_of_a_topic_made_anew_begins_with_a_snapshot(
    broker: Reachable, topic: str, produce: Produce, capsys: Captured, admin: KafkaAdminClient
) -> None:
    start = flags(broker.bootstrap, topic)
    version = made(topic)
    produce(topic, [line.encode() for line in lines(50, seed=14)])
    work(capsys, start, topic)
    number = snapshot(version)
    anew(admin, topic)
    produce(topic, [line.encode() for line in lines(50, seed=15)])
    assert "the topic was deleted and made anew" in refusal(capsys, start, topic)
    work(capsys, start, topic, "--on-lost-offsets", "earliest")
    assert "the log lost records that were learned" in refusal(capsys, start, topic)
    assert rebuilt(capsys, start, topic, "--from-snapshot", str(number))["different"] == 0


def test_rebuild_without_a_kafka_in_the_settings_asks_for_it(
    broker: Reachable, topic: str, produce: Produce, capsys: Captured
) -> None:
    made(topic)
    produce(topic, [line.encode() for line in lines(20, seed=16)])
    work(capsys, flags(broker.bootstrap, topic), topic)
    capsys.readouterr()
    assert main(["versions", "rebuild", topic]) == 2
    assert "kafka.bootstrap_servers must name its Kafka" in " ".join(capsys.readouterr().err.split())
