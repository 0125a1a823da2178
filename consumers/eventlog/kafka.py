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

import structlog
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from consumers.eventlog.contract import Slice
from consumers.eventlog.group_offsets import GroupOffsets
from consumers.eventlog.kafka_client import connected
from consumers.eventlog.kafka_decoding import KafkaDecoding, slice_of
from consumers.eventlog.kafka_fetching import Fetching
from consumers.eventlog.kafka_losses import Loss, made_anew, other_topic, outside, refused, truncated
from consumers.eventlog.kafka_part import Part, Token, parsed_name, source_name
from consumers.eventlog.kafka_topic import Bounds, Topic
from consumers.eventlog.record_batches import RecordBatch
from state.ledger import Source
from streaming.decoding import JsonDecoder, no_events
from streaming.errors import InputError
from streaming.rules import EventRules

logger = structlog.get_logger()

OnLost = Literal["earliest", "latest", "stop"]
_QUIET_S = 3.0  # without a record, after which the end offsets are asked for
_QUIET_ANSWER_MS = 500
_CONFIRM_MS = 1000


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
        self._rules, self._start, self._on_lost, self._group = rules, start, on_lost_offsets, group
        self._known = {found: source for source in known if (found := parsed_name(topic, source.name))}
        self._begun = any(source.token for source in self._known.values())
        self._until_end = until_end
        self._decoding = KafkaDecoding(topic, 0 if self._begun else learned_until_s)
        self._consumer = connected(client)
        self._side = group.consumer if group is not None else connected(client)
        try:
            self._topic = Topic(topic, str(client["bootstrap_servers"]), self._side)
            numbers = self._topic.partitions()
            self._topic_id = self._topic.id_known_to(self._side) or ""
            # Whether this very topic was learned from, so that a partition without an offset is a new one.
            self._continued = self._topic_id in {t.topic_id for t in self._tokens()}
            self._parts = {number: self._part(number) for number in numbers}
            self._fetching = Fetching(self._consumer, self._parts, self._notice_topic)
            self._consumer.assign([self._topic.at(number) for number in numbers])
        except BaseException:
            self._leave()
            raise
        self._anchors: deque[Slice] = deque()
        self._last: dict[int, int] = {}  # partition → where to end, with `until_end`
        self._ends: dict[int, int] = {}
        self._quiet_since = time.monotonic()

    @property
    def repeatable(self) -> bool:
        """True: what retention keeps can be read again."""
        return True

    @property
    def key_mismatches(self) -> int:
        """Records so far whose key is not their event's user."""
        return self._decoding.key_mismatches

    @property
    def older_events(self) -> int:
        """Events so far that are older than `learned_until_s`."""
        return self._decoding.older_events

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
        bounds = self._topic.ask(self._bounds)
        for number, part in sorted(self._parts.items()):
            source = self._known.get((part.generation, number))
            if source is None or source.token is None:
                ask = partial(self._topic.offset_of, self._start, number, *bounds)
                self._begin(part, 0 if self._begun else self._topic.ask(ask))
                continue
            offset = positions.get(part.name, source.next_offset)
            part.token, part.position = Token.read(source.token), offset
            other = part.token.topic_id not in ("", self._topic_id)
            loss = other_topic(part, bounds) if other else outside(part, bounds)
            if loss is not None:
                self._lose(loss)
            else:
                self._go_to(part, offset)
        self._last = bounds[1] if self._until_end else {}

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next slice, or None when no record came.

        Raises:
            InputVanishedError: the log no longer has what comes next, and nothing says where to go on.
            InputError: the topic is gone or forbidden, or its bytes are broken.
        """
        if not self._fetching and not self._anchors:
            failure = self._fetching.fill(max_events, timeout_s)
            if failure is not None:
                self._face(failure)
        if self._anchors:
            return self._anchors.popleft()
        if self._fetching:
            self._quiet_since = time.monotonic()
            self._topic.heard()
            return self._decoded(self._fetching.next(max_events))
        if time.monotonic() - self._quiet_since > _QUIET_S:
            self._quiet_since = time.monotonic()
            self._look_at_ends()
        return None

    @property
    def ended(self) -> bool:
        """Whether all was read up to what was the end at the start, where that was asked for."""
        return (
            self._until_end
            and not self._fetching
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
            raise made_anew(self.topic)

    def committed(self, positions: Mapping[str, int]) -> None:
        """Tell the group."""
        if self._group is not None:
            here = [part for part in self._parts.values() if part.name in positions]
            self._group.tell({self._topic.at(part.number): positions[part.name] for part in here})

    def close(self) -> None:
        """Leave, and say what was strange."""
        self._decoding.summarise()
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

    def _bounds(self) -> Bounds:
        return self._topic.bounds(self._parts)

    def _tokens(self) -> list[Token]:
        return [Token.read(source.token) for source in self._known.values() if source.token]

    def _begin(self, part: Part, offset: int) -> None:
        part.token, self._continued = Token(self._topic_id, -1), True
        self._go_to(part, offset)
        # Kept before the first record comes, so that the next start does not choose a place of its own.
        self._anchors.append(slice_of(part, offset, offset, no_events(), [], time.time()))

    def _go_to(self, part: Part, offset: int) -> None:
        part.position = part.fetched = offset
        part.refused_since = None
        where = self._topic.at(part.number)
        self._consumer.seek(where, offset)
        if part.token.epoch >= 0:
            # With the epoch, so that the client finds out whether these are still the same records.
            position = OffsetAndMetadata(offset, "", part.token.epoch)
            self._consumer._subscription.seek(where, position)

    def _lose(self, loss: Loss) -> None:
        """Go on elsewhere, or stop, because the next offset is not in the log any more."""
        if self._on_lost == "stop":
            raise loss.error()
        part, offset = loss.part, loss.earliest if self._on_lost == "earliest" else loss.latest
        other = part.token.topic_id not in ("", self._topic_id)
        logger.warning(
            "offsets_lost",
            source=part.name,
            offset=part.position,
            reason=loss.reason,
            goes_on_at=offset,
            skipped=None if other else max(0, offset - part.position),
        )
        if other or offset < part.position:
            part.generation += 1
            part.name = source_name(self.topic, part.generation, part.number)
            part.decoder = JsonDecoder(self._rules, part.decoder.time_unit)
        self._begin(part, offset)

    def _face(self, failure: kafka_errors.KafkaError) -> None:
        """Do what an error of the client asks for; all that came before it is learned."""
        if isinstance(failure, _MadeAnewError):
            raise made_anew(self.topic)
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
        for loss in refused([self._parts[where.partition] for where in error.args[0]], bounds):
            self._lose(loss)

    def _truncated(self, error: Any) -> None:
        bounds = self._topic.ask_quietly(self._bounds)
        if bounds is None:
            raise InputError(f"{self.topic}: {error}. Start again when Kafka can be reached.")
        for loss in truncated(self._parts, error.divergent_offsets, bounds):
            self._lose(loss)

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

    def _decoded(self, batch: RecordBatch) -> Slice:
        part = self._parts[batch.partition]
        part.token = Token(self._topic_id, max(part.token.epoch, batch.leader_epoch))
        part.position = batch.next_offset
        part.refused_since = None
        return self._decoding.decode(part, batch)

    def _behind(self, part: Part) -> int | None:
        highwater = self._consumer.highwater(self._topic.at(part.number))
        ends = [end for end in (highwater, self._ends.get(part.number)) if end is not None]
        return max(0, max(ends) - part.position) if ends and self._topic.reachable else None

    def _look_at_ends(self) -> None:
        ends = self._topic.ask_quietly(partial(self._topic.last_offsets, list(self._parts), _QUIET_ANSWER_MS))
        if ends is not None:
            self._ends = ends
            self._topic.heard()
