"""A topic as an event log, against a real Kafka: what is read, from where, and what is lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from consumers.eventlog.contract import Slice
from consumers.eventlog.group_offsets import GroupOffsets
from consumers.eventlog.kafka import KafkaLog
from state.ledger import Source
from streaming.errors import BrokerError, InputError, InputVanishedError
from streaming.rules import EventRules
from tests.kafka.conftest import WAIT_S, Reachable, add_partitions

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]

Opener = Callable[..., KafkaLog]
Produce = Callable[..., list[int]]


def event(k: int, user: str | None = None) -> bytes:
    return json.dumps({"user": user or f"u{k % 7}", "item": f"i{k % 5}", "ts": 1_700_000_000 + k}).encode()


def some(n: int, first: int = 0) -> list[bytes]:
    return [event(k) for k in range(first, first + n)]


@pytest.fixture
def opened(broker: Reachable) -> Iterator[Opener]:
    """Opens logs and closes them: `opened(topic, known=…)`; they stand where the known sources do."""
    logs: list[KafkaLog] = []

    def open_log(
        topic: str, known: list[Source] | None = None, client: Any = None, **options: Any
    ) -> KafkaLog:
        settings = {"bootstrap_servers": broker.bootstrap, "metadata_max_age_ms": 200, **(client or {})}
        log = KafkaLog(topic, EventRules(), settings, known=known or [], **options)
        logs.append(log)
        log.seek({source.name: source.next_offset for source in known or []})
        return log

    yield open_log
    for log in logs:
        log.close()


def slices(
    log: KafkaLog, until: Callable[[list[Slice]], bool] | None = None, most: int = 1000
) -> list[Slice]:
    """Slices up to the end, or until enough came."""
    found: list[Slice] = []
    deadline = time.monotonic() + WAIT_S
    while not (until(found) if until else log.ended):
        assert time.monotonic() < deadline, found
        part = log.poll(most, 0.05)
        if part is not None:
            found.append(part)
    return found


def count(found: list[Slice]) -> int:
    return sum(len(part.events) for part in found)


def sources(found: list[Slice]) -> list[Source]:
    """What a store would keep of them."""
    kept: dict[str, Source] = {}
    for part in found:
        source = kept.setdefault(part.source, Source(part.source))
        source.next_offset, source.token, source.time_unit = part.next_offset, part.token, part.time_unit
    return list(kept.values())


def contiguous(found: list[Slice]) -> bool:
    places: dict[str, int] = {}
    for part in found:
        if places.setdefault(part.source, part.first) != part.first:
            return False
        places[part.source] = part.next_offset
    return True


@pytest.mark.parametrize("codec", CODECS)
def test_every_record_comes_once_in_order_in_slices_of_the_size_asked_for(
    topic: str, produce: Produce, opened: Opener, codec: str | None
) -> None:
    produce(topic, some(500), compression_type=codec, linger_ms=5)
    found = slices(opened(topic, until_end=True), most=64)
    assert contiguous(found)
    assert {part.source for part in found} == {f"{topic}[0]"}
    assert max(len(part.events) for part in found) <= 64
    offsets = [int(offset) for part in found for offset in part.events.offsets]
    users = [part.events.users[k] for part in found for k in range(len(part.events))]
    assert offsets == list(range(500))
    assert users == [f"u{k % 7}" for k in range(500)]
    assert abs(found[-1].arrived - time.time()) < 60


def test_bad_records_and_tombstones_keep_their_places(topic: str, produce: Produce, opened: Opener) -> None:
    values = [event(0), None, b"{", event(3), b"", b'{"user": 7.5, "item": "x", "ts": 1}', event(6)]
    produce(topic, values, [None, b"u1", *[None] * 5])
    found = slices(opened(topic, until_end=True))
    bad = [one for part in found for one in part.bad]
    assert [one.offset for one in bad] == [2, 5]
    assert bad[0].raw == b"{"
    assert [int(o) for part in found for o in part.events.offsets] == [0, 3, 6]
    assert found[-1].next_offset == 7


def test_aborted_transactions_are_left_out_and_passed(broker: Reachable, topic: str, opened: Opener) -> None:
    with KafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"tx-{topic}") as producer:
        producer.init_transactions()
        for round_, end in enumerate((producer.commit_transaction, producer.abort_transaction) * 2):
            producer.begin_transaction()
            for k in range(10):
                producer.send(topic, event(100 * round_ + k), partition=0)
            producer.flush()
            end()
    log = opened(topic, until_end=True)
    found = slices(log)
    assert [int(o) for part in found for o in part.events.offsets] == [*range(10), *range(22, 32)]
    assert found[-1].next_offset == 44  # behind the last marker
    assert log.lag() == {f"{topic}[0]": 0}


def test_going_on_reads_the_rest_only(topic: str, produce: Produce, opened: Opener) -> None:
    produce(topic, some(30))
    kept = sources(slices(opened(topic, until_end=True)))
    produce(topic, some(12, 30))
    found = slices(opened(topic, kept, until_end=True))
    assert (found[0].first, count(found)) == (30, 12)


def test_partitions_are_sources_in_the_order_of_their_numbers(
    new_topic: Callable[..., str], produce: Produce, opened: Opener
) -> None:
    topic = new_topic(partitions=12)
    for partition in range(12):
        produce(topic, some(partition + 1), partition=partition)
    log = opened(topic, until_end=True)
    assert log.sources() == [f"{topic}[{n}]" for n in range(12)]
    found = slices(log)
    assert contiguous(found)
    assert {s.name: s.next_offset for s in sources(found)} == {f"{topic}[{n}]": n + 1 for n in range(12)}


def test_partitions_added_while_running_are_read_from_their_beginning(
    topic: str, produce: Produce, opened: Opener, admin: KafkaAdminClient
) -> None:
    produce(topic, some(3))
    log = opened(topic, start="latest")
    assert count(slices(log, lambda found: len(found) == 1)) == 0  # where it begins
    add_partitions(admin, topic, 2)
    produce(topic, some(5), partition=1)
    found = slices(log, lambda found: count(found) == 5)
    assert {part.source for part in found} == {f"{topic}[1]"}
    assert log.sources() == [f"{topic}[0]", f"{topic}[1]"]


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("latest", 4), (3000, 2), (9000, 4)])
def test_start_says_where_a_new_version_begins(
    new_topic: Callable[..., str], produce: Produce, opened: Opener, start: str | int, first: int
) -> None:
    topic = new_topic(config={"retention.ms": "-1"})
    for k in range(4):
        produce(topic, [event(k)], timestamp_ms=1000 * (k + 1))
    log = opened(topic, start=start, until_end=True)
    found = slices(log)
    assert (found[0].first, found[0].next_offset, found[0].token is not None) == (first, first, True)
    assert count(found) == 4 - first
    # What was chosen once is kept: another `start` changes nothing.
    other = "latest" if start == "earliest" else "earliest"
    again = slices(opened(topic, sources(found[:1]), start=other, until_end=True))
    assert count(again) == 4 - first


def test_missing_topic_is_refused_with_the_nearest_name(topic: str, opened: Opener) -> None:
    with pytest.raises(InputError, match=rf"(?s)is not on the Kafka at .*Did you mean \"{topic}\""):
        opened(topic + "x")


def test_kafka_out_of_reach_is_refused_with_its_address() -> None:
    client = {"bootstrap_servers": "127.0.0.1:9", "bootstrap_timeout_ms": 300}
    with pytest.raises(BrokerError, match=r"127\.0\.0\.1:9 cannot be reached"):
        KafkaLog("events", EventRules(), client)


def test_key_that_is_not_the_user_is_counted_and_told_once(
    topic: str, produce: Produce, opened: Opener
) -> None:
    keys = [b"u0", None, b"u2", b"other", b"u4", b"u", b"u6", b"u0"]
    log = opened(topic, until_end=True)
    with structlog.testing.capture_logs() as told:
        produce(topic, some(8), keys)
        slices(opened(topic, until_end=True), most=3)
        log = opened(topic, until_end=True)
        slices(log)
    assert log.key_mismatches == 2
    assert [one["event"] for one in told].count("key_is_not_the_user") == 2  # once for each of two logs


def test_events_older_than_what_files_held_are_told_once(
    topic: str, produce: Produce, opened: Opener
) -> None:
    produce(topic, some(20))
    log = opened(topic, until_end=True, learned_until_s=1_700_000_005)
    with structlog.testing.capture_logs() as told:
        slices(log, most=2)
    assert log.older_events == 5
    assert [one["event"] for one in told].count("events_older_than_learned") == 1


# -- what is lost ----------------------------------------------------------------------------------


def test_topic_deleted_while_it_is_read_is_waited_for(
    topic: str, produce: Produce, opened: Opener, admin: KafkaAdminClient
) -> None:
    produce(topic, some(20))
    log = opened(topic)
    slices(log, lambda found: count(found) == 20)
    admin.delete_topics([topic])
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        assert log.poll(1000, 0.05) is None
    log.confirm()
    admin.create_topics({topic: {"num_partitions": 1}}, wait_for_metadata=True)
    with pytest.raises(InputVanishedError, match="made anew while it was read"):
        slices(log, lambda found: False)


def anew(admin: KafkaAdminClient, topic: str, partitions: int = 1) -> None:
    admin.delete_topics([topic])
    until = time.monotonic() + WAIT_S
    while topic in admin.list_topics():
        assert time.monotonic() < until
    admin.create_topics({topic: {"num_partitions": partitions}}, wait_for_metadata=True)


@pytest.mark.parametrize("written", [5, 50])
def test_topic_made_anew_between_two_runs_stops_or_goes_on_as_another(
    topic: str, produce: Produce, opened: Opener, admin: KafkaAdminClient, written: int
) -> None:
    produce(topic, some(20))
    kept = sources(slices(opened(topic, until_end=True)))
    anew(admin, topic)
    produce(topic, some(written))
    with pytest.raises(InputVanishedError, match=r"made anew.*--on-lost-offsets earliest .* latest"):
        opened(topic, kept)
    found = slices(opened(topic, kept, on_lost_offsets="earliest", until_end=True))
    assert {part.source for part in found} == {f"{topic}#2[0]"}
    assert (found[0].first, count(found)) == (0, written)
    # The run after that goes on with the new one.
    again = opened(topic, kept + sources(found), until_end=True)
    assert (again.sources(), count(slices(again))) == ([f"{topic}#2[0]"], 0)


def test_partition_that_only_an_earlier_topic_had_begins_anew(
    new_topic: Callable[..., str], produce: Produce, opened: Opener
) -> None:
    topic = new_topic(partitions=2)
    for partition in range(2):
        produce(topic, some(5), partition=partition)
    kept = sources(slices(opened(topic, until_end=True)))
    kept[1].token, kept[1].next_offset = "an earlier topic@3", 70  # which had this partition, too
    log = opened(topic, kept, until_end=True)
    found = slices(log)
    assert log.sources() == [f"{topic}[0]", f"{topic}#2[1]"]
    assert (found[0].first, count(found)) == (0, 5)


def test_topic_made_anew_while_it_is_read_is_noticed(
    topic: str, produce: Produce, opened: Opener, admin: KafkaAdminClient
) -> None:
    produce(topic, some(20))
    log = opened(topic)
    slices(log, lambda found: count(found) == 20)
    log.confirm()
    anew(admin, topic)
    produce(topic, some(50))
    with pytest.raises(InputVanishedError, match="made anew while it was read"):
        # Not polled meanwhile, so the client may take the new topic's records for the old one's at first.
        while True:
            log.poll(1000, 0.05)
            log.confirm()


def delete_before(admin: KafkaAdminClient, topic: str, offset: int) -> None:
    admin.delete_records({TopicPartition(topic, 0): offset})


@pytest.mark.parametrize(("choice", "first"), [("earliest", 30), ("latest", 40)])
def test_retention_past_the_offset_stops_or_goes_on_where_it_is_told(
    topic: str, produce: Produce, opened: Opener, admin: KafkaAdminClient, choice: str, first: int
) -> None:
    produce(topic, some(20))
    kept = sources(slices(opened(topic, until_end=True)))
    produce(topic, some(20, 20))
    delete_before(admin, topic, 30)
    with pytest.raises(InputVanishedError, match=r"@20: .* lost: retention has passed it"):
        opened(topic, kept)
    found = slices(opened(topic, kept, on_lost_offsets=choice, until_end=True))
    assert (found[0].source, found[0].first, count(found)) == (f"{topic}[0]", first, 40 - first)


def test_retention_past_the_offset_while_paused_is_noticed(
    topic: str, produce: Produce, opened: Opener, admin: KafkaAdminClient
) -> None:
    # Small fetches, so that what is asked for next is not here yet.
    client = {"max_partition_fetch_bytes": 200, "fetch_max_bytes": 200}
    for k in range(20):
        produce(topic, some(1, k))
    log = opened(topic, client=client)
    slices(log, lambda found: count(found) >= 1, most=1)
    delete_before(admin, topic, 18)
    with pytest.raises(InputVanishedError, match="retention has passed it"):
        slices(log, lambda found: count(found) == 20, most=1)


def test_log_that_ends_before_the_offset_stops(topic: str, produce: Produce, opened: Opener) -> None:
    produce(topic, some(10))
    (kept,) = sources(slices(opened(topic, until_end=True)))
    kept.next_offset = 15  # as if its newest records had been lost
    with pytest.raises(InputVanishedError, match=r"@15: .* the log ends at 10"):
        opened(topic, [kept])
    found = slices(opened(topic, [kept], on_lost_offsets="earliest", until_end=True))
    assert (found[0].source, found[0].first) == (f"{topic}#2[0]", 10)


def test_records_of_a_leader_that_this_log_never_had_are_lost(
    topic: str, produce: Produce, opened: Opener
) -> None:
    """As after an unclean election: the offset is there, but with other records before it."""
    produce(topic, some(10))
    (kept,) = sources(slices(opened(topic, until_end=True)))
    produce(topic, some(10, 10))
    assert kept.token is not None
    kept.token = kept.token.partition("@")[0] + "@7"
    with pytest.raises(InputVanishedError, match=r"@10: .* is lost: the log lost its records"):
        slices(opened(topic, [kept]), lambda found: count(found) > 0)


# -- the group -------------------------------------------------------------------------------------


def group_of(broker: Reachable, topic: str, identity: str, **options: Any) -> GroupOffsets:
    return GroupOffsets({"bootstrap_servers": broker.bootstrap}, f"freshet.{topic}", identity, **options)


def written(broker: Reachable, topic: str) -> OffsetAndMetadata | None:
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=f"freshet.{topic}")
    try:
        return consumer.committed(TopicPartition(topic, 0), metadata=True)
    finally:
        consumer.close()


def test_offsets_and_identity_are_written_to_the_group(
    broker: Reachable, topic: str, produce: Produce
) -> None:
    produce(topic, some(10))
    log = KafkaLog(
        topic,
        EventRules(),
        {"bootstrap_servers": broker.bootstrap},
        until_end=True,
        group=group_of(broker, topic, "mine"),
    )
    log.seek({})
    slices(log)
    log.committed({f"{topic}[0]": 7, "a file": 3})
    log.committed({f"{topic}[0]": 10, "a file": 3})
    log.close()
    found = written(broker, topic)
    assert found is not None and (found.offset, found.metadata) == (10, "freshet:mine")


def test_another_stores_identity_in_the_group_stops_the_worker(broker: Reachable, topic: str) -> None:
    where = TopicPartition(topic, 0)
    theirs = group_of(broker, topic, "theirs")
    theirs.tell({where: 5})
    theirs.close()
    ours = group_of(broker, topic, "ours")
    with pytest.raises(InputError, match=r"another store learns this version: .*--take-over"):
        ours.claim([where])
    ours.close()
    restored = group_of(broker, topic, "ours", earlier=["theirs"])
    restored.claim([where])
    restored.close()
    taking = group_of(broker, topic, "ours", take_over=True)
    taking.claim([where])
    taking.tell({where: 6})
    taking.close()
    found = written(broker, topic)
    assert found is not None and found.metadata == "freshet:ours"


def test_offsets_set_by_another_tool_decide_nothing(
    broker: Reachable, topic: str, produce: Produce, opened: Opener
) -> None:
    produce(topic, some(10))
    kept = sources(slices(opened(topic, until_end=True)))
    produce(topic, some(5, 10))
    consumer = KafkaConsumer(bootstrap_servers=broker.bootstrap, group_id=f"freshet.{topic}")
    consumer.commit({TopicPartition(topic, 0): OffsetAndMetadata(0, "", -1)})
    consumer.close()
    found = slices(opened(topic, kept, until_end=True, group=group_of(broker, topic, "mine")))
    assert (found[0].first, count(found)) == (10, 5)
