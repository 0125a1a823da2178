"""How soon a worker learns again that was killed: from exec to its first event, 1,000,000 rows on disk.

    python -m benchmarks.restart

A worker learns a topic in which each user has one event, and is killed with SIGKILL, so that its write-ahead
log is as a kill leaves it. More records come; then `freshet work` is started, and its metrics page is asked
until it has learned an event. Kernels are compiled before the clock starts. User rows are read when they are
needed, item rows at the start: so there are two numbers of items.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from kafka import KafkaAdminClient, KafkaProducer

from benchmarks.processes import LOGGED, Kafka, commits, committed, wait_for, without_settings
from benchmarks.verdict import Report, run_benchmark
from consumers.broker import Broker
from state.spec import new_spec
from state.versions import Registry

_MORE = 1_000  # records that wait at each start
_LEARNED = b"\nfreshet_events_total{"


def fill(bootstrap: str, topic: str, first: int, count: int, users: int, items: int) -> None:
    """Records `first` … `first + count` of a stream that comes to each of its users and items in turn."""
    with KafkaProducer(
        bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=50, batch_size=256 * 1024
    ) as producer:
        for k in range(first, first + count):
            ids = (k % users, k % items, 1_700_000_000 + k)
            producer.send(topic, b'{"user":"user-%07d","item":"item-%06d","ts":%d}' % ids, partition=0)
        producer.flush()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def processor_seconds(process: int) -> float:
    """Processor time of a process so far."""
    # The name, in parentheses, may hold spaces; user and system time are the 14th and 15th field.
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def learned(port: int) -> bool:
    """Whether the worker with this metrics page has learned an event."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            page = answer.read()
    except (URLError, ConnectionError):  # it is not there yet
        return False
    at = page.find(_LEARNED)
    return at >= 0 and float(page[at:].split(b"\n", 2)[1].rsplit(b" ", 1)[1]) > 0


class Seconds(NamedTuple):
    """From exec until an event is learned, and until one is durable.

    Attributes:
        processor: seconds of processor time until an event is learned, which a busy machine changes little.
    """

    learned: float
    durable: float
    processor: float


class Restarts:
    """A version with rows on disk, and its topic.

    Args:
        rows: users and items together.
    """

    def __init__(self, kafka: Kafka, directory: Path, rows: int, items: int) -> None:
        self._kafka, self._directory = kafka, directory
        self._users, self._items = rows - items, items
        self._sent = self._logs = 0
        Registry(kafka.home).create(kafka.topic, new_spec("softmax", {}))
        self._send(max(self._users, items))
        log = self._new_log()
        with self._worker(log, free_port()) as process:
            wait_for(lambda: committed(log) >= self._sent, process, log, 0.5)

    def _send(self, count: int) -> None:
        fill(self._kafka.bootstrap, self._kafka.topic, self._sent, count, self._users, self._items)
        self._sent += count

    def seconds(self) -> Seconds:
        """Let records come, start the worker, and kill it when it has learned and committed some."""
        self._send(_MORE)
        log = self._new_log()
        begun = time.time()
        with self._worker(log, port := free_port()) as process:
            wait_for(lambda: learned(port), process, log, 0.01)
            first, processor = time.time() - begun, processor_seconds(process.pid)
            wait_for(lambda: commits(log), process, log, 0.05)
        return Seconds(first, commits(log)[0].at_s - begun, processor)

    def _new_log(self) -> Path:
        self._logs += 1
        return self._directory / f"worker-{self._logs}.log"

    def _worker(self, log: Path, port: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
        settings = {**self._kafka.settings, "worker.metrics_port": str(port)}
        return self._kafka._replace(settings=settings).worker(self._kafka.topic, log)


def compare(rows: int, items: list[int], rounds: int) -> Report:
    """Restarts with each number of items among the rows."""
    without_settings()
    report = Report({"rows": rows, "learned_s": {}, "durable_s": {}, "processor_s": {}})
    with tempfile.TemporaryDirectory(prefix="freshet-bench-") as directory, Broker() as broker:
        for count in items:
            topic = f"items-{count}"
            admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
            admin.create_topics({topic: {"num_partitions": 1}}, wait_for_metadata=True)
            admin.close()
            place = Path(directory, topic)
            place.mkdir()
            restarts = Restarts(Kafka(place / "home", broker.bootstrap, topic, LOGGED), place, rows, count)
            found = [restarts.seconds() for _ in range(rounds)]
            report.figures["learned_s"][count] = [one.learned for one in found]
            report.figures["durable_s"][count] = [one.durable for one in found]
            report.figures["processor_s"][count] = [one.processor for one in found]
            report.at_most(
                f"{rows:,} rows, {count:,} of them items: exec → first event learned, s",
                median(one.learned for one in found),
                3.0,
                f"durable after {median(one.durable for one in found):.2f} s, processor "
                f"{median(one.processor for one in found):.2f} s; worst of {rounds}: "
                f"{max(one.learned for one in found):.2f} s",
            )
    return report


def measure(quick: bool) -> Report:
    """Full counts, or small ones."""
    return compare(2_000, [500], 1) if quick else compare(1_000_000, [20_000, 200_000], 5)


if __name__ == "__main__":
    sys.exit(run_benchmark("restart", __doc__, measure))
