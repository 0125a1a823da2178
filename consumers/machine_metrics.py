"""What a process reports of the machine it runs on, and where its metrics page is found.

The figures are read when the page is asked for, so they cost nothing in between.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from consumers.logs import WARNINGS
from consumers.release import release

TARGETS = "targets"  # directory of the home in which processes say where their pages are
_CGROUP = Path("/sys/fs/cgroup/memory.max")  # the container's limit, where there is one
_MEMORY = Path("/proc/meminfo")


def process_registry() -> CollectorRegistry:
    """A registry that holds what every process reports: its memory and time, its warnings, its release."""
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR, WARNINGS):
        registry.register(collector)
    build_info(registry)
    return registry


def build_info(registry: CollectorRegistry) -> None:
    """Report the release that runs here."""
    build = Info("freshet_build", "Release that runs here.", registry=registry)
    build.info({"release": release(), "python": platform.python_version()})


class MachineMetrics(Collector):
    """Room on the disk of the home directory, and memory that this process may still take."""

    def __init__(self, home: Path, registry: CollectorRegistry) -> None:
        self._home = home
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges, as they are now; memory is left out where the system does not tell."""
        place = next(p for p in (self._home, *self._home.absolute().parents) if p.exists())
        disk = shutil.disk_usage(place)
        yield _gauge("freshet_disk_free_bytes", "Room left where the home directory lies.", disk.free)
        yield _gauge("freshet_disk_size_bytes", "Size of the disk where the home directory lies.", disk.total)
        limit = memory_limit()
        if limit is not None:
            text = "Memory of the machine, or the container's limit where that is lower."
            yield _gauge("freshet_memory_limit_bytes", text, limit)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """As `collect`: names do not change."""
        return self.collect()


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def memory_limit() -> int | None:
    """Bytes that processes here may take in all; None where the system does not tell."""
    if not _MEMORY.exists():
        return None
    limit = next(
        int(line.split()[1]) * 1024
        for line in _MEMORY.read_text().splitlines()
        if line.startswith("MemTotal")
    )
    if _CGROUP.exists() and (text := _CGROUP.read_text().strip()).isdecimal():
        limit = min(limit, int(text))
    return limit


@contextmanager
def announced(home: Path, name: str, address: str) -> Iterator[Path]:
    """Tell Prometheus and `freshet watch` where a page is: a file of targets in the home directory.

    A process that is killed or ends with an error leaves its file, so that its end is seen as a target that
    does not answer; one that ends as it should takes it away.

    Args:
        name: of the process, as "work-mine"; the next process of this name writes over the file.
        address: host and port.
    """
    directory = home / TARGETS
    directory.mkdir(parents=True, exist_ok=True)
    path, half = directory / f"{name}.json", directory / f".{name}.{os.getpid()}"
    half.write_text(json.dumps([{"targets": [address], "labels": {"process": name}}]) + "\n")
    half.replace(path)
    written = path.read_text()
    failed = False
    try:
        yield path
    except Exception:
        failed = True
        raise
    finally:
        # Another process of the same name may have taken the place meanwhile.
        if not failed and path.exists() and path.read_text() == written:
            path.unlink()


def announced_addresses(home: Path) -> dict[str, str]:
    """Name of the process → host and port, of all that announced themselves and did not take leave."""
    found = {}
    for path in sorted((home / TARGETS).glob("*.json")):
        for group in json.loads(path.read_text()):
            found[group["labels"]["process"]] = group["targets"][0]
    return found
