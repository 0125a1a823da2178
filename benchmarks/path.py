"""The whole path, file → durable, on the stream S (d = 64), against a loop around river's BiasedMF.

    python -m benchmarks.path

Both sides have learned the stream once before the clock starts, so that histories are full and kernels
compiled. Freshet reads the file, decodes and checks, evaluates at the usual rate, learns, and commits
rows with offsets to RocksDB, as `freshet work` does; the last commit is within the time. The peer
decodes the same lines with msgspec, calls predict_one and learn_one, and saves nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from river import reco

from benchmarks.run import run_all, worker
from benchmarks.stream import EVENTS, stream_s
from benchmarks.verdict import Report, Timed, interleaved, ratio, run_benchmark
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.files import FilesLog
from streaming import learners
from streaming.errors import FreshetError
from streaming.rules import EventRules

DIMENSION = 64
CONTESTANTS = ("bpr", "softmax", "popularity")
PEER = "river"


class Click(msgspec.Struct):
    """What the peer decodes of a line."""

    user: str
    item: str
    ts: int
    type: str
    value: float


class Again:
    """The same events over and over: in each round as another file, by a hard link."""

    def __init__(self, embedding_worker: EmbeddingWorker, path: Path, links: Path) -> None:
        self.worker, self._path, self._links, self._round = embedding_worker, path, links, 0
        self._events = _lines(path)

    def __call__(self) -> None:
        """One round, from opening the file to the last commit."""
        self._round += 1
        link = self._links / f"{self.worker.learned.spec.learner}-{self._round}.jsonl"
        os.link(self._path, link)
        self.worker.log = FilesLog([link], EventRules())
        before = self.worker.totals.events
        run_all(self.worker)
        self.worker.log.close()
        learned = self.worker.totals.events - before
        if learned != self._events:
            raise FreshetError(f"{link}: {learned} events were learned, expected all {self._events}.")


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


class Peer:
    """river's BiasedMF behind msgspec, the fastest decoder of Python; it goes round and round in the file."""

    def __init__(self, path: Path, events: int) -> None:
        self._model: Any = reco.BiasedMF(n_factors=DIMENSION, seed=1)
        self._events, self._path = events, path
        self._lines = self._endless()
        self.learn(_lines(path))

    def _endless(self) -> Iterator[bytes]:
        while True:
            with self._path.open("rb") as file:
                yield from file

    def learn(self, events: int) -> None:
        """Decode, predict and learn so many events."""
        decode = msgspec.json.Decoder(Click).decode
        predict, learn, line = self._model.predict_one, self._model.learn_one, self._lines
        for _ in range(events):
            click = decode(next(line))
            predict(click.user, click.item)
            learn(click.user, click.item, click.value)

    def __call__(self) -> None:
        """One round."""
        self.learn(self._events)


def compare(path: Path, names: list[str], peer_events: int, rounds: int) -> dict[str, Any]:
    """Events a second of each learner's whole path and of the peer, by wall clock and by processor time."""
    events = {**dict.fromkeys(names, _lines(path)), PEER: peer_events}
    with (
        ExitStack() as open_workers,
        tempfile.TemporaryDirectory(prefix="freshet-links-", dir=path.parent) as links,
    ):
        contestants: dict[str, Callable[[], None]] = {}
        for name in names:
            contestants[name] = Again(
                open_workers.enter_context(worker(name, path, **_dimension(name))), path, Path(links)
            )
            contestants[name]()  # the pass before the clock starts
        contestants[PEER] = Peer(path, peer_events)
        times = interleaved(contestants, rounds)
    return {
        "events_per_round": events,
        "wall_events_per_second": _speeds(times, events, "wall"),
        "cpu_events_per_second": _speeds(times, events, "cpu"),
    }


def _dimension(learner: str) -> dict[str, Any]:
    return {"dimension": DIMENSION} if "dimension" in learners.load(learner).options._fields else {}


def _speeds(times: dict[str, list[Timed]], events: dict[str, int], clock: str) -> dict[str, list[float]]:
    return {name: [round(events[name] / getattr(t, clock)) for t in row] for name, row in times.items()}


def measure(quick: bool) -> Report:
    """The stream S through each learner, beside the peer."""
    path = stream_s(3000, 300, 100) if quick else stream_s(EVENTS)
    names = [name for name in CONTESTANTS if name in learners.names()]
    found = compare(path, names, *((500, 1) if quick else (200_000, 5)))
    report = Report({"stream": "S", "dimension": DIMENSION, **found})
    for name in names:
        for clock in ("wall", "cpu"):
            speeds = found[f"{clock}_events_per_second"]
            note = f"{median(speeds[name]):,.0f} events/s, river {median(speeds[PEER]):,.0f}"
            what = f"{name}, file → durable: times the events/s of river's loop, {clock} time"
            report.at_least(what, ratio(speeds[name], speeds[PEER]), 3 if name == "bpr" else None, note)
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("path", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
