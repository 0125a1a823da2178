from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from consumers.cli import main
from consumers.machine_metrics import announced
from consumers.metrics import VersionMetrics, WorkerMetrics, serve_metrics
from consumers.watch import Watch


class Page:
    """The metrics page of a worker of version "a", served for real."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.families = WorkerMetrics(self.registry)
        self.metrics: VersionMetrics = self.families.of("a")
        self.address = f"127.0.0.1:{serve_metrics(self.registry, 0)}"


def row(watch: Watch) -> dict[str, Any]:
    watch.look()
    (only,) = watch.picture()
    return only


def test_figures_are_those_of_the_page_and_rates_those_between_two_readings() -> None:
    page = Page()
    watch = Watch({"work-a": page.address})
    page.metrics.observe_turn()
    page.metrics.observe_lag({0: 5, 1: 7})
    assert row(watch)["events_per_second"] is None
    page.metrics.observe_turn()
    page.metrics.observe_batch(events=500, steps={}, bad={"user": 2})
    page.families.version_bad.labels("a").set(2)
    page.metrics.observe_commit(seconds=0.1, arrived=[99.5], now=100.0)
    now = row(watch)
    assert now["state"] == "well"
    assert (now["version"], now["lag"], now["dead_letters"]) == ("a", 12, 2)
    assert now["events_per_second"] > 0
    assert now["freshness_p99_seconds"] == 0.5


def test_worker_whose_loop_stands_still_is_not_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumers.watch.STUCK_S", 0.0)
    page = Page()
    watch = Watch({"work-a": page.address})
    page.metrics.observe_turn()
    watch.look()
    assert "stand still" in row(watch)["state"]


def test_clock_that_was_set_back_lag_that_is_unknown_and_a_replay_are_told() -> None:
    page = Page()
    watch = Watch({"work-a": page.address})
    assert row(watch)["state"] == "starting"
    page.metrics.observe_turn(wall=time.time() - 3600)
    assert "clock" in row(watch)["state"]
    page.metrics.observe_turn(wall=time.time())
    page.metrics.observe_lag({0: None})
    assert "Kafka is out of reach" in row(watch)["state"]
    page.metrics.observe_lag({0: 1_000_000})
    page.metrics.observe_batch(events=10, steps={})
    assert "replaying" in row(watch)["state"]


def test_counter_that_fell_gives_no_negative_rate() -> None:
    first, second = Page(), Page()
    first.metrics.observe_batch(events=1000, steps={})
    second.metrics.observe_batch(events=10, steps={})
    watch = Watch({"work-a": first.address})
    watch.look()
    watch.addresses["work-a"] = second.address  # the process began anew
    assert row(watch)["events_per_second"] > 0


def test_address_that_does_not_answer_is_said_beside_those_that_do() -> None:
    server, thread = start_http_server(0, "127.0.0.1", CollectorRegistry())
    dead = f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
    page = Page()
    page.metrics.observe_turn()
    watch = Watch({"dead": dead, "work-a": page.address})
    watch.look()
    states = {one["process"]: one["state"] for one in watch.picture()}
    assert "does not answer" in states["dead"]
    assert states["work-a"] == "well"


def test_command_finds_the_processes_of_the_home(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path), "watch"]) == 2
    assert "freshet work VERSION" in capsys.readouterr().err
    page = Page()
    page.metrics.observe_turn()
    with announced(tmp_path, "work-a", page.address):
        assert main(["--home", str(tmp_path), "watch", "--json"]) == 0
    (only,) = json.loads(capsys.readouterr().out)
    assert only["process"] == "work-a"
    assert only["state"] == "well"
