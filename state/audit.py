"""What a store says about itself: its keys and values enter, whatever does not fit leaves.

Every value's checksum is read, and whatever can be known twice is compared: the ids' slots and
serials with their count, the journal with the offsets, the events of the rows with those learned.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from state.audit_rows import BATCH, Limits, Pairs, RowAudit
from state.findings import Findings
from state.ledger import JournalSlice, Source, unsealed
from state.lineage import LINEAGE
from state.parameters import parameter_key
from state.recent import RING_BLOCK, ring_key
from state.spec import Spec
from state.store import FORMAT, Store
from streaming import learners
from streaming.errors import CorruptRowError, StoreError
from streaming.evaluation import EVALUATED, NEWEST, NEWEST_BLOCK, Prequential
from streaming.learners.model import ITEM, USER

_SLICE = struct.Struct("<IQQ")
_COUNT = struct.Struct("<dQ")
_UNKNOWN = 2**62  # stands for a limit that is missing or damaged: nothing is above it


def verify(store: Store, spec: Spec, observe: Callable[[int], None] | None = None) -> Findings:
    """Check all keys and values of a store, and that they agree with each other.

    Args:
        spec: of the version whose store it is.
        observe: told now and then how many keys were checked.
    """
    audit = _Audit(store, spec)
    found = audit.findings
    for letter in range(255):
        prefix = bytes([letter])
        try:
            check = audit.checks.get(prefix, audit.unknown)
            for batch in _batches(store.scan(prefix)):
                check(batch)
                if observe is not None:
                    observe(found.users + found.items + found.values)
        except StoreError as damage:
            found.add(prefix, f"keys that start like this can be read in part only: {damage}")
    audit.conclude()
    return found


def _batches(pairs: Iterator[tuple[bytes, bytes]]) -> Iterator[Pairs]:
    while batch := list(islice(pairs, BATCH)):
        yield batch


class _Audit:
    """The checks, by the first letter of the key; `conclude` compares what they have seen."""

    def __init__(self, store: Store, spec: Spec) -> None:
        self.findings = Findings()
        self._store, self._spec = store, spec
        learner = learners.load(spec.learner)
        options = learners.options_of(learner, spec.options)
        self._layout = learner.layout(options)
        self._params = learner.parameters(options)
        ledger, tables = self._json(b"mledger"), self._json(b"mtables")
        self._comparable = ledger is not None and tables is not None
        self._ledger = ledger or dict.fromkeys(("number", "learned", "bad", "watermark"), _UNKNOWN)
        self._tables = tables or {"next_serial": _UNKNOWN, "recent_pushed": 0}
        self._forgot = bool(self._ledger.get("erasures"))  # rows may be gone
        self.findings.events = self._ledger["number"] if ledger else 0
        self._sources: list[Source] = []
        self._next: dict[int, int] = {}  # partition → where the journal has got to
        self._journalled: dict[int, int] = {}  # partition → offsets in its slices
        self._slices = 0
        limits = Limits(self._ledger["number"], self._ledger["watermark"], self._tables["next_serial"])
        self._rows = RowAudit(
            store, spec, self._layout, limits, self.findings, sources=lambda: len(self._sources)
        )
        self._index = 0
        self.checks: dict[bytes, Callable[[Pairs], None]] = {
            b"c": self._counts,
            b"d": self._index_keys,
            b"e": self._evaluated,
            b"i": self._rows.item_rows,
            b"j": self._journal,
            b"m": self._named,
            b"o": self._offsets,
            b"p": self._parameters,
            b"r": self._ring,
            b"u": self._rows.user_rows,
        }

    def unknown(self, pairs: Pairs) -> None:
        """Keys that Freshet does not write."""
        for key, _ in pairs:
            self.findings.values += 1
            self.findings.add(key, "this is no key of Freshet's.")

    # -- values ---------------------------------------------------------------------------------

    def _json(self, key: bytes) -> Any:
        """A value of JSON; None where it is missing or damaged, which `_named` and `conclude` report."""
        value = self._store.get_many([key])[0]
        try:
            return None if value is None else json.loads(unsealed(key, value))
        except CorruptRowError:
            return None

    def _payloads(self, pairs: Pairs) -> Iterator[tuple[bytes, bytes]]:
        for key, value in pairs:
            self.findings.values += 1
            try:
                yield key, unsealed(key, value)
            except CorruptRowError:
                self.findings.add(key, "its bytes do not fit their checksum.")

    def _counts(self, pairs: Pairs) -> None:
        for key, payload in self._payloads(pairs):
            if key[1:2] not in (b"u", b"i") or len(payload) != _COUNT.size:
                self.findings.add(key, "this is not the count of a user or an item.")
            elif _COUNT.unpack(payload)[1] > self._ledger["number"]:
                self.findings.add(key, "it was counted after the newest event.")

    def _index_keys(self, pairs: Pairs) -> None:
        for key, value in pairs:
            self.findings.values += 1
            self._index += 1
            if value or len(key) < 10 or not self._spec.users_live_s:
                self.findings.add(key, "this is no entry of the index by time that this version keeps.")

    def _journal(self, pairs: Pairs) -> None:
        for key, payload in self._payloads(pairs):
            if key != b"j%012d" % self._slices or len(payload) != _SLICE.size:
                self.findings.add(key, f"expected slice {self._slices} of the journal.")
            self._slices += 1
            if len(payload) == _SLICE.size:
                part = JournalSlice(*_SLICE.unpack(payload))
                place = self._next.get(part.partition, 0)
                if not place <= part.first < part.next_offset:
                    self.findings.add(
                        key,
                        f"the slice {part.first} to {part.next_offset} of source {part.partition} "
                        f"does not go on at {place}.",
                    )
                self._next[part.partition] = part.next_offset
                before = self._journalled.get(part.partition, 0)
                self._journalled[part.partition] = before + part.next_offset - part.first

    def _named(self, pairs: Pairs) -> None:
        sealed = []
        for key, value in pairs:
            if key == b"mformat":
                self.findings.values += 1
                if value != b"%d" % FORMAT:
                    self.findings.add(key, f"expected format {FORMAT}.")
            elif key in (LINEAGE, b"mledger", b"mprequential", b"mspec", b"mtables"):
                sealed.append((key, value))
            else:
                self.unknown([(key, value)])
        for key, payload in self._payloads(sealed):
            value = json.loads(payload)
            if key == b"mspec" and msgspec.convert(value, Spec) != self._spec:
                self.findings.add(key, "the store was learned under another spec than the version has.")
            if key == b"mprequential":
                self._prequential(Prequential.restored(value), len(value["curve"]))

    def _prequential(self, totals: Prequential, points: int) -> None:
        overall, new, returning, new_item = totals.segments
        fits = (
            (new + returning == overall).all()
            and (new_item <= overall).all()
            and (totals.curve.sum(axis=0) == overall).all()
            and points == -(-totals.evaluated // totals.span)
            and totals.evaluated <= self._ledger["number"]
        )
        if not fits:
            self.findings.add(b"mprequential", "the counts of evaluated events do not add up.")

    def _evaluated(self, pairs: Pairs) -> None:
        for key, payload in self._payloads(pairs):
            known = key[1:].isdigit() and int(key[1:]) < NEWEST // NEWEST_BLOCK
            if not known or len(payload) != NEWEST_BLOCK * EVALUATED.itemsize:
                self.findings.add(key, "this is no block of the newest evaluated events.")

    def _offsets(self, pairs: Pairs) -> None:
        for key, payload in self._payloads(pairs):
            if key != b"o%06d" % len(self._sources):
                self.findings.add(key, f"expected source {len(self._sources)}.")
            self._sources.append(Source(**json.loads(payload)))

    def _parameters(self, pairs: Pairs) -> None:
        for key, payload in self._payloads(pairs):
            array = self._params._asdict().get(key[1:].decode(errors="replace"))
            if array is None or len(payload) != array.nbytes:
                self.findings.add(
                    key, f"these are not parameters of {self._spec.learner}, or have another shape."
                )

    def _ring(self, pairs: Pairs) -> None:
        size = self._layout.recent
        filled = min(size, self._tables["recent_pushed"])
        for key, payload in self._payloads(pairs):
            start = int(key[1:]) * RING_BLOCK if key[1:].isdigit() else size
            serials = np.frombuffer(payload, np.int32)
            if start >= size or len(serials) != min(RING_BLOCK, size - start):
                self.findings.add(key, "this block of the ring of recent items has another size.")
            elif not self._rows.known(serials[: max(0, filled - start)]).all():
                self.findings.add(key, "a recent item has a serial that was never given.")

    # -- all together ---------------------------------------------------------------------------

    def conclude(self) -> None:
        """Compare what belongs to different keys."""
        if not (self._sources or self.findings.users or self.findings.items):
            return
        self._complete()
        if not self._comparable:
            return
        self._check_slots()
        self._check_positions()
        self._check_events()

    def _complete(self) -> None:
        names = [b"mledger", b"mprequential", b"mspec", b"mtables"]
        names += [parameter_key(name) for name in self._params._fields]
        names += [ring_key(block) for block in self._ring_blocks()]
        for key, value in zip(names, self._store.get_many(names), strict=True):
            if value is None:
                self.findings.add(key, "it is missing.")

    def _ring_blocks(self) -> Iterable[int]:
        return range(-(-min(self._layout.recent, self._tables["recent_pushed"]) // RING_BLOCK))

    def _check_slots(self) -> None:
        none = [np.zeros(0, np.int32)]
        slots = np.sort(np.concatenate(self._rows.slots or none))
        serials = np.sort(np.concatenate(self._rows.serials or none))
        if not np.array_equal(slots, np.arange(self.findings.items)):
            self.findings.add(
                b"", f"the {self.findings.items} items do not have the slots from 0 on, one each."
            )
        given = self._tables["next_serial"]
        fits = (np.diff(serials) > 0).all() and self._rows.known(serials).all()
        may_be_gone = self._spec.items_live_s or self._forgot
        if not fits or (not may_be_gone and len(serials) != given):
            self.findings.add(b"", f"the items do not have the {given} serials that were given, one each.")

    def _check_positions(self) -> None:
        for number, source in enumerate(self._sources):
            learned_to = self._journalled.get(number, 0) + source.skipped
            if learned_to != source.next_offset:
                self.findings.add(
                    b"o%06d" % number,
                    f"{source.name} stands at {source.next_offset}, its journal ends at {learned_to}.",
                )
        if unknown := [number for number in self._next if number >= len(self._sources)]:
            self.findings.add(b"", f"the journal names sources that are not known: {unknown}.")
        records = sum(source.next_offset - source.skipped for source in self._sources)
        events, bad = self._ledger["number"], self._ledger["bad"]
        if not self._ledger["learned"] <= events <= records - bad:
            self.findings.add(
                b"mledger",
                f"{self._ledger['learned']} learned, {events} events, {bad} bad records "
                f"cannot come from {records} records.",
            )

    def _check_events(self) -> None:
        for kind, name, expires in (
            (USER, "users", self._spec.users_live_s),
            (ITEM, "items", self._spec.items_live_s),
        ):
            if not (expires or self._forgot) and self._rows.learned[kind] != self._ledger["learned"]:
                self.findings.add(
                    b"",
                    f"the rows of {name} have {self._rows.learned[kind]} events, "
                    f"{self._ledger['learned']} were learned.",
                )
        if self._spec.users_live_s and self._index != self.findings.users:
            self.findings.add(
                b"", f"{self.findings.users} users have {self._index} entries in the index by time."
            )
