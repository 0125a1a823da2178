"""Time to live against a slow model of who is alive."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import state.learned
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec
from streaming.events import EventBatch
from tests.state.streams import batch, lively, teach

CHECK, USERS_LIVE, ITEMS_LIVE = 64, 1600, 3000


class Slow:
    """Rows as dicts: name → (seen, events). At every CHECK events the watermark decides."""

    def __init__(self) -> None:
        self.users: dict[str, tuple[int, int]] = {}
        self.items: dict[str, tuple[int, int]] = {}
        self.watermark = self.number = self.users_edge = self.items_edge = 0

    def see(self, user: str, item: str, seconds: int) -> None:
        seconds = max(seconds, self.users_edge, self.items_edge)
        for rows, name in ((self.users, user), (self.items, item)):
            seen, events = rows.get(name, (0, 0))
            rows[name] = (max(seen, seconds), events + 1)
        self.watermark = max(self.watermark, seconds)
        self.number += 1
        if self.number % CHECK == 0:
            width = USERS_LIVE // 16
            self.users_edge = max(self.users_edge, (self.watermark - USERS_LIVE) // width * width)
            self.items_edge = max(self.items_edge, self.watermark - ITEMS_LIVE)
            self.users = {n: r for n, r in self.users.items() if r[0] >= self.users_edge}
            self.items = {n: r for n, r in self.items.items() if r[0] >= self.items_edge}


def alive(store: MemoryStore, prefix: bytes) -> dict[str, tuple[int, int]]:
    return {
        key[1:].decode(): (int.from_bytes(value[16:24], "little"), int.from_bytes(value[32:36], "little"))
        for key, value in store.scan(prefix)
    }


@pytest.fixture(autouse=True, scope="module")
def short_period() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state.learned, "CHECK_EVENTS", CHECK)
        yield


def stream(seed: int, n: int) -> EventBatch:
    random = np.random.default_rng(seed)
    seconds = 1_000_000 + np.cumsum(random.choice([0, 1, 5, 400], n, p=[0.3, 0.5, 0.18, 0.02]))
    seconds -= random.choice([0, 1000, 5000], n, p=[0.8, 0.15, 0.05])
    drift = np.arange(n) // 40
    users = [f"u{k}" for k in drift + random.integers(0, 25, n)]
    items = [f"i{k}" for k in drift + random.integers(0, 15, n)]
    return batch(users, items, seconds=seconds.tolist())


@settings(max_examples=25)
@given(
    st.integers(0, 9999),
    st.integers(1, 90),
    st.sampled_from([4, 20, None]),
    st.integers(1, 6),
    st.integers(1, 500),
)
def test_rows_alive_are_those_of_the_definition(
    seed: int, commit: int, cache: int | None, restarts: int, n: int
) -> None:
    events, slow, store = stream(seed, n), Slow(), MemoryStore()
    for k in range(n):
        slow.see(events.users[k], events.items[k], int(events.ts[k]) // 1_000_000)
    spec = new_spec("popularity", {"users_live_s": USERS_LIVE, "items_live_s": ITEMS_LIVE})
    for part in range(1, restarts + 1):
        learned = Learned(spec, store, user_cache=cache)
        teach(learned, events.part(0, n * part // restarts), commit=commit)
    assert alive(store, b"u") == slow.users
    assert alive(store, b"i") == slow.items
    index = {(int.from_bytes(key[1:9], "big"), key[9:].decode()) for key, _ in store.scan(b"d")}
    assert index == {(seen // (USERS_LIVE // 16), name) for name, (seen, _) in slow.users.items()}


def test_nothing_expires_without_a_time_to_live() -> None:
    store = MemoryStore()
    events = lively(500)
    learned = teach(Learned(new_spec("popularity", {}), store), events, commit=50)
    assert learned.items.count == len({events.items[k] for k in range(500)})
    assert list(store.scan(b"d")) == []


def test_id_seen_again_after_its_time_begins_anew() -> None:
    day = 86_400
    spec = new_spec("popularity", {"users_live_s": day, "items_live_s": day, "half_life": float("inf")})
    seconds = [10 * day] * 64 + [20 * day] * 64 + [20 * day] * 2
    events = batch(
        ["old"] * 64 + ["new"] * 64 + ["old"] * 2, ["o"] * 64 + ["n"] * 64 + ["o"] * 2, seconds=seconds
    )
    store = MemoryStore()
    learned = teach(Learned(spec, store), events, commit=10)
    assert alive(store, b"u") == {"old": (20 * day, 2), "new": (20 * day, 64)}
    slot = learned.items.ids.slot_of("o")
    assert learned.items.rows.floats[slot, 0] == 2.0
    assert learned.items.serial[slot] == 2
