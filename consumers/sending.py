"""Records in order enter; they leave for a topic at the pace asked for, except those already there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import structlog
from kafka import KafkaAdminClient
from numpy.typing import NDArray

from consumers.file_records import Records
from consumers.kafka_clients import Topic, admin_of, made_topic, topic_configs, topic_of
from consumers.producing import KeyedProducer, RecordsRefusedError, partitions_of
from consumers.replays import Replay
from streaming.errors import UsageError
from streaming.events import Ids

logger = structlog.get_logger()

Timestamps = Literal["event", "now"]
_NAP_S = 0.2  # longest sleep between two looks at the clock
_LEAST_NAP_S = 0.005  # so that records leave by the handful, not one by one


@dataclass(slots=True)
class Sent:
    """What a run did with the records of one source."""

    sent: int = 0
    already_there: int = 0
    left_out: int = 0  # no events


class Pace:
    """When each record falls due, counted from the first that is sent.

    Args:
        speed: how many times faster than the events' own time; None for no regard to it.
        rate: records per second; None for no limit.
    """

    def __init__(self, speed: float | None = None, rate: float | None = None) -> None:
        self._speed, self._rate = speed, rate
        self._began: float | None = None
        self._first_ts = self._latest = self._count = 0

    def due(self, ts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Monotonic seconds at which N records fall due; ascending.

        Args:
            ts: (N,) event time in microseconds. An event that is older than one before it is due with that.
        """
        if self._began is None:
            self._began, self._first_ts, self._latest = time.monotonic(), int(ts[0]), int(ts[0])
        if self._rate is not None:
            at = np.arange(self._count, self._count + len(ts)) / self._rate
            self._count += len(ts)
        elif self._speed is not None:
            ordered = np.maximum.accumulate(np.maximum(ts, self._latest))
            self._latest = int(ordered[-1])
            at = (ordered - self._first_ts) / (1e6 * self._speed)
        else:
            at = np.zeros(len(ts))
        return np.asarray(at + self._began, np.float64)


def ready_topic(
    settings: Mapping[str, Any], name: str, first_ts: int | None, timestamps: Timestamps
) -> Topic:
    """The topic to be written, made where it is absent.

    Args:
        first_ts: time of the oldest event, microseconds since 1970.

    Raises:
        UsageError: Kafka would delete the records at once, since their timestamps are older than the
            topic's retention.
        BrokerError: Kafka cannot be reached, or refuses.
    """
    with admin_of(settings) as admin:
        age_ms = time.time() * 1e3 - first_ts / 1e3 if first_ts is not None and timestamps == "event" else 0.0
        topic = topic_of(admin, name)
        if topic is None:
            old = age_ms > 86_400_000
            topic = made_topic(admin, name, {"retention.ms": "-1"} if old else None)
            logger.info("topic_made", topic=name, partitions=topic.partitions, kept_for_ever=old)
        else:
            _refuse_short_retention(admin, name, age_ms)
        return topic


def _refuse_short_retention(admin: KafkaAdminClient, name: str, age_ms: float) -> None:
    configs = topic_configs(admin, name)
    retention = int(configs.get("retention.ms", "-1"))
    own_time = configs.get("message.timestamp.type") == "LogAppendTime"
    if own_time or retention < 0 or age_ms < retention or "delete" not in configs["cleanup.policy"]:
        return
    raise UsageError(
        f'Topic "{name}" keeps records for {retention / 86_400_000:.3g} days by their timestamps, and these '
        f"events begin {age_ms / 86_400_000:,.0f} days ago: Kafka would soon delete them. Give --timestamps "
        "now, or set the topic's retention.ms to -1."
    )


def send_all(
    pieces: Iterable[Records],
    replay: Replay,
    producer: KeyedProducer,
    settings: Mapping[str, Any],
    *,
    pace: Pace,
    timestamps: Timestamps,
    tell: Callable[[], None],
) -> Sent:
    """Send a source from where its replay stands to its end.

    1. choose  leave out what is in the topic already
    2. wait    until the next records fall due
    3. send    them, each to its user's partition
    4. flush   wait until Kafka has acknowledged all of them
    5. note    that the source is in the topic as a whole

    Raises:
        RecordsRefusedError: Kafka did not take some records; the same command sends them.
        BrokerError: Kafka cannot be reached.
    """
    done, whole, topic = Sent(), replay.note.whole, producer.topic
    try:
        for piece in pieces:
            done.left_out += piece.left_out
            if len(piece) == 0:
                continue
            whole = max(whole, int(piece.numbers[-1]) + 1)
            partitions = partitions_of(piece.users, topic.partitions)
            wanted = replay.wanted(piece.numbers, partitions)  # 1
            done.already_there += int(np.count_nonzero(~wanted))
            if wanted.any():
                chosen, places = (piece, partitions) if wanted.all() else _kept(piece, partitions, wanted)
                _send_in_time(chosen, places, producer, pace, timestamps, tell)  # 2, 3
                done.sent += len(chosen)
            tell()
        producer.flush()  # 4
    except RecordsRefusedError as error:
        replay.refuse(error.numbers)
        raise
    replay.finish(whole, settings, topic)  # 5
    return done


def _kept(
    piece: Records, partitions: NDArray[np.int32], wanted: NDArray[np.bool_]
) -> tuple[Records, NDArray[np.int32]]:
    users, values = piece.users, piece.values
    kept = Records(
        piece.numbers[wanted],
        Ids(users.data, users.start[wanted], users.end[wanted]),
        Ids(values.data, values.start[wanted], values.end[wanted]),
        piece.ts[wanted],
    )
    return kept, partitions[wanted]


def _send_in_time(
    piece: Records,
    partitions: NDArray[np.int32],
    producer: KeyedProducer,
    pace: Pace,
    timestamps: Timestamps,
    tell: Callable[[], None],
) -> None:
    due = pace.due(piece.ts)
    first = 0
    while first < len(piece):
        now = time.monotonic()
        last = int(np.searchsorted(due, now, "right"))
        if last <= first:
            time.sleep(min(_NAP_S, max(_LEAST_NAP_S, due[first] - now)))
            tell()
            continue
        part = Records(
            piece.numbers[first:last],
            piece.users.part(first, last),
            piece.values.part(first, last),
            piece.ts[first:last],
        )
        # Kafka refuses times that lie in the future.
        stamps = np.minimum(part.ts // 1_000, int(time.time() * 1e3)) if timestamps == "event" else None
        producer.send(part, partitions[first:last], stamps)
        first = last
