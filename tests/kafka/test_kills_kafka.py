"""Kill −9 at each step of the commit while records arrive: each is learned once, whatever happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from state.audit import verify
from state.ledger import Ledger
from state.spec import new_spec
from state.versions import Registry, Version
from tests.consumers.worked import everything, lines
from tests.crash.driver import STEPS, Job
from tests.kafka.conftest import Reachable
from tests.kafka.dying import KafkaDriver

Produce = Callable[..., list[int]]
BEFORE, EACH = 120, 60  # records there at the start, and those that come before each kill


@pytest.fixture(scope="module")
def driver() -> Iterator[KafkaDriver]:
    with KafkaDriver() as made:
        yield made


def produced(produce: Produce, topic: str, partitions: int, first: int, count: int) -> None:
    records = [line.encode() for line in lines(count, seed=9, start=first)]
    for partition in range(partitions):
        produce(topic, records[partition::partitions], partition=partition)


def killed_and_undisturbed(
    driver: KafkaDriver,
    home: Path,
    broker: Reachable,
    topic: str,
    produce: Produce,
    partitions: int,
    learner: str,
) -> tuple[Version, Version]:
    registry = Registry(home)
    spec = new_spec(learner, {"evaluation_rate": 0.2})
    killed, whole = registry.create("killed", spec), registry.create("whole", spec)

    def job(version: Version, step: str = "", commit: int = 1, warm: bool = False) -> Job:
        return Job(str(version.path), [broker.bootstrap, topic], step, commit, warm=warm)

    produced(produce, topic, partitions, 0, BEFORE)
    kills = 0
    for number, step in enumerate(STEPS):
        produced(produce, topic, partitions, BEFORE + EACH * number, EACH)
        kills += driver.run(job(killed, step, 1 + number % 2, warm=number == 0)).killed
    assert kills == len(STEPS)
    assert not driver.run(job(killed)).killed
    assert not driver.run(job(whole)).killed
    return killed, whole


@pytest.mark.parametrize("learner", ["popularity", "softmax"])
def test_kills_at_every_step_leave_the_bytes_of_an_undisturbed_run(
    driver: KafkaDriver, tmp_path: Path, broker: Reachable, topic: str, produce: Produce, learner: str
) -> None:
    killed, whole = killed_and_undisturbed(driver, tmp_path, broker, topic, produce, 1, learner)
    assert everything(killed.store_path) == everything(whole.store_path)


def test_kills_with_four_partitions_learn_each_event_once(
    driver: KafkaDriver,
    tmp_path: Path,
    broker: Reachable,
    new_topic: Callable[..., str],
    produce: Produce,
) -> None:
    topic = new_topic(partitions=4)
    killed, whole = killed_and_undisturbed(driver, tmp_path, broker, topic, produce, 4, "popularity")
    stands = []
    for version in (killed, whole):
        with version.reading() as store:
            assert not verify(store, version.spec).problems  # the rows have as many events as were learned
            ledger = Ledger.read(store)
        offsets = sorted((source.name, source.next_offset) for source in ledger.sources)
        stands.append((ledger.number, ledger.learned, ledger.bad, offsets))
    assert stands[0] == stands[1]
    assert sum(offset for _, offset in stands[0][3]) == BEFORE + EACH * len(STEPS)
