"""Posted events enter; they leave once they are durable in the event log, many requests with one sync.

The log is Kafka's topic, keyed by user, or the segments of the home directory.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from threading import Lock, Thread
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from consumers.eventlog.segments import Segments
from streaming.errors import BrokerError, FreshetError
from streaming.rules import MICROSECONDS, EventRules, event_from_mapping, over_long

logger = structlog.get_logger()

PENDING_BYTES = 32 << 20  # of events that wait to be durable
AHEAD_S = 86_400.0  # how far a posted time may lie in the future
_GROUP = 4096  # requests that are written at one go
_WAIT_S = 10.0  # longest time that Kafka may take
_PRODUCER = {
    "linger_ms": 1,
    "max_block_ms": 5_000,
    "request_timeout_ms": 5_000,
    "delivery_timeout_ms": 8_000,
    "enable_idempotence": True,
    "acks": "all",
    "key_serializer": None,
    "value_serializer": None,
}


class Posted(NamedTuple):
    """An event as it goes into the log."""

    user: bytes
    line: bytes


class DurableLog(Protocol):
    """Where posted events go."""

    name: str

    def append(self, groups: Sequence[Sequence[Posted]]) -> list[FreshetError | None]:
        """Make groups of events durable; the error of each group that was not taken."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class BusyError(FreshetError):
    """More is posted than the log takes."""

    retriable = True


def posted(record: Mapping[str, Any], rules: EventRules, now: float, *, own_log: bool) -> Posted | str:
    """A posted record as the event that goes into the log, or the reason against it.

    A time that is missing is `now`. Where the unit of times is found by itself, a number is judged here,
    alone, and written so that no reader can take it for another unit: in microseconds into a log that
    holds nothing else, as RFC 3339 into one that others write, too.

    Args:
        own_log: whether all records of the log come through here.

    >>> posted({"user": "u", "item": 7, "ts": 1700000000}, EventRules(), 1.8e9, own_log=True).line
    b'{"user":"u","item":7,"ts":1700000000000000}'
    >>> posted({"user": "u", "ts": 1700000000}, EventRules(), 1.8e9, own_log=True)
    'item is missing.'
    """
    name, unit = rules.name("ts"), rules.given_unit
    given = record.get(name)
    if given is None:
        stamp = int(now * 1e6)
        number = stamp // MICROSECONDS[unit or "us"]
        record = {**record, name: number if unit or own_log else _rfc3339(stamp)}
    found = event_from_mapping(record, rules, unit or ("us" if given is None else None))
    if found is None:
        return "the record is left out by the rules."
    if isinstance(found, str):
        return found
    if found.ts > (now + AHEAD_S) * 1e6:
        return f"{name} is more than a day ahead of the server's clock."
    if unit is None and isinstance(given, int | float):
        # Early times would be taken for seconds or milliseconds.
        plain = own_log and found.ts >= 1e14
        record = {**record, name: found.ts if plain else _rfc3339(found.ts)}
    line = msgspec.json.encode(record)
    if len(line) > rules.max_record_bytes:
        return over_long(len(line), rules)
    return Posted(found.user, line)


class Intake:
    """Makes posted events durable, from one thread: what came while it wrote goes with the next write.

    Args:
        log: closed with the intake.
    """

    def __init__(self, log: DurableLog) -> None:
        self.log = log
        self._waiting: queue.SimpleQueue[tuple[Sequence[Posted], int, Future[None]] | None]
        self._waiting = queue.SimpleQueue()
        self._pending, self._lock, self._closed = 0, Lock(), False
        self._thread = Thread(target=self._run, name="intake", daemon=True)
        self._thread.start()

    def post(self, events: Sequence[Posted]) -> Future[None]:
        """A future that is done once the events are durable, or holds the error for which none of them is.

        Raises:
            BusyError: too much is waiting already.
        """
        size = sum(len(one.line) for one in events)
        with self._lock:
            if self._closed or self._pending + size > PENDING_BYTES:
                raise BusyError(
                    "More events wait to be written than the server holds; none of these was taken. "
                    "Send them again in a moment."
                )
            self._pending += size
            done: Future[None] = Future()
            done.set_running_or_notify_cancel()
            self._waiting.put((events, size, done))
        return done

    def close(self) -> None:
        """Write what waits, then end."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            group = [self._waiting.get()]
            while len(group) < _GROUP and not self._waiting.empty():
                group.append(self._waiting.get())
            ended = group[-1] is None
            self._write([one for one in group if one is not None])
        self.log.close()

    def _write(self, group: list[tuple[Sequence[Posted], int, Future[None]]]) -> None:
        if not group:
            return
        try:
            results = self.log.append([events for events, _, _ in group])
        except BaseException as error:
            # The request must hear of it, and the thread must live on for the next.
            for _, _, done in group:
                done.set_exception(error)
        else:
            for (_, _, done), refused in zip(group, results, strict=True):
                if refused is None:
                    done.set_result(None)
                else:
                    done.set_exception(refused)
        with self._lock:
            self._pending -= sum(size for _, size, _ in group)


class SegmentPosts:
    """Posted events into the segments of the home directory."""

    name = "segments"

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def append(self, groups: Sequence[Sequence[Posted]]) -> list[FreshetError | None]:
        """All groups with one sync; where there is no room for all, each by itself."""
        try:
            self._segments.append([one.line for events in groups for one in events])
        except FreshetError as error:
            return [error] if len(groups) == 1 else [self._alone(events) for events in groups]
        return [None] * len(groups)

    def close(self) -> None:
        """Nothing is open between two writes."""

    def _alone(self, events: Sequence[Posted]) -> FreshetError | None:
        try:
            self._segments.append([one.line for one in events])
        except FreshetError as error:
            return error
        return None


class KafkaPosts:
    """Posted events into a topic, keyed by user, acknowledged by all replicas.

    Args:
        topic: it exists.
        settings: kafka-python's own.
    """

    name = "kafka"

    def __init__(self, topic: str, settings: Mapping[str, Any]) -> None:
        self._topic, self._settings = topic, settings
        self._producer: Any = None

    def append(self, groups: Sequence[Sequence[Posted]]) -> list[FreshetError | None]:
        """Send all groups, then wait for their acknowledgements.

        Of a group that Kafka took in part, what it took stays in the topic.
        """
        from kafka.errors import KafkaTimeoutError

        sent: list[list[Any]] = []
        try:
            for events in groups:
                sent.append(self._send(events))
                if sent[-1] and isinstance(sent[-1][-1], KafkaTimeoutError):
                    break  # it waited for the topic in vain, and each further one would
        except BrokerError as error:
            return [error] * len(groups)
        deadline = time.monotonic() + _WAIT_S
        settled = [self._settled(futures, deadline) for futures in sent]
        return settled + settled[-1:] * (len(groups) - len(settled))

    def close(self) -> None:
        """Close the connections."""
        if self._producer is not None:
            self._producer.close(_WAIT_S)

    def _send(self, events: Sequence[Posted]) -> list[Any]:
        """The futures of a group's records; the last may be the error for which no more were sent."""
        from kafka.errors import KafkaError

        producer, futures = self._opened(), []
        for one in events:
            try:
                futures.append(producer.send(self._topic, one.line, one.user))
            except KafkaError as error:
                return [*futures, error]
        return futures

    def _settled(self, futures: Sequence[Any], deadline: float) -> FreshetError | None:
        from kafka.errors import KafkaError

        refused: BaseException | None = None
        for future in futures:
            try:
                if isinstance(future, BaseException):
                    raise future
                future.get(max(0.001, deadline - time.monotonic()))
            except KafkaError as error:
                refused = refused or error
        if refused is None:
            return None
        from consumers.kafka_clients import said

        logger.warning("events_not_taken", topic=self._topic, reason=said(refused))
        return BrokerError(
            f'Topic "{self._topic}" did not take all of the events: {said(refused)} Send them again; those '
            "that it took will be there twice."
        )

    def _opened(self) -> Any:
        if self._producer is None:
            from kafka import KafkaProducer

            from consumers.kafka_clients import addresses, broker_errors, opened

            with broker_errors(f"Kafka at {addresses(self._settings)}"):
                self._producer = opened(KafkaProducer, {**self._settings, **_PRODUCER})
        return self._producer


def _rfc3339(microseconds: int) -> str:
    moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06d}Z"
