"""Figures enter, one JSON file each leaves: with the date, the machine and the versions they hold for."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "freshet",
    "numpy",
    "numba",
    "rocksdict",
    "pyarrow",
    "kafka-python",
    "river",
    "implicit",
    "usearch",
)
_PEERS = ("confluent-kafka", "quixstreams")  # measured where they are installed


def record(name: str, figures: Mapping[str, Any], results: Path = RESULTS) -> Path:
    """Write figures to `results/<name>.json` in one step, over those of an earlier run.

    Args:
        name: permanent name of the benchmark.
        figures: what was measured, units in the names; must be plain JSON (no NaN: nothing was measured).

    Returns:
        The file.

    Raises:
        ValueError: a figure is not finite.
    """
    document = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **_versions()},
        "command": " ".join([Path(sys.executable).name, *sys.orig_argv[1:]]),
        "figures": dict(figures),
    }
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    half = results / f".{name}.{os.getpid()}"
    half.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    half.replace(path)
    return path


def _versions() -> dict[str, str]:
    """Versions of the packages that figures depend on."""
    installed = {package.metadata["Name"] for package in distributions()}
    return {name: version(name) for name in (*_PACKAGES, *(p for p in _PEERS if p in installed))}


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, cores, memory, system."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
