"""Workers over a real Kafka that die at a numbered step of the commit: `tests.crash.driver` with another log.

A job's files are the address of the Kafka and the topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from consumers.eventlog.kafka import KafkaLog
from state.ledger import Source
from streaming.rules import EventRules
from tests.crash import driver
from tests.crash.driver import Driver, DyingTold, Job


class DyingKafkaLog(DyingTold, KafkaLog):
    pass


def topic(job: Job, sources: Sequence[Source]) -> DyingKafkaLog:
    """The topic, up to what is its end now."""
    bootstrap, name = job.files
    client = {"bootstrap_servers": bootstrap}
    return DyingKafkaLog(name, EventRules(), client, known=sources, until_end=True)


class KafkaDriver(Driver):
    """The process that forks these workers."""

    module = "tests.kafka.dying"


if __name__ == "__main__":
    driver.serve(partial(driver.work, opened=topic))
