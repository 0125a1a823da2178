"""A fork of a version that learns from a topic goes on there, and Kafka says how far it is behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.cli import main
from state.versions import Registry
from tests.consumers.worked import everything, lines
from tests.kafka.conftest import Reachable
from tests.kafka.test_work_kafka import bare, flags, made, work

__all__ = ["bare"]  # a fixture of every test here


def test_fork_goes_on_from_the_topic_and_is_ready_once_kafka_says_that_it_has_caught_up(
    broker: Reachable, topic: str, produce: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    start = flags(broker.bootstrap, topic)

    def freshet(*words: str, code: int = 0) -> str:
        assert main([*start, "--set", "versions.ready_behind_time=0", *words]) == code
        printed = capsys.readouterr()
        return printed.out + printed.err

    def shown(name: str, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(freshet(*words, "versions", "show", name, "--json"))
        return found

    produce(topic, [line.encode() for line in lines(50, seed=1)])
    made("a")
    work(capsys, start, "a")
    freshet("versions", "fork", "a", "b")
    produce(topic, [line.encode() for line in lines(100, seed=1, start=50)])
    bound = ("--set", "versions.ready_behind=99")
    waits = shown("b", *bound)
    assert (waits["state"], waits["behind"]) == ("catching up", 100)
    assert "100 records behind" in freshet(*bound, "versions", "promote", "b", code=1)
    assert work(capsys, start, "b")["offsets"] == {f"{topic}[0]": 150} == work(capsys, start, "a")["offsets"]
    freshet(*bound, "versions", "promote", "b")
    assert (shown("b")["state"], shown("b")["behind"]) == ("serving", 0)
    forked = everything(Registry(Path("freshet-home")).get("b").store_path)
    del forked[b"mlineage"]
    assert forked == everything(Registry(Path("freshet-home")).get("a").store_path)
    assert json.loads(freshet("versions", "rebuild", "b", "--json"))["equal"]
    assert main([*flags("127.0.0.1:1", topic), "versions", "list", "--json"]) == 0
    printed = capsys.readouterr()
    assert [row["behind"] for row in json.loads(printed.out)] == [None, None]
    assert "how far versions are behind is not known" in printed.err
