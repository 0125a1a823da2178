"""What watching costs the worker, and how well drift is told from chance.

    python -m benchmarks.drift

Cost: the stream S, file → durable, by workers with all metrics and drift detection and by workers with
none, in turns. Beside it the processor time within the metrics' own calls, which noise of the machine hides
less, and what a scrape of the worker's page takes.

Alarms: the simulator's stationary stream, then all tastes and popularities change at once; ten seeds for
each learner. What comes before the change is a false alarm, what comes within 20,000 events after it
finds the change.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.path import Again
from benchmarks.run import worker
from benchmarks.stream import EVENTS, stream_s
from benchmarks.verdict import Report, interleaved, ratio, run_benchmark, timed
from consumers.embeddings import learn_events
from consumers.logs import configure_logs
from consumers.metrics import SERIES, VersionMetrics, WorkerMetrics
from state.learned import Learned
from state.memory import MemoryStore
from state.spec import new_spec
from streaming.simulator import Simulator, SimulatorOptions

LEARNERS = ("bpr", "softmax")  # the embedding learners whose own work is least and that is the default
STATIONARY, WITHIN, SEEDS = 200_000, 20_000, 10
_BATCH = 4096
_SCRAPES = 50


class Nothing:
    """Metrics that observe nothing: whatever is called returns None, but `watching` what does nothing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: _nothing if name == "watching" else None


def _nothing(*_: Any) -> None:
    """In place of a watch."""


class Clocked:
    """Metrics whose calls are timed: processor time of the thread that makes them."""

    def __init__(self, metrics: Any) -> None:
        self._metrics, self.seconds = metrics, 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._metrics, name)
        if name == "watching":
            return lambda learned: self._timed(found(learned))
        return self._timed(found)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            begun = time.thread_time()
            try:
                return call(*given, **named)
            finally:
                self.seconds += time.thread_time() - begun

        return timed


def cost(path: Path, learner: str, rounds: int) -> dict[str, float]:
    """Share of the time that watching takes: by runs with and without it, and by its own calls."""
    with ExitStack() as held, tempfile.TemporaryDirectory(prefix="freshet-drift-", dir=path.parent) as links:
        contestants: dict[str, Callable[[], None]] = {}
        for name in ("on", "off"):
            embedding_worker = held.enter_context(worker(learner, path))
            if name == "off":
                embedding_worker._metrics = Nothing()  # type: ignore[assignment]
            directory = Path(links) / name
            directory.mkdir()
            contestants[name] = Again(embedding_worker, path, directory)
            contestants[name]()
        times = interleaved(contestants, rounds)
        embedding_worker = held.enter_context(worker(learner, path))
        registry = CollectorRegistry()
        clocked = Clocked(WorkerMetrics(registry).of("v"))
        embedding_worker._metrics = clocked  # type: ignore[assignment]
        again = Again(embedding_worker, path, Path(links))
        again()
        clocked.seconds = 0.0
        took = timed(again).cpu
        scrapes = [timed(lambda: generate_latest(registry)).cpu for _ in range(_SCRAPES)]
    cpu = {name: [t.cpu for t in row] for name, row in times.items()}
    return {
        "share_by_runs": ratio(cpu["on"], cpu["off"]) - 1.0,
        "share_by_calls": clocked.seconds / took,
        "microseconds_an_event": 1e6 * median(cpu["off"]) / again._events,
        "scrape_ms": 1e3 * median(scrapes),
        "series": sum(len(family.samples) for family in registry.collect()),
    }


def alarms(learner: str, seed: int, stationary: int, within: int) -> dict[str, Any]:
    """Event numbers of the alarms of one run, those before the change of tastes and those after it."""
    simulator = Simulator(SimulatorOptions(seed=seed, shift_at=stationary))
    learned = Learned(new_spec(learner, {}), MemoryStore(), user_cache=None)
    registry = CollectorRegistry()
    watch = VersionMetrics(WorkerMetrics(registry), "v").watching(learned)
    found: list[int] = []
    told = 0
    while simulator.position < stationary + within:
        # A batch never spans the change, so that an alarm is counted on its side.
        end = stationary if simulator.position < stationary else stationary + within
        batch = simulator.events(min(_BATCH, end - simulator.position))
        learn_events(learned, batch.to_events(), 0, None, watch)
        if (now := told_alarms(registry)) > told:
            found.append(simulator.position)
            told = now
    return {
        "false": [k for k in found if k <= stationary],
        "after": [k - stationary for k in found if k > stationary],
    }


def told_alarms(registry: CollectorRegistry) -> int:
    """Alarms of all signals in a registry."""
    samples = (s for family in registry.collect() for s in family.samples)
    return int(sum(s.value for s in samples if s.name == "freshet_drift_alarms_total"))


def _delays(runs: list[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([run["after"][0] if run["after"] else np.inf for run in runs])


def measure(quick: bool) -> Report:
    """Cost and alarms of each learner."""
    configure_logs("auto", "error")  # the drift that is looked for is no news
    path = stream_s(20_000, 300, 100) if quick else stream_s(EVENTS)
    report = Report()
    for learner in LEARNERS:
        spent = cost(path, learner, 1 if quick else 5)
        report.figures[learner] = {"cost": spent}
        note = f"{spent['microseconds_an_event']:.1f} µs of processor time an event without"
        report.at_most(
            f"{learner}: share of the time that the metrics' calls take", spent["share_by_calls"], 0.03, note
        )
        report.beside(f"{learner}: the same by runs with and without, processor time", spent["share_by_runs"])
        report.at_most(f"{learner}: processor time of a scrape, ms", spent["scrape_ms"], 20.0)
        report.at_most(f"{learner}: series of a worker on one file", spent["series"], SERIES + 1)
        stationary, within, seeds = (20_000, 4096, 1) if quick else (STATIONARY, WITHIN, SEEDS)
        runs = [alarms(learner, seed, stationary, within) for seed in range(1, seeds + 1)]
        report.figures[learner]["alarms"] = runs
        delays = _delays(runs)
        false = sum(bool(run["false"]) for run in runs)
        report.at_most(
            f"{learner}: of {seeds} stationary runs of {stationary:,} events, those with an alarm", false, 1
        )
        report.at_least(
            f"{learner}: of {seeds} changes of tastes, those found within {within:,} events",
            int(np.isfinite(delays).sum()),
            9,
            f"half of them within {np.median(delays):,.0f} events (batches of {_BATCH:,})",
        )
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("drift", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
