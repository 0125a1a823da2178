"""From produced to durable, record by record: `freshet replay` → a real Kafka → `freshet work`.

    python -m benchmarks.freshness

20,000 items, the default learner. The peak is what the sender, Kafka and the worker reach together on this
machine while the sender does not wait. Then records come at half of the peak, and at 1,000 a second. A
record is produced at its timestamp in Kafka, which the sender takes when it hands the record to the client;
it is durable at the first commit that holds it, by the worker's log.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from benchmarks.processes import (
    LOGGED,
    Commit,
    Kafka,
    commits,
    committed,
    wait_for,
    without_settings,
    write_lines,
)
from benchmarks.stream import zipf
from benchmarks.verdict import Report, run_benchmark
from consumers.broker import Broker
from state.spec import new_spec
from state.versions import Registry
from streaming.errors import FreshetError

TOPIC = "events"
SLOW_RATE = 1_000.0
_USERS = 50_000


class Sending:
    """A worker at its topic, and what was sent to it so far.

    Args:
        items: known items; the first file has each of them.
    """

    def __init__(self, kafka: Kafka, directory: Path, items: int) -> None:
        self._kafka, self._directory, self._items = kafka, directory, items
        self._rng = np.random.default_rng(1)
        self.log = directory / "worker.log"
        self.sent = 0

    def file(self, count: int, rate: float, *, all_items: bool = False) -> Path:
        """A file of events that come `rate` a second by their own time."""
        items = zipf(self._rng, self._items, 1.0, count)
        if all_items:
            items[: self._items] = self._rng.permutation(self._items)
        users = zipf(self._rng, _USERS, 0.8, count)
        ts = 1_700_000_000_000 + (np.arange(count) * 1000.0 / rate).astype(np.int64)
        return write_lines(
            self._directory / f"{self.sent}.jsonl",
            [f"user-{u:06d}" for u in users.tolist()],
            [f"item-{i:05d}" for i in items.tolist()],
            ts.tolist(),
        )

    def send(self, path: Path, speed: str) -> int:
        """Send a file and return the offset of its first record."""
        first = self.sent
        done = self._kafka.run("replay", str(path), "--timestamps", "now", "--speed", speed)
        self.sent += done["sent"]
        return first


def produced(bootstrap: str, first: int, last: int) -> NDArray[np.float64]:
    """Wall-clock seconds of the timestamps of the records from offset `first` up to `last`."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    where = TopicPartition(TOPIC, 0)
    consumer.assign([where])
    consumer.seek(where, first)
    times = np.zeros(last - first)
    while consumer.position(where) < last:
        for record in consumer.poll(timeout_ms=1000, max_records=10_000).get(where, []):
            if record.offset < last:
                times[record.offset - first] = record.timestamp / 1e3
    consumer.close(autocommit=False)
    return times


def waited(times: NDArray[np.float64], first: int, found: list[Commit]) -> NDArray[np.float64]:
    """Seconds from each record's production to the first commit that holds it.

    Args:
        times: when the records from offset `first` on were produced.
    """
    ends = np.array([commit.events for commit in found])
    moments = np.array([commit.at_s for commit in found])
    return moments[np.searchsorted(ends, np.arange(first, first + len(times)), "right")] - times


def compare(items: int, events: int, seconds: float) -> Report:
    """The peak, then half of it, then 1,000 events a second.

    Args:
        events: of the peak's file.
        seconds: that each of the other two lasts.
    """
    without_settings()
    with (
        tempfile.TemporaryDirectory(prefix="freshet-bench-") as directory,
        Broker() as broker,
    ):
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.create_topics({TOPIC: {"num_partitions": 1}}, wait_for_metadata=True)
        admin.close()
        kafka = Kafka(Path(directory) / "home", broker.bootstrap, TOPIC, LOGGED)
        Registry(kafka.home).create("v", new_spec("softmax", {}))
        sending = Sending(kafka, Path(directory), items)
        with kafka.worker("v", sending.log) as process:

            def run(path: Path, speed: str) -> dict[str, float]:
                first = sending.send(path, speed)
                wait_for(lambda: committed(sending.log) >= sending.sent, process, sending.log, 0.2)
                times = produced(broker.bootstrap, first, sending.sent)
                return _figures(times, waited(times, first, commits(sending.log)))

            run(sending.file(max(items, events // 4), 1.0, all_items=True), "max")  # each item is known now
            found = {"peak": run(sending.file(events, 1.0), "max")}
            half = found["peak"]["durable_per_second"] / 2
            found["half"] = run(sending.file(int(half * seconds), half), "1x")
            found["slow"] = run(sending.file(int(SLOW_RATE * seconds), SLOW_RATE), "1x")
    return reported(found, items)


def _figures(times: NDArray[np.float64], took: NDArray[np.float64]) -> dict[str, float]:
    if len(took) == 0:
        raise FreshetError("No record came, so there is nothing to measure.")
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {
        "events": len(took),
        "produced_per_second": len(times) / max(1e-3, float(times[-1] - times[0])),
        "durable_per_second": len(times) / float(times[-1] + took[-1] - times[0]),
        "p50_s": float(p50),
        "p99_s": float(p99),
        "max_s": float(took.max()),
    }


def reported(found: dict[str, dict[str, float]], items: int) -> Report:
    """The figures beside what they must reach."""
    report = Report({"items": items, "runs": found})
    peak, half, slow = found["peak"], found["half"], found["slow"]
    what = f"{items:,} items: events a second, produced and durable, at the peak"
    report.beside(what, peak["durable_per_second"], f"p50 {peak['p50_s']:.3f} s, p99 {peak['p99_s']:.3f} s")
    note = f"{half['produced_per_second']:,.0f} events/s, p50 {half['p50_s']:.3f}, max {half['max_s']:.3f}"
    report.at_most("produced → durable at half of the peak, p99, s", half["p99_s"], 1.0, note)
    note = f"{slow['produced_per_second']:,.0f} events/s, p99 {slow['p99_s']:.3f}, max {slow['max_s']:.3f}"
    report.at_most("produced → durable at 1,000 events/s, p50, s", slow["p50_s"], 0.4, note)
    return report


def measure(quick: bool) -> Report:
    """Full counts, or small ones."""
    return compare(200, 2_000, 1.0) if quick else compare(20_000, 400_000, 30.0)


if __name__ == "__main__":
    sys.exit(run_benchmark("freshness", __doc__, measure))
