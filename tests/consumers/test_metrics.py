from __future__ import annotations

import math
import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from consumers.metrics import WorkerMetrics, reason_class, serve_metrics
from streaming.errors import SettingError


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


def test_taken_port_is_refused_with_the_setting_to_change() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            SettingError, match=rf"worker\.metrics_port {port} must be a free port on 127\.0\.0\.1"
        ):
            serve_metrics(CollectorRegistry(), port)
