"""Figures and their targets enter; a small table, a JSON file and an exit code leave."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.record import record
from consumers.logs import configure_logs


@dataclass(frozen=True, slots=True)
class Verdict:
    """One figure beside what it must reach.

    Attributes:
        figure: None where it could not be measured; `note` then says why.
        target: None for a figure that only stands beside the others.
        at_most: whether the figure must stay below the target, else above.
    """

    what: str
    figure: float | None
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none, or no figure."""
        if self.figure is None or self.target is None:
            return None
        return self.figure <= self.target if self.at_most else self.figure >= self.target


@dataclass(slots=True)
class Report:
    """What a benchmark measured."""

    figures: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def at_least(self, what: str, figure: float | None, target: float | None, note: str = "") -> None:
        """A figure that must not be lower."""
        self.verdicts.append(Verdict(what, figure, target, False, note))

    def at_most(self, what: str, figure: float | None, target: float | None, note: str = "") -> None:
        """A figure that must not be higher."""
        self.verdicts.append(Verdict(what, figure, target, True, note))

    def beside(self, what: str, figure: float | None, note: str = "") -> None:
        """A figure without a target."""
        self.verdicts.append(Verdict(what, figure, None, False, note))


def show(title: str, verdicts: list[Verdict]) -> None:
    """Print figures, targets and verdicts."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("what", "figure", "target", "verdict", "note"):
        table.add_column(name, justify="right" if name in ("figure", "target") else "left", overflow="fold")
    for one in verdicts:
        bound = "" if one.target is None else f"{'≤' if one.at_most else '≥'} {one.target:,g}"
        words = {True: "reached", False: "MISSED", None: "not measured" if one.figure is None else ""}
        figure = "" if one.figure is None else f"{one.figure:,.4g}"
        table.add_row(one.what, figure, bound, words[one.reached], one.note)
    Console(width=None if os.isatty(1) else 150, highlight=False).print(table)


def run_benchmark(name: str, doc: str | None, measure: Callable[[bool], Report]) -> int:
    """Measure, print, and write `results/<name>.json`: the `main` of every benchmark here.

    `--quick` uses small counts, to see that all works, and writes nothing.

    Returns:
        Exit code: 1 where a target is missed.
    """
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="small counts, nothing is written")
    quick = options.parse_args().quick
    configure_logs("auto", "warning")
    begun = time.monotonic()
    report = measure(quick)
    if not quick:
        seconds = round(time.monotonic() - begun, 1)
        verdicts = [{**asdict(v), "reached": v.reached} for v in report.verdicts]
        record(name, {"seconds": seconds, "verdicts": verdicts, **report.figures})
    show(f"{name}{' (small counts: the verdicts mean nothing)' if quick else ''}", report.verdicts)
    return 1 if not quick and any(v.reached is False for v in report.verdicts) else 0


class Timed(NamedTuple):
    """Seconds of one piece of work."""

    wall: float
    cpu: float  # of all threads of the process


def timed(work: Callable[[], Any]) -> Timed:
    """Run once and take the time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Timed(time.perf_counter() - wall, time.process_time() - cpu)


def interleaved(contestants: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Timed]]:
    """Time each contestant in each round, one after the other, so that a slow minute hits all of them."""
    times: dict[str, list[Timed]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, work in contestants.items():
            times[name].append(timed(work))
    return times


def ratio(of: list[float], to: list[float]) -> float:
    """Median over the rounds of of / to."""
    return median(a / b for a, b in zip(of, to, strict=True))


def data_directory() -> Path:
    """Where the public datasets are: FRESHET_DATA, else `../shared/datasets` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    return Path(os.environ.get("FRESHET_DATA", beside))
