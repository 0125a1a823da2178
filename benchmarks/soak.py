"""A worker at 5,000 events a second, a server, and its page open in a browser, for a long time.

    python -m benchmarks.soak [--minutes 60] [--rate 5000]

Told are: seconds until the page's first paint and its first picture; how much of the rate was learned; how
browser, worker and server grew, the last quarter of the time against the second; pictures a second; then
the seconds until the page calls a worker that is stopped (SIGSTOP) and one that is killed bad.

Events come from a fixed crowd, so that what is learned stops growing. They are written to a file, about
70 bytes each (60 minutes: 1.3 GB in the directory for temporary files, removed at the end).
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from threading import Event as Flag
from threading import Thread
from typing import Any

import numpy as np

from benchmarks.browser import Tab, browsing
from benchmarks.processes import without_settings
from benchmarks.record import record
from benchmarks.verdict import Report, show
from state.spec import new_spec
from state.versions import Registry
from streaming.errors import FreshetError

USERS, ITEMS = 50_000, 5_000
VERSION = "v"
_FRESHET = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
_ROOT = Path(__file__).resolve().parent.parent
_TICK_S = 0.1  # between two parts of the stream
_LOOKS = 60  # in all
_OPENINGS = 5
_ENOUGH_S = 120.0  # until processes are there, and until a failure shows


class Stream(Thread):
    """Appends events of a fixed crowd to a file at a steady rate.

    Attributes:
        written: events so far.
    """

    def __init__(self, file: Path, rate: float) -> None:
        super().__init__(daemon=True)
        self._file, self._rate = file, rate
        self._random = np.random.default_rng(7)
        self.written, self.stop = 0, Flag()

    def run(self) -> None:
        begun = time.monotonic()
        with self._file.open("a") as file:
            while not self.stop.wait(_TICK_S):
                due = int((time.monotonic() - begun) * self._rate) - self.written
                file.writelines(self._lines(due))
                file.flush()
                self.written += due

    def _lines(self, count: int) -> list[str]:
        users = (USERS * self._random.random(count) ** 2).astype(int).tolist()
        # Each user keeps to a part of the items, so that there is something to learn.
        items = (ITEMS * self._random.random(count) ** 3 / 10).astype(int).tolist()
        now = int(time.time())
        return [
            f'{{"user":"user-{user}","item":"item-{(user % 10) * ITEMS // 10 + item}","ts":{now}}}\n'
            for user, item in zip(users, items, strict=True)
        ]


@contextmanager
def running(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command of `freshet` on this home; ended as it should at the end."""
    with subprocess.Popen(
        [*_FRESHET, "--home", str(home), "--set", "worker.metrics_port=0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=_ROOT,
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


def resident(process: int) -> int:
    """Bytes that a process has in memory, as the system counts them."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def heap(tab: Tab) -> dict[str, float]:
    """Bytes of live objects in the page, after a collection, and its nodes."""
    tab.call("HeapProfiler.collectGarbage")
    found = {one["name"]: one["value"] for one in tab.call("Performance.getMetrics")["metrics"]}
    return {"heap": found["JSHeapUsedSize"], "nodes": found["Nodes"]}


def first_paints(tab: Tab, address: str) -> list[tuple[float, float]]:
    """Seconds until the first contentful paint and until the first picture, of some openings."""
    found = []
    for _ in range(_OPENINGS):
        tab.open("about:blank")
        tab.open(address)
        tab.wait(
            f"location.href.startsWith({address!r}) && typeof state === 'object' && state.picture !== null"
        )
        tab.wait("performance.getEntriesByName('first-contentful-paint').length > 0")
        painted = tab.value("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        found.append((painted / 1e3, tab.value("state.first") / 1e3))
    return found


def until(true: Callable[[], Any], what: str) -> float:
    """Wait for a condition; the seconds it took.

    Raises:
        FreshetError: it is not true after two minutes.
    """
    begun = time.monotonic()
    while not true():
        if time.monotonic() - begun > _ENOUGH_S:
            raise FreshetError(f"{what}: not after {_ENOUGH_S:g} s.")
        time.sleep(0.1)
    return time.monotonic() - begun


def growth(values: list[float]) -> float:
    """The last quarter's median over that of the second quarter, less 1: the first one warms up.

    >>> growth([1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.2, 2.2])
    0.10000000000000009
    """
    quarter = len(values) // 4
    return median(values[-quarter:]) / median(values[quarter : 2 * quarter]) - 1.0


def measure(minutes: float, rate: float) -> Report:
    """The whole of it."""
    without_settings()
    report = Report({"minutes": minutes, "rate": rate})
    with tempfile.TemporaryDirectory(prefix="freshet-soak-", ignore_cleanup_errors=True) as place:
        home, file = Path(place) / "home", Path(place) / "events.jsonl"
        Registry(home).create(VERSION, new_spec("softmax", {"evaluation_rate": 0.01}))
        stream = Stream(file, rate)
        stream.start()
        until(file.exists, "a file of events")
        with (
            running(home, "work", VERSION, "--from", str(file), "--follow") as worker,
            running(home, "serve", "--port", "0") as server,
            browsing() as tab,
        ):
            assert server.stdout is not None
            _look_on(report, tab, server.stdout.readline().strip(), stream, (worker, server), minutes * 60.0)
    return report


def _look_on(
    report: Report,
    tab: Tab,
    address: str,
    stream: Stream,
    processes: tuple[subprocess.Popen[str], subprocess.Popen[str]],
    seconds: float,
) -> None:
    worker, server = processes
    tab.call("Performance.enable")
    paints = first_paints(tab, address)
    report.at_most("seconds to the first paint (median)", median(paint for paint, _ in paints), 1.0)
    report.beside("seconds to the first picture (median)", median(first for _, first in paints))
    tab.wait("state.picture.versions[0]?.state === 'well'", _ENOUGH_S)
    rows = _looks(tab, stream, worker.pid, server.pid, seconds)
    report.figures["looks"] = rows
    first, last = rows[0], rows[-1]
    learned = (last["learned"] - first["learned"]) / (last["written"] - first["written"])
    report.at_least("events learned of those written", learned, 0.98, f"{last['learned']:,.0f} in all")
    for name in ("heap", "nodes", "worker", "server"):
        note = f"{first[name]:,.0f} at first, {last[name]:,.0f} in the end"
        report.at_most(f"growth of {name}", growth([row[name] for row in rows]), 0.1, note)
    pictures = (last["pictures"] - first["pictures"]) / (last["at"] - first["at"])
    report.at_most("pictures a second", pictures, 1.05)
    report.at_most("errors on the page", len(tab.problems), 0, "; ".join(tab.problems[:3]))
    is_bad = "state.picture.versions[0].state === 'bad'"
    worker.send_signal(signal.SIGSTOP)
    report.at_most("seconds until a stopped worker shows", until(lambda: tab.value(is_bad), is_bad), 30.0)
    worker.send_signal(signal.SIGCONT)
    report.beside(
        "seconds until one that goes on shows", until(lambda: not tab.value(is_bad), "a worker that is well")
    )
    worker.kill()
    report.at_most("seconds until a killed worker shows", until(lambda: tab.value(is_bad), is_bad), 30.0)
    stream.stop.set()


def _looks(tab: Tab, stream: Stream, worker: int, server: int, seconds: float) -> list[dict[str, float]]:
    rows = []
    begun = time.monotonic()
    for number in range(_LOOKS + 1):
        time.sleep(max(0.0, begun + seconds * number / _LOOKS - time.monotonic()))
        found = tab.value("({learned: state.picture.versions[0].events, pictures: state.picture.number})")
        rows.append(
            {
                "at": time.monotonic() - begun,
                "written": stream.written,
                "worker": resident(worker),
                "server": resident(server),
                **found,
                **heap(tab),
            }
        )
    return rows


def main() -> int:
    """Measure, print, and record where it took an hour or more."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--rate", type=float, default=5000.0, help="events a second")
    given = options.parse_args()
    report = measure(given.minutes, given.rate)
    verdicts = [{**asdict(one), "reached": one.reached} for one in report.verdicts]
    if given.minutes >= 60.0:
        record("soak", {"verdicts": verdicts, **report.figures})
    show(f"soak: {given.minutes:g} minutes", report.verdicts)
    return int(any(one.reached is False for one in report.verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
