"""Where a version stands: sources with their offsets, the journal, the number of events learned."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from state.store import Store
from state.view import Lookup
from streaming.errors import CorruptRowError

_SLICE = struct.Struct("<IQQ")


def sealed(payload: bytes) -> bytes:
    """A value that is not a row, with its CRC-32 at the end."""
    return payload + struct.pack("<I", zlib.crc32(payload))


def unsealed(key: bytes, value: bytes) -> bytes:
    """The payload of a sealed value.

    Raises:
        CorruptRowError: the checksum does not fit.
    """
    payload = value[:-4]
    if len(value) < 4 or struct.pack("<I", zlib.crc32(payload)) != value[-4:]:
        raise CorruptRowError(
            f"{key!r}: its bytes do not fit their checksum. Go back to a snapshot with "
            "`freshet versions restore`, or make the store again from its log with "
            "`freshet versions rebuild`."
        )
    return payload


def as_json(value: Any) -> bytes:
    """Canonical JSON: the same value gives the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(slots=True)
class Source:
    """A partition of an event log.

    Attributes:
        name: an absolute path, or topic[partition].
        next_offset: the first offset that was not learned.
        time_unit: of integer timestamps, once it is known.
        token: what the event log must find again under this name, in its own words (which topic and which
            leader's records, say); None where it needs nothing.
        skipped: offsets below next_offset that were passed over: those before the first one that was asked
            for, and those that were lost.
    """

    name: str
    next_offset: int = 0
    time_unit: str | None = None
    token: str | None = None
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class JournalSlice:
    """Offsets first … next_offset - 1 of a source, learned at one go."""

    partition: int
    first: int
    next_offset: int


class Ledger:
    """Sources and journal of a version, as of its newest event; `puts` is what a commit must write."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.number = 0  # events decoded and put to the learner
        self.learned = 0  # of those, events that changed rows
        self.new_users = 0  # users whose first event it was (again, after their time was over)
        self.bad = 0  # records that were no events
        self.watermark = 0  # newest event time, seconds
        self.rules: list[tuple[int, str]] = []  # (from record number, how records were read)
        self.erasures: list[tuple[int, int]] = []  # (from record number, erasures of the list that hold)
        self._entries: list[JournalSlice] = []  # those not written yet, and the last one that was
        self._written = 0  # journal entries before self._entries

    @property
    def records(self) -> int:
        """Records passed, of all sources: events, bad and blank ones. It is a place in the journal."""
        return sum(source.next_offset - source.skipped for source in self.sources)

    @property
    def erased(self) -> int:
        """Erasures of the home's list that were followed."""
        return self.erasures[-1][1] if self.erasures else 0

    def partition(self, name: str) -> int:
        """Number of a source, given at first sight and kept for ever."""
        for number, source in enumerate(self.sources):
            if source.name == name:
                return number
        self.sources.append(Source(name))
        return len(self.sources) - 1

    def record(self, partition: int, first: int, next_offset: int) -> None:
        """A slice was learned; what lies between the source's last one and `first` was passed over."""
        source = self.sources[partition]
        source.skipped += first - source.next_offset
        source.next_offset = next_offset
        if next_offset == first:
            return
        last = self._entries[-1] if self._entries else None
        if last is not None and last.partition == partition and last.next_offset == first:
            self._entries[-1] = JournalSlice(partition, last.first, next_offset)
        else:
            self._entries.append(JournalSlice(partition, first, next_offset))

    def read_by(self, rules: str) -> bool:
        """From here on records are read by these rules; True where others held before."""
        changed = bool(self.rules) and self.rules[-1][1] != rules
        if not self.rules or changed:
            self.rules.append((self.records, rules))
        return changed

    def forgot(self, erased: int) -> None:
        """From here on this many erasures hold."""
        self.erasures.append((self.records, erased))

    def puts(self) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values that say where the version stands now."""
        for number, source in enumerate(self.sources):
            yield b"o%06d" % number, sealed(as_json(asdict(source)))
        for k, entry in enumerate(self._entries):
            payload = _SLICE.pack(entry.partition, entry.first, entry.next_offset)
            yield b"j%012d" % (self._written + k), sealed(payload)
        totals = {
            "bad": self.bad,
            "learned": self.learned,
            "new_users": self.new_users,
            "number": self.number,
            "rules": self.rules,
            "watermark": self.watermark,
        }
        if self.erasures:
            totals["erasures"] = self.erasures
        yield b"mledger", sealed(as_json(totals))

    def committed(self) -> None:
        """What `puts` gave is durable."""
        if self._entries:
            self._written += len(self._entries) - 1
            self._entries = self._entries[-1:]

    @classmethod
    def read(cls, store: Store) -> Ledger:
        """The ledger of a store; an empty one where nothing was committed yet."""
        ledger = cls()
        totals = store.get_many([b"mledger"])[0]
        if totals is None:
            return ledger
        for name, value in json.loads(unsealed(b"mledger", totals)).items():
            setattr(ledger, name, value)
        ledger.rules = [(number, rules) for number, rules in ledger.rules]
        ledger.erasures = [(number, erased) for number, erased in ledger.erasures]
        ledger.sources = [Source(**json.loads(unsealed(k, v))) for k, v in store.scan(b"o")]
        entries = list(journal_of(store))
        ledger._entries = entries[-1:]
        ledger._written = max(0, len(entries) - 1)
        return ledger


def bad_records(store: Lookup) -> int:
    """Records that were no events, as of the newest commit; the journal is not read."""
    totals = store.get_many([b"mledger"])[0]
    return int(json.loads(unsealed(b"mledger", totals))["bad"]) if totals is not None else 0


def journal_of(store: Store) -> Iterator[JournalSlice]:
    """The slices of the log in the order in which they were learned."""
    for key, value in store.scan(b"j"):
        yield JournalSlice(*_SLICE.unpack(unsealed(key, value)))
