"""Dashboards are what their description makes, and every query of theirs returns data of a real run."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector

from consumers.embeddings import learn_events
from consumers.exposing import ExposureMetrics
from consumers.machine_metrics import MachineMetrics
from consumers.metrics import STEPS, WorkerMetrics, serve_metrics
from consumers.metrics_page import sample_names
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.server_edge import ServerMetrics
from state.arena import Arena
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec
from streaming.experiments import Design, Experiment
from streaming.simulator import Simulator, SimulatorOptions
from tests.monitoring import answer, prometheus, until
from tests.test_prometheus import ROOT, rules, used

GRAFANA = ROOT / "deploy" / "grafana"


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("make_dashboards", GRAFANA / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def queries() -> list[tuple[str, str]]:
    """(panel, query) of all dashboards, with every version chosen."""
    found = []
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                found.append((f"{path.stem}: {panel['title']}", target["expr"].replace("$version", ".*")))
    return found


def test_dashboards_are_what_their_description_makes() -> None:
    made = generator().files()
    assert {path: path.read_text() for path in made} == made, "run `python deploy/grafana/make.py`"
    assert set(made) == set((GRAFANA / "dashboards").glob("*.json"))


def test_queries_use_only_metrics_that_processes_report() -> None:
    known = sample_names() | {rule["record"] for rule in rules("rules.yml")}
    assert [(panel, used(query) - known) for panel, query in queries() if used(query) - known] == []


class Worked:
    """A worker's registry that goes on as one that learns does, a step at a time."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        families = WorkerMetrics(self.registry)
        ProcessCollector(registry=self.registry)
        MachineMetrics(Path(), self.registry)
        self.metrics = families.of("a")
        self.server, self.exposed = ServerMetrics(self.registry), ExposureMetrics(self.registry)
        experiment = Experiment(Design(), {"a": 0.5, "b": 0.5})
        people = np.arange(400)
        experiment.add(people % 2, (people % 5 == 0).astype(float), np.zeros(400, np.int64))
        OutcomeMetrics(self.registry).show("e", experiment)
        spec = new_spec("bpr", {"dimension": 8, "evaluation_rate": 0.2})
        self.learned = Learned(spec, MemoryStore(), user_cache=None, arena=Arena())
        self.simulator = Simulator(SimulatorOptions(users=200, items=60, sessions=8))

    def step(self) -> None:
        metrics, learned = self.metrics, self.learned
        batch = self.simulator.events(500).to_events()
        learn_events(learned, batch, 0, None, metrics.watching(learned))
        metrics.observe_batch(
            events=500, steps=dict.fromkeys(STEPS, 0.01), bad={"user": 1}, cache_hits=490, cache_misses=10
        )
        learned.commit()
        metrics.observe_commit(seconds=0.01, arrived=[time.time() - 0.2], now=time.time())
        metrics.observe_lag({0: 12})
        summary = learned.prequential.summary()["overall"]
        metrics.observe_prequential({("overall", "recent", 10): summary["hr@10"]}, 1.0)
        metrics.observe_store(rows={"item": learned.items.count}, bytes_by_part={"sst": 1000})
        metrics.observe_turn()
        self.server.observe("/v1/route/{user}", 200, 0.001)
        self.exposed.written.labels("a").inc()


def test_every_query_of_every_panel_returns_data_of_a_real_run(tmp_path: Path) -> None:
    worked = Worked()
    worked.step()
    targets = [f"127.0.0.1:{serve_metrics(worked.registry, 0)}"]
    jobs = [{"job_name": "freshet", "static_configs": [{"targets": targets}]}]
    empty = queries()

    def answered() -> bool:
        worked.step()
        empty[:] = [(panel, query) for panel, query in empty if not answer(base, query)]
        return not empty

    with prometheus(tmp_path, jobs) as base:
        until(answered, "panels with data")
        (learned,) = answer(base, 'max_over_time(freshet_version_events{version="a"}[1m])')
        assert 500 <= float(learned["value"][1]) <= worked.learned.ledger.number
        # Those two would tell the truth of a machine that stalls.
        others = 'alertname!~"FreshetDown|FreshetWorkerStuck"'
        assert answer(base, f'ALERTS{{alertstate="firing", severity="critical", {others}}}') == []
