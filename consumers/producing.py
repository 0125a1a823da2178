"""Records of users enter; an idempotent producer writes them to a topic, each user's into one partition.

The partition of a key is that of Kafka's own default (murmur2), so other producers agree with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from kafka import KafkaProducer
from kafka.errors import KafkaError
from numpy.typing import NDArray

from consumers.file_records import Records
from consumers.kafka_clients import Topic, addresses, broker_errors, opened, said
from streaming.errors import BrokerError
from streaming.events import Ids
from streaming.kernels import kernel

HEADER = "freshet-replay"  # run:number, so that a run that was cut short finds its last record
MOST_PENDING = 100_000  # records sent and not yet acknowledged
WAIT_S = 300.0  # longer than the client's delivery_timeout_ms, after which it gives up by itself
# Larger batches than the client's own: history is sent at full speed.
_PRODUCER = {"linger_ms": 5, "batch_size": 131_072, "compression_type": "zstd"}


@kernel
def _murmur2(data: Any, start: Any, end: Any, count: int, out: Any) -> None:
    for n in range(len(start)):
        length = end[n] - start[n]
        h = np.int64(0x9747B28C ^ (length & 0xFFFFFFFF))
        at = start[n]
        for _ in range(length // 4):
            word = np.int64(0)
            for byte in range(4):
                word |= np.int64(data[at + byte]) << (8 * byte)
            word = (word * 0x5BD1E995) & 0xFFFFFFFF
            word ^= word >> 24
            word = (word * 0x5BD1E995) & 0xFFFFFFFF
            h = ((h * 0x5BD1E995) & 0xFFFFFFFF) ^ word
            at += 4
        if at < end[n]:
            for byte in range(end[n] - at):
                h ^= np.int64(data[at + byte]) << (8 * byte)
            h = (h * 0x5BD1E995) & 0xFFFFFFFF
        h ^= h >> 13
        h = (h * 0x5BD1E995) & 0xFFFFFFFF
        h ^= h >> 15
        out[n] = (h & 0x7FFFFFFF) % count


def partitions_of(keys: Ids, count: int) -> NDArray[np.int32]:
    """The partition of each key among `count`, as Kafka's default partitioner gives it.

        murmur2(key, seed 0x9747b28c) & 0x7fffffff  mod  count

    Source: Austin Appleby's MurmurHash2, as in org.apache.kafka.common.utils.Utils.

    >>> keys = Ids(np.frombuffer(b"u1user-000123", np.uint8), np.array([0, 2]), np.array([2, 13]))
    >>> partitions_of(keys, 7).tolist()
    [5, 4]
    """
    out = np.empty(len(keys), np.int32)
    _murmur2(keys.data, keys.start, keys.end, count, out)
    return out


class RecordsRefusedError(BrokerError):
    """Kafka did not take some records.

    Attributes:
        numbers: positions of the records in their source.
    """

    def __init__(self, message: str, numbers: list[int]) -> None:
        super().__init__(message)
        self.numbers = numbers


class KeyedProducer:
    """Writes records keyed by user, in order within each partition, each once.

    Args:
        topic: it exists.
        settings: kafka-python's own. Idempotence, acknowledgement by all replicas and plain bytes are
            fixed here: without them a record may be lost, repeated or out of order.
        run: name of the run, which every record carries with its number.

    Raises:
        BrokerError: Kafka cannot be reached.
    """

    def __init__(self, topic: Topic, settings: Mapping[str, Any], run: str) -> None:
        fixed = {"enable_idempotence": True, "acks": "all", "key_serializer": None, "value_serializer": None}
        self.topic, self.sent = topic, 0
        self._run = run
        self._pending: deque[tuple[int, Any]] = deque()
        self._refused: list[tuple[int, BaseException]] = []
        with broker_errors(f"Kafka at {addresses(settings)}"):
            self._producer = opened(KafkaProducer, {**_PRODUCER, **settings, **fixed})

    def send(
        self, records: Records, partitions: NDArray[np.int32], timestamps_ms: NDArray[np.int64] | None = None
    ) -> None:
        """Send records; they are acknowledged after `flush`.

        Args:
            partitions: (N,) of each record.
            timestamps_ms: (N,) of each record; the present time when None.

        Raises:
            RecordsRefusedError: Kafka did not take some of those sent so far.
            BrokerError: Kafka cannot be reached.
        """
        name, users, values = self.topic.name, records.users, records.values
        keys, texts = users.data.data, values.data.data
        stamps = [None] * len(records) if timestamps_ms is None else timestamps_ms.tolist()
        rows = zip(
            records.numbers.tolist(), partitions.tolist(), stamps,
            users.start.tolist(), users.end.tolist(), values.start.tolist(), values.end.tolist(),
            strict=True,
        )  # fmt: skip
        for number, partition, stamp, key, key_end, text, text_end in rows:
            header = (HEADER, b"%s:%d" % (self._run.encode(), number))
            try:
                future = self._producer.send(
                    name, bytes(texts[text:text_end]), bytes(keys[key:key_end]), [header], partition, stamp
                )
            except KafkaError as error:
                self._refused.append((number, error))
                break
            self._pending.append((number, future))
        self._settle(MOST_PENDING)

    def flush(self) -> None:
        """Wait until all records are acknowledged.

        Raises:
            RecordsRefusedError: Kafka did not take some of them.
        """
        # Not by the client's own flush, which fails where a batch had to be split.
        self._settle(0)

    def close(self) -> None:
        """Send what is left, wait for it and close the connections."""
        with broker_errors(f'Topic "{self.topic.name}" cannot be written'):
            self._producer.close(WAIT_S)

    def __enter__(self) -> KeyedProducer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle(self, most: int) -> None:
        """Forget what is acknowledged, and wait where more than `most` records are not."""
        pending = self._pending
        while pending and (len(pending) > most or pending[0][1].is_done):
            number, future = pending.popleft()
            try:
                future.get(WAIT_S)
                self.sent += 1
            except KafkaError as error:
                self._refused.append((number, error))
        if self._refused:
            self._refuse()

    def _refuse(self) -> None:
        """Wait for all that is under way, then say what was not taken."""
        for number, future in self._pending:
            try:
                future.get(WAIT_S)
                self.sent += 1
            except KafkaError as refusal:
                self._refused.append((number, refusal))
        self._pending.clear()
        refused, self._refused = self._refused, []
        number, error = refused[0]
        raise RecordsRefusedError(
            f'{len(refused)} records were not taken by topic "{self.topic.name}", the first is number '
            f"{number}: {said(error)} Mend the cause and run the same command again: it sends them, and "
            "what comes behind them.",
            sorted(number for number, _ in refused),
        ) from error
