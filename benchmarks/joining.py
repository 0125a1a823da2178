"""How fast exposures and events are joined, and what is held meanwhile: the pure part, without log and store.

    python -m benchmarks.joining

Two sources of shuffled lateness: 20 % of the records are lists of 10 items that were served, the others are
events, half of them of an item that the user was shown. Rows of changed users are made after every batch,
as the joiner does before a commit.
"""

from __future__ import annotations

import gc
import time

import numpy as np

from benchmarks.verdict import Report, run_benchmark
from streaming.exposures import Exposure, Happening
from streaming.joining import SECOND, Joiner

BATCH = 2000
RATE = 2000  # records a second of event time
WINDOW_S = 300


def records(
    count: int, users: int, seed: int = 1
) -> tuple[list[tuple[str, Exposure]], list[tuple[str, Happening]]]:
    """(exposures, events), each in the order of its source: up to 5 s out of the order of time."""
    rng = np.random.default_rng(seed)
    ts = np.arange(count) * (SECOND // RATE) + rng.integers(0, 5 * SECOND, count)
    served = rng.random(count) < 0.2
    number = rng.integers(0, users, count)
    user = [f"user{n}" for n in number]
    first = rng.integers(0, 1000, count)
    exposures, events = [], []
    for k in range(count):
        if served[k]:
            items = tuple(f"item{n}" for n in range(first[k], first[k] + 10))
            arm = "challenger" if number[k] % 10 == 0 else "champion"
            exposures.append((user[k], Exposure(int(ts[k]), f"x{k}", arm, items)))
        else:
            events.append((user[k], Happening(int(ts[k]), f"item{first[k] % 20}")))
    return exposures, events


def measure(quick: bool) -> Report:
    """Records a second, and users held against those that the window lets one expect."""
    count, users = (20_000, 5_000) if quick else (1_500_000, 2_000_000)
    exposures, events = records(count, users)
    gc.collect()
    gc.freeze()  # the prepared records are this benchmark's own; a log's records come and go
    joiner = Joiner(("champion", "challenger"), ("exposures", "events"), window_us=WINDOW_S * SECOND)
    most, outcomes, seconds, cpu = 0, 0, 0.0, 0.0
    steps = range(0, max(len(exposures) * 5, len(events) * 5 // 4), BATCH)
    for start in steps:
        served = exposures[start // 5 : (start + BATCH) // 5]
        happened = events[start * 4 // 5 : (start + BATCH) * 4 // 5]
        begun, begun_cpu = time.perf_counter(), time.process_time()
        joiner.expose("exposures", served)
        joiner.observe("events", happened)
        outcomes += len(joiner.close())
        rows = {user: joiner.row(user) for user in sorted(joiner.changed)}
        joiner.changed.clear()
        seconds += time.perf_counter() - begun
        cpu += time.process_time() - begun_cpu
        assert rows
        most = max(most, joiner.held)
    report = Report({"records": count, "users_entered": outcomes, "window_s": WINDOW_S})
    report.at_least(
        "records joined, a second", count / seconds, 50_000, f"{count:,} records, {outcomes:,} users entered"
    )
    report.beside("records joined, a second of processor time", count / cpu)
    # Users exposed within a window and the allowed lateness, and those with an event just before.
    bound = RATE * (0.2 * (WINDOW_S + 66) + 0.8 * 70)
    report.at_most("users held at most", float(most), bound, f"a window of {WINDOW_S} s, {RATE:,} records/s")
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("joining", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
