from __future__ import annotations

import copy
import gzip
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from numpy.typing import NDArray

from consumers.commands.simulate import simulate
from consumers.eventlog.simulated import SimulatorLog
from streaming.errors import FreshetError, InputError, InputVanishedError, SettingError, UsageError
from streaming.simulated_world import RECENT, TICK
from streaming.simulator import TYPES, SimulatedBatch, Simulator, SimulatorOptions

SMALL = SimulatorOptions(seed=3, users=200, items=120, sessions=10, item_life=2_000)


def joined(batches: list[SimulatedBatch], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(batch, name) for batch in batches])


def slow_rank(world: Any, options: SimulatorOptions, slot: int, item: int) -> tuple[float, float]:
    """Rank and probability of the chosen item, from the formula, in float64."""
    strength = (options.taste, options.focus, options.succession)
    parts = (world.taste[slot], world.focus[slot], world.last[slot])
    query = sum(s * part.astype(np.float64) for s, part in zip(strength, parts, strict=True))
    logits = world.popularity + query @ world.vectors
    logits = logits + options.repeat * np.isin(world.item_id, world.recent[slot])
    chosen = int(np.flatnonzero(world.item_id == item)[0])
    share = np.exp(logits - logits.max())
    return float(np.sum(logits > logits[chosen])), float(share[chosen] / share.sum())


def test_same_seed_gives_the_same_bytes() -> None:
    assert Simulator(SMALL).events(3_000).json_lines() == Simulator(SMALL).events(3_000).json_lines()
    assert (
        Simulator(replace(SMALL, seed=4)).events(100).json_lines()
        != Simulator(SMALL).events(100).json_lines()
    )


def test_huge_seed_is_taken() -> None:
    assert len(Simulator(replace(SMALL, seed=2**63 - 1)).events(10)) == 10


@pytest.mark.parametrize("size", [1, 7, 100, 999])
def test_stream_does_not_depend_on_the_batches(size: int) -> None:
    whole = Simulator(SMALL).events(1_000)
    simulator = Simulator(SMALL)
    parts = [simulator.events(min(size, 1_000 - done)) for done in range(0, 1_000, size)]
    assert [batch.first for batch in parts] == list(range(0, 1_000, size))
    for field in fields(whole):
        if field.name != "first":
            np.testing.assert_array_equal(joined(parts, field.name), getattr(whole, field.name))


def test_skip_leads_to_the_same_stream() -> None:
    simulator, other = Simulator(SMALL), Simulator(SMALL)
    simulator.skip(777)
    assert simulator.events(50).json_lines() == b"".join(
        other.events(827).json_lines().splitlines(True)[777:]
    )


def test_oracle_rank_equals_a_slow_recomputation() -> None:
    simulator = Simulator(SMALL)
    wrong = 0
    for _ in range(1_500):
        world = copy.deepcopy(simulator._world)
        batch = simulator.events(1)
        if batch.first % TICK == 0:  # popularity moves between the copy and the choice
            continue
        slot = int(np.flatnonzero(world.user_id == batch.user[0])[0])
        rank, probability = slow_rank(world, SMALL, slot, int(batch.item[0]))
        assert batch.probability[0] == pytest.approx(probability, rel=1e-4)
        assert abs(batch.oracle_rank[0] - rank) <= 1  # near ties may fall either way in float32
        wrong += batch.oracle_rank[0] != rank
    assert wrong <= 5


def test_choices_follow_the_stated_probabilities() -> None:
    ahead, behind = Simulator(SMALL), Simulator(SMALL)
    expected, hits = [], []
    for _ in range(2_000):
        event = ahead.events(1)
        if event.first % TICK:
            shares = np.sort(behind.preferences(int(event.user[0])))[::-1]
            assert shares.sum() == pytest.approx(1, abs=1e-4)
            expected.append(shares[:10].sum())
            hits.append(event.oracle_rank[0] < 10)
        behind.skip(1)
    deviation = float(np.sqrt(np.sum(np.multiply(expected, np.subtract(1, expected)))))
    assert np.sum(hits) == pytest.approx(np.sum(expected), abs=4 * deviation)


def test_users_come_back_in_sessions_and_new_ones_arrive() -> None:
    batch = Simulator(replace(SMALL, new_user_share=0.05)).events(20_000)
    counts = np.sort(np.bincount(batch.user))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.2 * len(batch)  # activity is skewed
    assert np.max(batch.user[:1_000]) < np.max(batch.user[-1_000:])
    gaps = np.concatenate([np.diff(batch.ts[batch.user == user]) for user in range(200)])
    assert np.median(gaps) < 0.2 * np.mean(gaps)  # bursts


def test_time_ascends_at_the_stated_rate() -> None:
    batch = Simulator(replace(SMALL, events_per_second=5.0)).events(20_000)
    assert np.all(np.diff(batch.ts) > 0)
    assert np.mean(np.diff(batch.ts)) == pytest.approx(200_000, rel=0.05)


def test_items_are_born_and_die() -> None:
    simulator = Simulator(SMALL)
    first, last = simulator.events(10_000), simulator.events(10_000)
    live = simulator.live_items()
    assert len(np.unique(live)) == SMALL.items
    assert simulator.items_born == pytest.approx(SMALL.items * (1 + 20_000 / SMALL.item_life), rel=0.3)
    assert len(np.intersect1d(first.item[:1_000], last.item[-1_000:])) < 5
    dead = np.setdiff1d(np.arange(simulator.items_born), live)
    assert not np.isin(simulator.events(TICK - 1).item, dead).any()


def test_repeats_within_a_few_events_are_few_but_present() -> None:
    batch = Simulator().events(20_000)
    repeats = 0
    for user in np.unique(batch.user):
        items = batch.item[batch.user == user]
        repeats += sum(items[k] in items[max(0, k - RECENT) : k] for k in range(len(items)))
    assert 0.02 < repeats / len(batch) < 0.25


def test_values_and_types_follow_the_taste() -> None:
    batch = Simulator(SMALL).events(20_000)
    assert set(np.unique(batch.value)) == {1, 2, 3, 4, 5}
    shares = np.bincount(batch.type, minlength=len(TYPES)) / len(batch)
    assert shares[0] > 0.7 and np.all(shares > 0.01)
    assert batch.value[batch.type == 2].mean() > batch.value[batch.type == 0].mean()


def test_features_and_categories_tell_of_the_true_vectors() -> None:
    items = Simulator(SMALL).items()
    cosine = np.sum(items.features * items.vectors, axis=1) / np.linalg.norm(items.features, axis=1)
    assert 0.7 < cosine.mean() < 0.99
    np.testing.assert_allclose(np.linalg.norm(items.vectors, axis=1), 1, rtol=1e-5)
    similar = items.vectors @ items.vectors.T
    same = items.category[:, None] == items.category[None, :]
    assert similar[same].mean() > similar[~same].mean() + 0.4
    assert items.ids()[12] == "item-000012" and items.categories()[0].startswith("category-")


def test_tastes_drift_between_sessions() -> None:
    simulator = Simulator(SMALL)
    users, before = simulator.tastes()
    before = before.copy()
    simulator.skip(20_000)
    later, after = simulator.tastes()
    cosine = np.sum(before * after, axis=1)[users == later]
    assert 0.3 < cosine.mean() < 0.99


def test_shift_changes_tastes_and_popularity_at_its_event_only() -> None:
    plain, shifted = Simulator(SMALL), Simulator(replace(SMALL, shift_at=550))
    assert plain.events(550).json_lines() == shifted.events(550).json_lines()
    plain.skip(1)
    shifted.skip(1)
    assert np.sum(plain.tastes()[1] * shifted.tastes()[1], axis=1).mean() < 0.3
    assert abs(np.corrcoef(plain.popularity(), shifted.popularity())[0, 1]) < 0.5


def test_events_and_json_lines_say_the_same() -> None:
    simulator = Simulator(SMALL)
    simulator.skip(10)
    batch = simulator.events(500)
    events = batch.to_events(70)
    lines = [json.loads(line) for line in batch.json_lines().splitlines()]
    assert [line["user"] for line in lines] == [events.users[k] for k in range(500)]
    assert [line["item"] for line in lines] == [f"item-{number:06d}" for number in batch.item]
    assert [line["ts"] for line in lines] == batch.ts.tolist() == events.ts.tolist()
    assert [line["type"] for line in lines] == batch.type_names().tolist()
    assert [line["value"] for line in lines] == events.values.tolist()
    assert events.offsets[[0, -1]].tolist() == [70, 569] and batch.to_events().offsets[0] == 10
    assert np.all(events.weights == 1)


def test_ids_of_more_than_six_digits_are_whole() -> None:
    numbers = np.array([5, 1_234_567], np.int64)
    batch = replace(Simulator(SMALL).events(2), user=numbers)
    assert [batch.user_ids()[k] for k in range(2)] == ["user-000005", "user-1234567"]
    assert json.loads(batch.json_lines().splitlines()[1])["user"] == "user-1234567"


def test_empty_batch_has_no_lines_and_no_events() -> None:
    batch = Simulator(SMALL).events(0)
    assert batch.json_lines() == b"" and len(batch.to_events()) == 0


def test_popularity_stays_under_a_third_of_the_oracle() -> None:
    batch = Simulator().events(20_000)
    decay = 2.0 ** (-1 / 3_000)
    plain, decayed = np.zeros(3_000), np.zeros(3_000)
    hits = np.zeros(2)
    for n, item in enumerate(batch.item):
        for k, counts in enumerate((plain, decayed)):
            hits[k] += counts[item] > 0 and np.sum(counts > counts[item]) < 10
        plain[item] += 1
        decayed[item] += decay ** (-n)
    best = batch.oracle_hit_rate(10)
    assert 0.35 < best < 0.7
    assert hits.max() / len(batch) < 0.3 * best


def test_a_million_events_a_minute_are_made() -> None:
    simulator = Simulator()
    simulator.skip(100)
    began = time.process_time()
    simulator.events(20_000)
    assert (time.process_time() - began) / 20_000 < 60e-6


@pytest.mark.parametrize(
    "wrong",
    [{"users": 2}, {"sessions": 60}, {"new_user_share": 1.5}, {"taste": float("nan")}, {"shift_at": -1}],
)
def test_impossible_options_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=f"simulator.{next(iter(wrong))}"):
        replace(SMALL, **wrong)


def test_log_gives_the_stream_from_any_position() -> None:
    log, again = SimulatorLog(SMALL, limit=1_000), SimulatorLog(SMALL, limit=1_000)
    pieces = []
    while not log.ended:
        piece = log.poll(300, 0.0)
        assert piece is not None
        pieces.append(piece)
    assert [(piece.first, piece.next_offset) for piece in pieces] == [
        (0, 300),
        (300, 600),
        (600, 900),
        (900, 1_000),
    ]
    assert log.poll(10, 0.0) is None and log.lag() == {"simulator[3]": 0}
    again.poll(50, 0.0)
    again.seek({"simulator[3]": 900})
    piece = again.poll(1_000, 0.0)
    assert piece is not None and piece.first == 900
    np.testing.assert_array_equal(piece.events.ts, pieces[-1].events.ts)
    again.seek({"simulator[3]": 10})
    assert again.lag() == {"simulator[3]": 990}
    with pytest.raises(InputVanishedError, match="limit is 1000"):
        again.seek({"simulator[3]": 1_001})


def test_log_holds_the_newest_oracle_ranks() -> None:
    log = SimulatorLog(SMALL, keep=150)
    for _ in range(3):
        assert log.poll(100, 0.0) is not None
    expected = Simulator(SMALL).events(300).oracle_rank
    np.testing.assert_array_equal(log.oracle_ranks(150, 300), expected[150:])
    with pytest.raises(InputError, match="held for offsets 150 to 300, got 149"):
        log.oracle_ranks(149, 200)
    log.seek({log.source: 500})
    with pytest.raises(InputError):
        log.oracle_ranks(400, 500)


def test_log_with_a_rate_gives_what_is_due() -> None:
    log = SimulatorLog(SMALL, rate=1e-3)
    assert log.poll(100, 0.0) is None and not log.ended
    log = SimulatorLog(SMALL, rate=1_000.0, limit=20)
    piece = log.poll(100, 1.0)
    assert piece is not None and 1 <= len(piece.events) <= 20
    with pytest.raises(SettingError, match="rate"):
        SimulatorLog(SMALL, rate=0.0)


def test_command_writes_the_same_events_in_every_form(tmp_path: Path) -> None:
    batch = Simulator(SimulatorOptions(seed=5)).events(300)
    for name in ("e.jsonl", "e.jsonl.gz", "e.csv", "e.parquet"):
        simulate(events=300, seed=5, out=str(tmp_path / name))
    assert (tmp_path / "e.jsonl").read_bytes() == batch.json_lines()
    assert gzip.decompress((tmp_path / "e.jsonl.gz").read_bytes()) == batch.json_lines()
    lines = [json.loads(line) for line in batch.json_lines().splitlines()]
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet").to_pylist() == lines
    assert pyarrow.csv.read_csv(tmp_path / "e.csv").to_pylist() == lines


def test_command_writes_items_and_truth_where_asked(tmp_path: Path) -> None:
    out, items_out = tmp_path / "e.parquet", tmp_path / "i.jsonl"
    simulate(events=200, start=100, out=str(out), truth=True, items_out=str(items_out))
    simulator = Simulator()
    simulator.skip(100)
    table = pyarrow.parquet.read_table(out)
    assert table["oracle_rank"].to_pylist() == simulator.events(200).oracle_rank.tolist()
    items = [json.loads(line) for line in items_out.read_text().splitlines()]
    assert len(items) == simulator.items_born and len(items[0]["features"]) == 16


def test_command_refuses_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a name that ends in"):
        simulate(events=1, out="events.txt")
    with pytest.raises(UsageError, match="--events"):
        simulate(events=0)
    with pytest.raises(UsageError, match="--truth"):
        simulate(events=1, truth=True)
    with pytest.raises(FreshetError, match="cannot write"):
        simulate(events=1, out=str(tmp_path / "absent" / "e.csv"))
