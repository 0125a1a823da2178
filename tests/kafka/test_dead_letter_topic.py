"""The dead letter topic keeps each bad record whole, lists it once, and sends it again once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
import structlog
from kafka.admin import ConfigResource, ConfigResourceType

from consumers.broker import Broker
from consumers.cli import main
from consumers.dead_letter_topic import KafkaDeadLetters
from consumers.dead_letters import DeadLetter
from consumers.dead_letters_waiting import PatientLetters
from streaming.errors import BrokerError
from streaming.events import BadRecord
from tests.consumers.worked import made
from tests.kafka.conftest import WAIT_S
from tests.kafka.test_producing import stored


@pytest.fixture
def topic(new_topic: Callable[..., str]) -> str:
    """A topic of two partitions."""
    return new_topic(2)


@pytest.fixture
def letters(broker: Any, topic: str) -> Iterator[KafkaDeadLetters]:
    log = KafkaDeadLetters(topic, "mine", {"bootstrap_servers": broker.bootstrap})
    yield log
    log.close()


def test_bad_record_stands_there_with_its_bytes_and_where_it_stood(
    broker: Any, topic: str, letters: KafkaDeadLetters
) -> None:
    assert list(letters.read()) == []
    whole = b"\xff" * 1_500
    letters.append(f"{topic}[1]", BadRecord(3, "not JSON: é", whole[:1000], 1_500, whole=whole, key=b"u"))
    letters.append(f"{topic}#2[0]", BadRecord(4, "r", b"plain"))
    letters.append(f"{topic}[0]", BadRecord(5, "cut", b"x" * 1_000, 9_999))
    letters.sync()
    records = {
        record.headers[2][1]: record
        for part in stored(broker.bootstrap, letters.topic).values()
        for record in part
    }
    assert (records[b"3"].value, records[b"3"].key) == (whole, b"u")
    assert dict(records[b"3"].headers) == {
        "freshet-topic": topic.encode(),
        "freshet-partition": b"1",
        "freshet-offset": b"3",
        "freshet-source": f"{topic}[1]".encode(),
        "freshet-reason": "not JSON: é".encode(),
        "freshet-version": b"mine",
    }
    assert dict(records[b"4"].headers)["freshet-topic"] == topic.encode()
    found = {letter.offset: letter for letter in letters.read()}
    assert found == {
        3: DeadLetter(f"{topic}[1]", 3, "not JSON: é", "\\xff" * 1_500),
        4: DeadLetter(f"{topic}#2[0]", 4, "r", "plain"),
        5: DeadLetter(f"{topic}[0]", 5, "cut", "x" * 1_000, length=9_999),
    }


def test_record_written_twice_or_by_another_version_is_listed_once(
    broker: Any, topic: str, letters: KafkaDeadLetters
) -> None:
    other = KafkaDeadLetters(topic, "other", {"bootstrap_servers": broker.bootstrap})
    for log in (letters, letters, other):
        log.append(f"{topic}[0]", BadRecord(1, "r", b"a", key=b"k"))
        log.sync()
    other.close()
    assert sum(map(len, stored(broker.bootstrap, letters.topic).values())) == 3
    assert [letter.offset for letter in letters.read()] == [1]
    assert [letter.offset for letter in other.read()] == [1]


def test_record_too_large_for_the_topic_is_cut_and_its_length_kept(
    broker: Any, admin: Any, topic: str, letters: KafkaDeadLetters, capsys: Any
) -> None:
    admin.create_topics({letters.topic: {"configs": {"max.message.bytes": "5000"}}}, wait_for_metadata=True)
    letters.append(f"{topic}[0]", BadRecord(1, "r", b"y", whole=b"y" * 50_000))
    letters.append(f"{topic}[0]", BadRecord(2, "r", b"z"))
    letters.sync()
    assert "".join(capsys.readouterr()).count("dead_letter_cut") == 1
    found = {letter.offset: (len(letter.raw), letter.length) for letter in letters.read()}
    assert found == {1: (1_000, 50_000), 2: (1, None)}


def test_topic_made_for_a_topic_of_large_records_takes_them_whole(broker: Any, new_topic: Any) -> None:
    topic = new_topic(1, {"max.message.bytes": "6000000"})
    letters = KafkaDeadLetters(topic, "mine", {"bootstrap_servers": broker.bootstrap})
    letters.append(f"{topic}[0]", BadRecord(1, "r", b"y", whole=b"y" * 5_500_000))
    letters.close()
    assert [len(letter.raw) for letter in letters.read()] == [5_500_000]


def test_records_that_were_not_taken_are_kept_and_taken_by_the_next_sync(
    broker: Any, admin: Any, topic: str, letters: KafkaDeadLetters
) -> None:
    limits = {"max.message.bytes": "500"}
    admin.create_topics({letters.topic: {"configs": limits}}, wait_for_metadata=True)
    letters.append(f"{topic}[0]", BadRecord(1, "r", b"a"))
    letters.sync()
    for offset in (2, 3):
        letters.append(f"{topic}[0]", BadRecord(offset, "r", b"b" * 900))
    with pytest.raises(BrokerError, match="2 bad records were not taken"):
        letters.sync()
    admin.reset_configs([ConfigResource(ConfigResourceType.TOPIC, letters.topic, limits)])
    taken, until = False, time.monotonic() + WAIT_S
    while not taken:  # the broker follows its settings a moment later
        try:
            letters.sync()
            taken = True
        except BrokerError:
            assert time.monotonic() < until
    assert sorted(letter.offset for letter in letters.read()) == [1, 2, 3]


def test_kafka_out_of_reach_is_an_error(topic: str) -> None:
    unreachable = {"bootstrap_servers": "127.0.0.1:1", "bootstrap_timeout_ms": 300}
    letters = KafkaDeadLetters(topic, "mine", unreachable)
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:1"):
        letters.append(f"{topic}[0]", BadRecord(1, "r", b"a"))
    letters.close()


def test_retry_sends_each_record_once_to_its_partition_and_says_so(
    broker: Any, topic: str, letters: KafkaDeadLetters, tmp_path: Path, capsys: Any
) -> None:
    made(tmp_path)
    for offset in (7, 8):
        letters.append(f"{topic}[1]", BadRecord(offset, "r", b"v%d" % offset, key=b"u"))
    letters.append(f"{topic}[1]", BadRecord(7, "r", b"v7", key=b"u"))
    letters.sync()
    options = ["--home", str(tmp_path), "--set", f"kafka.bootstrap_servers={broker.bootstrap}"]
    options += ["--set", f"events.topic={topic}"]
    capsys.readouterr()
    assert main(["dead-letters", "list", "mine", "--json", *options]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(each["source"], each["offset"]) for each in listed] == [(f"{topic}[1]", 7), (f"{topic}[1]", 8)]
    assert main(["dead-letters", "show", "mine", f"{topic}[1]", "7", *options]) == 0
    assert capsys.readouterr().out == "v7\n"
    for source in ([f"{topic}[1]", "8"], [], []):
        assert main(["dead-letters", "retry", "mine", *source, *options]) == 0
    again = stored(broker.bootstrap, topic)
    assert [(record.value, record.key) for record in again[1]] == [
        (b"v8", b"u"),
        (b"v7", b"u"),
    ] and not again[0]
    assert again[1][0].headers == [("freshet-retried", f"{topic}[1]@8".encode())]
    assert all(letter.retried for letter in letters.read()) and len(list(letters.read())) == 2


def test_retry_that_was_killed_is_not_seen_and_goes_on(
    broker: Any, topic: str, letters: KafkaDeadLetters, tmp_path: Path
) -> None:
    letters.append(f"{topic}[0]", BadRecord(7, "r", b"v7", key=b"u"))
    letters.sync()
    code = f"""
import os, signal
from kafka import KafkaProducer
from consumers.dead_letter_topic import KafkaDeadLetters
KafkaProducer.commit_transaction = lambda self: os.kill(os.getpid(), signal.SIGKILL)
letters = KafkaDeadLetters({topic!r}, "mine", {{"bootstrap_servers": {broker.bootstrap!r}}})
letters.retry(list(letters.letters()), lambda done: None)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert letters.retry([one for one in letters.letters() if not one.letter.retried], lambda done: None) == 1
    assert [letter.retried for letter in letters.read()] == [True]
    committed = stored(broker.bootstrap, topic, isolation_level="read_committed")
    assert [record.value for record in committed[0]] == [b"v7"]


def test_worker_waits_for_a_kafka_that_does_not_answer_until_it_is_told_to_stop() -> None:
    stop = Flag()
    with Broker() as broker, structlog.testing.capture_logs() as told:
        plain = KafkaDeadLetters("events", "mine", {"bootstrap_servers": broker.bootstrap})
        letters = PatientLetters(plain, stop, answer_s=0.3)
        letters.append("events[0]", BadRecord(1, "r", b"a"))
        letters.sync()
        broker.suspend()
        letters.append("events[0]", BadRecord(2, "r", b"b"))
        waiting = Thread(target=letters.sync)
        waiting.start()
        until = time.monotonic() + WAIT_S
        while "dead_letters_wait" not in [entry["event"] for entry in told]:
            assert time.monotonic() < until, told
            time.sleep(0.02)
        assert waiting.is_alive()
        broker.resume()
        waiting.join(WAIT_S)
        assert not waiting.is_alive()
        assert told[-1]["event"] == "dead_letters_taken_again"
        assert [letter.offset for letter in letters.read()] == [1, 2]
        broker.suspend()
        letters.append("events[0]", BadRecord(3, "r", b"c"))
        stop.set()
        for leave in (letters.sync, letters.close):
            with pytest.raises(BrokerError, match="bad records were not taken"):
                leave()
        broker.resume()
