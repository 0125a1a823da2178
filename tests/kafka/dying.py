"""Workers over a real Kafka that die at a numbered step of the commit: `tests.crash.driver` with another log.

A job's files are the address of the Kafka and the topic.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Event as Flag

from prometheus_client import CollectorRegistry

from consumers.embeddings import EmbeddingWorker, Pace
from consumers.eventlog.kafka import KafkaLog
from consumers.metrics import WorkerMetrics
from state.learned import Learned
from state.spec import read_spec
from state.versions import Version
from streaming.rules import EventRules
from tests.crash import driver
from tests.crash.driver import Driver, DyingLetters, DyingStore, Fate, Job


class DyingKafkaLog(KafkaLog):
    fate: Fate

    def committed(self, positions: Mapping[str, int]) -> None:
        self.fate.reached("before_told")
        super().committed(positions)
        self.fate.reached("after_told")


def work(job: Job) -> None:
    """The worker, as `freshet work` puts it together, up to what is the end of the topic now."""
    path = Path(job.version)
    version = Version(path.name, path, read_spec(path / "spec.toml"))
    fate = Fate(job)
    store = DyingStore(version.store_path)
    store.fate = fate
    bootstrap, topic = job.files
    with store:
        learned = Learned(version.spec, store, user_cache=job.user_cache)
        known = learned.ledger.sources
        client = {"bootstrap_servers": bootstrap}
        log = DyingKafkaLog(topic, EventRules(), client, known=known, until_end=True)
        letters = DyingLetters(version.dead_letters_path)
        log.fate = letters.fate = fate
        EmbeddingWorker(
            learned,
            log,
            dead_letters=letters,
            metrics=WorkerMetrics(CollectorRegistry()).of(version.name),
            pace=Pace(events=job.every),
            batch_events=job.batch,
            confirm=log.confirm,
        ).run(Flag())
        log.close()
        letters.close()


class KafkaDriver(Driver):
    """The process that forks these workers."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka.dying"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )


if __name__ == "__main__":
    vars(driver)["work"] = work
    driver.serve()
