"""`freshet work` over a real Kafka: what a version learns, and what failures leave of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from prometheus_client import CollectorRegistry

from consumers.broker import Broker
from consumers.cli import main
from state.ledger import Ledger
from state.spec import new_spec
from state.versions import Registry, Version
from tests.consumers.worked import everything, lines
from tests.kafka.conftest import Reachable
from tests.kafka.test_eventlog_kafka import anew

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
Produce = Callable[..., list[int]]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(name: str, home: str = "freshet-home", learner: str = "popularity") -> Version:
    return Registry(Path(home)).create(name, new_spec(learner, {"evaluation_rate": 0.2}))


def flags(bootstrap: str, topic: str) -> list[str]:
    settings = {
        "worker.metrics_port": "none",
        "worker.log_level": "info",
        "worker.commit_interval_min": "20ms",
        "kafka.bootstrap_servers": bootstrap,
        "kafka.metadata_max_age_ms": "300",
        "events.topic": topic,
    }
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def work(capsys: pytest.CaptureFixture[str], start: Sequence[str], name: str, *words: str) -> dict[str, Any]:
    """`freshet work … --until-end --json` in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumers.commands.work.REGISTRY", CollectorRegistry())
        code = main([*start, "work", name, "--until-end", "--json", *words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    report: dict[str, Any] = json.loads(printed.out)
    return report


def refused(capsys: pytest.CaptureFixture[str], start: Sequence[str], name: str, *words: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumers.commands.work.REGISTRY", CollectorRegistry())
        assert main([*start, "work", name, "--until-end", *words]) == 1
    return " ".join(capsys.readouterr().err.split())


@contextmanager
def worker(
    start: Sequence[str], name: str, *words: str, log: str = "worker.log"
) -> Iterator[subprocess.Popen[str]]:
    """`freshet work` as a process of its own, its log in a file; killed at the end if it still runs."""
    freshet = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    with (
        open(log, "a") as told,
        subprocess.Popen(
            [*freshet, *start, "work", name, *words, "--json"],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    until = time.monotonic() + WAIT_S
    while not true():
        ended = process is not None and process.poll() is not None
        assert not ended and time.monotonic() < until, logged()
        time.sleep(0.02)


def logged() -> str:
    """The ends of the logs in the working directory."""
    return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in Path().glob("*.log"))


def group_offset(bootstrap: str, name: str, topic: str) -> Callable[[], int]:
    """How far the version's group says it is: what an ordinary lag tool sees."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=f"freshet.{name}", metrics_enabled=False)

    def offset() -> int:
        return consumer.committed(TopicPartition(topic, 0)) or 0

    return offset


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Stop a worker as an operator would."""
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, logged()
    report: dict[str, Any] = json.loads(out)
    return report


def ledger(version: Version) -> Ledger:
    with version.reading() as store:
        return Ledger.read(store)


def same_but_for_the_source(one: Version, other: Version) -> bool:
    """Whether two stores are equal to the byte, the names and tokens of their sources left out."""
    stores = [everything(version.store_path) for version in (one, other)]
    sources = [{key for key in store if key.startswith(b"o")} for store in stores]
    rest = [{k: v for k, v in store.items() if not k.startswith(b"o")} for store in stores]
    return sources[0] == sources[1] and rest[0] == rest[1]


@pytest.fixture
def start(broker: Reachable, topic: str) -> list[str]:
    return flags(broker.bootstrap, topic)


# -- learning --------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", ["popularity", "softmax"])
def test_topic_is_learned_exactly_as_a_file_of_the_same_records(
    start: list[str], topic: str, produce: Produce, capsys: pytest.CaptureFixture[str], learner: str
) -> None:
    records = lines(300, seed=1)
    Path("events.jsonl").write_text("".join(line + "\n" for line in records))
    by_file, by_kafka = made("by-file", learner=learner), made("by-kafka", learner=learner)
    produce(topic, [line.encode() for line in records[:200]])
    expected = work(capsys, start, "by-file", "--from", "events.jsonl")
    first = work(capsys, start, "by-kafka")  # Kafka is set, so nothing need be said
    produce(topic, [line.encode() for line in records[200:]])
    second = work(capsys, start, "by-kafka", "--from", "kafka")
    assert first["events"] + second["events"] == expected["events"]
    assert second["offsets"] == {f"{topic}[0]": 300}
    assert same_but_for_the_source(by_file, by_kafka)
    assert first["dead_letters"] + second["dead_letters"] == expected["dead_letters"] > 0
    assert by_file.dead_letters_path.exists() and not by_kafka.dead_letters_path.exists()


def test_version_that_learned_files_goes_on_with_kafka(
    start: list[str], topic: str, produce: Produce, capsys: pytest.CaptureFixture[str]
) -> None:
    records = lines(200, seed=2)
    Path("events.jsonl").write_text("".join(line + "\n" for line in records[:100]))
    version = made("mine")
    moment = int(time.time() * 1000)
    produce(topic, [line.encode() for line in records[50:100]], timestamp_ms=moment - 1000)
    produce(topic, [line.encode() for line in records[100:]], timestamp_ms=moment)
    first = work(capsys, start, "mine", "--from", "events.jsonl")
    second = work(capsys, start, "mine", "--start", str(moment))
    assert (first["events"] + second["events"], second["offsets"][f"{topic}[0]"]) == (180, 150)
    source = ledger(version).sources[1]
    assert (source.name, source.skipped) == (f"{topic}[0]", 50)
    assert main([*start, "versions", "verify", "mine"]) == 0


def test_start_without_a_zone_is_refused(start: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    made("mine")
    assert main([*start, "work", "mine", "--start", "2026-11-24T12:00:00"]) == 2
    assert "--start must be earliest, latest, or a time with its zone" in capsys.readouterr().err


def test_version_of_another_store_is_refused_by_the_group(
    start: list[str], topic: str, produce: Produce, capsys: pytest.CaptureFixture[str]
) -> None:
    produce(topic, [line.encode() for line in lines(20, seed=3)])
    made(topic)
    made(topic, home="other-machine")
    work(capsys, start, topic)
    other = [*start, "--home", "other-machine"]
    assert "another store learns this version" in refused(capsys, other, topic)
    assert work(capsys, other, topic, "--take-over")["events"] == 18
    assert "another store learns this version" in refused(capsys, start, topic)


# -- failures --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_while_records_arrive_leave_no_trace(
    broker: Reachable, start: list[str], topic: str, produce: Produce, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [line.encode() for line in lines(450, seed=4)]
    killed, whole = made(f"killed-{topic}"), made(f"whole-{topic}")
    offset = group_offset(broker.bootstrap, killed.name, topic)
    for k in range(2):
        with worker(start, killed.name) as process:
            for part in range(k * 150, k * 150 + 150, 30):
                produce(topic, records[part : part + 30])
            before = 150 * k
            wait_for(lambda least=before: offset() > least, process)
            process.send_signal(signal.SIGKILL)
    produce(topic, records[300:])
    work(capsys, start, killed.name)
    work(capsys, start, whole.name)
    assert everything(killed.store_path) == everything(whole.store_path)
    assert ledger(killed).sources[0].next_offset == 450


@pytest.mark.slow
def test_second_worker_waits_and_takes_over(
    broker: Reachable, start: list[str], topic: str, produce: Produce
) -> None:
    records = [line.encode() for line in lines(90, seed=5)]
    version = made(topic)
    offset = group_offset(broker.bootstrap, version.name, topic)
    with worker(start, topic) as first:
        produce(topic, records[:30])
        wait_for(lambda: offset() == 30, first)
        with worker(start, topic, log="second.log") as second:
            wait_for(lambda: "standby" in Path("second.log").read_text(), second)
            first.send_signal(signal.SIGSTOP)
            produce(topic, records[30:60])
            time.sleep(1.0)
            assert offset() == 30 and "taking_over" not in Path("second.log").read_text()
            first.send_signal(signal.SIGCONT)
            wait_for(lambda: offset() == 60, first)
            first.send_signal(signal.SIGKILL)
            produce(topic, records[60:])
            wait_for(lambda: offset() == 90, second)
            assert ended(second)["offsets"] == {f"{topic}[0]": 90}
    assert (ledger(version).number, ledger(version).bad) == (81, 6)


def test_standby_ends_when_it_is_told_to(start: list[str], topic: str) -> None:
    version = made("mine")
    with version.open(), worker(start, "mine", log="standby.log") as standby:
        wait_for(lambda: "standby" in Path("standby.log").read_text(), standby)
        standby.send_signal(signal.SIGTERM)
        assert standby.wait(WAIT_S) == 0


def test_topic_made_anew_stops_the_worker_until_it_is_told_what_to_do(
    start: list[str], topic: str, produce: Produce, capsys: pytest.CaptureFixture[str], admin: Any
) -> None:
    produce(topic, [line.encode() for line in lines(20, seed=6)])
    version = made("mine")
    work(capsys, start, "mine")
    kept = everything(version.store_path)
    anew(admin, topic)
    produce(topic, [line.encode() for line in lines(40, seed=7)])
    assert "--on-lost-offsets earliest" in refused(capsys, start, "mine")
    assert everything(version.store_path) == kept
    report = work(capsys, start, "mine", "--on-lost-offsets", "earliest")
    assert (report["events"], report["offsets"]) == (36, {f"{topic}[0]": 20, f"{topic}#2[0]": 40})
    assert main([*start, "versions", "verify", "mine"]) == 0


@pytest.mark.slow
def test_worker_goes_on_after_a_restart_of_the_broker() -> None:
    records = [line.encode() for line in lines(60, seed=8)]
    with Broker() as broker:

        def write(values: list[bytes]) -> None:
            with KafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
                for value in values:
                    producer.send("events", value, partition=0)
                producer.flush()

        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.create_topics({"events": {"num_partitions": 1}}, wait_for_metadata=True)
        admin.close()
        version = made("mine")
        write(records[:30])
        with worker(flags(broker.bootstrap, "events"), "mine") as process:
            wait_for(lambda: version.learned_anything and ledger(version).records == 30, process)
            broker.kill()
            wait_for(lambda: "kafka_unreachable" in Path("worker.log").read_text(), process)
            broker.start()
            write(records[30:])
            wait_for(lambda: ledger(version).records == 60, process)
            assert ended(process)["offsets"] == {"events[0]": 60}
        told = Path("worker.log").read_text()
        assert "kafka_reached_again" in told
        assert "KafkaTCPTransport" not in told  # kafka-python's own words are for the debug log
    assert (ledger(version).number, ledger(version).bad) == (54, 4)


def test_user_in_two_partitions_is_told_once_counted_and_learned_all_the_same(
    broker: Reachable, new_topic: Callable[..., str], produce: Produce
) -> None:
    topic = new_topic(partitions=2)
    start = flags(broker.bootstrap, topic)
    version = made(topic)

    def events(user: str, first: int) -> list[bytes]:
        return [
            json.dumps({"user": user, "item": "i", "ts": 1_700_000_000 + k}).encode()
            for k in range(first, first + 5)
        ]

    for partition, users in ((0, "ab"), (1, "bc")):  # b is in both
        for user in users:
            produce(topic, events(user, 10 * partition), partition=partition)
    registry = CollectorRegistry()
    with pytest.MonkeyPatch.context() as patch, structlog.testing.capture_logs() as told:
        patch.setattr("consumers.commands.work.REGISTRY", registry)
        patch.setattr("consumers.cli._prepare", lambda command: None)  # it would set logs up anew
        assert main([*start, "work", topic, "--until-end"]) == 0
    names = [entry["event"] for entry in told]
    assert names.count("user_in_two_partitions") == 1
    counted = registry.get_sample_value("freshet_events_from_another_partition_total", {"version": topic})
    assert counted == 5  # those of b in the partition that was read second
    assert ledger(version).learned == 20
