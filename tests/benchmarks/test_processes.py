"""What is read off a worker's log: when which events were durable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.freshness import waited
from benchmarks.processes import Commit, commits, committed, write_lines
from benchmarks.restart import free_port, learned


def test_commits_are_read_off_a_workers_log_that_is_being_written(tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    assert committed(log) == 0
    rows = [
        {"event": "metrics_served", "timestamp": "2026-11-24T12:00:00.000000Z"},
        {"event": "batch_committed", "events": 7, "timestamp": "2026-11-24T12:00:00.500000Z"},
        {"event": "batch_committed", "events": 9, "timestamp": "2026-11-24T12:00:01.000000Z"},
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"event": "batch_committed", "ev')
    found = commits(log)
    assert [commit.events for commit in found] == [7, 9]
    assert found[1].at_s - found[0].at_s == pytest.approx(0.5)
    assert committed(log) == 9


def test_record_waits_for_the_first_commit_that_holds_it() -> None:
    found = [Commit(10.0, 2), Commit(11.0, 3), Commit(14.0, 6)]
    produced = np.array([9.5, 10.5, 12.0])  # of the records at offsets 1 to 3
    assert waited(produced, 1, found).tolist() == [0.5, 0.5, 2.0]


def test_worker_that_is_not_there_yet_has_learned_nothing() -> None:
    assert not learned(free_port())


def test_lines_are_events(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", ["u"], ["i"], [1_700_000_000_000])
    assert json.loads(path.read_text()) == {
        "user": "u", "item": "i", "ts": 1_700_000_000_000, "type": "click", "value": 1.0
    }  # fmt: skip
