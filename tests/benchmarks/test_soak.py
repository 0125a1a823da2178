"""Parts of the soak: its stream, and how growth is told from warming up."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.soak import ITEMS, USERS, Stream, growth, resident


def test_stream_writes_events_of_a_fixed_crowd(tmp_path: Path) -> None:
    lines = Stream(tmp_path / "events.jsonl", 1000.0)._lines(2000)
    events = [json.loads(line) for line in lines]
    assert len(events) == 2000
    assert {event["user"] for event in events} <= {f"user-{k}" for k in range(USERS)}
    assert {event["item"] for event in events} <= {f"item-{k}" for k in range(ITEMS)}


def test_growth_leaves_the_warming_up_out_and_sees_a_leak() -> None:
    assert growth([1.0, 5.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]) == 0.0
    assert growth([float(k) for k in range(8, 16)]) == pytest.approx(14.5 / 10.5 - 1.0)


def test_memory_of_a_process_is_that_which_the_system_counts() -> None:
    assert resident(os.getpid()) > 10_000_000
