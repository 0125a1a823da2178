"""Versions over a real Kafka that are killed at random moments while records arrive, and one that is not."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer

from state.audit import verify
from state.ledger import Ledger
from state.spec import new_spec
from state.versions import Registry, Version
from tests.consumers.worked import lines
from tests.crash.driver import Job
from tests.crash.worlds import LEARNERS, difference, plain
from tests.kafka.dying import KafkaDriver

BEFORE, EACH = 120, 60  # records there at the start, and those that come before each run


@dataclass
class KafkaWorld:
    """One topic, a version that is killed again and again, and in the end one that learns it undisturbed.

    With one partition the two stores are equal to the byte. With several, partitions interleave as they
    arrive, so that each event is counted instead.
    """

    home: Path
    driver: KafkaDriver
    bootstrap: str
    topic: str
    partitions: int
    learner: str
    sent: int = 0
    kills: int = 0
    _registry: Registry = field(init=False)

    def __post_init__(self) -> None:
        self._registry = Registry(self.home)
        spec = new_spec(self.learner, {"evaluation_rate": 0.2, **LEARNERS[self.learner]})
        self.killed, self.whole = (self._registry.create(name, spec) for name in ("killed", "whole"))
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        admin.create_topics({self.topic: {"num_partitions": self.partitions}}, wait_for_metadata=True)
        admin.close()
        self._producer: Any = KafkaProducer(bootstrap_servers=self.bootstrap, linger_ms=0)
        self.produce(BEFORE)
        trial = self._registry.create("trial", spec)
        self.driver.run(self.job(trial, warm=True))
        self.produce(EACH)
        self.seconds = self.driver.run(self.job(trial)).seconds

    def job(self, version: Version, **how: Any) -> Job:
        """A run to what is the end of the topic when it starts."""
        return Job(str(version.path), [self.bootstrap, self.topic], **how)

    def produce(self, count: int) -> None:
        """Further records, a few of them bad; their partitions take turns."""
        for line in lines(count, seed=9, start=self.sent):
            self._producer.send(self.topic, line.encode(), partition=self.sent % self.partitions)
            self.sent += 1
        self._producer.flush()

    def killed_at_moments(self, random: Random, most: int) -> int:
        """Kill up to `most` runs at random moments, records coming before each; returns how many were."""
        before = self.kills
        for _ in range(2 * most):
            self.produce(EACH)
            moment = random.uniform(0.0, 1.2 * self.seconds)
            self.kills += self.driver.run(self.job(self.killed, moment_s=moment)).killed
            if self.kills - before == most:
                break
        return self.kills - before

    def finish(self) -> None:
        """Let both versions learn all of the topic, and compare them.

        Raises:
            AssertionError: an event was lost, learned twice, or a byte differs.
        """
        self._producer.close()
        for version in (self.killed, self.whole):
            self.driver.run(self.job(version))
        if self.partitions == 1:
            differing = difference(plain(self.killed), plain(self.whole))
            assert not differing, f"{len(differing)} keys differ, such as {differing[:5]}"
        stands = [self._stand(version) for version in (self.killed, self.whole)]
        assert stands[0] == stands[1], json.dumps(stands)
        assert sum(stands[0]["offsets"].values()) == self.sent

    def _stand(self, version: Version) -> dict[str, Any]:
        with version.reading() as store:
            problems = verify(store, version.spec).problems  # the rows have as many events as were learned
            assert not problems, problems
            ledger = Ledger.read(store)
        offsets = {source.name: source.next_offset for source in sorted(ledger.sources, key=lambda s: s.name)}
        counts = {"number": ledger.number, "learned": ledger.learned, "bad": ledger.bad}
        return {**counts, "offsets": offsets}
