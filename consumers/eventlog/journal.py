"""A log as a version learned it before: its journal's slices enter, the same events leave in that order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from consumers.eventlog.contract import EventLog, Slice
from consumers.eventlog.files import FilesLog
from state.ledger import JournalSlice, Source
from streaming.decoding import no_events
from streaming.errors import InputVanishedError, SettingError
from streaming.rules import EventRules

if TYPE_CHECKING:
    from consumers.eventlog.kafka_ranges import TopicRanges


class JournalLog(EventLog):
    """Files and topics as they were learned before: slice after slice, whichever source each is of.

    Args:
        sources: all sources, by number, as they stand after the last slice of all.
        slices: what is read, in this order.
        format: of the files, where their names do not tell.
        client: settings of kafka-python's consumer, where a source is of a topic.
        time_units: source → unit of its times, as far as it was decided before the first slice.
        to_the_end: whether no slice is left behind these. Then what no record tells is handed out, too:
            a topic's identity, and offsets that were passed over after its last record.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        slices: Sequence[JournalSlice],
        rules: EventRules,
        *,
        format: str | None = None,
        client: Mapping[str, Any] | None = None,
        time_units: Mapping[str, str] | None = None,
        to_the_end: bool = False,
    ) -> None:
        self._sources, self._slices, self._rules = sources, slices, rules
        self._format, self._client, self._units = format, client, dict(time_units or {})
        self._positions: dict[str, int] = {}
        self._files: dict[str, FilesLog] = {}
        self._topics: dict[str, TopicRanges] = {}
        self._last = {part.partition: k for k, part in enumerate(slices)}
        self._at = 0
        self._standing = deque(source for source in sources if to_the_end and source.token is not None)

    @property
    def repeatable(self) -> bool:
        """It is read for the second time already."""
        return True

    @property
    def ended(self) -> bool:
        """Whether the last slice was read."""
        return self._at == len(self._slices) and not self._standing

    def sources(self) -> list[str]:
        """All sources that the journal knows, by number."""
        return [source.name for source in self._sources]

    def seek(self, positions: Mapping[str, int]) -> None:
        """Begin here; files and topics are opened when their turn comes."""
        self._positions = dict(positions)

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next part of the slice whose turn it is.

        Raises:
            InputVanishedError: a source no longer has the records that were learned from it.
            BrokerError: Kafka gives no records.
        """
        if self._at == len(self._slices):
            return _stand(self._standing.popleft()) if self._standing else None
        part = self._slices[self._at]
        source = self._sources[part.partition]
        read = self._of_file if os.path.isabs(source.name) else self._of_topic
        found = read(source, part, max_events, timeout_s)
        if found is None:
            return None
        self._positions[source.name] = found.next_offset
        if found.next_offset == part.next_offset:
            if self._last[part.partition] == self._at and source.name in self._files:
                self._files[source.name].close()
            self._at += 1
        return found

    def lag(self) -> dict[str, int | None]:
        """Records still to be read of each source."""
        left: dict[str, int | None] = dict.fromkeys(self.sources(), 0)
        for part in self._slices[self._at :]:
            name = self._sources[part.partition].name
            left[name] = part.next_offset - self._positions.get(name, 0)
        return left

    def committed(self, positions: Mapping[str, int]) -> None:
        """What is read again keeps no positions."""

    def close(self) -> None:
        """Close all files and connections."""
        for file in self._files.values():
            file.close()
        for topic in self._topics.values():
            topic.close()

    def _of_file(self, source: Source, part: JournalSlice, most: int, timeout_s: float) -> Slice:
        name = source.name
        if name not in self._files:
            units = {name: self._units[name]} if name in self._units else {}
            file = FilesLog([name], self._rules, format=self._format, time_units=units)
            self._files[name] = file
            file.seek({name: self._positions[name]})
        found = self._files[name].poll(min(most, part.next_offset - self._positions[name]), timeout_s)
        if found is None:
            raise InputVanishedError(
                f"{name} has {self._positions[name]} records, fewer than the {part.next_offset} that were "
                "learned from it. Put the whole file back."
            )
        return found

    def _of_topic(self, source: Source, part: JournalSlice, most: int, timeout_s: float) -> Slice | None:
        # Offsets that were passed over when they were learned are passed over again.
        first = max(self._positions.get(source.name, 0), part.first)
        topic = topic_of(source.name)
        if topic not in self._topics:
            self._topics[topic] = self._opened(topic)
        return self._topics[topic].read(source.name, first, part.next_offset, most, timeout_s)

    def _opened(self, topic: str) -> TopicRanges:
        # Files are read without Kafka's client.
        from consumers.eventlog.kafka_ranges import TopicRanges

        if self._client is None:
            raise SettingError(
                f'The version learned from the topic "{topic}", so kafka.bootstrap_servers must name its '
                "Kafka; it is not set."
            )
        slices: dict[str, list[JournalSlice]] = {}
        for part in self._slices:
            name = self._sources[part.partition].name
            if not os.path.isabs(name) and topic_of(name) == topic:
                slices.setdefault(name, []).append(part)
        sources = [source for source in self._sources if source.name in slices]
        return TopicRanges(topic, self._rules, self._client, sources, slices, self._units)


def topic_of(name: str) -> str:
    """The topic of a source's name.

    >>> topic_of("events[7]"), topic_of("events#2[7]")
    ('events', 'events')
    """
    return name.rpartition("[")[0].partition("#")[0]


def _stand(source: Source) -> Slice:
    """No record, and where a source stands."""
    at = source.next_offset
    return Slice(source.name, at, at, no_events(), [], time.time(), source.time_unit, source.token)
