from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from consumers.machine_metrics import MachineMetrics, announced, announced_addresses


def test_disk_and_memory_are_read_when_the_page_is_asked_for(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    MachineMetrics(tmp_path / "not-there-yet", registry)
    free = registry.get_sample_value("freshet_disk_free_bytes") or 0
    assert 0 < free <= (registry.get_sample_value("freshet_disk_size_bytes") or 0)


def test_process_that_ends_takes_its_target_away_and_a_killed_one_leaves_it(tmp_path: Path) -> None:
    with announced(tmp_path, "work-a", "127.0.0.1:1"):
        killed = announced(tmp_path, "work-b", "127.0.0.1:2")
        killed.__enter__()
        assert announced_addresses(tmp_path) == {"work-a": "127.0.0.1:1", "work-b": "127.0.0.1:2"}
    assert list(announced_addresses(tmp_path)) == ["work-b"]


def test_process_that_ends_with_an_error_leaves_its_target(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="disk"), announced(tmp_path, "work-a", "127.0.0.1:1"):
        raise OSError("the disk is full")
    assert list(announced_addresses(tmp_path)) == ["work-a"]


def test_next_process_of_a_name_takes_the_place_and_keeps_it(tmp_path: Path) -> None:
    with announced(tmp_path, "work-a", "127.0.0.1:1"):
        other = announced(tmp_path, "work-a", "127.0.0.1:2")
        other.__enter__()
    assert announced_addresses(tmp_path) == {"work-a": "127.0.0.1:2"}
