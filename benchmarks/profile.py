"""`make profile`: where each microsecond of an event goes, from the file to the durable row.

    python -m benchmarks.profile [--learner bpr] [--events 1000000]

The stream is learned once before, so that histories are full and kernels compiled. Python's own
profiler is on; it costs nothing that counts here, because Python runs once a batch, not once an event.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import tempfile
import time
from pathlib import Path

from benchmarks.run import run_all, worker
from benchmarks.stream import stream_s

# (step, file, function): the cumulative time of the function belongs to the step.
STEPS = (
    ("poll: read lines", "lines.py", "take"),
    ("poll: decode", "decoding.py", "decode"),
    ("resolve: users", "users.py", "resolve"),
    ("resolve: all", "learned.py", "resolve"),
    ("score, learn, count", "learned.py", "learn"),
    ("metrics", "metrics.py", "observe_batch"),
    ("stage: offsets", "embeddings.py", "_stage"),
    ("commit: all", "learned.py", "commit"),
    ("commit: encode rows", "rows.py", "encode"),
    ("commit: write", "rocksdb.py", "write"),
    ("commit: report", "embeddings.py", "_report"),
    ("whole run", "embeddings.py", "run"),
)


def main() -> None:
    """Profile one pass."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--learner", default="bpr")
    options.add_argument("--events", type=int, default=1_000_000)
    given = options.parse_args()
    path = stream_s(given.events)
    with tempfile.TemporaryDirectory(prefix="freshet-profile-") as home:
        for measured in (False, True):
            with worker(given.learner, path, home=Path(home)) as embedding_worker:
                if measured:
                    # The same file again, as if it were another one: what is known stays known.
                    embedding_worker.learned.ledger.sources.clear()
                profiler = cProfile.Profile()
                begun = time.process_time()
                if measured:
                    profiler.enable()
                seconds = run_all(embedding_worker)
                profiler.disable()
                cpu = time.process_time() - begun
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    print(
        f"{given.learner}, {given.events:,} events: {seconds:.2f} s, "
        f"{1e6 * cpu / given.events:.2f} µs of CPU an event\n"
    )
    print(f"{'step':24}{'µs an event':>12}{'calls':>10}")
    for step, file, function, *_ in STEPS:
        found = [v for k, v in stats.items() if k[0].endswith("/" + file) and k[2] == function]
        if found:
            cost = 1e6 * max(v[3] for v in found) / given.events
            print(f"{step:24}{cost:>12.3f}{sum(v[0] for v in found):>10,}")


if __name__ == "__main__":
    main()
