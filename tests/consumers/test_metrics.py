from __future__ import annotations

import json
import math
import socket
import time
import urllib.request

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from consumers.embeddings import learn_events
from consumers.logs import configure_logs
from consumers.metrics import PORTS, SERIES, STEPS, VersionMetrics, WorkerMetrics, reason_class, serve_metrics
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec
from streaming.errors import SettingError
from streaming.learners.loop import Batch, new_outcome
from streaming.simulator import Simulator, SimulatorOptions


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, {"version": "a", **labels})


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text: str = answer.read().decode()
    return text


def test_batch_is_added_to_counters_and_histograms() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry).of("a")
    for _ in range(2):
        metrics.observe_batch(
            events=100, steps={"poll": 0.002, "learn": 0.02}, bad={"user": 2}, cache_hits=90, cache_misses=10,
            clipped=3, skipped=1,
        )  # fmt: skip
    assert value(registry, "freshet_events_total") == 200
    assert value(registry, "freshet_records_bad_total", reason="user") == 4
    assert value(registry, "freshet_step_seconds_count", step="learn") == 2
    assert value(registry, "freshet_step_seconds_sum", step="poll") == pytest.approx(0.004)
    assert value(registry, "freshet_user_cache_hits_total") == 180
    assert value(registry, "freshet_user_cache_misses_total") == 20
    assert value(registry, "freshet_steps_clipped_total") == 6
    assert value(registry, "freshet_steps_skipped_total") == 2


def test_key_mismatches_are_counted_once_whenever_they_are_told() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry).of("a")
    for found in (0, 3, 3, 5):
        metrics.observe_key_mismatches(found)
    assert value(registry, "freshet_key_mismatches_total") == 5


def test_commit_observes_time_and_freshness_of_each_slice() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry).of("a").observe_commit(seconds=0.04, arrived=[99.5, 99.0, 100.5], now=100.0)
    assert value(registry, "freshet_commits_total") == 1
    assert value(registry, "freshet_commit_seconds_sum") == pytest.approx(0.04)
    assert value(registry, "freshet_freshness_seconds_count", kind="durable") == 3
    assert value(registry, "freshet_freshness_seconds_sum", kind="durable") == pytest.approx(1.5)
    assert value(registry, "freshet_freshness_seconds_bucket", kind="durable", le="0.5") == 2


def test_gauges_hold_the_last_value() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry).of("a")
    metrics.observe_lag({0: 7, 1: None})
    metrics.observe_prequential({("new_user", "10000", 10): 0.25}, loss=1.5)
    metrics.observe_store(rows={"user": 5, "item": 6}, bytes_by_part={"sst": 1000})
    metrics.observe_lag({0: 3})
    assert value(registry, "freshet_lag", partition="0") == 3
    assert math.isnan(value(registry, "freshet_lag", partition="1") or 0)
    labels = {"segment": "new_user", "window": "10000", "k": "10"}
    assert value(registry, "freshet_prequential_hit_ratio", **labels) == 0.25
    assert value(registry, "freshet_prequential_loss") == 1.5
    assert value(registry, "freshet_rows", kind="item") == 6
    assert value(registry, "freshet_store_bytes", part="sst") == 1000


def test_two_versions_share_the_families_of_one_registry() -> None:
    registry = CollectorRegistry()
    families = WorkerMetrics(registry)
    families.of("a").observe_batch(events=1, steps={})
    families.of("b").observe_batch(events=2, steps={})
    assert registry.get_sample_value("freshet_events_total", {"version": "b"}) == 2


def test_every_family_has_the_prefix_and_a_help_text() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry).of("a")
    families = list(registry.collect())
    assert {"freshet_build", "freshet_warnings"} <= {family.name for family in families}
    assert all(
        family.name.startswith("freshet_") and family.documentation.endswith(".") for family in families
    )


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("ts must be a time, got x", "ts"),
        ("`item`: empty", "item"),
        ("not JSON: 'user'", "record"),
        ("", "record"),
    ],
)
def test_reason_becomes_a_label_of_few_values(reason: str, label: str) -> None:
    assert reason_class(reason) == label


def test_page_is_served_on_any_free_port_of_this_machine() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry).of("a").observe_batch(events=5, steps={})
    port = serve_metrics(registry, 0)
    assert port > 0
    assert 'freshet_events_total{version="a"} 5.0' in page(port)
    assert generate_latest(registry).decode().count("freshet_build_info{") == 1


def test_taken_port_is_passed_over_for_the_next_free_one() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        served = serve_metrics(CollectorRegistry(), port)
    assert port < served < port + PORTS


def test_address_of_another_machine_is_refused_with_the_setting_to_change() -> None:
    with pytest.raises(SettingError, match=r"worker\.metrics_port 9464 must be a port on 192\.0\.2\.1"):
        serve_metrics(CollectorRegistry(), 9464, "192.0.2.1")


def test_turn_of_the_loop_is_a_heartbeat_and_a_step_of_the_clock_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry).of("a")
    for wall, steady in ((1000.0, 5.0), (1000.9, 5.9), (940.0, 6.0), (941.0, 7.0)):
        metrics.observe_turn(wall, steady)
    assert value(registry, "freshet_loop_turns_total") == 4
    assert value(registry, "freshet_heartbeat_timestamp_seconds") == 941.0
    assert value(registry, "freshet_clock_steps_total") == 1


@pytest.fixture
def learned() -> Learned:
    return Learned(new_spec("bpr", {"dimension": 8, "evaluation_rate": 0.2}), MemoryStore(), user_cache=None)


def run(metrics: VersionMetrics, learned: Learned, simulator: Simulator, events: int) -> None:
    """Learn and commit, as the worker does."""
    learn_events(learned, simulator.events(events).to_events(), 0, None, metrics.watching(learned))
    learned.commit()
    metrics.observe_commit(seconds=0.01, arrived=[99.0], now=100.0)


def test_counters_of_a_run_agree_with_the_store_and_begin_at_0_after_a_restart(learned: Learned) -> None:
    simulator = Simulator(SimulatorOptions(users=200, items=60, sessions=8))
    for said in (0, 4000):
        registry = CollectorRegistry()
        run(WorkerMetrics(registry).of("a"), learned, simulator, 4000)
        new = value(registry, "freshet_new_ids_total", kind="user")
        evaluated = value(registry, "freshet_evaluated_events_total", segment="overall")
        if not said:
            assert new == learned.ledger.new_users
            assert evaluated == learned.prequential.evaluated
            segment = learned.prequential.summary()["overall"]
            hits = value(registry, "freshet_prequential_hits_total", segment="overall", k="10")
            assert hits == pytest.approx(segment["hr@10"] * segment["events"])
        assert value(registry, "freshet_version_events") == said + 4000
        assert value(registry, "freshet_watermark_timestamp_seconds") == learned.ledger.watermark
        assert value(registry, "freshet_pending_events") == 0
        assert registry.get_sample_value("freshet_version_info", {"version": "a", "learner": "bpr"}) == 1
    assert evaluated is not None
    assert evaluated < learned.prequential.evaluated  # only those of the second run


def test_norms_are_those_of_the_rows(learned: Learned) -> None:
    registry = CollectorRegistry()
    simulator = Simulator(SimulatorOptions(users=200, items=60, sessions=8))
    run(WorkerMetrics(registry).of("a"), learned, simulator, 3000)
    norms = np.linalg.norm(learned.items.rows.floats[: learned.items.count, :8], axis=1)
    median = value(registry, "freshet_row_norm", kind="item", quantile="0.5")
    assert median == pytest.approx(float(np.median(norms)), rel=1e-5)
    assert (value(registry, "freshet_row_norm", kind="user", quantile="0.99") or 0) > 0


def test_learner_without_vectors_has_no_norms() -> None:
    registry = CollectorRegistry()
    learned = Learned(new_spec("popularity", {}), MemoryStore(), user_cache=None)
    run(
        WorkerMetrics(registry).of("a"),
        learned,
        Simulator(SimulatorOptions(users=200, items=60, sessions=8)),
        500,
    )
    assert b"freshet_row_norm{" not in generate_latest(registry)


def test_drift_is_counted_and_said(learned: Learned, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "warning")
    registry = CollectorRegistry()
    watch = WorkerMetrics(registry).of("a").watching(learned)
    nobody = np.full(30_000, -1, np.int32)
    batch = Batch(nobody, nobody, *(np.zeros(0) for _ in range(6)), number=0)  # type: ignore[arg-type]
    rng = np.random.default_rng(1)
    for mean in (3.0, 4.5):
        outcome = new_outcome(30_000)
        outcome.loss[:], outcome.rank[:] = rng.normal(mean, 1.0, 30_000), np.nan
        watch(batch, outcome)
    assert value(registry, "freshet_drift_alarms_total", signal="loss") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "drift_found"


def test_series_of_a_version_are_bounded(learned: Learned) -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry).of("a")
    run(metrics, learned, Simulator(SimulatorOptions(users=200, items=60, sessions=8)), 3000)
    metrics.observe_lag(dict.fromkeys(range(10), 1))
    metrics.observe_batch(events=1, steps=dict.fromkeys(STEPS, 0.1), bad={"user": 1})
    begun = time.thread_time()
    lines = [x for x in generate_latest(registry).decode().splitlines() if x.startswith("freshet_")]
    took = time.thread_time() - begun
    own = [x for x in lines if 'version="a"' in x]
    assert len(own) <= SERIES + 10
    assert took < 1.0  # of processor time, of which it takes 2 ms
