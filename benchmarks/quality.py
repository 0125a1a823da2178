"""How well each learner predicts: protocol P1 on five public sets, with one configuration for all data.

    python -m benchmarks.quality

The code is that of `freshet backtest`: each event is ranked among all items seen so far, then learned.
Beside it: popularity without decay against the reference rows of the protocol, to four digits, and P2,
the rating error of `biased_mf` on ML-100K, next to river's BiasedMF on the same events.
Data is looked for in FRESHET_DATA, else in ../shared/datasets; a set that is absent is left out, and
the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from river import optim, reco

from benchmarks.verdict import Report, data_directory, run_benchmark
from consumers.backtest import Comparison, compare
from consumers.candidates import candidates_of
from consumers.eventlog.files import FilesLog
from consumers.history import History
from streaming import learners
from streaming.rules import EventRules

LEARNERS = ("popularity", "transitions", "item_knn", "biased_mf", "bpr", "softmax", "blend")
RANDOM = ("bpr", "softmax", "blend")  # tried with two seeds
SEEDS = (1, 2)
COUNTED = "popularity:half_life=inf"
# The values of ML-100K lie from 1 to 5, and river's documentation clips its predictions there, too.
RATED = "biased_mf:low=1,high=5"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Events, and how they are evaluated.

    Attributes:
        every: evaluate each every-th event.
        targets: learner → HR@10 to be reached.
        reference: HR@10, NDCG@10, HR@20, MRR@20 of popularity without decay.
        reference_every, reference_limit: what the reference was made with.
        seeds: of the learners that draw.
    """

    name: str
    folder: str
    targets: dict[str, float]
    reference: tuple[float, float, float, float]
    where: tuple[tuple[str, str], ...] = ()
    exclude_seen: bool = False
    every: int = 1
    limit: int | None = None
    reference_every: int = 1
    reference_limit: int | None = None
    seeds: tuple[int, ...] = (1,)

    @property
    def path(self) -> Path:
        """The file of events."""
        return data_directory() / self.folder / "events.parquet"

    def history(self, limit: int | None) -> History:
        """The events in time order."""
        rules = EventRules(where=self.where)
        return History(lambda: FilesLog([self.path], rules), limit=limit)


DATASETS = (
    Dataset(
        "ml-100k", "ml-100k", {"softmax": 0.208, "blend": 0.215, "bpr": 0.13},
        (0.0776, 0.0374, 0.1290, 0.0290),
        exclude_seen=True, seeds=SEEDS,
    ),
    Dataset(
        "ml-100k value = 5", "ml-100k", {"softmax": 0.180, "blend": 0.185}, (0.1124, 0.0577, 0.1809, 0.0458),
        where=(("value", "5"),), exclude_seen=True, seeds=SEEDS,
    ),
    Dataset(
        "movietweetings-100k", "movietweetings-100k", {"softmax": 0.240, "blend": 0.240},
        (0.1321, 0.0687, 0.2014, 0.0544), exclude_seen=True, every=4,
    ),
    Dataset(
        "online-retail", "online-retail", {"softmax": 0.32, "blend": 0.335}, (0.0355, 0.0176, 0.0609, 0.0139),
        every=8,
    ),
    Dataset(
        "yoochoose-ader, first 500,000", "yoochoose-ader", {"softmax": 0.47, "blend": 0.48},
        (0.0586, 0.0277, 0.1000, 0.0213), every=20, limit=500_000, reference_every=2,
    ),
)  # fmt: skip


def learned_on(dataset: Dataset, names: Sequence[str], limit: int | None) -> dict[str, dict[str, Any]]:
    """Result of each learner on a set; those that draw with the set's seeds."""
    history = dataset.history(limit)
    results: dict[str, dict[str, Any]] = {}
    for seeds, group in (
        ((1,), [name for name in names if name not in RANDOM]),
        (dataset.seeds, [name for name in names if name in RANDOM]),
    ):
        if group:
            found = _compared(history, group, dataset.every, dataset.exclude_seen, seeds)
            for result in found.results:
                fields = ("overall", "segments", "sd", "options", "events_per_second", "learning_per_second")
                results[result.text] = {"seeds": list(seeds), **{k: asdict(result)[k] for k in fields}}
    kept: dict[str, dict[str, Any]] = _without_nan(results)
    return kept


def _compared(
    history: History, texts: Sequence[str], every: int, exclude_seen: bool, seeds: Sequence[int]
) -> Comparison:
    return compare(history, candidates_of(texts), every=every, exclude_seen=exclude_seen, seeds=seeds)


def _without_nan(value: Any) -> Any:
    """The same figures with None for what was never evaluated: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def reference_row(dataset: Dataset, limit: int | None) -> tuple[float, ...]:
    """HR@10, NDCG@10, HR@20 and MRR@20 of popularity without decay."""
    history = dataset.history(limit)
    found = _compared(history, [COUNTED], dataset.reference_every, dataset.exclude_seen, (1,))
    overall = found.results[0].overall
    return tuple(overall[k] for k in ("hr@10", "ndcg@10", "hr@20", "mrr@20"))


def rating_error(limit: int | None) -> dict[str, dict[str, float]]:
    """P2 on ML-100K: MAE and RMSE of biased_mf and of river's BiasedMF, predictions clipped to 1 … 5."""
    found = _compared(DATASETS[0].history(limit), [RATED], 1, False, (1,)).results[0]
    assert found.rating_error is not None
    return {"biased_mf": found.rating_error, "river": _river_error(DATASETS[0].path, limit)}


def _river_error(path: Path, limit: int | None) -> dict[str, float]:
    """The loop and settings of river's documentation, in time order."""
    table = pq.read_table(path, columns=["user", "item", "ts", "value"])
    order = np.argsort(table["ts"].to_numpy(), kind="stable")[:limit]
    columns = [table[name].to_numpy()[order].tolist() for name in ("user", "item", "value")]
    model: Any = reco.BiasedMF(
        n_factors=10,
        bias_optimizer=optim.SGD(0.025),
        latent_optimizer=optim.SGD(0.05),
        latent_initializer=optim.initializers.Normal(mu=0.0, sigma=0.1, seed=73),
    )
    errors = []
    for user, item, value in zip(*columns, strict=True):
        errors.append(min(5.0, max(1.0, model.predict_one(user, item))) - value)
        model.learn_one(user, item, value)
    error = np.array(errors)
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "events": len(error),
    }


def measure(quick: bool) -> Report:
    """All learners on all sets that are there."""
    names = [name for name in LEARNERS if name in learners.names()]
    report = Report(
        {"protocol": "P1", "configuration": "the defaults, for all sets", "data": {}, "references": {}}
    )
    for dataset in DATASETS:
        if not dataset.path.exists():
            report.at_least(
                f"{dataset.name}: any learner", None, None, f"no {dataset.path}; set FRESHET_DATA"
            )
            continue
        found = learned_on(dataset, names, 2000 if quick else dataset.limit)
        report.figures["data"][dataset.name] = {"every": dataset.every, "learners": found}
        for name, result in found.items():
            _judge(report, dataset, name, result)
    for dataset in [dataset for dataset in DATASETS if dataset.path.exists()]:
        row = reference_row(dataset, 2000 if quick else dataset.reference_limit)
        report.figures["references"][dataset.name] = {"measured": row, "reference": dataset.reference}
        off = max(abs(round(m, 4) - r) for m, r in zip(row, dataset.reference, strict=True))
        note = " ".join(f"{m:.4f}" for m in row)
        report.at_most(
            f"{dataset.folder}, {COUNTED}: distance from the reference row", round(off, 4), 0, note
        )
    if "biased_mf" in names and DATASETS[0].path.exists():
        report.figures["P2"] = error = rating_error(2000 if quick else None)
        note = f"river {error['river']['mae']:.4f}"
        report.at_most("ml-100k, P2, biased_mf: MAE", error["biased_mf"]["mae"], 0.750, note)
    return report


def _judge(report: Report, dataset: Dataset, name: str, result: dict[str, Any]) -> None:
    overall = result["overall"]
    note = f"NDCG@10 {overall['ndcg@10']:.3f}, MRR@20 {overall['mrr@20']:.3f}"
    if len(result["seeds"]) > 1:
        note += f", sd {result['sd']['hr@10']:.4f} over {len(result['seeds'])} seeds"
    report.at_least(f"{dataset.name}, {name}: HR@10", overall["hr@10"], dataset.targets.get(name), note)


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("quality", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
