"""Metrics pages that processes of a home announced enter; what they say of versions, and when, leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from consumers.machine_metrics import announced_addresses
from consumers.watch import Samples, Watch


class MetricsPage:
    """One metrics page.

    Attributes:
        rows: of the versions that it tells of, as `freshet watch` shows them.
        samples: what it said when it last answered.
        read_at: when that was, by the steady clock.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.watch = Watch({name: address})
        self.reading: asyncio.Task[None] | None = None
        self.rows: list[dict[str, Any]] = []
        self.samples: Samples = {}
        self.read_at: float | None = None
        self.begun = time.monotonic()

    @property
    def state(self) -> str | None:
        """How the process is, in words; None before it was asked."""
        return str(self.rows[0]["state"]) if self.rows else None

    def row(self, version: str) -> dict[str, Any] | None:
        """What it says of a version."""
        return next((row for row in self.rows if row["version"] == version), None)

    def tells_of(self, version: str) -> bool:
        """Whether it is that of a version: a page that does not answer tells of none, its name does."""
        own = ("freshet_loop_turns_total", (("version", version),))  # of its worker, and of no other process
        return self.name == f"work-{version}" or own in self.samples


class MetricsPages:
    """The pages of a home, each read beside the others; used from one event loop.

    Args:
        take: called with each version that a page told of, when it was read, and all samples.
    """

    def __init__(self, home: Path, take: Callable[[str, float, Samples], None]) -> None:
        self._home, self._take = home, take
        self._pages: dict[str, MetricsPage] = {}

    def names(self) -> set[str]:
        """Processes that have announced a page."""
        return set(self._pages)

    def joining(self, experiment: str) -> MetricsPage | None:
        """The page of the process that joins an experiment: one that tells of it, else that of its name."""
        told = ("experiment", experiment)
        pages = self._pages.values()
        found = next((page for page in pages if any(told in labels for _, labels in page.samples)), None)
        return found or self._pages.get(f"outcomes-{experiment}")

    def of(self, version: str) -> MetricsPage | None:
        """The page that tells of a version."""
        pages = self._pages.values()
        found = next((page for page in pages if page.row(version) is not None), None)
        return found or next((page for page in pages if page.tells_of(version)), None)

    def read(self) -> None:
        """Begin to read all pages that are not being read."""
        try:
            addresses = announced_addresses(self._home)
        except (OSError, ValueError, LookupError):  # a file of targets that is written in this moment
            return
        # Servers tell of no version, and this one would ask itself.
        addresses = {name: at for name, at in addresses.items() if not name.startswith("serve-")}
        for name, address in addresses.items():
            page = self._pages.get(name)
            if page is None or page.address != address:
                page = self._pages[name] = MetricsPage(name, address)
            if page.reading is None or page.reading.done():
                page.reading = asyncio.create_task(self._read(page))
        self._pages = {name: page for name, page in self._pages.items() if name in addresses}

    async def _read(self, page: MetricsPage) -> None:
        await asyncio.to_thread(page.watch.look)
        page.rows = page.watch.picture()
        samples = page.watch.samples(page.name)
        if samples is None:
            return
        page.samples, page.read_at = samples, time.monotonic()
        for row in page.rows:
            if row["version"]:
                self._take(row["version"], page.read_at, samples)
