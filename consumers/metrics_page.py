"""The metric families of every process enter; docs/metrics.md leaves.

python -m consumers.metrics_page            # write it
python -m consumers.metrics_page --check    # exit code 1 where it is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from consumers.exposing import ExposureMetrics
from consumers.logs import WARNINGS
from consumers.machine_metrics import MachineMetrics, build_info
from consumers.metrics import WorkerMetrics
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.server_edge import ServerMetrics
from consumers.sessions_metrics import SessionMetrics

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

# Process → what declares its families in a registry. A new process gets its line here.
PROCESSES: dict[str, tuple[Callable[[CollectorRegistry], object], ...]] = {
    "work": (WorkerMetrics, lambda registry: MachineMetrics(Path(), registry)),
    "serve": (ServerMetrics, ExposureMetrics, build_info),
    "sessions": (SessionMetrics, build_info),
    "outcomes": (OutcomeMetrics, build_info),
}
# Of prometheus-client's own process collector, in every process; the rules and dashboards use these.
PROCESS_FAMILIES = ("process_resident_memory_bytes", "process_start_time_seconds", "process_cpu_seconds")

_MARK = "<!-- What follows is made by `python -m consumers.metrics_page`. -->"


class Family(NamedTuple):
    """One family as a reader of the page needs it."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str
    samples: tuple[str, ...]  # names that queries may use


_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


def families(process: str) -> list[Family]:
    """All families of a process, by name; those of the Python runtime left out."""
    found: dict[str, Family] = {}

    class Recorder(CollectorRegistry):
        def register(self, collector: Collector) -> None:
            labels = tuple(getattr(collector, "_labelnames", ()))
            for metric in collector.collect():
                samples = tuple(metric.name + suffix for suffix in _SUFFIXES.get(metric.type, ("",)))
                found[metric.name] = Family(metric.name, metric.type, labels, metric.documentation, samples)
            super().register(collector)

    registry = Recorder()
    for declare in PROCESSES[process]:
        declare(registry)
    if WARNINGS not in registry._collector_to_names:
        registry.register(WARNINGS)
    return [found[name] for name in sorted(found)]


def sample_names() -> set[str]:
    """Every name that a query may use: samples of all processes, and those of every Python process."""
    own = {name for process in PROCESSES for family in families(process) for name in family.samples}
    return own | {name + ("_total" if "cpu" in name else "") for name in PROCESS_FAMILIES} | {"up"}


def page() -> str:
    """The whole page: its words stay as they are, the tables behind the mark are made anew."""
    parts = [PAGE.read_text(encoding="utf-8").partition(_MARK)[0] + _MARK + "\n"]
    for process in PROCESSES:
        parts.append(f"## `freshet {process}`\n")
        parts.append("| metric | type | labels | meaning |\n|---|---|---|---|")
        for family in families(process):
            name = family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
            parts.append(f"| `{name}` | {family.type} | {labels} | {family.text} |")
        parts.append("")
    parts.append("Beside them each process has those of `prometheus_client` itself, of which the alerts and")
    parts.append(f"dashboards use {', '.join(f'`{name}`' for name in PROCESS_FAMILIES)} (Linux only).\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or check it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--check", action="store_true")
    made = page()
    if options.parse_args().check:
        return int(PAGE.read_text(encoding="utf-8") != made)
    PAGE.write_text(made, encoding="utf-8")
    print(PAGE, file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
