"""`freshet lag` shows positions from the stores, ends from Kafka, and what lies between."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from consumers.cli import main
from state.ledger import Ledger
from state.versions import Registry, Version
from tests.consumers.worked import append, learn, lines, made


def stand(version: Version, positions: dict[str, int]) -> None:
    """Commit a ledger that stands at these positions."""
    with version.open() as store:
        ledger = Ledger.read(store)
        for name, position in positions.items():
            number = ledger.partition(name)
            ledger.record(number, 0, position)
            ledger.sources[number].token = "6e5f@0"
        store.write(list(ledger.puts()), [])


@pytest.fixture
def lag(broker: Any, tmp_path: Path, capsys: Any) -> Any:
    def run(*words: str) -> list[dict[str, Any]]:
        options = ["--home", str(tmp_path), "--set", f"kafka.bootstrap_servers={broker.bootstrap}"]
        capsys.readouterr()
        assert main(["lag", *words, "--json", *options]) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found

    return run


def test_lag_has_each_version_and_partition_with_records_and_time_behind(
    new_topic: Any, produce: Any, lag: Any, tmp_path: Path
) -> None:
    topic = new_topic(3, {"retention.ms": "-1"})
    old, newer = int((time.time() - 100) * 1e3), int((time.time() - 10) * 1e3)
    produce(topic, [b"a", b"b"], timestamp_ms=old)
    produce(topic, [b"c", b"d", b"e"], timestamp_ms=newer)
    produce(topic, [b"f"], partition=1)
    stand(made(tmp_path, name="one"), {f"{topic}[0]": 2, f"{topic}[1]": 1})
    stand(made(tmp_path, name="two"), {f"{topic}[0]": 9, f"{topic}#2[0]": 1})
    made(tmp_path, name="none")
    found = {(row["version"], row["source"]): row for row in lag()}
    shown = {key: (row["position"], row["end"], row["behind"], row["lost"]) for key, row in found.items()}
    assert shown == {
        ("one", f"{topic}[0]"): (2, 5, 3, 0),
        ("one", f"{topic}[1]"): (1, 1, 0, 0),
        ("one", f"{topic}[2]"): (None, 0, 0, 0),
        ("two", f"{topic}#2[0]"): (1, 5, 4, 0),
        ("two", f"{topic}[1]"): (None, 1, 1, 0),
        ("two", f"{topic}[2]"): (None, 0, 0, 0),
    }
    assert found["one", f"{topic}[1]"]["time_behind_s"] == 0
    assert 10 <= found["one", f"{topic}[0]"]["time_behind_s"] < 60
    assert 100 <= found["two", f"{topic}#2[0]"]["time_behind_s"] < 160
    assert {row["version"] for row in lag("two")} == {"two"}


def test_lag_is_read_while_another_process_holds_the_store(
    new_topic: Any, produce: Any, lag: Any, tmp_path: Path
) -> None:
    topic = new_topic(1)
    produce(topic, [b"a", b"b"])
    version = made(tmp_path)
    stand(version, {f"{topic}[0]": 1})
    with version.open():
        (row,) = lag("mine")
    assert (row["position"], row["behind"]) == (1, 1)


def test_records_deleted_before_they_were_learned_are_lost(
    admin: Any, new_topic: Any, produce: Any, lag: Any, tmp_path: Path
) -> None:
    from kafka import TopicPartition

    topic = new_topic(1)
    produce(topic, [b"x"] * 5)
    admin.delete_records({TopicPartition(topic, 0): 4})
    stand(made(tmp_path), {f"{topic}[0]": 1})
    (row,) = lag()
    assert (row["first"], row["behind"], row["lost"]) == (4, 1, 3)


def test_topic_that_is_gone_and_files_have_positions_only(lag: Any, tmp_path: Path) -> None:
    version = made(tmp_path)
    path = append(tmp_path / "a.jsonl", lines(20, seed=1))
    learn(version, path)
    stand(version, {"gone-topic[0]": 7})
    rows = {row["source"]: row for row in lag()}
    assert rows[str(path)]["position"] == 20 and rows["gone-topic[0]"]["position"] == 7
    assert all(row["end"] is None and row["behind"] is None for row in rows.values())


def test_lag_without_a_kafka_shows_positions(tmp_path: Path, capsys: Any) -> None:
    assert main(["lag", "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "nothing was learned yet\n"
    stand(made(tmp_path), {"events[0]": 7})
    assert main(["lag", "--home", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["position"] == 7
    assert Registry(tmp_path).names() == ["mine"]
