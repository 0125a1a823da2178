"""The same events give the same bytes, however they are batched, cached, committed and interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import state.learned
from state.draws import Draw
from state.learned import Learned
from state.memory import MemoryStore
from state.rocksdb import RocksStore
from state.spec import new_spec
from streaming import learners
from streaming.errors import CorruptRowError, SettingError
from tests.state.streams import everything, lively, teach

EVENTS = 1500
BARE: dict[str, Any] = {}
FORGETFUL = {
    "admit_users": 2,
    "admit_items": 2.5,
    "admission_half_life": 300,
    "users_live_s": 86_400,
    "items_live_s": 2 * 86_400,
}
SMALL = {"softmax": {"dimension": 8, "recent": 1500}, "bpr": {"dimension": 8}, "biased_mf": {"dimension": 8}}


def spec_of(learner: str, kept: dict[str, Any]) -> Any:
    known = learners.load(learner).options()._fields
    small = {k: v for k, v in SMALL.get(learner, {}).items() if k in known}
    return new_spec(learner, {"evaluation_rate": 0.2, **small, **kept})


def difference(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> list[bytes]:
    return sorted(k for k in one.keys() | other.keys() if one.get(k) != other.get(k))


@pytest.fixture
def short_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expiry and sweeps every 128 events instead of every 16,384."""
    monkeypatch.setattr(state.learned, "CHECK_EVENTS", 128)


def whole_run(spec: Any, late: float) -> dict[bytes, bytes]:
    store = MemoryStore()
    teach(Learned(spec, store, user_cache=None), lively(EVENTS, late=late), commit=50_000)
    return everything(store)


@pytest.mark.usefixtures("short_periods")
@pytest.mark.parametrize("learner", learners.names())
@pytest.mark.parametrize(("kept", "late"), [(BARE, 0.0), (FORGETFUL, 0.1)], ids=["bare", "forgetful-late"])
def test_same_events_give_same_bytes_for_any_commit_size_and_cache(
    learner: str, kept: dict[str, Any], late: float
) -> None:
    spec, events = spec_of(learner, kept), lively(EVENTS, late=late)
    whole = whole_run(spec, late)
    assert any(k.startswith(b"u") for k in whole)
    for commit, cache, single in ((500, 40, 0), (7, 12, 0), (100, 3, 300)):
        store = MemoryStore()
        learned = Learned(spec, store, user_cache=cache)
        teach(learned, events.part(0, single), commit=1)
        teach(learned, events, commit=commit)
        assert difference(everything(store), whole) == [], f"{commit} events a commit, {cache} users held"


@pytest.mark.usefixtures("short_periods")
@pytest.mark.parametrize("learner", learners.names())
@pytest.mark.parametrize("kept", [BARE, FORGETFUL], ids=["bare", "forgetful"])
def test_restarts_at_any_point_give_the_same_bytes(learner: str, kept: dict[str, Any]) -> None:
    spec, events = spec_of(learner, kept), lively(EVENTS, late=0.1)
    random = np.random.default_rng(5)
    store = MemoryStore()
    for stop in [*np.sort(random.integers(1, EVENTS, 12)).tolist(), EVENTS]:
        learned = Learned(spec, store, user_cache=25)
        teach(learned, events.part(0, stop), commit=200, batch_size=61)
    assert difference(everything(store), whole_run(spec, 0.1)) == []


@pytest.mark.usefixtures("short_periods")
def test_work_that_was_not_committed_is_learned_again_to_the_same_bytes() -> None:
    spec, events = spec_of("softmax", FORGETFUL), lively(EVENTS, late=0.1)
    store = MemoryStore()
    teach(Learned(spec, store, user_cache=25), events.part(0, 500), commit=100)
    lost = Learned(spec, store, user_cache=None)
    for first in range(500, 1000, 100):
        rest = events.part(first, first + 100)
        while len(rest):
            part = rest.part(0, lost.part(rest))
            assert lost.make_room(part)
            lost.learn(lost.resolve(part, 0))
            rest = rest.part(len(part), len(rest))
    teach(Learned(spec, store, user_cache=25), events, commit=100)
    assert difference(everything(store), whole_run(spec, 0.1)) == []


@pytest.mark.usefixtures("short_periods")
def test_rocksdb_holds_what_memory_holds(tmp_path: Path) -> None:
    spec, events = spec_of("softmax", FORGETFUL), lively(EVENTS)
    for stop in (400, 900, EVENTS):
        with RocksStore(tmp_path / "store") as store:
            teach(Learned(spec, store, user_cache=30), events.part(0, stop), commit=400)
    with RocksStore(tmp_path / "store") as store:
        kept = everything(store)
    assert kept.pop(b"mformat") == b"1"
    assert difference(kept, whole_run(spec, 0.0)) == []


@pytest.mark.parametrize("size", [999, 1000, 1001, 1500, 2999])
@pytest.mark.parametrize("commit", [1, 999, 1400])
def test_ring_of_recent_items_comes_back_whole_for_any_size(size: int, commit: int) -> None:
    spec = new_spec("softmax", {"dimension": 4, "recent": size, "evaluation_rate": 0})
    events = lively(300 if commit == 1 else 4200)
    store = MemoryStore()
    learned = teach(Learned(spec, store), events, commit=commit)
    again = Learned(spec, store)
    np.testing.assert_array_equal(again.model.recent.serial, learned.model.recent.serial)
    np.testing.assert_array_equal(again.model.recent.pushed, learned.model.recent.pushed)
    count = learned.items.count
    np.testing.assert_array_equal(
        again.model.recent.occurrences[:count], learned.model.recent.occurrences[:count]
    )


def test_another_spec_is_refused_and_the_difference_named() -> None:
    store = MemoryStore()
    teach(Learned(new_spec("popularity", {}), store), lively(100), commit=50)
    with pytest.raises(SettingError, match=r"half_life 3000\.0 → 5\.0"):
        Learned(new_spec("popularity", {"half_life": 5}), store)


@pytest.mark.parametrize(
    "key", [b"mtables", b"mprequential", b"mspec", b"mledger", b"r000000", b"o000000", b"j000000000000"]
)
def test_damage_outside_of_rows_is_refused_by_name(key: bytes) -> None:
    spec = new_spec("softmax", {"dimension": 4})
    store = MemoryStore()
    teach(Learned(spec, store), lively(100), commit=50)
    value = bytearray(everything(store)[key])
    value[len(value) // 2] ^= 4
    store.write([(key, bytes(value))])
    with pytest.raises(CorruptRowError, match=repr(key)[2:-1]):
        Learned(spec, store)


def test_damaged_row_of_an_item_is_refused_at_start_and_of_a_user_when_seen() -> None:
    spec = new_spec("popularity", {})
    store = MemoryStore()
    events = lively(300)
    teach(Learned(spec, store), events, commit=50)
    everything_kept = everything(store)
    user = next(k for k in everything_kept if k.startswith(b"u"))
    store.write([(user, everything_kept[user][:-4] + b"\0\1\2\3")])
    learned = Learned(spec, store)
    with pytest.raises(CorruptRowError, match=user.decode()):
        learned.make_room(events)
        learned.resolve(events, 0)
    item = next(k for k in everything_kept if k.startswith(b"i"))
    store.write([(item, everything_kept[item][:-3])])
    with pytest.raises(CorruptRowError, match="versions restore"):
        Learned(spec, store)


def test_every_nth_event_is_evaluated_by_position() -> None:
    learned = Learned(new_spec("popularity", {}), MemoryStore(), draw=Draw(every=7))
    teach(learned, lively(700), commit=13)
    assert learned.prequential.evaluated == 100


def test_share_of_evaluated_events_follows_the_rate() -> None:
    learned = Learned(new_spec("popularity", {"evaluation_rate": 0.25}), MemoryStore())
    teach(learned, lively(4000), commit=500)
    assert 900 < learned.prequential.evaluated < 1100


def test_excluded_items_are_those_the_user_had() -> None:
    """Against protocol P1 written out: scores are counts, ties count half, a repeat is a miss."""
    spec = new_spec("popularity", {"half_life": float("inf")})
    learned = Learned(spec, MemoryStore(), user_cache=None, draw=Draw(every=1), exclude_seen=True)
    events = lively(600)
    teach(learned, events, commit=37)
    counts: dict[str, float] = {}
    had: dict[str, set[str]] = {}
    hits = 0
    for k in range(len(events)):
        user, item = events.users[k], events.items[k]
        seen = had.setdefault(user, set())
        if item in counts and item not in seen:
            others = [c for i, c in counts.items() if i not in seen and i != item]
            rank = sum(c > counts[item] for c in others) + sum(c == counts[item] for c in others) / 2
            hits += rank < 10
        counts[item] = counts.get(item, 0.0) + float(events.weights[k])
        seen.add(item)
    assert learned.prequential.summary()["overall"]["hr@10"] == pytest.approx(hits / len(events))


@pytest.mark.parametrize("learner", learners.names())
def test_bytes_do_not_depend_on_where_arrays_lie_in_memory(learner: str) -> None:
    spec, found = spec_of(learner, {"evaluation_rate": 0.0}), []
    for odd in range(4):
        # Blocks of odd sizes, held while the arrays are made, move them against each other.
        blocks = [bytearray(64 * k + 16 * odd + 1) for k in range(32)]
        store = MemoryStore()
        teach(Learned(spec, store), lively(500), commit=500)
        found.append(everything(store))
        del blocks
    assert all(difference(found[0], other) == [] for other in found[1:])
