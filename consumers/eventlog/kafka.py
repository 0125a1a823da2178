"""A Kafka topic as an event log: its partitions are the sources, record batches enter, slices leave.

The store's offsets decide where reading goes on. With each offset the store keeps a token: the
topic's id and the epoch of the leader whose records were learned last. So a topic that was made anew,
retention that has passed the offset, and a log that lost its newest records are noticed, not read over.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import structlog
from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from consumers.eventlog.contract import Slice
from consumers.eventlog.group_offsets import GroupOffsets
from consumers.eventlog.kafka_client import connected
from consumers.eventlog.kafka_part import Part, Token, parsed_name, source_name
from consumers.eventlog.kafka_topic import Bounds, Topic
from consumers.eventlog.record_batches import (
    KEY,
    KEY_END,
    OFFSET,
    TIMESTAMP,
    VALUE,
    VALUE_END,
    RecordBatch,
    differing_keys,
    install,
    joined,
    packed,
    with_bytes,
)
from state.ledger import Source
from streaming.decoding import JsonDecoder, no_events
from streaming.errors import InputError, InputVanishedError
from streaming.events import BadRecord, EventBatch
from streaming.rules import EventRules

logger = structlog.get_logger()

OnLost = Literal["earliest", "latest", "stop"]
_BATCHES = 64  # record batches of one call of the client
_MOST_BYTES = 16 * 2**20  # of records that wait to be decoded
_QUIET_S = 3.0  # without a record, after which the end offsets are asked for
_QUIET_ANSWER_MS = 500
_CONFIRM_MS = 1000
_REFUSED_S = 1.0  # after which a leader will not change its mind


class _MadeAnewError(kafka_errors.KafkaError):  # type: ignore[misc]
    """The topic has another id than before."""


class KafkaLog:
    """An `EventLog` over all partitions of a topic, keyed by user.

    A source is named `topic[partition]`; a topic that was made anew, or went back behind what was
    learned, goes on as `topic#2[partition]`, since its offsets are others.

    Args:
        topic: its partitions are the sources; new ones are noticed.
        rules: what makes a record an event.
        client: settings of kafka-python's consumer, `bootstrap_servers` among them.
        known: what the store says of its sources.
        start: where a version begins that has learned nothing of the topic: "earliest", "latest", or
            milliseconds since 1970, from whose first record on it reads.
        on_lost_offsets: what to do where the log no longer has what comes next.
        until_end: end at what is the end now.
        group: told the offsets after each commit.
        learned_until_s: event time up to which other sources were learned; older events are reported.

    Raises:
        BrokerError: Kafka cannot be reached.
        InputError: there is no such topic, or it may not be read.
    """

    def __init__(
        self,
        topic: str,
        rules: EventRules,
        client: Mapping[str, Any],
        *,
        known: Sequence[Source] = (),
        start: str | int = "earliest",
        on_lost_offsets: OnLost = "stop",
        until_end: bool = False,
        group: GroupOffsets | None = None,
        learned_until_s: int = 0,
    ) -> None:
        self.topic = topic
        self.key_mismatches = 0  # records whose key is not their event's user
        self.older_events = 0  # than `learned_until_s`
        self._rules, self._start, self._on_lost, self._group = rules, start, on_lost_offsets, group
        self._known = {found: source for source in known if (found := parsed_name(topic, source.name))}
        self._begun = any(source.token for source in self._known.values())
        self._until_end = until_end
        self._learned_until_us = 0 if self._begun else learned_until_s * 1_000_000
        self._consumer = connected(client)
        self._side = group.consumer if group is not None else connected(client)
        try:
            self._by_batch = install(self._consumer)
            self._topic = Topic(topic, str(client["bootstrap_servers"]), self._side)
            numbers = self._topic.partitions()
            self._topic_id = self._topic.id_known_to(self._side) or ""
            # Whether this very topic was learned from, so that a partition without an offset is a new one.
            self._continued = self._topic_id in {t.topic_id for t in self._tokens()}
            self._parts = {number: self._part(number) for number in numbers}
            self._consumer.assign([self._topic.at(number) for number in numbers])
        except BaseException:
            self._leave()
            raise
        self._queue: deque[RecordBatch] = deque()
        self._anchors: deque[Slice] = deque()
        self._last: dict[int, int] = {}  # partition → where to end, with `until_end`
        self._ends: dict[int, int] = {}
        self._quiet_since = time.monotonic()
        self._failure: kafka_errors.KafkaError | None = None

    @property
    def repeatable(self) -> bool:
        """True: what retention keeps can be read again."""
        return True

    def sources(self) -> list[str]:
        """Names of the partitions, in the order of their numbers."""
        return [part.name for _, part in sorted(self._parts.items())]

    def seek(self, positions: Mapping[str, int]) -> None:
        """Go on from the store's offsets; partitions without any begin where `start` says.

        Raises:
            InputVanishedError: the log no longer has an offset, and nothing says where to go on.
            InputError: another store learns this version.
        """
        if self._group is not None:
            self._group.claim([self._topic.at(number) for number in sorted(self._parts)])
        first, last = self._topic.ask(self._bounds)
        for number, part in sorted(self._parts.items()):
            source = self._known.get((part.generation, number))
            if source is None or source.token is None:
                ask = partial(self._topic.offset_of, self._start, number, first, last)
                self._begin(part, 0 if self._begun else self._topic.ask(ask))
                continue
            offset = positions.get(part.name, source.next_offset)
            part.token, part.position = Token.read(source.token), offset
            if part.token.topic_id != self._topic_id and part.token.topic_id:
                self._lose(part, "the topic was deleted and made anew", first[number], last[number])
            elif offset < first[number]:
                self._lose(part, "retention has passed it", first[number], last[number])
            elif offset > last[number]:
                self._lose(part, f"the log ends at {last[number]}", last[number], last[number])
            else:
                self._go_to(part, offset)
        self._last = last if self._until_end else {}

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next slice, or None when no record came.

        Raises:
            InputVanishedError: the log no longer has what comes next, and nothing says where to go on.
            InputError: the topic is gone or forbidden, or its bytes are broken.
        """
        if not self._queue and not self._anchors:
            self._fetch(max_events, timeout_s)
        if self._anchors:
            return self._anchors.popleft()
        if self._queue:
            self._quiet_since = time.monotonic()
            self._topic.heard()
            return self._decoded(self._next_batch(max_events))
        if time.monotonic() - self._quiet_since > _QUIET_S:
            self._quiet_since = time.monotonic()
            self._look_at_ends()
        return None

    @property
    def ended(self) -> bool:
        """Whether all was read up to what was the end at the start, where that was asked for."""
        return (
            self._until_end
            and not self._queue
            and not self._anchors
            and all(self._parts[number].position >= end for number, end in self._last.items())
        )

    def lag(self) -> dict[str, int | None]:
        """Records still to be read, None while Kafka is out of reach."""
        return {part.name: self._behind(part) for part in self._parts.values()}

    def time_behind(self, now_s: float) -> dict[str, float | None]:
        """Seconds by which the newest record read is older than now; 0 at the end, None where unknown."""
        found: dict[str, float | None] = {}
        for part in self._parts.values():
            left = self._behind(part)
            known = left is not None and part.newest_s is not None
            found[part.name] = 0.0 if left == 0 else max(0.0, now_s - (part.newest_s or 0)) if known else None
        return found

    def confirm(self) -> None:
        """Make sure, before a commit, that all that was handed out was of the topic that it seemed to be.

        Records are fetched by the topic's name. Where a topic is made anew and filled between two
        fetches, its records come in the place of the old ones until the client hears of it.

        Raises:
            InputVanishedError: they may be of another topic; nothing of them must be committed.
        """
        self._topic.ask_quietly(partial(self._topic.refresh, _CONFIRM_MS))
        now = self._topic.id_known_to(self._side)
        if now is not None and self._topic_id and now != self._topic_id:
            raise self._made_anew()

    def committed(self, positions: Mapping[str, int]) -> None:
        """Tell the group."""
        if self._group is not None:
            here = [part for part in self._parts.values() if part.name in positions]
            self._group.tell({self._topic.at(part.number): positions[part.name] for part in here})

    def close(self) -> None:
        """Leave, and say what was strange."""
        if self.key_mismatches:
            logger.warning("keys_were_not_users", topic=self.topic, records=self.key_mismatches)
        if self.older_events:
            logger.info("older_events_learned", topic=self.topic, events=self.older_events)
        if self._group is not None:
            self._group.close()
        self._leave()

    def _leave(self) -> None:
        self._consumer.close(autocommit=False, timeout_ms=_QUIET_ANSWER_MS)
        if self._group is None:
            self._side.close(autocommit=False, timeout_ms=_QUIET_ANSWER_MS)

    def _part(self, number: int) -> Part:
        generation = max((g for g, n in self._known if n == number), default=1)
        source = self._known.get((generation, number))
        other = bool(source and source.token and Token.read(source.token).topic_id != self._topic_id)
        if other and self._continued:
            generation, source = generation + 1, None  # new here; the one of that number was of another topic
        decoder = JsonDecoder(self._rules, source.time_unit if source else None)
        return Part(number, generation, source_name(self.topic, generation, number), decoder)

    def _at(self, number: int) -> TopicPartition:
        return TopicPartition(self.topic, number)

    def _bounds(self) -> Bounds:
        return self._topic.bounds(self._parts)

    def _tokens(self) -> list[Token]:
        return [Token.read(source.token) for source in self._known.values() if source.token]

    def _begin(self, part: Part, offset: int) -> None:
        part.token, self._continued = Token(self._topic_id, -1), True
        self._go_to(part, offset)
        # Kept before the first record comes, so that the next start does not choose a place of its own.
        self._anchors.append(self._slice(part, offset, offset, no_events(), [], time.time()))

    def _go_to(self, part: Part, offset: int) -> None:
        part.position = part.fetched = offset
        part.refused_since = None
        where = self._topic.at(part.number)
        self._consumer.seek(where, offset)
        if part.token.epoch >= 0:
            # With the epoch, so that the client finds out whether these are still the same records.
            position = OffsetAndMetadata(offset, "", part.token.epoch)
            self._consumer._subscription.seek(where, position)

    def _lose(self, part: Part, reason: str, earliest: int, latest: int) -> None:
        """Go on elsewhere, or stop, because the next offset is not in the log any more."""
        if self._on_lost == "stop":
            raise InputVanishedError(
                f"{part.name}@{part.position}: the next record to learn is lost: {reason}. Say where to go "
                f"on: --on-lost-offsets earliest (from {earliest}), latest (from {latest}); until then the "
                "version stays as it is."
            )
        offset = earliest if self._on_lost == "earliest" else latest
        other = self._topic_id != part.token.topic_id and part.token.topic_id != ""
        logger.warning(
            "offsets_lost",
            source=part.name,
            offset=part.position,
            reason=reason,
            goes_on_at=offset,
            skipped=None if other else max(0, offset - part.position),
        )
        if other or offset < part.position:
            part.generation += 1
            part.name = source_name(self.topic, part.generation, part.number)
            part.decoder = JsonDecoder(self._rules, part.decoder.time_unit)
        self._begin(part, offset)

    def _fetch(self, max_events: int, timeout_s: float) -> None:
        """Fill the empty queue with what is there, and wait for the first of it."""
        if self._failure is not None:  # which came after records that are learned by now
            failure, self._failure = self._failure, None
            self._face(failure)
            return
        most = _BATCHES if self._by_batch else max_events
        wait_ms, events, size = int(timeout_s * 1000), 0, 0
        try:
            while events < max_events and size < _MOST_BYTES:
                found = self._consumer.poll(timeout_ms=wait_ms, max_records=most)
                self._notice_topic()  # before what was found is believed
                if not found:
                    break
                for where, items in found.items():
                    batches = items if self._by_batch else [self._packed(where.partition, items)]
                    self._queue.extend(batches)
                    events += sum(len(batch) for batch in batches)
                    size += sum(len(batch.data) for batch in batches)
                wait_ms = 0
        except kafka_errors.KafkaError as error:
            self._failure = error
            if not self._queue:
                self._fetch(max_events, timeout_s)

    def _face(self, failure: kafka_errors.KafkaError) -> None:
        """Do what an error of the client asks for; the queue is empty."""
        if isinstance(failure, _MadeAnewError):
            raise self._made_anew()
        elif isinstance(failure, kafka_errors.OffsetOutOfRangeError):
            self.confirm()  # a topic made anew has other offsets, too
            self._out_of_range(failure)
        elif isinstance(failure, kafka_errors.LogTruncationError):
            self.confirm()
            self._truncated(failure)
        elif isinstance(failure, kafka_errors.CorruptRecordError):
            raise InputError(
                f"{self.topic}: {failure}. The worker cannot go past it. Restore the partition from a "
                "replica, or delete its records up to there and choose --on-lost-offsets."
            ) from failure
        elif failure.retriable:
            self._topic.unheard(failure)
        else:
            raise InputError(
                f"{self.topic} cannot be read: {failure}. Check the topic and its ACLs."
            ) from failure

    def _out_of_range(self, error: Exception) -> None:
        bounds = self._topic.ask_quietly(self._bounds)
        if bounds is None:
            return  # Kafka has gone in between; the client meets the same again
        first, last = bounds
        for where in error.args[0]:
            part = self._parts[where.partition]
            if part.position < first[part.number]:
                self._lose(part, "retention has passed it", first[part.number], last[part.number])
            elif part.position > last[part.number]:
                end = last[part.number]
                self._lose(part, f"the log ends at {end}", end, end)
            elif part.refused_since is None:
                part.refused_since = time.monotonic()
            elif time.monotonic() - part.refused_since > _REFUSED_S:
                # The offset is there, so it is the epoch that the leader does not know.
                reason = f"the log lost its records of leader epoch {part.token.epoch}, and has others"
                self._lose(part, reason, first[part.number], last[part.number])

    def _truncated(self, error: Any) -> None:
        bounds = self._topic.ask_quietly(self._bounds)
        if bounds is None:
            raise InputError(f"{self.topic}: {error}. Start again when Kafka can be reached.")
        first, last = bounds
        for where, fork in error.divergent_offsets.items():
            n = where.partition
            border = first[n] if fork is None else fork.offset
            reason = f"the log lost its records from {border} on, and has others since"
            self._lose(self._parts[n], reason, max(first[n], border), last[n])

    def _packed(self, number: int, records: Sequence[Any]) -> RecordBatch:
        part = self._parts[number]
        first, part.fetched = part.fetched, records[-1].offset + 1
        return packed(records, number, first, part.fetched)

    def _made_anew(self) -> InputVanishedError:
        return InputVanishedError(
            f'The topic "{self.topic}" was deleted and made anew while it was read; what was learned since '
            "the last commit is dropped, because it may be of the new one. Start again with "
            "--on-lost-offsets earliest or latest to go on with the new topic."
        )

    def _notice_topic(self) -> None:
        """Look whether the topic has new partitions, and is still the same.

        Raises:
            _MadeAnewError: it is not.
        """
        now = self._topic.id_known_to(self._consumer)
        if now is not None and self._topic_id and now != self._topic_id:
            raise _MadeAnewError
        numbers = self._consumer._cluster.partitions_for_topic(self.topic) or set()
        if new := sorted(numbers - set(self._parts)):
            logger.info("partitions_added", topic=self.topic, partitions=new)
            self._parts |= {number: self._part(number) for number in new}
            self._consumer.assign([self._topic.at(number) for number in sorted(self._parts)])
            for number in new:
                self._begin(self._parts[number], 0)

    def _next_batch(self, most: int) -> RecordBatch:
        """From the queue: small batches of a partition joined, a large one divided."""
        first = self._queue.popleft()
        if len(first) > most:
            first, rest = first.split(most)
            self._queue.appendleft(rest)
            return first
        parts, count = [first], len(first)
        while self._queue and self._queue[0].partition == first.partition:
            count += len(self._queue[0])
            if count > most:
                break
            parts.append(self._queue.popleft())
        return joined(parts)

    def _decoded(self, batch: RecordBatch) -> Slice:
        part, spans = self._parts[batch.partition], batch.spans
        arrived = time.time()
        if not len(batch):
            events, bad = no_events(), list[BadRecord]()
        else:
            events, bad = part.decoder.decode(
                batch.data, np.maximum(spans[VALUE], 0), np.maximum(spans[VALUE_END], 0), spans[OFFSET]
            )
            newest = int(spans[TIMESTAMP].max())
            if newest > 0:
                part.newest_s = arrived = newest / 1000
            bad = with_bytes(bad, batch)
            self._compare_keys(part, batch, events)
            self._count_older(part, events)
        part.token = Token(self._topic_id, max(part.token.epoch, batch.leader_epoch))
        part.position = batch.next_offset
        part.refused_since = None
        return self._slice(part, batch.first, batch.next_offset, events, bad, arrived)

    def _slice(
        self,
        part: Part,
        first: int,
        next_offset: int,
        events: EventBatch,
        bad: list[BadRecord],
        arrived: float,
    ) -> Slice:
        unit, token = part.decoder.time_unit, str(part.token)
        return Slice(part.name, first, next_offset, events, bad, arrived, unit, token)

    def _compare_keys(self, part: Part, batch: RecordBatch, events: EventBatch) -> None:
        rows = np.searchsorted(batch.spans[OFFSET], events.offsets)
        starts, ends = batch.spans[KEY][rows], batch.spans[KEY_END][rows]
        users = events.users
        other = int(differing_keys(batch.data, starts, ends, users.data, users.start, users.end))
        self.key_mismatches += other
        if other and not part.told_key:
            part.told_key = True
            logger.warning(
                "key_is_not_the_user",
                source=part.name,
                offset_first=batch.first,
                offset_last=batch.next_offset - 1,
                records=other,
                effect="a user's events may lie in several partitions, and be learned out of order",
            )

    def _count_older(self, part: Part, events: EventBatch) -> None:
        if not self._learned_until_us:
            return
        older = int((events.ts < self._learned_until_us).sum())
        if older and not self.older_events:
            logger.warning(
                "events_older_than_learned",
                source=part.name,
                learned_until_s=self._learned_until_us // 1_000_000,
                remedy="if files held them too, they are learned twice: begin with --start TIME",
            )
        self.older_events += older

    def _behind(self, part: Part) -> int | None:
        highwater = self._consumer.highwater(self._topic.at(part.number))
        ends = [end for end in (highwater, self._ends.get(part.number)) if end is not None]
        return max(0, max(ends) - part.position) if ends and self._topic.reachable else None

    def _look_at_ends(self) -> None:
        ends = self._topic.ask_quietly(partial(self._topic.last_offsets, list(self._parts), _QUIET_ANSWER_MS))
        if ends is not None:
            self._ends = ends
            self._topic.heard()
