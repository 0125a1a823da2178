"""Memory and speed with more users than the cache holds: five million of them, 100,000 held.

    python -m benchmarks.memory

One file has 5 million users in their order of arrival; after each fifth of them comes an event of an
earlier user, mostly one that was let go. A process of its own learns it with the small cache and another
one with a cache that holds all; the most memory that each was given by the system (VmHWM) is its figure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.run import run_all, worker
from benchmarks.stream import zipf
from benchmarks.verdict import Report, run_benchmark
from consumers.logs import configure_logs

USERS, CACHED, ITEMS = 5_000_000, 100_000, 20_000
LEARNERS = ("bpr",)  # the embedding learner whose own work is least, so that the store weighs most
_CHUNK = 100_000
_ROOT = Path(__file__).resolve().parent.parent


def write_stream(path: Path, users: int, items: int = ITEMS, seed: int = 1) -> int:
    """Write the file; returns its number of events."""
    events = 0
    with path.open("w") as file:
        for first, user, item in _chunks(users, items, seed):
            file.writelines(
                f'{{"user":"user-{u:07d}","item":"item-{i:05d}","ts":{ts},"type":"click","value":1.0}}\n'
                for u, i, ts in zip(user, item, range(first, first + len(user)), strict=True)
            )
            events += len(user)
    return events


def _chunks(users: int, items: int, seed: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """(time of the first event, users, items) of parts of the stream."""
    rng = np.random.default_rng(seed)
    ts = 1_700_000_000
    for first in range(0, users, _CHUNK):
        new = np.arange(first, min(first + _CHUNK, users))
        places = np.arange(5, len(new) + 1, 5)
        earlier = (rng.random(len(places)) * (first + places)).astype(np.int64)
        user = np.insert(new, places, earlier)
        yield ts, user.tolist(), zipf(rng, items, 1.0, len(user)).tolist()
        ts += len(user)


def high_water_bytes() -> int:
    """Most resident memory that this process ever had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM; this benchmark needs Linux")


def learn(learner: str, path: Path, user_cache: int) -> dict[str, Any]:
    """Learn the file in this process; speed and memory."""
    with worker(learner, path, user_cache=user_cache) as embedding_worker:
        seconds = run_all(embedding_worker)
        totals, users = embedding_worker.totals, embedding_worker.learned.users
        return {
            "learner": learner,
            "user_cache": user_cache,
            "events": totals.events,
            "new_users": embedding_worker.learned.ledger.new_users,
            "seconds": seconds,
            "events_per_second": totals.events / seconds,
            "commit_seconds": totals.commit_seconds,
            "commits": totals.commits,
            "cache_hits": users.hits,
            "cache_misses": users.misses,
            "high_water_bytes": high_water_bytes(),
        }


def in_child(learner: str, path: Path, user_cache: int) -> dict[str, Any]:
    """`learn` in a process of its own, whose memory is all its own.

    Raises:
        subprocess.CalledProcessError: it failed; its words went to standard error.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--child", learner, str(path), str(user_cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=_ROOT)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(learner: str, users: int, cached: int, rounds: int) -> dict[str, Any]:
    """Runs with the small cache and with one that holds all, in turn, on one file."""
    path = Path(tempfile.gettempdir()) / f"freshet-users-{users}.jsonl"
    try:
        write_stream(path, 100)
        in_child(learner, path, 100)  # compiles the kernels, which are then on the disk for all
        events = write_stream(path, users)
        small, whole = [], []
        for _ in range(rounds):
            small.append(in_child(learner, path, cached))
            whole.append(in_child(learner, path, 2 * users))
    finally:
        path.unlink(missing_ok=True)
    return {
        "users": users,
        "events": events,
        "small_cache": small,
        "whole_cache": whole,
        "times_slower": median(s["seconds"] / w["seconds"] for s, w in zip(small, whole, strict=True)),
    }


def measure(quick: bool) -> Report:
    """Each learner of the list."""
    users, cached, rounds = (20_000, 1000, 1) if quick else (USERS, CACHED, 2)
    report = Report()
    for learner in LEARNERS:
        found = report.figures[learner] = compare(learner, users, cached, rounds)
        gigabytes = max(run["high_water_bytes"] for run in found["small_cache"]) / 1e9
        of_all = max(run["high_water_bytes"] for run in found["whole_cache"]) / 1e9
        what = f"{learner}, {users:,} users, {cached:,} cached"
        report.at_most(f"{what}: resident memory, GB", gigabytes, 1.0, f"{of_all:.2f} GB with all users held")
        speeds = [median(r["events_per_second"] for r in found[k]) for k in ("small_cache", "whole_cache")]
        note = f"{speeds[0]:,.0f} events/s, {speeds[1]:,.0f} with all users held"
        report.at_most(f"{what}: times slower than with all held", found["times_slower"], 2.0, note)
    return report


def main() -> int:
    """Measure, print, record; with --child learn one file and print what that took."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--child", nargs=3, metavar=("LEARNER", "FILE", "USERS"))
    child = options.parse_known_args()[0].child
    if child is None:
        return run_benchmark("memory", __doc__, measure)
    configure_logs("auto", "warning")
    print(json.dumps(learn(child[0], Path(child[1]), int(child[2]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
