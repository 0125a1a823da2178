"""A source and a topic enter; which of its records are in the topic already leaves.

Each partition holds a beginning of its share of the source, since an idempotent producer neither skips nor
reorders. So the last record of a run in a partition says all: it is found by reading the partition backwards,
down to where it ended when the run began. That place is noted in the home directory before the first record
is sent. Records that Kafka refused, while later ones may have got through, are noted as well.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from kafka import KafkaConsumer, TopicPartition
from numpy.typing import NDArray

from consumers.kafka_clients import Topic, consumer_of
from consumers.producing import HEADER
from streaming.errors import BrokerError, UsageError

_STEP = 1_000  # records read back at first, then ever more
_POLLS = 60  # of a second each, without a record, until Kafka is taken to be silent


class Note(msgspec.Struct):
    """Where a run over a source stands.

    Attributes:
        source: an absolute path, or the name of a simulated stream.
        topic, topic_id: where its records go.
        partitions: of the topic when the run began.
        run: name of the run, which its records carry.
        whole: all records before this number are in the topic.
        ends: where each partition ended when that was so.
        refused: numbers of records that Kafka did not take, ascending; later ones may be there.
    """

    source: str
    topic: str
    topic_id: str
    partitions: int
    run: str
    whole: int
    ends: list[int]
    refused: list[int]


class Replay:
    """One source on its way into one topic; use it as `with Replay.open(…) as replay`.

    Attributes:
        note: where it stands, as it is on the disk.
        resumed: whether an earlier run is carried on.
    """

    def __init__(self, path: Path, note: Note, last: NDArray[np.int64], resumed: bool) -> None:
        self._path, self._last = path, last
        self._refused = np.array(note.refused, np.int64)
        self.note, self.resumed = note, resumed

    @classmethod
    @contextmanager
    def open(
        cls, home: Path, source: str, topic: Topic, settings: Mapping[str, Any], *, again: bool = False
    ) -> Iterator[Replay]:
        """Find out where a source stands in a topic, and keep other processes from sending it meanwhile.

        Args:
            again: begin a new run, whatever is in the topic.

        Raises:
            UsageError: another process sends it now, or the topic's partitions were increased meanwhile.
            BrokerError: the topic cannot be read.
        """
        digest = hashlib.sha256(f"{topic.name}\n{source}".encode()).hexdigest()[:16]
        path = home / "replays" / f"{digest}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.with_suffix(".lock"), source), consumer_of(settings) as consumer:
            note = None if again else _noted(path, topic)
            resumed = note is not None
            note = note or Note(source, topic.name, topic.id, topic.partitions, _run(), 0, [], [])
            if not resumed:
                note.ends = _ends(consumer, topic)
                _write(path, note)
            last = np.full(topic.partitions, note.whole - 1, np.int64)
            for partition, end in enumerate(note.ends):
                newest, there = _read_back(consumer, TopicPartition(topic.name, partition), end, note)
                last[partition] = max(newest, last[partition])
                note.refused = [number for number in note.refused if number not in there]
            yield cls(path, note, last, resumed)

    def wanted(self, numbers: NDArray[np.int64], partitions: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which records are not in the topic yet: (N,)."""
        return (numbers > self._last[partitions]) | np.isin(numbers, self._refused)

    def refuse(self, numbers: list[int]) -> None:
        """Note records that Kafka did not take; `whole` stays."""
        self.note.refused = sorted({*self.note.refused, *numbers})
        _write(self._path, self.note)

    def finish(self, whole: int, settings: Mapping[str, Any], topic: Topic) -> None:
        """Note that all records before a number are in the topic, acknowledged."""
        with consumer_of(settings) as consumer:
            self.note.ends = _ends(consumer, topic)
        self.note.whole, self.note.refused = max(whole, self.note.whole), []
        _write(self._path, self.note)


def _run() -> str:
    return uuid.uuid4().hex[:8]


def _noted(path: Path, topic: Topic) -> Note | None:
    """The note of an earlier run into the same topic, None where there is none."""
    try:
        note = msgspec.json.decode(path.read_bytes(), type=Note)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise UsageError(
            f"{path} does not tell how far the replay came ({error}). Remove it, or give --again."
        ) from error
    if note.topic_id != topic.id:
        return None  # the topic was deleted and made anew: it holds nothing of the earlier run
    if note.partitions != topic.partitions:
        raise UsageError(
            f'Topic "{topic.name}" has {topic.partitions} partitions, and had {note.partitions} when this '
            "replay began, so users now go to other partitions. Replay into a new topic, or send all once "
            "more with --again."
        )
    return note


def _write(path: Path, note: Note) -> None:
    half = path.with_suffix(".new")
    with half.open("wb") as file:
        file.write(msgspec.json.encode(note))
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


@contextmanager
def _alone(path: Path, source: str) -> Iterator[None]:
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another process is sending {source} to this topic. Wait for it.") from error
        yield


def _ends(consumer: KafkaConsumer, topic: Topic) -> list[int]:
    partitions = [TopicPartition(topic.name, k) for k in range(topic.partitions)]
    found = consumer.end_offsets(partitions)
    return [found[partition] for partition in partitions]


def _read_back(
    consumer: KafkaConsumer, partition: TopicPartition, begun: int, note: Note
) -> tuple[int, set[int]]:
    """What a partition holds of a run, read backwards as far as is needed, at most to offset `begun`.

    Returns:
        The highest number, -1 where there is none; and those of the refused numbers that are there.
    """
    consumer.assign([partition])
    begun = max(begun, consumer.beginning_offsets([partition])[partition])
    stop = int(consumer.end_offsets([partition])[partition])
    step, seen = _STEP, set[int]()
    while stop > begun:
        start = max(begun, stop - step)
        seen.update(_numbers(consumer, partition, start, stop, note.run))
        # One is enough, unless earlier ones may be missing.
        if seen and (not note.refused or min(seen) < note.refused[0]):
            break
        stop, step = start, step * 4
    return max(seen, default=-1), seen.intersection(note.refused)


def _numbers(
    consumer: KafkaConsumer, partition: TopicPartition, start: int, stop: int, run: str
) -> Iterator[int]:
    """The numbers of a run's records in offsets start … stop - 1."""
    mark, silent = f"{run}:".encode(), 0
    consumer.seek(partition, start)
    while consumer.position(partition) < stop:
        records = consumer.poll(timeout_ms=1_000).get(partition, [])
        silent = 0 if records else silent + 1
        if silent == _POLLS:
            raise BrokerError(
                f"{partition.topic}[{partition.partition}] gives no records from offset {start} on, though "
                f"it has {stop - start}. See whether all of its replicas are up, then try again."
            )
        for record in records:
            value = next((value for key, value in record.headers if key == HEADER), b"")
            if record.offset < stop and value.startswith(mark):
                yield int(value[len(mark) :])
