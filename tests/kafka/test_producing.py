"""A replay keys by user as Kafka does, keeps order, and goes on after a kill without a gap or a double."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.partitioner.default import murmur2

from consumers.cli import main
from consumers.file_records import FileRecords, spans
from consumers.producing import HEADER, partitions_of
from streaming.rules import EventRules
from tests.kafka.conftest import WAIT_S, add_partitions

TS = 1_700_000_000
# The command line, killed as soon as a thousand records are acknowledged, with others under way.
KILLED = """
import os, signal
from consumers import cli, producing

def send(self, *given, plain=producing.KeyedProducer.send):
    plain(self, *given)
    if self.sent >= 1_000:
        os.kill(os.getpid(), signal.SIGKILL)

producing.KeyedProducer.send = send
cli.main()
"""


def stored(bootstrap: str, topic: str, **settings: Any) -> dict[int, list[Any]]:
    """All records of a topic by partition."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **settings)
    try:
        places = [TopicPartition(topic, k) for k in sorted(consumer.partitions_for_topic(topic) or ())]
        found: dict[int, list[Any]] = {place.partition: [] for place in places}
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        while any(consumer.position(place) < ends[place] for place in places):
            for place, records in consumer.poll(timeout_ms=500).items():
                found[place.partition] += records
        return found
    finally:
        consumer.close()


def events(path: Path, n: int, ts: int = TS) -> Path:
    """JSON lines, each with a field of its own that says its number."""
    rows = ({"user": f"u{k * 7919 % 101}", "item": f"i{k % 13}", "ts": ts + k, "n": k} for k in range(n))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbers(found: dict[int, list[Any]]) -> list[int]:
    return sorted(json.loads(record.value)["n"] for records in found.values() for record in records)


@pytest.fixture
def replay(broker: Any, tmp_path: Path) -> Callable[..., int]:
    def run(*words: str) -> int:
        options = ["--home", str(tmp_path / "home"), "--set", f"kafka.bootstrap_servers={broker.bootstrap}"]
        return main(["replay", *words, *options])

    return run


def test_partition_is_that_of_kafkas_own_partitioner_for_any_key() -> None:
    random = np.random.default_rng(0)
    keys = [random.bytes(length) for length in range(50) for _ in range(8)]
    for count in (1, 2, 3, 7, 100):
        expected = [(murmur2(key) & 0x7FFFFFFF) % count for key in keys]
        assert partitions_of(spans(keys), count).tolist() == expected


def test_replay_sends_each_line_as_it_is_keyed_timed_and_in_order(
    broker: Any, new_topic: Callable[..., str], replay: Callable[..., int], tmp_path: Path
) -> None:
    topic = new_topic(3, {"retention.ms": "-1"})
    path = events(tmp_path / "a.jsonl", 500)
    assert replay(str(path), "--to", "kafka", "--topic", topic, "--json") == 0
    found = stored(broker.bootstrap, topic)
    values = [record.value for records in found.values() for record in records]
    assert sorted(values) == sorted(path.read_bytes().splitlines())
    assert all(found.values())
    for partition, records in found.items():
        rows = [json.loads(record.value) for record in records]
        assert [row["n"] for row in rows] == sorted(row["n"] for row in rows)
        for record, row in zip(records, rows, strict=True):
            assert record.key == row["user"].encode()
            assert (murmur2(record.key) & 0x7FFFFFFF) % 3 == partition
            assert record.timestamp == row["ts"] * 1000


def test_replay_again_sends_nothing_until_the_file_grows(
    broker: Any, new_topic: Callable[..., str], replay: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    topic = new_topic(2, {"retention.ms": "-1"})
    path = events(tmp_path / "a.jsonl", 100)
    words = [str(path), "--topic", topic, "--json"]
    sent = []
    for n in (100, 100, 150):
        events(path, n)
        assert replay(*words) == 0
        sent.append(json.loads(capsys.readouterr().out)["sent"])
    assert sent == [100, 0, 50]
    assert numbers(stored(broker.bootstrap, topic)) == list(range(150))
    assert replay(*words, "--again") == 0
    assert len(numbers(stored(broker.bootstrap, topic))) == 300


def test_replay_that_was_killed_goes_on_without_gap_or_double_among_other_records(
    broker: Any, new_topic: Any, produce: Any, replay: Callable[..., int], tmp_path: Path
) -> None:
    topic = new_topic(4, {"retention.ms": "-1"})
    path = events(tmp_path / "a.jsonl", 6_000)
    words = [str(path), "--topic", topic, "--home", str(tmp_path / "home")]
    words += ["--set", f"kafka.bootstrap_servers={broker.bootstrap}"]
    process = subprocess.run([sys.executable, "-c", KILLED, "replay", *words, "--speed", "3000x"])
    assert process.returncode == -signal.SIGKILL
    cut = numbers(stored(broker.bootstrap, topic))
    assert 1_000 <= len(cut) < 6_000
    produce(topic, [b'{"n": -1}'] * 1_500, partition=2)
    assert replay(*words[:3]) == 0
    found = numbers(stored(broker.bootstrap, topic))
    assert found == [-1] * 1_500 + list(range(6_000))


def test_record_that_kafka_refuses_is_named_and_sent_by_the_next_run(
    broker: Any, admin: Any, new_topic: Any, replay: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    topic = new_topic(1, {"retention.ms": "-1", "max.message.bytes": "20000"})
    path = events(tmp_path / "a.jsonl", 50)
    lines = path.read_text().splitlines()
    noise = np.random.default_rng(0).bytes(30_000).hex()
    lines[20] = lines[20][:-1] + f', "noise": "{noise}"}}'
    path.write_text("\n".join(lines))
    assert replay(str(path), "--topic", topic) == 1
    assert "the first is number 20" in capsys.readouterr().err
    configs = {"max.message.bytes": "200000"}
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)], incremental=True)
    until = time.monotonic() + WAIT_S
    while replay(str(path), "--topic", topic) != 0:  # the broker follows its settings a moment later
        assert time.monotonic() < until, capsys.readouterr().err
    assert numbers(stored(broker.bootstrap, topic)) == list(range(50))


def test_history_older_than_the_topics_retention_is_refused_unless_stamped_now(
    broker: Any, topic: str, replay: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    path = events(tmp_path / "a.jsonl", 10)
    assert replay(str(path), "--topic", topic) == 2
    assert "--timestamps now" in " ".join(capsys.readouterr().err.split())
    assert replay(str(path), "--topic", topic, "--timestamps", "now") == 0
    times = [record.timestamp / 1e3 for record in stored(broker.bootstrap, topic)[0]]
    assert len(times) == 10 and abs(times[0] - time.time()) < 60


def test_topic_with_more_partitions_than_before_is_refused(
    admin: Any, new_topic: Callable[..., str], replay: Callable[..., int], tmp_path: Path, capsys: Any
) -> None:
    topic = new_topic(1, {"retention.ms": "-1"})
    path = events(tmp_path / "a.jsonl", 10)
    assert replay(str(path), "--topic", topic) == 0
    add_partitions(admin, topic, 2)
    assert replay(str(path), "--topic", topic) == 2
    assert "has 2 partitions, and had 1" in capsys.readouterr().err


def test_speed_keeps_the_events_own_time(
    broker: Any, new_topic: Callable[..., str], replay: Callable[..., int], tmp_path: Path
) -> None:
    topic = new_topic(1, {"retention.ms": "-1", "message.timestamp.type": "LogAppendTime"})
    path = events(tmp_path / "a.jsonl", 100)
    began = time.monotonic()
    assert replay(str(path), "--topic", topic, "--speed", "100x") == 0
    assert time.monotonic() - began >= 0.99
    times = [record.timestamp for record in stored(broker.bootstrap, topic)[0]]
    assert 0.8 <= (times[-1] - times[0]) / 1e3 < 60  # 99 s of events; a busy machine takes its time


def test_csv_and_parquet_rows_become_json_that_reads_as_the_same_events(tmp_path: Path) -> None:
    table = pa.table({
        "user": ["u", "v", None], "item": [7, 8, 9], "ts": [TS, TS + 1, TS + 2],
        "type": ["buy", None, "view"], "value": [4.5, None, 1.0], "other": ["x", "y", "z"],
    })  # fmt: skip
    pa.csv.write_csv(table, tmp_path / "a.csv")
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    for name, items in (("a.csv", ["7", "8"]), ("a.parquet", [7, 8])):
        file = FileRecords(str(tmp_path / name), EventRules())
        (piece,) = list(file)
        file.close()
        assert piece.left_out == 1 and piece.numbers.tolist() == [0, 1]
        assert [json.loads(piece.values[k]) for k in range(2)] == [
            {"user": "u", "item": items[0], "ts": TS, "type": "buy", "value": 4.5},
            {"user": "v", "item": items[1], "ts": TS + 1},
        ]
        assert [piece.users[k] for k in range(2)] == ["u", "v"]
    assert HEADER == "freshet-replay"


def test_simulated_events_go_to_the_topic_at_the_rate_and_go_on_from_there(
    broker: Any, new_topic: Callable[..., str], tmp_path: Path
) -> None:
    topic = new_topic(2)
    words = ["simulate", "--to", "kafka", "--topic", topic, "--seed", "3", "--home", str(tmp_path / "home")]
    words += ["--set", f"kafka.bootstrap_servers={broker.bootstrap}"]
    assert main([*words, "--events", "300"]) == 0
    began = time.monotonic()
    assert main([*words, "--events", "800", "--rate", "1000"]) == 0
    assert time.monotonic() - began >= 0.499
    assert main(["simulate", "--seed", "3", "--events", "800", "--out", str(tmp_path / "a.jsonl")]) == 0
    found = stored(broker.bootstrap, topic)
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    assert sorted(record.value for records in found.values() for record in records) == sorted(lines)
    for partition, records in found.items():
        assert {(murmur2(record.key) & 0x7FFFFFFF) % 2 for record in records} == {partition}
        assert all(abs(record.timestamp / 1e3 - time.time()) < 60 for record in records)
