"""Events a commit, 1, 7, 500 and 50,000, must not change a byte of the store: every learner is tried.

    python -m benchmarks.batch_size

The same file is learned with polls and commits of these sizes, once also with a cache that holds few of
the users. The stores are read with plain rocksdict, not with Freshet's own reader.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import NamedTuple

from rocksdict import AccessType, Options, Rdict

from benchmarks.run import run_all, worker
from benchmarks.stream import stream_s
from benchmarks.verdict import Report, run_benchmark
from consumers.pace import Pace
from streaming import learners

SIZES = (1, 7, 500, 50_000)
SMALL_CACHE = 600  # users; needs more commits than asked for


class Content(NamedTuple):
    """What a store holds."""

    keys: int
    bytes: int
    sha256: str  # of all lengths, keys and values in key order


def content(path: Path) -> Content:
    """Digest of a RocksDB, by plain rocksdict."""
    keys = size = 0
    digest = hashlib.sha256()
    db = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only(False))
    try:
        for key, value in db.items():
            assert isinstance(key, bytes) and isinstance(value, bytes)
            digest.update(b"%d %d " % (len(key), len(value)) + key + value)
            keys, size = keys + 1, size + len(key) + len(value)
    finally:
        db.close()
    return Content(keys, size, digest.hexdigest())


def learned_store(
    learner: str, path: Path, events_per_commit: int, user_cache: int = 100_000
) -> tuple[Content, int]:
    """What the store holds after the whole file, and how many commits that took."""
    with tempfile.TemporaryDirectory(prefix="freshet-batch-") as home:
        pace = Pace(events=events_per_commit)
        with worker(
            learner, path, home=Path(home), pace=pace, batch_events=events_per_commit, user_cache=user_cache
        ) as embedding_worker:
            run_all(embedding_worker)
            commits, store = embedding_worker.totals.commits, Path(embedding_worker.learned.store.path)  # type: ignore[attr-defined]
        return content(store), commits


def compare(learner: str, path: Path, sizes: tuple[int, ...]) -> dict[str, dict[str, object]]:
    """Content and commits by events a commit."""
    found = {str(size): learned_store(learner, path, size) for size in sizes}
    found["500, few users cached"] = learned_store(learner, path, 500, SMALL_CACHE)
    return {size: {"commits": commits, **store._asdict()} for size, (store, commits) in found.items()}


def measure(quick: bool) -> Report:
    """Every learner: all sizes on a short file, the large ones on a long file."""
    short = stream_s(800, 700, 60) if quick else stream_s(3000, 2000, 800)
    long = short if quick else stream_s(120_000, 20_000, 5000)
    report = Report({"stores": {}})
    for learner in learners.names():
        runs = {"short file": compare(learner, short, (7, 50_000) if quick else SIZES)}
        if not quick:
            runs["long file"] = compare(learner, long, SIZES[2:])
        report.figures["stores"][learner] = runs
        different = sum(len({store["sha256"] for store in found.values()}) - 1 for found in runs.values())
        stores = sum(map(len, runs.values()))
        keys = max(int(str(store["keys"])) for found in runs.values() for store in found.values())
        report.at_most(
            f"{learner}: stores that differ", different, 0, f"{stores} stores, up to {keys:,} keys"
        )
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("batch_size", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
