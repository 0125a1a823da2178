"""Live tables: what they cost the worker, and how soon an event is in an answer.

python -m benchmarks.live [--quick]
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.verdict import Report, run_benchmark
from consumers.embeddings import learn_events
from state.arena import Arena
from state.learned import Learned
from state.live import SHARED_MEMORY, LiveArena
from state.memory import MemoryStore
from state.reader import Reader
from state.spec import new_spec
from state.versions import Registry
from streaming.events import EventBatch, Ids

_BATCH = 4096
_RATE = 2000
_START_S = 120


def _ids(names: list[bytes]) -> Ids:
    at = np.zeros(len(names) + 1, np.int64)
    np.cumsum([len(name) for name in names], out=at[1:])
    return Ids(np.frombuffer(b"".join(names), np.uint8), at[:-1], at[1:])


def _batches(items: int, count: int) -> list[EventBatch]:
    """Events of 20,000 users on items of skewed popularity; every item occurs in the first ones."""
    random, made = np.random.default_rng(1), []
    for k in range(count):
        n, first = _BATCH, k * _BATCH
        item = (items * random.random(n) ** 2).astype(int)
        fresh = np.arange(first, first + n)
        item = np.where(fresh < items, fresh, item)
        users = [b"user-%d" % u for u in random.integers(0, 20_000, n)]
        ones = np.ones(n, np.float32)
        ts = 1_700_000_000_000_000 + np.arange(first, first + n) * 1000
        names = [b"item-%d" % i for i in item]
        made.append(EventBatch(_ids(users), _ids(names), np.arange(first, first + n), ts, ones, ones))
    return made


def cost(items: int, events: int) -> float:
    """CPU time of learning in live tables, as a multiple of that in private memory, batch by batch."""
    spec = new_spec("softmax", {})
    place = Path(tempfile.mkdtemp(prefix="freshet-bench-"))
    arenas = {"memory": Arena(), "live": LiveArena(place, "bench", SHARED_MEMORY)}
    learned = {
        name: Learned(spec, MemoryStore(), user_cache=None, arena=arena) for name, arena in arenas.items()
    }
    warm = items // _BATCH + 2
    spent: dict[str, list[float]] = {name: [] for name in arenas}
    for k, batch in enumerate(_batches(items, warm + events // _BATCH)):
        # Who is first alternates: the second finds the batch in the cache.
        for name in sorted(arenas, reverse=bool(k % 2)):
            begun = time.process_time()
            learn_events(learned[name], batch, 0)
            if k >= warm:
                spent[name].append(time.process_time() - begun)
    arenas["live"].close()
    shutil.rmtree(place, ignore_errors=True)
    return sum(spent["live"]) / sum(spent["memory"])


def visible(items: int, seconds: float) -> list[float]:
    """Seconds from the writing of an event to the first answer that knows it, at 2,000 events a second."""
    place = Path(tempfile.mkdtemp(prefix="freshet-bench-"))
    version = Registry(place).create("v", new_spec("softmax", {}))
    path, random = place / "events.jsonl", np.random.default_rng(2)
    with path.open("w") as file:
        for k in range(items):
            file.write(_line(f"user-{k % 20_000}", k, k))
    command = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    command += ["--home", str(place), "work", "v", "--from", str(path), "--follow"]
    worker = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        with path.open("a") as file, closing(Reader(version)) as reader:
            _wait_for(reader, items)
            return _appended(file, reader, items, int(seconds * _RATE), random)
    finally:
        worker.terminate()
        worker.wait()
        shutil.rmtree(place)


def _appended(file: Any, reader: Reader, items: int, events: int, random: np.random.Generator) -> list[float]:
    """Write events at the rate, asking meanwhile; each event's seconds until it was seen."""
    begun, written_at, seen_after = time.perf_counter(), [0.0] * events, []
    written = seen = 0
    while seen < events:
        now = time.perf_counter()
        due = min(events, int((now - begun) * _RATE))
        if due > written:
            lines = [
                _line(f"user-{random.integers(20_000)}", int(items * random.random() ** 2), items + k)
                for k in range(written, due)
            ]
            file.write("".join(lines))
            file.flush()
            written_at[written:due] = [time.perf_counter()] * (due - written)
            written = due
        known = reader.ask(lambda answers: answers.learned.ledger.number) - items
        now = time.perf_counter()
        seen_after += [now - written_at[k] for k in range(seen, known)]
        seen = max(seen, known)
        time.sleep(0.002)
    return seen_after


def _line(user: str, item: int, number: int) -> str:
    event = {"user": user, "item": f"item-{item}", "ts": 1_700_000_000 + number}
    return json.dumps(event, separators=(",", ":")) + "\n"


def _wait_for(reader: Reader, events: int) -> None:
    until = time.monotonic() + _START_S
    while True:
        assert time.monotonic() < until, "the worker did not learn the first events"
        time.sleep(0.2)
        live = reader.version.live_path / "current"
        if live.exists() and reader.ask(lambda answers: answers.learned.ledger.number) >= events:
            return


def measure(quick: bool) -> Report:
    """Costs at two sizes, and how soon events are visible."""
    report = Report()
    for items in (2000, 20_000) if quick else (20_000, 100_000):
        ratio = cost(items, 20_000 if quick else 400_000)
        report.at_most(f"CPU time of learning with live tables, {items:,} items, × without", ratio, 1.03)
        report.figures[f"cost_{items}"] = ratio
    for items in (2000,) if quick else (20_000, 500_000):
        seconds = visible(items, 3 if quick else 20)
        p50, p99 = (float(q) for q in np.quantile(seconds, [0.5, 0.99]))
        report.beside(f"event → visible, {items:,} items, 2,000 events/s, p50 (s)", p50)
        report.at_most(f"event → visible, {items:,} items, 2,000 events/s, p99 (s)", p99, 1.0)
        report.figures[f"visible_{items}"] = {"p50_s": p50, "p99_s": p99, "events": len(seconds)}
    return report


if __name__ == "__main__":
    raise SystemExit(run_benchmark("live", __doc__, measure))
