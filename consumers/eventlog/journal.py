"""Files as a version learned them before: its journal's slices enter, the same events leave in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consumers.eventlog.contract import EventLog, Slice
from consumers.eventlog.files import FilesLog
from state.ledger import JournalSlice
from streaming.errors import InputVanishedError
from streaming.rules import EventRules


class JournalLog(EventLog):
    """Files as they were learned before: slice after slice, whichever file each is of.

    Args:
        names: all sources, by number.
        slices: what is read, in this order.
        time_units: source → unit of its times, as far as it was decided before the first slice.
    """

    def __init__(
        self,
        names: Sequence[str],
        slices: Sequence[JournalSlice],
        rules: EventRules,
        *,
        format: str | None = None,
        time_units: Mapping[str, str] | None = None,
    ) -> None:
        self._names, self._slices, self._rules = names, slices, rules
        self._format, self._units = format, dict(time_units or {})
        self._positions: dict[str, int] = {}
        self._files: dict[str, FilesLog] = {}
        self._last = {part.partition: k for k, part in enumerate(slices)}
        self._at = 0

    @property
    def repeatable(self) -> bool:
        """It is read for the second time already."""
        return True

    @property
    def ended(self) -> bool:
        """Whether the last slice was read."""
        return self._at == len(self._slices)

    def sources(self) -> list[str]:
        """All sources that the journal knows, by number."""
        return list(self._names)

    def seek(self, positions: Mapping[str, int]) -> None:
        """Begin here; files are opened when their turn comes."""
        self._positions = dict(positions)

    def poll(self, max_events: int, timeout_s: float) -> Slice | None:
        """The next part of the slice whose turn it is.

        Raises:
            InputVanishedError: a file holds fewer records than were learned from it.
        """
        if self.ended:
            return None
        part = self._slices[self._at]
        name = self._names[part.partition]
        file = self._file(name)
        found = file.poll(min(max_events, part.next_offset - self._positions[name]), timeout_s)
        if found is None:
            raise InputVanishedError(
                f"{name} has {self._positions[name]} records, fewer than the {part.next_offset} that were "
                "learned from it. Put the whole file back."
            )
        self._positions[name] = found.next_offset
        if found.next_offset == part.next_offset:
            if self._last[part.partition] == self._at:
                file.close()
            self._at += 1
        return found

    def lag(self) -> dict[str, int | None]:
        """Records still to be read of each source."""
        left: dict[str, int | None] = dict.fromkeys(self._names, 0)
        for part in self._slices[self._at :]:
            name = self._names[part.partition]
            left[name] = part.next_offset - self._positions.get(name, 0)
        return left

    def committed(self, positions: Mapping[str, int]) -> None:
        """Files keep no positions."""

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()

    def _file(self, name: str) -> FilesLog:
        if name not in self._files:
            units = {name: self._units[name]} if name in self._units else {}
            file = FilesLog([name], self._rules, format=self._format, time_units=units)
            self._files[name] = file
            file.seek({name: self._positions[name]})
        return self._files[name]
