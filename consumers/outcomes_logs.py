"""The logs of exposures and events, as `freshet outcomes` reads them: a position enters, lines leave.

Here the logs of the home directory; those in Kafka are in `consumers.outcomes_topics`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from consumers.eventlog.segments import EVENTS, Segments, read_mark, segments_in
from consumers.exposing import EXPOSURES
from consumers.outcomes_records import Lines
from state.experiments import Trial
from streaming.errors import InputVanishedError, UsageError


class OutcomeLog(Protocol):
    """A log of sources, each in an order of its own.

    Attributes:
        name: `exposures` or `events`.
        sources: as the joiner names them; more may come.
        position: where the next read goes on, as JSON.
    """

    name: str

    @property
    def sources(self) -> list[str]: ...

    @property
    def position(self) -> Any: ...

    @property
    def ended(self) -> bool:
        """Whether all was read up to what was the end when it was asked for, or is the end now."""
        ...

    def read(self, most: int) -> Lines | None:
        """The next lines of one source, about `most` bytes of them; None where there is nothing now.

        Raises:
            InputVanishedError: what comes next is gone.
        """
        ...

    def silent(self) -> list[str]:
        """Sources that hold nothing more than was read."""
        ...

    def behind(self) -> list[str]:
        """Sources that are known to hold more."""
        ...

    def hold(self, sources: Collection[str]) -> None:
        """Read nothing more of these for now, where sources can be told apart."""
        ...

    def confirm(self) -> None:
        """Make sure, before a commit, that what was read was of this log.

        Raises:
            InputVanishedError: it may be of another one.
        """
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class SegmentLog:
    """Whole durable lines of a directory of segments: one source.

    Args:
        position: (segment, byte) of the next line.

    Raises:
        UsageError: the position is of another kind of log.
    """

    def __init__(self, name: str, directory: Path, position: Any = (0, 0)) -> None:
        self.name, self._directory, self._silent = name, directory, False
        if not (len(position) == 2 and all(isinstance(part, int) for part in position)):
            raise UsageError(
                f"This experiment was joined from Kafka before, and {directory} cannot go on from there. Set "
                "kafka.bootstrap_servers as it was."
            )
        self._segment, self._byte = position
        Segments(directory).settle()

    @property
    def sources(self) -> list[str]:
        """The one source, which has the log's name."""
        return [self.name]

    @property
    def position(self) -> tuple[int, int]:
        """(segment, byte) of the next line."""
        return self._segment, self._byte

    @property
    def ended(self) -> bool:
        """Whether the last read found nothing."""
        return self._silent

    def read(self, most: int) -> Lines | None:
        """The next lines; None where all that is durable was read.

        Raises:
            InputVanishedError: a segment is gone that was not read to its end.
        """
        data = self._read(most)
        self._silent = not data
        return Lines.of(self.name, data) if data else None

    def _read(self, most: int) -> bytes:
        mark = read_mark(self._directory)
        while mark is not None:
            path = self._directory / f"{self._segment:020d}.jsonl"
            if not path.exists() and self._byte:
                raise InputVanishedError(f"{path}: the segment is gone before it was read. Put it back.")
            size = path.stat().st_size if path.exists() else 0
            end = mark.length if self._segment == mark.segment else size
            if self._byte < end:
                with path.open("rb") as file:
                    file.seek(self._byte)
                    data = file.read(min(most, end - self._byte))
                    data += file.readline() if not data.endswith(b"\n") else b""
                self._byte += len(data)
                return data
            later = [int(one.stem) for one in segments_in(self._directory) if int(one.stem) > self._segment]
            if self._segment >= mark.segment or not later:
                break
            self._segment, self._byte = later[0], 0
        return b""

    def silent(self) -> list[str]:
        """The source, where nothing durable is left to read."""
        return self.sources if read_mark(self._directory) == self.position else []

    def behind(self) -> list[str]:
        """The source, where the last read found something."""
        return [] if self._silent else self.sources

    def hold(self, sources: Collection[str]) -> None:
        """One source is never ahead of others of its log."""

    def confirm(self) -> None:
        """Lines are read from files whose names never mean another file."""

    def close(self) -> None:
        """Nothing is open between two reads."""


def segment_logs(home: Path, trial: Trial, positions: Mapping[str, Any]) -> list[OutcomeLog]:
    """The logs of a home directory; an experiment reads all of what lies there."""
    return [SegmentLog(name, home / name, positions.get(name, (0, 0))) for name in (EXPOSURES, EVENTS)]
