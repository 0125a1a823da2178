"""Reading a real Kafka: the batch reader alone, and topic → durable rows, beside other clients (stream S).

    python -m benchmarks.kafka

Peers that are not among the locked packages are measured where they are installed:
`pip install confluent-kafka quixstreams`. All contenders read the same topic of the same broker, in turn.
The stock loop merely reads; river learns after it and saves nothing; Quix Streams keeps two vectors of
64 floats for each event in the RocksDB state of a group of its own; Freshet commits rows with offsets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import msgspec
import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from river import reco

from benchmarks.path import DIMENSION, Click
from benchmarks.run import run_all, worker
from benchmarks.stream import stream_s
from benchmarks.verdict import Report, Timed, interleaved, ratio, run_benchmark
from consumers.broker import Broker
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.batch_reader import install
from consumers.eventlog.kafka import KafkaLog
from streaming.errors import FreshetError
from streaming.rules import EventRules

TOPIC = "events"
CONFLUENT, QUIX = "confluent_kafka", "quixstreams"


def fill(bootstrap: str, lines: list[bytes]) -> None:
    """One partition of lz4 batches, as a busy producer makes them."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics({TOPIC: {"num_partitions": 1}}, wait_for_metadata=True)
    admin.close()
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type="lz4", linger_ms=50, batch_size=256 * 1024
    )
    for line in lines:
        producer.send(TOPIC, line, partition=0)
    producer.flush()
    producer.close()


class Stock:
    """kafka-python's own loop, and what may be done with each record in it."""

    def __init__(self, bootstrap: str, records: int, each: Callable[[bytes], None] | None = None) -> None:
        self._bootstrap, self._records, self._each = bootstrap, records, each

    def __call__(self) -> None:
        """Read the topic once."""
        consumer = _assigned(self._bootstrap)
        left, each = self._records, self._each
        while left > 0:
            for records in consumer.poll(timeout_ms=1000, max_records=10_000).values():
                left -= len(records)
                if each is not None:
                    for record in records:
                        each(record.value)
        consumer.close(autocommit=False)


class Batches:
    """Freshet's batch reader alone."""

    def __init__(self, bootstrap: str, records: int) -> None:
        self._bootstrap, self._records = bootstrap, records

    def __call__(self) -> None:
        """Read the topic once."""
        consumer = _assigned(self._bootstrap, max_poll_records=64)
        if not install(consumer):
            raise FreshetError(
                "The batch reader does not fit this kafka-python, so there is nothing to measure."
            )
        left = self._records
        while left > 0:
            for batches in consumer.poll(timeout_ms=1000).values():
                left -= sum(batch.spans.shape[1] for batch in batches)
        consumer.close(autocommit=False)


class Confluent:
    """confluent-kafka's `consume`, with the accessors that any use needs."""

    def __init__(self, bootstrap: str, records: int) -> None:
        self._bootstrap, self._records = bootstrap, records

    def __call__(self) -> None:
        """Read the topic once."""
        from confluent_kafka import Consumer
        from confluent_kafka import TopicPartition as Partition

        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "benchmark",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
            }
        )
        consumer.assign([Partition(TOPIC, 0, 0)])
        left = self._records
        while left > 0:
            for message in consumer.consume(10_000, 1.0):
                message.offset(), message.key(), message.value()
                left -= 1
        consumer.close()


class Freshet:
    """A worker that learns the topic again in each round, as if it were another one."""

    def __init__(self, embedding_worker: EmbeddingWorker, bootstrap: str, records: int) -> None:
        self._worker, self._bootstrap, self._records = embedding_worker, bootstrap, records

    def __call__(self) -> None:
        """One round, from connecting to the last commit."""
        log = KafkaLog(TOPIC, EventRules(), {"bootstrap_servers": self._bootstrap}, until_end=True)
        self._worker.learned.ledger.sources.clear()
        self._worker.log = log
        before = self._worker.totals.events
        run_all(self._worker)
        log.close()
        if self._worker.totals.events - before != self._records:
            raise FreshetError(
                f"{self._worker.totals.events - before} events came, expected {self._records}."
            )


class Quix:
    """Quix Streams with two vectors of state an event, in a process of its own (it takes the signals)."""

    def __init__(self, bootstrap: str, records: int) -> None:
        self._bootstrap, self._records, self._round = bootstrap, records, 0

    def __call__(self) -> None:
        """The first `records` of the topic, by a group and a state of its own."""
        self._round += 1
        state = tempfile.mkdtemp(prefix="freshet-quix-")
        group = f"quix-{os.getpid()}-{self._round}"
        command = [sys.executable, "-c", _QUIX, self._bootstrap, TOPIC, group, state, str(self._records)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(state)


_QUIX = """
import sys
from quixstreams import Application
bootstrap, topic, group, path, count = sys.argv[1:]
app = Application(broker_address=bootstrap, consumer_group=group, state_dir=path, loglevel="ERROR",
                  auto_offset_reset="earliest", use_changelog_topics=False)
frame = app.dataframe(app.topic(topic, value_deserializer="json"))
def step(value, state):
    for key in ("u:" + value["user"], "i:" + value["item"]):
        vector = state.get(key) or [0.0] * 64
        vector[0] += 1.0
        state.set(key, vector)
    return value
frame = frame.apply(step, stateful=True)
app.run(frame, count=int(count))
"""


def _assigned(bootstrap: str, **settings: Any) -> KafkaConsumer:
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest", **settings
    )
    consumer.assign([TopicPartition(TOPIC, 0)])
    consumer.seek_to_beginning()
    return consumer


@contextmanager
def contenders(bootstrap: str, records: int, peers: int) -> Iterator[dict[str, Callable[[], None]]]:
    """All that take part; `peers` is how many records the slow ones read."""
    model: Any = reco.BiasedMF(n_factors=DIMENSION, seed=1)
    decode = msgspec.json.Decoder(Click).decode

    def river(value: bytes) -> None:
        click = decode(value)
        model.predict_one(click.user, click.item)
        model.learn_one(click.user, click.item, click.value)

    found: dict[str, Callable[[], None]] = {
        "stock": Stock(bootstrap, records),
        "batches": Batches(bootstrap, records),
        "river": Stock(bootstrap, peers, river),
    }
    if find_spec(CONFLUENT):
        found["confluent"] = Confluent(bootstrap, records)
    if find_spec(QUIX):
        found["quix"] = Quix(bootstrap, peers)
    with ExitStack() as workers:
        for learner in ("bpr", "softmax"):
            log = KafkaLog(TOPIC, EventRules(), {"bootstrap_servers": bootstrap}, until_end=True)
            started = workers.enter_context(worker(learner, log, dimension=DIMENSION))
            found[learner] = Freshet(started, bootstrap, records)
            found[learner]()  # the pass before the clock starts
        yield found


def compare(records: int, peers: int, rounds: int) -> Report:
    """Every contender in each round; rates are records a second."""
    with stream_s().open("rb") as file:
        lines = [line.rstrip(b"\n") for line, _ in zip(file, range(records), strict=False)]
    with Broker() as broker:
        fill(broker.bootstrap, lines)
        with contenders(broker.bootstrap, records, peers) as found:
            times = interleaved(found, rounds)
    counts = {name: peers if name in ("river", "quix") else records for name in times}
    return reported(times, counts)


def reported(times: dict[str, list[Timed]], counts: dict[str, int]) -> Report:
    """Ratios in the same round, medians over the rounds."""
    wall = {name: [counts[name] / t.wall for t in taken] for name, taken in times.items()}
    cpu = {name: [counts[name] / t.cpu for t in taken] for name, taken in times.items()}
    report = Report({"records": counts, "wall_records_per_second": wall, "cpu_records_per_second": cpu})

    def beside(what: str, rates: dict[str, list[float]], one: str, other: str, target: float) -> None:
        if other not in rates:
            report.at_least(what, None, target, "not installed")
            return
        a, b = (float(np.median(rates[name])) for name in (one, other))
        report.at_least(what, ratio(rates[one], rates[other]), target, f"{a:,.0f} against {b:,.0f} records/s")

    beside("batch reader: times the stock loop's records per second of CPU", cpu, "batches", "stock", 8)
    beside("batch reader: times confluent's records per second of CPU", cpu, "batches", "confluent", 2)
    beside("bpr, topic → durable: times the stock loop's mere reading", wall, "bpr", "stock", 1.3)
    beside("bpr, topic → durable: times Quix Streams' two vectors of state", wall, "bpr", "quix", 10)
    beside("bpr, topic → durable: times the stock loop with river", wall, "bpr", "river", 3)
    beside("softmax, topic → durable: times the stock loop's mere reading", wall, "softmax", "stock", 0.5)
    return report


def measure(quick: bool) -> Report:
    """Full counts, or small ones."""
    return compare(20_000, 2_000, 1) if quick else compare(500_000, 30_000, 3)


if __name__ == "__main__":
    sys.exit(run_benchmark("kafka", __doc__, measure))
