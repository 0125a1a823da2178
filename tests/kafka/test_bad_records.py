"""Bad records of a topic, through the real commands: set aside whole, listed once, sent again once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.cli import main
from consumers.dead_letter_topic import dead_letter_topic
from tests.consumers.worked import lines
from tests.kafka.conftest import Reachable
from tests.kafka.test_producing import stored
from tests.kafka.test_work_kafka import flags, ledger, made, refused, work

Produce = Callable[..., list[int]]
LONG = b'{"user": "u1", "item": [], "ts": 1700000000, "note": "' + b"x" * 1_500 + b'"}'
BAD = [b'{"user": "u1", "ts": 1700000000}', b"\xff\x00", LONG]
KEYS = [b"u1", None, b"k\xff"]
GOOD = [line.encode() for line in lines(9, seed=21)]


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def start(broker: Reachable, topic: str, produce: Produce) -> list[str]:
    """Flags for a topic that holds good records, three at a time, and between them one bad one and two."""
    values = [*GOOD[:3], BAD[0], *GOOD[3:6], *BAD[1:], *GOOD[6:]]
    keys: list[bytes | None] = [None] * len(values)
    for offset, key in zip((3, 7, 8), KEYS, strict=True):
        keys[offset] = key
    produce(topic, values, keys)
    return flags(broker.bootstrap, topic)


def listed(start: list[str], capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    assert main([*start, "dead-letters", "list", "mine", "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_bad_records_stand_whole_in_the_dead_letter_topic_and_their_neighbours_are_learned(
    broker: Reachable, start: list[str], topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = made("mine")
    report = work(capsys, start, "mine")
    assert (report["events"], report["dead_letters"]) == (9, 3)
    assert report["offsets"] == {f"{topic}[0]": 12}
    assert (ledger(version).learned, ledger(version).bad) == (9, 3)
    assert not version.dead_letters_path.exists()
    found = {
        int(dict(record.headers)["freshet-offset"]): record
        for part in stored(broker.bootstrap, dead_letter_topic(topic)).values()
        for record in part
    }
    assert [found[offset].value for offset in (3, 7, 8)] == BAD
    assert [found[offset].key for offset in (3, 7, 8)] == KEYS
    headers = dict(found[8].headers)
    reason = headers.pop("freshet-reason").decode()
    assert reason.startswith("item ")
    assert headers == {
        "freshet-topic": topic.encode(),
        "freshet-partition": b"0",
        "freshet-offset": b"8",
        "freshet-source": f"{topic}[0]".encode(),
        "freshet-version": b"mine",
    }
    assert [(each["source"], each["offset"]) for each in listed(start, capsys)] == [
        (f"{topic}[0]", offset) for offset in (3, 7, 8)
    ]


def test_record_set_aside_before_a_kill_is_listed_once(
    broker: Reachable, start: list[str], topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = made("mine")
    work(capsys, start, "mine")
    # As after a kill between the dead letters and the commit: they are there, the offsets are not.
    version.store_path.rename("gone")
    version.store_path.mkdir()
    work(capsys, start, "mine")
    assert sum(map(len, stored(broker.bootstrap, dead_letter_topic(topic)).values())) == 6
    assert [each["offset"] for each in listed(start, capsys)] == [3, 7, 8]


def test_retry_after_the_settings_are_mended_is_learned_once(
    start: list[str], topic: str, capsys: pytest.CaptureFixture[str]
) -> None:
    version = made("mine")
    wrong = [*start, "--set", "events.fields.item=thing"]
    first = work(capsys, wrong, "mine")
    refused_first = {each["offset"] for each in listed(start, capsys)}
    assert len(refused_first) == first["dead_letters"] == len(GOOD) + len(BAD)
    sent = []
    for _ in range(2):
        assert main([*start, "dead-letters", "retry", "mine", "--json"]) == 0
        sent.append(json.loads(capsys.readouterr().out)["sent"])
    second = work(capsys, start, "mine")
    assert sent == [len(refused_first), 0]
    assert first["events"] + second["events"] == 9
    assert ledger(version).learned == 9
    again = [each for each in listed(start, capsys) if each["offset"] not in refused_first]
    assert len(again) == len(BAD) and not any("retried" in each for each in again)


def test_stop_at_the_first_bad_record_learns_all_before_it_and_writes_no_topic(
    start: list[str], topic: str, admin: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    version = made("mine")
    told = refused(capsys, [*start, "--set", "events.on_bad_record=stop"], "mine")
    assert f"{topic}[0]@3: item" in told
    assert (ledger(version).learned, ledger(version).sources[0].next_offset) == (3, 3)
    assert dead_letter_topic(topic) not in admin.list_topics()
    assert work(capsys, start, "mine")["events"] == 6


def test_summary_names_the_topic_and_wrong_keys_are_counted(
    start: list[str], topic: str, produce: Produce, capsys: pytest.CaptureFixture[str]
) -> None:
    made("mine")
    produce(topic, GOOD[:2], [b"somebody", b"else"])
    registry = CollectorRegistry()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("consumers.commands.work.REGISTRY", registry)
        assert main([*start, "work", "mine", "--until-end"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"3 bad records set aside:\s+topic\s+{topic}\.dlq", out)
    assert registry.get_sample_value("freshet_key_mismatches_total", {"version": "mine"}) == 2
