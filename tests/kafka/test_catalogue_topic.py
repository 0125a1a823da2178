"""A catalogue follows its compacted topic: the newest record of an item holds, none takes it out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest

from consumers.catalogue_input import Reading
from consumers.catalogue_topic import CatalogueTopic
from consumers.settings import ItemSettings, KafkaSettings, Settings
from state.catalogue import CatalogueItem
from streaming.errors import BrokerError
from tests.kafka.conftest import WAIT_S, Reachable

Produce = Callable[..., list[int]]


def settings(broker: Reachable, topic: str) -> Settings:
    return Settings(kafka=KafkaSettings(broker.bootstrap), items=ItemSettings(topic=topic))


def followed(source: CatalogueTopic, done: Callable[[], bool]) -> None:
    last = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < last, source.catalogue
        source.refresh()
        time.sleep(0.02)


def test_newest_record_of_an_item_holds(
    broker: Reachable, new_topic: Callable[..., str], produce: Produce
) -> None:
    topic = new_topic(partitions=2, config={"cleanup.policy": "compact"})
    produce(topic, [b'{"categories": ["a"]}', b'{"available": false}', b"{}"], keys=[b"tea", b"tea", b"cup"])
    produce(topic, [b'{"item": "pot", "price": 2}', b"{", b'{"item": "x"}'], [b"pot", b"cup", b"y"], 1)
    with closing(CatalogueTopic(settings(broker, topic))) as source:
        reading = source.refresh()
        assert reading is not None
        assert (reading.records, reading.refused) == (6, 2)
        assert sorted(refused.place for refused in reading.shown) == [f"{topic}[1]@1", f"{topic}[1]@2"]
        catalogue = source.catalogue
        assert catalogue.item("tea") == CatalogueItem("tea", False)
        assert catalogue.item("cup") == CatalogueItem("cup")
        assert catalogue.item("pot") == CatalogueItem("pot", features={"price": 2})

        produce(topic, [None, b'{"available": true}'], keys=[b"cup", b"tea"])
        followed(source, lambda: bool(catalogue.allows(["tea"])[0]))
        assert catalogue.item("cup") is None
        assert catalogue.allows(["tea", "cup", "pot"]).tolist() == [True, False, True]


def test_empty_topic_lists_nothing(broker: Reachable, topic: str) -> None:
    with closing(CatalogueTopic(settings(broker, topic))) as source:
        assert source.refresh() in (None, Reading())
        assert len(source.catalogue) == 0


def test_topic_that_is_not_there_is_named(broker: Reachable) -> None:
    with pytest.raises(BrokerError, match=r"there is no such topic.*items\.topic"):
        CatalogueTopic(settings(broker, "freshet-no-such-topic"))
