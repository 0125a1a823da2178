"""Each benchmark's functions, with small counts: what they measure is not judged here, only that they do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import batch_size, commits, drift, fork, kernels, memory, path, quality, simulator
from benchmarks.__main__ import recorded
from benchmarks.batches import batch_of
from benchmarks.record import record
from benchmarks.stream import stream_s
from benchmarks.verdict import Report, Verdict, interleaved, ratio, run_benchmark
from consumers.embeddings import learn_events
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small stream S, in a directory of the test's own."""
    monkeypatch.setattr("benchmarks.stream.tempfile.gettempdir", lambda: str(tmp_path))
    return stream_s(900, 120, 50)


def test_verdict_is_reached_on_its_side_of_the_target() -> None:
    assert Verdict("a", 2.0, 2.0).reached is True
    assert Verdict("a", 1.9, 2.0).reached is False
    assert Verdict("a", 1.9, 2.0, at_most=True).reached is True
    assert Verdict("a", None, 2.0).reached is None
    assert Verdict("a", 1.0).reached is None


def test_ratio_is_the_median_over_rounds() -> None:
    assert ratio([1.0, 2.0, 9.0], [1.0, 1.0, 1.0]) == 2.0
    order: list[str] = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "a", "b"]
    assert [len(row) for row in times.values()] == [2, 2]


def test_run_benchmark_records_verdicts_and_fails_where_a_target_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(quick: bool) -> Report:
        report = Report({"seen": quick})
        report.at_least("speed", 2.0, 3)
        return report

    monkeypatch.setattr("sys.argv", ["x"])
    monkeypatch.setattr("benchmarks.verdict.record", lambda name, figures: record(name, figures, tmp_path))
    assert run_benchmark("x", None, measure) == 1
    assert "MISSED" in capsys.readouterr().out
    assert recorded("x", tmp_path) == [Verdict("speed", 2.0, 3)]
    assert json.loads((tmp_path / "x.json").read_text())["figures"]["verdicts"][0]["reached"] is False


def test_run_benchmark_writes_nothing_when_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a quick run wrote its figures")

    monkeypatch.setattr("sys.argv", ["x", "--quick"])
    monkeypatch.setattr("benchmarks.verdict.record", never)
    assert run_benchmark("x", None, lambda quick: Report({"quick": quick})) == 0


def test_batch_names_users_and_items_by_number() -> None:
    events = batch_of(np.array([3, 12]), np.array([0, 1]), first=5)
    assert events.users[1] == "user-0000012"
    assert events.items[0] == "item-0000000"
    assert events.offsets.tolist() == [5, 6]


def test_kernels_time_a_learner_against_river() -> None:
    found = kernels.against_river(kernels.Pairs(5, 20, 50), ["biased_mf"], 20, 1)
    assert found["share_of_river"]["biased_mf"] > 0
    assert found["events_per_round"] == {"biased_mf": 50, "river": 20}


def test_kernels_pairs_fill_every_history_before_the_timed_part() -> None:
    pairs = kernels.Pairs(7, 30, 10)
    assert np.bincount(pairs.user[: pairs.first]).tolist() == [60] * 7
    assert set(pairs.item[: pairs.first].tolist()) == set(range(30))
    assert len(pairs.user) == len(pairs.item) == pairs.first + 10


def test_implicit_takes_time_for_each_sample() -> None:
    seconds, samples = kernels.implicit_seconds(np.repeat(np.arange(50), 40), np.tile(np.arange(40), 50))
    assert samples == 2000
    assert np.isfinite(seconds)


def test_path_learns_the_whole_file_in_each_round(small: Path) -> None:
    found = path.compare(small, ["popularity"], 100, 2)
    assert [len(row) for row in found["wall_events_per_second"].values()] == [2, 2]
    assert min(found["cpu_events_per_second"]["popularity"]) > 0


def test_stores_are_equal_for_all_batch_sizes(small: Path) -> None:
    found = batch_size.compare("popularity", small, (7, 50_000))
    assert len({store["sha256"] for store in found.values()}) == 1
    assert [store["commits"] for store in found.values()][:2] == [129, 1]


def test_stores_differ_where_their_events_differ(small: Path) -> None:
    lines = small.read_bytes().splitlines(keepends=True)
    other = small.with_name("other.jsonl")
    other.write_bytes(b"".join(lines[:-1]))
    assert (
        batch_size.learned_store("popularity", small, 500)[0]
        != batch_size.learned_store("popularity", other, 500)[0]
    )


def test_paced_log_is_durable_after_each_event_was_released() -> None:
    found = commits.live("popularity", 20, 0.4, rate=500.0)
    assert 0 <= found["durable_p50_s"] <= found["durable_p99_s"] <= found["durable_max_s"] < 30
    assert found["rows_known"]["items"] == 20


def test_durable_counts_from_release_to_the_commit_that_holds_the_event() -> None:
    log = commits.PacedLog(batch_of(np.arange(4), np.arange(4)))
    log.pace(2, 10.0)
    begun = log.released()[0] - 0.1
    log.commits = [(begun + 0.15, 3), (begun + 1.2, 4)]
    found = commits.durable(log, 2)
    assert found["durable_max_s"] == pytest.approx(1.0)
    assert found["durable_p50_s"] == pytest.approx((0.05 + 1.0) / 2)


def test_fork_is_made_beside_a_worker_that_goes_on() -> None:
    found = fork.pauses("popularity", 300, 20, 1)
    assert found["rows"] == {"users": 300, "items": 20}
    assert 0 < found["forks"][0]["longest_turn_s"] <= found["forks"][0]["whole_s"] + 60


def test_memory_stream_holds_every_user_and_returns_to_earlier_ones(tmp_path: Path) -> None:
    events = memory.write_stream(tmp_path / "events.jsonl", 1000, items=30)
    users = [json.loads(line)["user"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(users) == events == 1200
    assert len(set(users)) == 1000
    first_seen = list(dict.fromkeys(users))
    assert first_seen == sorted(first_seen)


def test_memory_run_meets_users_that_were_let_go(tmp_path: Path) -> None:
    memory.write_stream(tmp_path / "events.jsonl", 600, items=30)
    found = memory.learn("popularity", tmp_path / "events.jsonl", 100)
    assert found["new_users"] == 600
    assert found["cache_misses"] > 600
    assert found["high_water_bytes"] > 1e6


def test_simulator_shares_lie_below_the_best_possible() -> None:
    found = simulator.shares_of_best(["popularity"], 1, 2 * simulator.BATCH, simulator.BATCH)
    assert 0 < found["popularity"]["all"] < 1
    assert 0 < found["popularity"]["last"] < 1
    assert simulator.speed(500) > 0


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> quality.Dataset:
    """A set of 300 ratings."""
    monkeypatch.setenv("FRESHET_DATA", str(tmp_path))
    rng = np.random.default_rng(1)
    (tmp_path / "tiny").mkdir()
    table = pa.table(
        {
            "user": [f"u{k}" for k in rng.integers(0, 20, 300)],
            "item": [f"i{k}" for k in rng.integers(0, 15, 300) ** 2 // 15],
            "ts": np.arange(300) + 1_700_000_000,
            "value": rng.integers(1, 6, 300).astype(np.float64),
        }
    )
    pq.write_table(table, tmp_path / "tiny" / "events.parquet")
    return quality.Dataset("tiny", "tiny", {"popularity": 0.1}, (0.0, 0.0, 0.0, 0.0), every=2)


def test_quality_is_that_of_the_worker_on_the_same_events(dataset: quality.Dataset) -> None:
    found = quality.learned_on(dataset, ["popularity"], None)["popularity"]
    learned = Learned(new_spec("popularity", {"evaluation_rate": 1.0}), MemoryStore(), user_cache=None)
    for events in dataset.history(None).batches(50):
        learn_events(learned, events, 0)
    assert found["overall"]["events"] == 150
    assert abs(found["overall"]["hr@10"] - learned.prequential.summary()["overall"]["hr@10"]) < 0.1
    assert len(quality.reference_row(dataset, 100)) == 4


def test_rating_error_of_river_is_the_reference_of_the_protocol(data: Path) -> None:
    if not (data / "ml-100k").is_dir():
        pytest.skip(f"no ml-100k in {data}")
    error = quality._river_error(data / "ml-100k" / "events.parquet", 2000)
    assert 0.5 < error["mae"] < 1.2
    assert error["events"] == 2000


def test_drift_counts_alarms_on_their_side_of_the_change() -> None:
    found = drift.alarms("bpr", 1, 12_000, 8_000)
    assert found["false"] == []
    assert all(0 < after <= 8_000 for after in found["after"])
