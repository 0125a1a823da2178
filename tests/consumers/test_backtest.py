from __future__ import annotations

import json
from collections.abc import Sequence
from math import log2
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from consumers.backtest import Comparison, RatingError, compare
from consumers.candidates import Candidate, candidate, candidates_of, parsed_sweep, swept
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.files import FilesLog
from consumers.history import History
from consumers.metrics import WorkerMetrics
from state.draws import Draw
from state.learned import Learned
from state.memory import MemoryStore
from streaming.errors import SettingError, UsageError
from streaming.learners.loop import new_outcome
from streaming.rules import EventRules

PLAIN = "popularity:half_life=inf"
RATES = ("hr@10", "ndcg@10", "hr@20", "mrr@20")


def write_events(path: Path, events: Sequence[tuple[str, str]], **fields: Sequence[Any]) -> Path:
    rows = [
        {"user": user, "item": item, "ts": 1_700_000_000 + k, **{name: of[k] for name, of in fields.items()}}
        for k, (user, item) in enumerate(events)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def random_events(n: int, seed: int = 3) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(0, 40, n), np.minimum(rng.geometric(0.08, n), 60)
    return [(f"u{u}", f"i{i}") for u, i in zip(users.tolist(), items.tolist(), strict=True)]


def history_of(path: Path, limit: int | None = None, **rules: Any) -> History:
    return History(lambda: FilesLog([path], EventRules(**rules)), limit=limit)


def run(path: Path, *texts: str, limit: int | None = None, **options: Any) -> Comparison:
    return compare(history_of(path, limit), [candidate(text) for text in texts], **options)


# x is new; rank 0; y is new; x before y; x and y tie; z is new; z is third; x is first
SMALL = [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y"), ("c", "x"), ("c", "z"), ("a", "z"), ("a", "x")]


def test_rates_of_a_small_history_with_ties_and_misses_are_those_computed_by_hand(tmp_path: Path) -> None:
    overall = run(write_events(tmp_path / "small.jsonl", SMALL), PLAIN).best.overall
    ranks = [0.0, 1.0, 0.5, 2.0, 0.0]
    assert overall["hr@10"] == pytest.approx(5 / 8)
    assert overall["ndcg@10"] == pytest.approx(sum(1 / log2(r + 2) for r in ranks) / 8)
    assert overall["mrr@10"] == pytest.approx(sum(1 / (r + 1) for r in ranks) / 8)


def test_item_that_the_user_had_is_a_miss_and_stands_in_no_ranking_with_exclude_seen(tmp_path: Path) -> None:
    overall = run(write_events(tmp_path / "small.jsonl", SMALL), PLAIN, exclude_seen=True).best.overall
    ranks = [0.0, 0.0, 0.5, 0.0]  # the last event repeats x
    assert overall["hr@10"] == pytest.approx(4 / 8)
    assert overall["mrr@20"] == pytest.approx(sum(1 / (r + 1) for r in ranks) / 8)


def test_segments_of_a_small_history_count_new_and_returning_users(tmp_path: Path) -> None:
    segments = run(write_events(tmp_path / "small.jsonl", SMALL), PLAIN).best.segments
    assert {name: rates["events"] for name, rates in segments.items()} == {
        "new_user": 3, "returning_user": 5, "new_item": 8
    }  # fmt: skip
    assert segments["new_user"]["hr@10"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("name", "where", "exclude_seen", "expected"),
    [
        ("ml-100k", (("value", "5"),), True, (0.1124, 0.0577, 0.1809, 0.0458)),
        ("ml-100k", (), True, (0.0776, 0.0374, 0.1290, 0.0290)),
        ("movietweetings-100k", (), True, (0.1321, 0.0687, 0.2014, 0.0544)),
        ("online-retail", (), False, (0.0355, 0.0176, 0.0609, 0.0139)),
    ],
    ids=["ml-100k-value-5", "ml-100k", "movietweetings", "online-retail"],  # yoochoose: benchmarks/quality.py
)
def test_popularity_without_decay_gives_the_reference_rows_of_protocol_p1(
    data: Path, name: str, where: Any, exclude_seen: bool, expected: tuple[float, ...]
) -> None:
    history = history_of(data / name / "events.parquet", where=where)
    best = compare(history, [candidate(PLAIN)], every=1, exclude_seen=exclude_seen).best
    assert tuple(round(best.overall[rate], 4) for rate in RATES) == expected


@pytest.mark.parametrize("learner", ["popularity", "transitions", "item_knn"])
def test_batch_size_changes_no_figure(tmp_path: Path, learner: str) -> None:
    path = write_events(tmp_path / "events.jsonl", random_events(600))
    one, other = (run(path, learner, batch_events=size, every=3).best for size in (7, 10_000))
    assert (one.overall, one.segments, one.curve, one.loss) == (
        other.overall,
        other.segments,
        other.curve,
        other.loss,
    )


def test_unordered_file_gives_the_same_figures_as_the_ordered_one(tmp_path: Path) -> None:
    ordered = write_events(tmp_path / "ordered.jsonl", random_events(500))
    lines = ordered.read_text().splitlines(keepends=True)
    shuffled = tmp_path / "shuffled.jsonl"
    shuffled.write_text("".join(np.random.default_rng(1).permutation(lines).tolist()))
    one, other = (run(path, "biased_mf:dimension=8").best for path in (ordered, shuffled))
    assert (one.overall, one.curve, one.loss) == (other.overall, other.curve, other.loss)
    assert one.overall["hr@10"] > 0.0


def test_worker_over_the_same_file_gives_the_same_figures(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", random_events(400))
    result = run(path, "transitions", every=2).best
    learned = Learned(candidate("transitions").spec(1), MemoryStore(), draw=Draw(every=2))
    log = FilesLog([path], EventRules())
    metrics = WorkerMetrics(CollectorRegistry()).of("v")
    EmbeddingWorker(learned, log, dead_letters=None, metrics=metrics).run(Flag())
    assert learned.prequential.summary()["overall"] == result.overall


def test_every_evaluates_by_position_and_learns_all(tmp_path: Path) -> None:
    path = write_events(tmp_path / "small.jsonl", SMALL)
    overall = run(path, PLAIN, every=2).best.overall  # events 1, 3, 5 and 7: two misses, ranks ½ and 2
    assert overall["events"] == 4
    assert overall["mrr@10"] == pytest.approx((1 / 1.5 + 1 / 3) / 4)


def test_limit_takes_the_first_events(tmp_path: Path) -> None:
    comparison = run(write_events(tmp_path / "small.jsonl", SMALL), PLAIN, limit=2, batch_events=1)
    assert comparison.events == 2
    assert comparison.best.overall["hr@10"] == 0.5


def test_learner_that_predicts_values_also_shows_its_error(tmp_path: Path) -> None:
    path = write_events(tmp_path / "rated.jsonl", [("a", "x"), ("b", "x")], value=[4.0, 2.0])
    flat = "biased_mf:learning_rate=0,bias_rate=0,sigma=0"  # predicts the mean so far: 0, then 4
    error = run(path, flat).best.rating_error
    assert error == {"mae": pytest.approx(3.0), "rmse": pytest.approx(np.sqrt(10.0)), "events": 2}
    assert run(path, PLAIN).best.rating_error is None


def test_rating_error_leaves_out_events_that_taught_nothing() -> None:
    outcome, error = new_outcome(3), RatingError()
    outcome.loss[:] = [0.5, np.nan, 2.0]
    error.observe(None, outcome)  # type: ignore[arg-type]
    assert error.summary() == {"mae": 1.5, "rmse": pytest.approx(np.sqrt(2.5)), "events": 2}


def test_seeds_give_means_and_their_standard_deviation(tmp_path: Path) -> None:
    path = write_events(tmp_path / "events.jsonl", random_events(400))
    learner = "biased_mf:dimension=8"
    single = [run(path, learner, seeds=[seed]).best.overall["hr@10"] for seed in (1, 2)]
    both = run(path, learner, seeds=[1, 2]).best
    assert both.overall["hr@10"] == pytest.approx(np.mean(single))
    assert both.sd["hr@10"] == pytest.approx(np.std(single, ddof=1))
    assert both.sd["hr@10"] > 0.0


def test_memory_of_a_row_grows_with_its_dimension(tmp_path: Path) -> None:
    path = write_events(tmp_path / "small.jsonl", SMALL)
    small, large = run(path, "biased_mf:dimension=15", "biased_mf:dimension=31").results
    assert large.row_bytes["item"] - small.row_bytes["item"] == 16 * 4
    assert small.rows == {"user": 3, "item": 3}
    assert small.memory_bytes == 3 * (small.row_bytes["user"] + small.row_bytes["item"])


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("populrity", SettingError, 'Did you mean "popularity"?'),
        ("popularity:half_lif=3", SettingError, 'Did you mean "half_life"?'),
        ("popularity:half_life=long", SettingError, "half_life"),
        ("popularity:half_life", UsageError, "key=value"),
        ("popularity:half_life=1,half_life=2", UsageError, "twice"),
    ],
)
def test_wrong_learner_is_refused(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words.replace("?", r"\?")):
        candidate(text)


def test_learner_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="given twice"):
        candidates_of(["popularity", "popularity"])


def test_without_learners_the_usual_ones_are_compared() -> None:
    assert {"popularity", "transitions", "item_knn"} <= {one.text for one in candidates_of([])}


def test_sweep_gives_a_candidate_for_each_value() -> None:
    sweep = parsed_sweep("dimension=4,8")
    assert [one.text for one in swept(candidate("biased_mf"), sweep)] == [
        "biased_mf:dimension=4", "biased_mf:dimension=8"
    ]  # fmt: skip
    assert swept(candidate("biased_mf:l2=0"), sweep)[1] == Candidate(
        "biased_mf:l2=0,dimension=8", "biased_mf", {"l2": "0", "dimension": "8"}
    )


@pytest.mark.parametrize("text", ["dimension", "dimension=", "=1,2", "dimension=4,4", "dimension=4,,8"])
def test_wrong_sweep_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--sweep"):
        parsed_sweep(text)


def test_sweep_over_an_option_that_is_set_is_refused() -> None:
    with pytest.raises(UsageError, match="dimension"):
        swept(candidate("biased_mf:dimension=4"), parsed_sweep("dimension=8,16"))
