"""Where partitions are read and what their log has enter; what is lost leaves, with the reason.

Retention passes offsets, a topic is made anew, a new leader lacks the newest records of the one before it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from consumers.eventlog.kafka_part import Part
from consumers.eventlog.kafka_topic import Bounds
from streaming.errors import InputVanishedError

_REFUSED_S = 1.0  # after which a leader will not change its mind


class Loss(NamedTuple):
    """The next record to learn is not in the log any more; reading may go on at `earliest` or `latest`."""

    part: Part
    reason: str
    earliest: int
    latest: int

    def error(self) -> InputVanishedError:
        """What stops a worker that was not told where to go on."""
        return InputVanishedError(
            f"{self.part.name}@{self.part.position}: the next record to learn is lost: {self.reason}. "
            f"Say where to go on: --on-lost-offsets earliest (from {self.earliest}), latest (from "
            f"{self.latest}); until then the version stays as it is."
        )


def made_anew(topic: str) -> InputVanishedError:
    """What stops a worker whose topic has another id than at its start."""
    return InputVanishedError(
        f'The topic "{topic}" was deleted and made anew while it was read; what was learned since '
        "the last commit is dropped, because it may be of the new one. Start again with "
        "--on-lost-offsets earliest or latest to go on with the new topic."
    )


def other_topic(part: Part, bounds: Bounds) -> Loss:
    """The loss of a partition whose topic has another id than the one that was learned from."""
    first, last = bounds
    return Loss(part, "the topic was deleted and made anew", first[part.number], last[part.number])


def outside(part: Part, bounds: Bounds) -> Loss | None:
    """The loss of a partition whose next offset lies before the log's first or behind its last record."""
    first, last = bounds[0][part.number], bounds[1][part.number]
    if part.position < first:
        return Loss(part, "retention has passed it", first, last)
    if part.position > last:
        return Loss(part, f"the log ends at {last}", last, last)
    return None


def refused(parts: Iterable[Part], bounds: Bounds) -> Iterator[Loss]:
    """The losses among partitions whose next offsets their leaders refused."""
    for part in parts:
        first, last = bounds[0][part.number], bounds[1][part.number]
        if loss := outside(part, bounds):
            yield loss
        elif part.refused_since is None:
            part.refused_since = time.monotonic()
        elif time.monotonic() - part.refused_since > _REFUSED_S:
            # The offset is there, so it is the epoch that the leader does not know.
            reason = f"the log lost its records of leader epoch {part.token.epoch}, and has others"
            yield Loss(part, reason, first, last)


def truncated(parts: Mapping[int, Part], forks: Mapping[Any, Any], bounds: Bounds) -> Iterator[Loss]:
    """The losses of partitions whose newest records are gone with a leader.

    Args:
        parts: by number.
        forks: kafka-python's partition → the offset where its log went another way, None where unknown.
        bounds: of the topic.
    """
    for where, fork in forks.items():
        first, last = bounds[0][where.partition], bounds[1][where.partition]
        border = first if fork is None else fork.offset
        reason = f"the log lost its records from {border} on, and has others since"
        yield Loss(parts[where.partition], reason, max(first, border), last)
