"""How well the batch model ranks: protocol P3 on beauty-5core-s3rec, SASRec by the transformer's code.

    python -m benchmarks.sasrec

Last item of each user for the test, last but one for validation; all items outside a user's history are
ranked; the epoch of best validation counts. Time is given in seconds of the processor, which another
process on the machine does not lengthen. Data is looked for in FRESHET_DATA, else in ../shared/datasets.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.verdict import Report, data_directory, run_benchmark
from streaming.session.options import Options
from streaming.session.sasrec import Epoch, Offline, train

OPTIONS = Options(
    layers=2,
    heads=2,
    norm_first=False,
    gaps=False,
    dropout=0.5,
    learning_rate=2e-3,
    clip=5.0,
)
OFFLINE = Offline()
CORE_SECONDS = 1800.0  # 15 minutes on two cores
_QUICK_USERS = 300


def sequences_of(path: Path) -> tuple[list[NDArray[np.int32]], int]:
    """Items of each user, in order, numbered from 0, and how many items there are; users stand together."""
    table = pq.read_table(path, columns=["user", "item"])
    users = table["user"].to_numpy()
    ids, items = np.unique(table["item"].to_numpy().astype(str), return_inverse=True)
    starts = np.flatnonzero(users[1:] != users[:-1]) + 1
    return [part.astype(np.int32) for part in np.split(items, starts)], len(ids)


def measure(quick: bool) -> Report:
    """Train until validation no longer rises or the time is used up, then rank the test items."""
    report = Report()
    path = data_directory() / "beauty-5core-s3rec" / "events.parquet"
    if not path.exists():
        for what in ("HR@10", "NDCG@10"):
            report.at_least(f"sasrec {what}", None, None, f"{path} is absent")
        return report
    sequences, items = sequences_of(path)
    wall, core, curve = time.monotonic(), time.process_time(), []

    def go_on(epoch: Epoch) -> bool:
        spent = time.process_time() - core
        row: dict[str, Any] = {"epoch": epoch.number, "loss": epoch.loss, **epoch.valid}
        curve.append(row | {"core_seconds": round(spent)})
        rates = ", ".join(f"{name} {value:.4f}" for name, value in epoch.valid.items())
        print(f"epoch {epoch.number}: loss {epoch.loss:.3f}, validation {rates}, {spent:.0f} s", flush=True)
        return spent < 0.9 * CORE_SECONDS

    offline = OFFLINE._replace(epochs=2, negatives=64) if quick else OFFLINE
    best, tested = train(sequences[: _QUICK_USERS if quick else None], items, OPTIONS, offline, go_on=go_on)
    spent = time.process_time() - core
    report.at_least("sasrec HR@10 (P3)", tested["hr@10"], 0.060, f"epoch {best.number}")
    report.at_least("sasrec NDCG@10 (P3)", tested["ndcg@10"], 0.030)
    report.at_most("seconds of the processor, two cores for 15 minutes being 1800", spent, CORE_SECONDS)
    report.figures = {
        "options": OPTIONS._asdict(),
        "offline": offline._asdict(),
        "best_epoch": best.number,
        "test": tested,
        "core_seconds": round(spent),
        "wall_seconds": round(time.monotonic() - wall),
        "curve": curve,
    }
    return report


if __name__ == "__main__":
    raise SystemExit(run_benchmark("sasrec", __doc__, measure))
