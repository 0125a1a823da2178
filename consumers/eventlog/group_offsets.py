"""The consumer group of a version: offsets enter after each commit, for lag tools; who wrote them leaves.

The group decides nothing about where to read. It tells a second machine, though, that another
store learns this version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import structlog
from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from consumers.eventlog.kafka_client import connected
from streaming.errors import InputError

logger = structlog.get_logger()

_MARK = "freshet:"  # before the store's identity in the metadata of a committed offset
_LOOK_S = 10.0  # between two looks at who else writes
_ANSWER_MS = 3000
_FIRST_ANSWER_MS = 20_000  # the broker makes the topic of all groups' offsets at its first use


class GroupOffsets:
    """Writes the offsets of one version's group, with a client of its own, so that reading waits for nothing.

    Args:
        client: settings of kafka-python's consumer, `bootstrap_servers` among them.
        group: `freshet.VERSION`.
        identity: of the store that learns.
        earlier: identities that the same store had before it was restored or rebuilt.
        take_over: go on although another store's identity stands in the group.

    Attributes:
        consumer: the client, which never fetches.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        group: str,
        identity: str,
        *,
        earlier: Collection[str] = (),
        take_over: bool = False,
    ) -> None:
        self.group = group
        self._identity = identity
        self._ours = {identity, *earlier}
        self._take_over = take_over
        self.consumer = connected(client, group)
        self._looked = 0.0
        self._refused = False  # whether the last offsets were refused
        self._newest: dict[TopicPartition, OffsetAndMetadata] = {}
        self._pending: Any = None

    def claim(self, partitions: Collection[TopicPartition]) -> None:
        """Make sure that no other store learns this version.

        Raises:
            InputError: another store's identity stands in the group, and it is not to be taken over.
        """
        for partition in partitions:
            self._look(partition, _FIRST_ANSWER_MS)
        self._looked = time.monotonic()

    def tell(self, positions: Mapping[TopicPartition, int]) -> None:
        """Write offsets; does not wait for the answer, and a refusal is logged only.

        Raises:
            InputError: another store has written to the group since.
        """
        if not positions:
            return
        if time.monotonic() - self._looked > _LOOK_S and not self._refused:
            self._looked = time.monotonic()
            self._look(next(iter(positions)), _ANSWER_MS)
        metadata = _MARK + self._identity
        offsets = {where: OffsetAndMetadata(offset, metadata, -1) for where, offset in positions.items()}
        self._newest = offsets
        if self._pending is None or self._pending.is_done:  # one at a time; the newest are written at the end
            self._pending = self._asked(lambda: self.consumer.commit_async(offsets, callback=self._answered))

    def close(self) -> None:
        """Write the newest offsets, and leave."""
        if self._newest:
            self._asked(lambda: self.consumer.commit(self._newest, timeout_ms=_ANSWER_MS))
        self.consumer.close(autocommit=False, timeout_ms=_ANSWER_MS)

    def _look(self, partition: TopicPartition, timeout_ms: int) -> None:
        found = self._asked(lambda: self.consumer.committed(partition, metadata=True, timeout_ms=timeout_ms))
        metadata = found.metadata if found is not None else ""
        if not metadata or not metadata.startswith(_MARK):
            return
        other = metadata.removeprefix(_MARK)
        if other in self._ours:
            return
        if self._take_over:
            logger.warning("version_taken_over", group=self.group, from_store=other)
            self._ours.add(other)
            return
        raise InputError(
            f"The group {self.group} says that another store learns this version: expected the identity "
            f"{self._identity}, got {other}. Stop the worker on the other machine, or give this version "
            "another name. If that store is gone for good, take its place with --take-over."
        )

    def _asked(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except KafkaError as error:
            self._answered({}, error)
            return None

    def _answered(self, offsets: object, answer: object) -> None:
        refused = isinstance(answer, Exception)
        if refused and not self._refused:
            logger.warning(
                "group_offsets_not_written",
                group=self.group,
                error=f"{type(answer).__name__}: {answer}",
                effect="lag tools see old offsets; learning goes on from the store's own",
            )
        self._refused = refused
