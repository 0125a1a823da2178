"""Searching items while a learner changes them: how fast, how much is found, what following costs.

    python -m benchmarks.index

The rows are those of `softmax` (64 floats and a bias), learned from a stream of people with changing
favourites among many themes; queries are its users' vectors. Further events go to the learner in parts
of half a second at 2,000 events/s, a refresh after each. Waiting counts: a search is timed from the moment
at which it was due. "Processor" figures leave out what else the machine did meanwhile. The peer is
usearch's HNSW graph (inner product over vector and bias, half precision) over the same rows.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from usearch.index import Index

from benchmarks.batches import batch_of
from benchmarks.verdict import Report, run_benchmark
from consumers.embeddings import learn_events
from state.draws import Draw
from state.guests import Guests
from state.index import ItemIndex, Refreshed
from state.item_source import Items
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec

D, K = 64, 10
EVENTS_PER_SECOND, REFRESH_S, SHARE = 2000, 0.5, 0.1
REQUESTS_PER_SECOND = 100


class People:
    """A stream of (user, item): themes of about 250 items, each user with four, which change."""

    def __init__(self, items: int, users: int, seed: int = 1) -> None:
        self.items, self.users = items, users
        self._rng = rng = np.random.default_rng(seed)
        themes = max(8, items // 250)
        theme = rng.permutation(items) % themes
        self._order = np.argsort(theme, kind="stable")
        self._start = np.concatenate([[0], np.cumsum(np.bincount(theme, minlength=themes))])
        self._themes = rng.integers(0, themes, (users, 4))
        near = self._themes[:, 0] // 40 * 40 + rng.integers(0, 40, users)
        self._themes[:, 1] = near % themes
        self._popular = rng.permutation(items)

    def everything(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each item once."""
        return self._rng.integers(0, self.users, self.items), self._rng.permutation(self.items)

    def events(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The next n."""
        rng, themes = self._rng, len(self._start) - 1
        changing = max(1, n // 100)
        where = rng.integers(0, self.users, changing), rng.integers(0, 4, changing)
        self._themes[where] = rng.integers(0, themes, changing)
        a, b = rng.integers(0, self.items, (2, changing))
        self._popular[a], self._popular[b] = self._popular[b].copy(), self._popular[a].copy()
        user = (self.users * rng.random(n) ** 1.8).astype(np.int64)
        theme = self._themes[user, (4 * rng.random(n) ** 1.3).astype(np.int64)]
        size = self._start[theme + 1] - self._start[theme]
        item = self._order[self._start[theme] + (size * rng.random(n) ** 2.5).astype(np.int64)]
        popular = rng.random(n) < 0.25
        item[popular] = self._popular[(self.items * rng.random(int(popular.sum())) ** 6).astype(np.int64)]
        return user, item


class World:
    """A learner, its stream, and the rows as the index sees them."""

    dimension, vector, bias = D, 0, D

    def __init__(self, items: int, events: int) -> None:
        self.people = People(items, max(2000, items // 5))
        self.learned = Learned(
            new_spec("softmax", {"dimension": D}), MemoryStore(), user_cache=None, draw=Draw()
        )
        self._partition = self.learned.ledger.partition("people")
        self.bias_half_life = float(self.learned.options.bias_half_life)
        users, every = self.people.everything()
        for first in range(0, items, 5000):
            self._feed(users[first : first + 5000], every[first : first + 5000])
        self.learn(events)

    def _feed(self, user: NDArray[np.int64], item: NDArray[np.int64]) -> None:
        events = batch_of(user, item, None, self.learned.ledger.number)
        learn_events(self.learned, events, self._partition)

    def learn(self, events: int) -> None:
        """Let the learner go on."""
        for first in range(0, events, 5000):
            self._feed(*self.people.events(min(5000, events - first)))

    def items(self) -> Items:
        """For the index."""
        items, rows = self.learned.items, self.learned.items.rows
        return Items(
            rows.floats, rows.touched, items.serial, rows.events, items.count, self.learned.ledger.number
        )

    def queries(self, n: int, seed: int) -> NDArray[np.float32]:
        """(n, d) vectors of users, the active ones more often; each twentieth of one who is not known."""
        guests, found = Guests(self.learned, 1), np.zeros((n, D), np.float32)
        users = (self.people.users * np.random.default_rng(seed).random(n) ** 1.8).astype(np.int64)
        for i, user in enumerate(users):
            if i % 20 and guests.load(f"user-{user:07d}"):
                found[i] = guests.vectors(1)[0]
        return found


def paced(index: ItemIndex, queries: NDArray[np.float32], seconds: float) -> dict[str, float]:
    """Milliseconds of searches that come at a fixed rate, from when each was due."""
    index.search(queries[0], K)
    waited, worked = [], []
    begun = time.perf_counter()
    for i in range(int(seconds * REQUESTS_PER_SECOND)):
        due = begun + i / REQUESTS_PER_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        used = time.thread_time()
        index.search(queries[i % len(queries)], K)
        worked.append(1e3 * (time.thread_time() - used))
        waited.append(1e3 * (time.perf_counter() - due))
    return {
        "p50_ms": float(np.median(waited)),
        "p99_ms": float(np.percentile(waited, 99)),
        "processor_p50_ms": float(np.median(worked)),
        "processor_p99_ms": float(np.percentile(worked, 99)),
    }


def exact_best(world: World, query: NDArray[np.float32]) -> NDArray[np.int64]:
    """The 10 best items by NumPy."""
    learned = world.learned
    count = learned.items.count
    rows = learned.items.rows.floats[:count]
    period = int(16 * world.bias_half_life)
    scale = np.float32(2.0 ** (-(learned.ledger.number % period) / world.bias_half_life))
    scores = rows[:, :D] @ query + scale * rows[:, D]
    return np.argpartition(-scores, K)[:K]


def recall(index: ItemIndex, world: World, queries: NDArray[np.float32]) -> dict[str, float]:
    """Share of the 10 best that are found: of all queries, and of the worst tenth of them."""
    shares = np.sort([len(np.intersect1d(index.search(q, K)[0], exact_best(world, q))) / K for q in queries])
    return {"recall_at_10": float(shares.mean()), "worst_tenth": float(shares[: len(shares) // 10].mean())}


def followed(index: ItemIndex, world: World, events: int, queries: NDArray[np.float32]) -> dict[str, float]:
    """Learn on; what following takes, in parts of a processor at 2,000 events/s.

    A few searches between refreshes let the index sample its recall and steer by it.
    """
    step = int(EVENTS_PER_SECOND * REFRESH_S)
    done: list[Refreshed] = []
    for part in range(events // step):
        world.learn(step)
        for q in range(int(REQUESTS_PER_SECOND * REFRESH_S)):
            index.search(queries[(part * 7 + q) % len(queries)], K)
        done.append(index.refresh(SHARE * REFRESH_S))
    seconds = [one.seconds for one in done]
    return {
        "processor_share": sum(seconds) / (len(done) * REFRESH_S),
        "refresh_p99_ms": 1e3 * float(np.percentile(seconds, 99)),
        "rows_per_event": sum(one.rows for one in done) / (len(done) * step),
        "moved_per_second": sum(one.moved for one in done) / (len(done) * REFRESH_S),
        "sampled_recall_at_10": index.recall.at_10,
        "samples": index.recall.samples,
    }


def beside_usearch(index: ItemIndex, world: World, queries: NDArray[np.float32]) -> dict[str, float]:
    """Build, search and re-index the same rows in an HNSW graph; seconds and microseconds of one thread."""
    learned, count = world.learned, world.learned.items.count
    period = int(16 * world.bias_half_life)
    scale = np.float32(2.0 ** (-(learned.ledger.number % period) / world.bias_half_life))
    points = learned.items.rows.floats[:count, : D + 1].copy()
    points[:, D] *= scale
    graph = Index(
        ndim=D + 1, metric="ip", dtype="f16", connectivity=16, expansion_add=64, expansion_search=128
    )
    begun = time.thread_time()
    graph.add(np.arange(count), points, threads=1)
    built, hits, searched, own = time.thread_time() - begun, 0, [], []
    for query in queries:
        longer = np.append(query, np.float32(1.0))
        begun = time.thread_time()
        near = graph.search(longer, 100, threads=1).keys.astype(np.int64)
        searched.append(time.thread_time() - begun)
        best = near[np.argsort(-(points[near] @ longer))[:K]]
        hits += len(np.intersect1d(best, exact_best(world, query)))
        begun = time.thread_time()
        index.search(query, K)
        own.append(time.thread_time() - begun)
    some = np.random.default_rng(1).permutation(count)[: min(count, 5000)]
    begun = time.thread_time()
    graph.remove(some)
    graph.add(some, points[some], threads=1)
    again = time.thread_time() - begun
    state = index._state
    assert state is not None
    return {
        "build_s": built,
        "search_us": 1e6 * float(np.median(searched)),
        "recall_at_10": hits / (K * len(queries)),
        "reindex_us": 1e6 * again / len(some),
        "bytes_per_item": graph.memory_usage / count,
        "own_search_us": 1e6 * float(np.median(own)),
        "own_bytes_per_item": sum(array.nbytes for array in state.lists) / count,
    }


def row_us(index: ItemIndex, world: World) -> float:
    """Microseconds for taking a changed row in."""
    world.learn(2000)
    done = index.refresh(0.0)
    return 1e6 * done.seconds / max(1, done.rows)


def small(report: Report, quick: bool) -> None:
    """Exact search, and following as many items as are just no longer searched so."""
    world = World(*((1000, 2000) if quick else (50_000, 300_000)))
    times = paced(ItemIndex(world), world.queries(200, 1), 1 if quick else 15)
    report.figures["exact"] = times
    report.at_most("exact search, 50,000 items, 100 requests/s: p99 ms", times["p99_ms"], 8, _beside(times))
    world = World(*((1000, 2000) if quick else (100_000, 500_000)))
    index = ItemIndex(world, exact_most=500 if quick else 50_000)
    begun = time.thread_time()
    index.refresh()
    built, queries = time.thread_time() - begun, world.queries(200, 2)
    cost = followed(index, world, 2_000 if quick else 100_000, queries)
    peer = beside_usearch(index, world, queries)
    taken = row_us(index, world)
    report.figures["following"] = {**cost, "build_s": built, "us_per_row": taken}
    report.figures["usearch"] = peer
    share = cost["processor_share"]
    report.at_most("following 100,000 items at 2,000 events/s: part of a core", share, 0.15)
    report.beside("the same rows: times as long to build an HNSW graph", peer["build_s"] / built)
    note = f"{peer['reindex_us']:.0f} µs, here {taken:.2f} µs"
    report.beside("times as long to take a changed row in", peer["reindex_us"] / taken, note)
    note = (
        f"{peer['search_us']:.0f} µs, recall {peer['recall_at_10']:.3f}; here {peer['own_search_us']:.0f} µs"
    )
    report.beside("search time as a share of ours", peer["search_us"] / peer["own_search_us"], note)


def _beside(times: dict[str, Any]) -> str:
    return f"p50 {times['p50_ms']:.2f} ms; p99 on the processor {times['processor_p99_ms']:.2f} ms"


def large(report: Report, quick: bool) -> None:
    """A million items, before and after a million further events."""
    items, events, more = (2000, 4000, 2000) if quick else (1_000_000, 2_000_000, 1_000_000)
    world = World(items, events)
    index = ItemIndex(world, exact_most=min(items // 2, 100_000))
    begun = time.perf_counter(), time.process_time()
    index.refresh()
    built = {"wall_s": time.perf_counter() - begun[0], "processor_s": time.process_time() - begun[1]}
    report.figures["large"] = figures = {"build": built}
    asked = 40 if quick else 400
    for when in ("at first", "after 1,000,000 further events"):
        queries = world.queries(asked, 3)
        if when != "at first":
            cost = followed(index, world, more, queries)
            figures["following"] = cost
            queries = world.queries(asked, 4)
        found, times = recall(index, world, queries), paced(index, queries, 1 if quick else 15)
        figures[when] = {**found, **times}
        what = f"1,000,000 items, {when}"
        report.at_least(
            f"{what}: recall@10", found["recall_at_10"], 0.95, f"worst tenth {found['worst_tenth']:.3f}"
        )
        report.at_most(f"{what}: p99 ms", times["p99_ms"], 10, _beside(times))
    report.beside("following 1,000,000 items at 2,000 events/s: part of a core", cost["processor_share"])
    report.beside("building the lists of 1,000,000 items: s", built["wall_s"])


def measure(quick: bool) -> Report:
    """Small, then large."""
    report = Report()
    small(report, quick)
    large(report, quick)
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("index", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
