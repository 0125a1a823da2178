"""The worker's loop: when it commits, what it tells, and that batches and interleaving change no byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker, Totals, learn_events
from consumers.eventlog.contract import Slice
from consumers.eventlog.files import FilesLog
from consumers.metrics import WorkerMetrics
from consumers.pace import Pace
from state.learned import Learned
from state.ledger import journal_of
from state.memory import MemoryStore
from state.spec import Spec, new_spec
from streaming.errors import BadRecordError, InputVanishedError, StoreFullError
from streaming.events import BadRecord
from streaming.rules import EventRules
from tests.crash.worlds import write_events
from tests.state.streams import batch, everything, lively

SPEC = new_spec("popularity", {"evaluation_rate": 0.5})


class ListLog:
    """Slices given one by one, then its end, or an error that breaks it."""

    def __init__(self, slices: list[Slice], breaks: Exception | None = None) -> None:
        self.slices, self.breaks = list(slices), breaks
        self.told: list[Mapping[str, int]] = []
        self.sought: Mapping[str, int] = {}
        self.repeatable = True

    @property
    def ended(self) -> bool:
        return not self.slices

    def sources(self) -> list[str]:
        return ["b", "a"]

    def seek(self, positions: Mapping[str, int]) -> None:
        self.sought = positions

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        if not self.slices and self.breaks is not None:
            raise self.breaks
        return self.slices.pop(0) if self.slices else None

    def lag(self) -> dict[str, int | None]:
        return {"b": len(self.slices), "a": None}

    def committed(self, positions: Mapping[str, int]) -> None:
        self.told.append(dict(positions))

    def close(self) -> None: ...


def piece(source: str, first: int, n: int, bad: list[int] | None = None) -> Slice:
    """A slice of n records of which those at the offsets `bad` are bad."""
    wrong = bad or []
    offsets = [k for k in range(first, first + n) if k not in wrong]
    events = batch([f"u{k % 7}" for k in offsets], [f"i{k % 5}" for k in offsets])
    events.offsets[:] = offsets
    records = [BadRecord(k, "must be an object, got a list", b"[]") for k in wrong]
    return Slice(source, first, first + n, events, records, arrived=1.0)


def worker(
    log: Any, tmp_path: Path, *, store: MemoryStore | None = None, spec: Spec = SPEC, **given: Any
) -> tuple[EmbeddingWorker, CollectorRegistry]:
    registry = CollectorRegistry()
    letters = given.pop("dead_letters", DeadLetters(tmp_path / "dead-letters.jsonl"))
    made = EmbeddingWorker(
        Learned(spec, store or MemoryStore(), user_cache=given.pop("cache", None)),
        log,
        dead_letters=letters,
        metrics=WorkerMetrics(registry).of("v"),
        **given,
    )
    return made, registry


def test_commits_come_after_the_given_number_of_events_and_at_the_end(tmp_path: Path) -> None:
    log = ListLog([piece("a", 10 * k, 10) for k in range(7)])
    made, _ = worker(log, tmp_path, pace=Pace(events=30))
    totals = made.run(Flag())
    assert (totals.events, totals.learned, totals.commits) == (70, 70, 3)
    assert [told["a"] for told in log.told] == [30, 60, 70]
    assert made.learned.pending == 0


def test_stop_commits_what_was_learned_and_leaves(tmp_path: Path) -> None:
    stop = Flag()

    def observe(totals: Totals) -> None:
        if totals.events == 20:
            stop.set()

    log = ListLog([piece("a", 10 * k, 10) for k in range(7)])
    made, _ = worker(log, tmp_path, pace=Pace(events=1000), observe=observe)
    assert made.run(stop).commits == 1
    assert log.told == [{"b": 0, "a": 20}]


def test_worker_goes_on_from_the_offsets_in_the_store(tmp_path: Path) -> None:
    store = MemoryStore()
    first, _ = worker(ListLog([piece("a", 0, 10), piece("b", 0, 5)]), tmp_path, store=store)
    first.run(Flag())
    log = ListLog([])
    again, _ = worker(log, tmp_path, store=store)
    assert again.run(Flag()).commits == 0
    assert log.sought == {"b": 5, "a": 10}
    assert [(s.partition, s.first, s.next_offset) for s in journal_of(store)] == [(1, 0, 10), (0, 0, 5)]


def test_events_are_committed_before_an_input_that_broke_is_reported(tmp_path: Path) -> None:
    log = ListLog([piece("a", 0, 10, [3])], InputVanishedError("a is gone"))
    log.slices.append(piece("a", 10, 10))
    made, _ = worker(log, tmp_path, pace=Pace(events=1000))
    with pytest.raises(InputVanishedError):
        made.run(Flag())
    assert log.told == [{"b": 0, "a": 20}]


def test_failed_commit_can_be_tried_again_with_nothing_lost(tmp_path: Path) -> None:
    class FullStore(MemoryStore):
        full = True

        def write(self, puts: Any, deletes: Any = ()) -> None:
            if self.full:
                raise StoreFullError("no space")
            super().write(puts, deletes)

    store, plain = FullStore(), MemoryStore()
    made, _ = worker(ListLog([piece("a", 0, 50, [7])]), tmp_path, store=store)
    with pytest.raises(StoreFullError):
        made.run(Flag())
    assert everything(store) == {}
    store.full = False
    made.commit()
    again = ListLog([piece("a", 0, 50, [7])])
    other, _ = worker(again, tmp_path, store=plain, dead_letters=Letters())
    other.run(Flag())
    assert everything(store) == everything(plain)


class Letters(DeadLetters):
    """Dead letters that say in which order they were made durable."""

    def __init__(self, order: list[str] | None = None) -> None:
        super().__init__("/nonexistent/never-written")
        self.order = order if order is not None else []

    def append(self, source: str, bad: BadRecord) -> None:
        self.order.append(f"append {bad.offset}")

    def sync(self) -> None:
        self.order.append("sync")


def test_dead_letters_are_durable_before_the_offsets_that_pass_them(tmp_path: Path) -> None:
    order: list[str] = []

    class OrderedStore(MemoryStore):
        def write(self, puts: Any, deletes: Any = ()) -> None:
            super().write(puts, deletes)
            order.append("write")

    log = ListLog([piece("a", 0, 10, [3])])
    log.committed = lambda positions: order.append("told")  # type: ignore[method-assign]
    made, _ = worker(log, tmp_path, store=OrderedStore(), dead_letters=Letters(order))
    totals = made.run(Flag())
    assert order == ["append 3", "sync", "write", "told"]
    assert (totals.events, totals.dead_letters, made.learned.ledger.bad) == (9, 1, 1)


def test_worker_without_dead_letters_stops_at_the_first_bad_record(tmp_path: Path) -> None:
    store = MemoryStore()
    log = ListLog([piece("a", 0, 10, [3, 6]), piece("a", 10, 10)])
    made, _ = worker(log, tmp_path, store=store, dead_letters=None)
    with pytest.raises(BadRecordError, match=r"a@3: must be an object.*on_bad_record"):
        made.run(Flag())
    assert log.told == [{"b": 0, "a": 3}]
    assert (Learned(SPEC, store).ledger.number, made.learned.ledger.bad) == (3, 0)


def test_slice_of_bad_records_alone_moves_the_offset(tmp_path: Path) -> None:
    log = ListLog([piece("a", 0, 3, [0, 1, 2])])
    made, _ = worker(log, tmp_path)
    assert made.run(Flag()).commits == 1
    assert log.told == [{"b": 0, "a": 3}]


def test_metrics_tell_what_happened(tmp_path: Path) -> None:
    log = ListLog([piece("a", 0, 20, [3]), piece("b", 0, 20)])
    made, registry = worker(log, tmp_path, pace=Pace(events=10))
    made.run(Flag())

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"version": "v", **labels})

    assert value("freshet_events_total") == 39
    assert value("freshet_commit_seconds_count") == 2
    assert value("freshet_lag", partition="0") == 0
    unknown = value("freshet_lag", partition="1")
    assert unknown is not None and unknown != unknown


@pytest.mark.parametrize(("every", "size", "cache"), [(1000, 4096, None), (30, 17, 20), (7, 100, 5)])
def test_bytes_do_not_depend_on_polls_commits_and_cache(
    tmp_path: Path, every: int, size: int, cache: int | None
) -> None:
    files = [str(write_events(tmp_path / f"{k}.jsonl", 150, k)) for k in range(2)]
    spec = new_spec("popularity", {"evaluation_rate": 0.5, "admit_items": 2, "users_live_s": 86_400})
    stores = []
    for pace, batch_events, held in ((Pace(events=every), size, cache), (Pace(events=10**9), 10**6, None)):
        store = MemoryStore()
        letters = DeadLetters(tmp_path / f"letters-{len(stores)}.jsonl")
        log = FilesLog(files, EventRules())
        made, _ = worker(
            log, tmp_path, store=store, spec=spec, pace=pace, batch_events=batch_events, cache=held,
            dead_letters=letters,
        )  # fmt: skip
        made.run(Flag())
        log.close()
        letters.close()
        stores.append(store)
    assert everything(stores[0]) == everything(stores[1])


def test_learning_asks_for_a_commit_only_where_dirty_users_fill_the_cache() -> None:
    learned = Learned(SPEC, MemoryStore(), user_cache=10)
    asked: list[int] = []

    def commit_before(offset: int) -> None:
        asked.append(offset)
        learned.commit()

    events = batch([f"u{k // 2}" for k in range(60)], ["i"] * 60)
    learn_events(learned, events, learned.ledger.partition("a"), commit_before)
    assert learned.ledger.number == 60
    assert 2 <= len(asked) <= 6
    assert asked[0] >= 10


def paced(cost_of: Callable[[int, float], float], commits: int) -> tuple[list[float], list[float]]:
    """Intervals before commits, and what each then cost: a function of its number and its interval."""
    pace, costs, intervals, owed = Pace(), list[float](), [Pace().shortest_s], 0.0
    for number in range(commits):
        costs.append(cost_of(number, intervals[-1]))
        owed = pace.owed_s(owed, costs[-1], intervals[-1] + costs[-1])
        intervals.append(pace.interval_s(costs[-8:], owed))
    return intervals[:-1], costs


@pytest.mark.parametrize(
    ("cost", "interval"), [(0.001, 0.25), (0.02, 0.1905), (0.1, 0.9526), (1.0, 9.526), (5.0, 30.0)]
)
def test_interval_keeps_commits_to_their_share_within_its_bounds(cost: float, interval: float) -> None:
    intervals, _ = paced(lambda number, interval: cost, 60)
    assert intervals[-1] == pytest.approx(max(interval, 0.25), rel=1e-3)
    if 0.25 < interval < 30.0:
        assert cost / (cost + intervals[-1]) == pytest.approx(0.095, rel=1e-3)


@pytest.mark.parametrize(
    "cost_of",
    [
        lambda number, interval: 0.2 * (1.0 - math.exp(-interval)),  # a longer interval changes more rows
        lambda number, interval: 0.05 + 0.002 * number,  # more items come
        lambda number, interval: 0.1 * (1.0 + 0.5 * math.sin(number)),
        lambda number, interval: 1.0 if number % 20 == 10 else 0.1,
    ],
    ids=["by interval", "rising", "varying", "slow syncs"],
)
def test_commits_keep_to_their_share_where_their_cost_changes(cost_of: Callable[[int, float], float]) -> None:
    intervals, costs = paced(cost_of, 200)
    assert 0.08 < sum(costs) / (sum(costs) + sum(intervals)) <= 0.1


def test_one_slow_sync_makes_no_long_interval() -> None:
    intervals, _ = paced(lambda number, interval: 1.0 if number == 20 else 0.1, 40)
    assert max(intervals) < 2.5 * intervals[20]


def test_change_of_rules_is_noted_where_it_happened(tmp_path: Path) -> None:
    store = MemoryStore()
    for rules, first in (("one", 0), ("one", 10), ("two", 20)):
        log = ListLog([piece("a", first, 10)])
        made, _ = worker(log, tmp_path, store=store, rules=rules)
        made.run(Flag())
    assert Learned(SPEC, store).ledger.rules == [(0, "one"), (20, "two")]


def test_slices_of_partitions_may_interleave(tmp_path: Path) -> None:
    store = MemoryStore()
    events = lively(40)
    slices = [
        Slice(name, k, k + 5, events.part(k, k + 5), [], 1.0) for k in range(0, 40, 5) for name in ("a", "b")
    ]
    made, _ = worker(ListLog(slices), tmp_path, store=store, pace=Pace(events=7))
    made.run(Flag())
    journal = [(s.partition, s.first, s.next_offset) for s in journal_of(store)]
    assert journal == [(1 - k % 2, 5 * (k // 2), 5 * (k // 2) + 5) for k in range(16)]
