"""Served lists and events in topics of several partitions become verdicts; kills, and partitions at rest."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from consumers import posting
from consumers.exposing import Exposing, ExposureMetrics
from consumers.exposure_topic import examine_exposure_topic, made_exposure_topic
from consumers.outcomes import Outcomes
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store
from consumers.outcomes_topics import TopicLog, topic_logs
from consumers.posting import KafkaPosts, Posted
from consumers.settings import Settings, load_settings
from state.experiments import Experiments
from state.releases import Releases
from streaming.errors import FreshetError, InputError
from streaming.rules import EventRules
from tests.consumers.commandline import Freshet
from tests.consumers.served import client, taught
from tests.consumers.stepping import killed_in_a_step
from tests.consumers.test_outcomes import LATE, arm_of, create, event, exposure, pairs_of
from tests.consumers.test_outcomes_kills import Visitors, killed
from tests.consumers.test_server_process import server
from tests.kafka.conftest import WAIT_S, Reachable
from tests.kafka.test_eventlog_kafka import anew

PARTITIONS = 3
Produce = Callable[..., list[int]]


@pytest.fixture
def freshet(
    broker: Reachable,
    admin: KafkaAdminClient,
    new_topic: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Freshet]:
    """A home with two versions whose logs are topics; the one of served lists is not there yet."""
    topic = new_topic(partitions=PARTITIONS)
    for variable in [name for name in os.environ if name.startswith("FRESHET_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("FRESHET_KAFKA__BOOTSTRAP_SERVERS", broker.bootstrap)
    monkeypatch.setenv("FRESHET_EVENTS__TOPIC", topic)
    monkeypatch.setenv("FRESHET_EVENTS__EXPOSURES_TOPIC", f"{topic}.exposures")
    monkeypatch.setattr("consumers.commands.experiment.new_salt", lambda: "5a17")
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    for name in ("one", "two"):
        taught(home, name)
    Releases(home).promote("one")
    yield Freshet(home, capsys)
    if f"{topic}.exposures" in admin.list_topics():
        admin.delete_topics([f"{topic}.exposures"])


def settings_of(home: Path) -> Settings:
    return load_settings(None, home, {})


def divide(admin: KafkaAdminClient, home: Path) -> str:
    """The topic of served lists with as many partitions as that of events; its name."""
    topic = settings_of(home).events.exposures_topic
    admin.create_topics({topic: {"num_partitions": PARTITIONS}}, wait_for_metadata=True)
    return topic


def served_to(home: Path, users: Sequence[str], now_us: int) -> dict[str, Any]:
    """What a server that notes its lists in the topic answers to users."""
    settings = settings_of(home)
    log = KafkaPosts(settings.events.exposures_topic, {"bootstrap_servers": settings.kafka.bootstrap_servers})
    metrics = ExposureMetrics(CollectorRegistry())
    noting = Exposing(log, Experiments(home), metrics, now=lambda: now_us / 1e6)
    with closing(noting) as exposing, client(home, exposing=exposing) as api:
        return {user: api.get(f"/v1/users/{user}/recommendations?k=2").json() for user in users}


def records_of(broker: Reachable, topic: str) -> list[dict[str, Any]]:
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")) as consumer:
        places = [TopicPartition(topic, k) for k in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(places)
        ends, found, until = consumer.end_offsets(places), [], time.monotonic() + WAIT_S
        while any(consumer.position(place) < ends[place] for place in places):
            assert time.monotonic() < until
            found += [record for part in consumer.poll(500).values() for record in part]
    assert all(record.key.decode() == json.loads(record.value)["user"] for record in found)
    return [json.loads(record.value) for record in found]


def later_ms(since: int) -> int:
    """A time at which no event of these tests is still to come: its clock would be taken to run ahead."""
    return (since + LATE) // 1000


def test_lists_that_are_served_are_in_the_topic_and_what_follows_is_joined(
    freshet: Freshet, broker: Reachable, produce: Produce
) -> None:
    home = freshet.home
    assert "no" in examine_exposure_topic(settings_of(home)).detail
    since = create(freshet)  # makes the topic
    settings = settings_of(home)
    assert examine_exposure_topic(settings).ok
    users = [f"u{k}" for k in range(20)]
    answers = served_to(home, users, since + 1_000_000)
    noted = records_of(broker, settings.events.exposures_topic)
    assert sorted(one["id"] for one in noted) == sorted(one["exposure"] for one in answers.values())
    buyers = [*users[:5], users[0]]
    happened = [event(user, since + 2_000_000, exposure=answers[user]["exposure"]) for user in buyers]
    happened.append(event("x", since + LATE, type="view"))
    keys = [user.encode() for user in [*buyers, "x"]]
    produce(settings.events.topic, happened, keys, partition=None, timestamp_ms=later_ms(since))
    freshet("outcomes", "--until-end")
    # No list says yet that time has gone.
    assert freshet.json("experiment", "status")["records"]["exposures"] == 0
    served_to(home, ["late"], since + LATE)
    done = freshet.json("outcomes", "--until-end")
    assert (done["users"], done["open_windows"]) == (20, 1)
    found = freshet.json("experiment", "status")
    assert sum(arm["users_with_outcome"] for arm in found["arms"].values()) == 5
    assert (found["records"]["joined"], found["records"]["repeated"]) == (5, 1)
    assert any("1 events came again" in note for note in found["notes"])
    assert freshet.json("outcomes", "--until-end")["records"] == 0  # offsets are in the store


def write_topics(home: Path, produce: Produce, since: int, users: int) -> tuple[int, int]:
    """Users with a list each, every fifth buys; returns how many users and buyers there are."""
    settings = settings_of(home)
    names = [f"user-{k}" for k in range(users)]
    shown = [exposure(name, arm_of(home, name), since + 1000 * k) for k, name in enumerate(names)]
    shown.append(exposure("last", arm_of(home, "last"), since + LATE))
    produce(settings.events.exposures_topic, shown, [*(n.encode() for n in names), b"last"], partition=None)
    happened = [event(name, since + 1000 * k + 500) for k, name in enumerate(names) if k % 5 == 0]
    happened += [event(name, since + 1000 * k + 600, type="view") for k, name in enumerate(names)]
    happened += [b"no event", event("last", since + LATE, type="view")]
    keys = [*(n.encode() for n in names[::5]), *(n.encode() for n in names), b"last", b"last"]
    produce(settings.events.topic, happened, keys, partition=None, timestamp_ms=later_ms(since))
    return users, len(names[::5])


def test_store_is_the_same_to_the_byte_after_a_kill_with_several_partitions(
    freshet: Freshet, admin: KafkaAdminClient, produce: Produce, tmp_path: Path
) -> None:
    home = freshet.home
    divide(admin, home)
    since = create(freshet)
    users, buyers = write_topics(home, produce, since, 600)
    killed_in_a_step(home, 5)
    freshet("outcomes", "--until-end")
    after = pairs_of(home)
    (home / "outcomes" / "exp").rename(tmp_path / "aside")
    freshet("outcomes", "--until-end")
    assert after == pairs_of(home)
    found = freshet.json("experiment", "status")
    assert (found["users"], found["records"]["joined"], found["records"]["bad"]) == (users, buyers, 1)
    assert found["open_windows"] == 1  # the last one
    freshet("forget", "user", "user-3")
    assert len(pairs_of(home)) == len(after) - 1
    assert freshet.json("outcomes", "--until-end")["records"] == 0


def test_partitions_at_rest_hold_no_window_open(
    freshet: Freshet, admin: KafkaAdminClient, produce: Produce
) -> None:
    home = freshet.home
    topic = divide(admin, home)
    since = create(freshet)
    produce(topic, [exposure("ann", arm_of(home, "ann"), since + 1)], [b"ann"], partition=1)
    logs = partial(topic_logs, settings_of(home))
    with opened_store(home, "exp") as store:
        metrics = OutcomeMetrics(CollectorRegistry())
        with closing(Outcomes(home, "exp", store, EventRules(), metrics, logs)) as joined:
            until = time.monotonic() + WAIT_S
            while joined.joiner.watermark is None or not joined.joiner.held:
                joined.step(since / 1e6 + 30)
                assert time.monotonic() < until
            assert joined.verdict()["users"] == 0
            while not joined.verdict()["users"]:
                joined.step(since / 1e6 + 62)
                assert time.monotonic() < until
            assert len(joined.joiner.reached) == 2 * PARTITIONS


def test_what_cannot_be_joined_is_said(
    freshet: Freshet, admin: KafkaAdminClient, new_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = freshet.home
    compacted = new_topic(config={"cleanup.policy": "compact"})
    monkeypatch.setenv("FRESHET_EVENTS__EXPOSURES_TOPIC", compacted)
    with pytest.raises(InputError, match="compacted"):
        made_exposure_topic(settings_of(home))
    assert not examine_exposure_topic(settings_of(home)).ok
    monkeypatch.setenv("FRESHET_EVENTS__TOPIC", "freshet-test-nowhere")
    arms = ("--arm", "one=0.5", "--arm", "two=0.5", "--metric", "buy")
    assert "nothing to join" in freshet("experiment", "create", "exp", *arms, code=1)
    assert Experiments(home).names() == []


def test_join_ends_with_its_experiment_and_goes_on_from_no_other_kind_of_log(
    freshet: Freshet, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(freshet)
    freshet("experiment", "stop")
    freshet("outcomes", "exp", "--set", "worker.metrics_port=none")
    monkeypatch.setenv("FRESHET_KAFKA__BOOTSTRAP_SERVERS", "")
    assert "joined from Kafka before" in freshet("outcomes", "exp", "--until-end", code=2)


def test_lists_without_a_topic_are_refused_after_one_wait(
    broker: Reachable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(posting._PRODUCER, "max_block_ms", 500)
    with closing(KafkaPosts("freshet-test-nowhere", {"bootstrap_servers": broker.bootstrap})) as posts:
        refused = posts.append([[Posted(b"u", b"{}")]] * 1000)
    assert len(refused) == 1000 and all(isinstance(one, FreshetError) for one in refused)


def test_topic_made_anew_stops_the_join_until_it_is_said_where_to_go_on(
    freshet: Freshet, admin: KafkaAdminClient, produce: Produce
) -> None:
    home = freshet.home
    divide(admin, home)
    since, events = create(freshet), settings_of(home).events.topic
    write_topics(home, produce, since, 20)
    freshet("outcomes", "--until-end")
    anew(admin, events)
    produce(events, [event("ann", since + LATE + 1)], [b"ann"])
    assert "made anew" in freshet("outcomes", "--until-end", code=1)
    done = freshet.json("outcomes", "--until-end", "--on-lost-offsets", "earliest")
    assert (done["records"], done["users"]) == (1, 20)
    assert freshet.json("outcomes", "--until-end")["records"] == 0


def test_event_of_a_clock_that_is_ahead_of_kafka_makes_no_other_late(
    freshet: Freshet, produce: Produce
) -> None:
    home, since = freshet.home, create(freshet)
    settings = settings_of(home)
    produce(settings.events.exposures_topic, [exposure("ann", arm_of(home, "ann"), since + 1)], [b"ann"])
    stamped = {"partition": 0, "timestamp_ms": since // 1000}
    produce(settings.events.topic, [event("bob", since + 2_000_000)], [b"bob"], **stamped)
    produce(settings.events.topic, [event("ann", since + 2)], [b"ann"], **stamped)
    freshet("outcomes", "--until-end")
    found = freshet.json("experiment", "status")
    assert (found["records"]["ahead"], found["records"]["late"]) == (1, 0)
    assert any("their clock is wrong" in note for note in found["notes"])


def test_partition_that_is_held_waits_and_goes_on_where_it_was(
    broker: Reachable, new_topic: Callable[..., str], produce: Produce
) -> None:
    topic = new_topic(partitions=2)
    with closing(TopicLog("events", topic, {"bootstrap_servers": broker.bootstrap}, [], 0)) as log:
        until = time.monotonic() + WAIT_S
        begun = {lines.source for _ in range(2) if (lines := log.read(1)) is not None}
        assert begun == {"events[0]", "events[1]"}  # their places, without a record
        log.hold(["events[0]"])
        for partition in (0, 1):
            produce(topic, [b"first"], partition=partition)
        read: list[str] = []
        while len(read) < 2:
            lines = log.read(1)
            if lines is not None:
                read += [lines.source] * len(lines)
                log.hold([])
            assert time.monotonic() < until
        assert read == ["events[1]", "events[0]"]
        while not log.ended:
            log.read(1)
            log.silent()
            assert time.monotonic() < until
        assert [(source, offset) for source, offset, _ in log.position] == [
            (f"{topic}[0]", 1), (f"{topic}[1]", 1)
        ]  # fmt: skip


def test_kill_of_the_server_claims_no_list_that_was_not_served(
    freshet: Freshet, broker: Reachable, produce: Produce
) -> None:
    home, visitors, until = freshet.home, Visitors(), time.monotonic() + 2 * WAIT_S
    freshet("experiment", "create", "exp", "--arm", "one=0.5", "--arm", "two=0.5", "--metric", "purchase",
            "--window", "1m", "--lateness", "10m")  # fmt: skip
    since, topics = Experiments(home).get("exp").phases[0].since_us, settings_of(home).events
    with server(home) as (serving, address), visitors.coming(address):
        while len(visitors.served) < 30:
            assert time.monotonic() < until and serving.poll() is None
            time.sleep(0.01)
        killed(serving)
    produce(topics.exposures_topic, [exposure("last", arm_of(home, "last"), since + LATE)], [b"last"])
    noted: list[dict[str, Any]] = []
    while True:  # Kafka may be taking what the server sent last
        freshet("outcomes", "--until-end")
        before, noted = (
            noted,
            [one for one in records_of(broker, topics.exposures_topic) if one["user"] != "last"],
        )
        if before == noted:
            break
        assert time.monotonic() < until
    assert len({one["id"] for one in noted}) == len(noted)
    for one in noted:
        assert one["items"] == [item["item"] for item in visitors.served[one["id"]]["items"]]
    ids = {one["id"] for one in noted}
    bought = [one for one in records_of(broker, topics.topic) if one["exposure"] in ids]
    produce(topics.topic, [event("last", since + LATE, type="view")], timestamp_ms=(since + LATE) // 1000)
    freshet("outcomes", "--until-end")
    found = freshet.json("experiment", "status")
    assert (found["users"], found["records"]["joined"], found["records"]["repeated"]) == (
        len(noted), len(bought), 0
    )  # fmt: skip
