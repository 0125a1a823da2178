"""Whether the simulated world is hard for popularity and kind to the default learner, and how fast it is.

    python -m benchmarks.simulator

Every event is first predicted, then learned (protocol P1). The best possible hit rate is that of a
ranking by the simulator's true probabilities, on the same events.
"""

from __future__ import annotations

from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.verdict import Report, run_benchmark, timed
from consumers.embeddings import learn_events
from state.draws import Draw
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec
from streaming import learners
from streaming.evaluation import rates
from streaming.simulator import Simulator, SimulatorOptions

LEARNERS = ("softmax", "popularity", "transitions", "item_knn", "bpr", "blend")
DEFAULT = "softmax"
BATCH = 5000


class _Trial:
    """A learner on its way through the stream."""

    def __init__(self, learner: str, seed: int) -> None:
        self.learned = Learned(
            new_spec(learner, {"seed": seed}), MemoryStore(), user_cache=None, draw=Draw(every=1)
        )
        self.partition = self.learned.ledger.partition("simulator")
        self.middle = np.zeros(0, np.int64)  # counts of ranks before the last part

    def rates(self) -> dict[str, float]:
        """HR@10 over all events, and over the last part."""
        counts = self.learned.prequential.segments[0]
        return {"all": rates(counts)["hr@10"], "last": rates(counts - self.middle)["hr@10"]}


def shares_of_best(names: list[str], seed: int, events: int, last: int) -> dict[str, dict[str, float]]:
    """HR@10 of the best possible ranking, and learners' as shares of it: of all events, and the last."""
    simulator = Simulator(SimulatorOptions(seed=seed))
    trials = {name: _Trial(name, seed) for name in names}
    ranks = []
    for first in range(0, events, BATCH):
        if first == events - last:
            for trial in trials.values():
                trial.middle = trial.learned.prequential.segments[0].copy()
        batch = simulator.events(min(BATCH, events - first))
        ranks.append(batch.oracle_rank < 10)
        decoded = batch.to_events()
        for trial in trials.values():
            learn_events(trial.learned, decoded, trial.partition)
    hit = np.concatenate(ranks)
    best = {"all": float(hit.mean()), "last": float(hit[-last:].mean())}
    shares = {
        name: {part: rate / best[part] for part, rate in t.rates().items()} for name, t in trials.items()
    }
    return {"best": best, **shares}


def speed(events: int) -> float:
    """Events a second that the simulator makes."""
    simulator = Simulator(SimulatorOptions(seed=9))
    simulator.events(100)
    return events / timed(lambda: simulator.skip(events)).wall


def measure(quick: bool) -> Report:
    """Several seeds, all learners that can rank clicks."""
    seeds, events, last = ((1,), 2 * BATCH, BATCH) if quick else ((1, 2, 3), 200_000, 50_000)
    names = [name for name in LEARNERS if name in learners.names()]
    by_seed = {str(seed): shares_of_best(names, seed, events, last) for seed in seeds}
    per_second = speed(20_000 if quick else 300_000)
    report = Report(
        {"events": events, "last": last, "by_seed": by_seed, "simulator_events_per_second": per_second}
    )
    for name in ("best", *names):
        for part in ("all", "last"):
            _judge(report, name, part, [found[name][part] for found in by_seed.values()], events, last)
    report.at_least("simulator: events a second", per_second, 1e6 / 60)
    return report


def _judge(report: Report, name: str, part: str, values: list[float], events: int, last: int) -> None:
    spread = f"sd {stdev(values):.4f} over {len(values)} seeds" if len(values) > 1 else ""
    where = f"all {events:,} events" if part == "all" else f"last {last:,}"
    if name == "best":
        report.beside(f"best possible HR@10, {where}", mean(values), spread)
        return
    what = f"{name}: share of the best possible HR@10, {where}"
    figure: Any = mean(values)
    if name == "popularity":
        report.at_most(what, figure, 0.3, spread)
    else:
        report.at_least(what, figure, 0.6 if name == DEFAULT else None, spread)


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("simulator", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
