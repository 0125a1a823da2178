"""A catalogue's file enters; a catalogue that follows it leaves.

All of the file is read whenever it has changed, but only what is new in it is decoded: of each record of the
reading before, a hash of its bytes is kept, and the item that it spoke of.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consumers.catalogue_input import Reading
from consumers.catalogue_pieces import Piece, pieces_of
from consumers.catalogue_records import NoItemError, item_of
from consumers.eventlog.files import format_of
from consumers.settings import Settings
from state.catalogue import Catalogue, CatalogueItem
from streaming.errors import InputError, InputFormatError
from streaming.events import Ids

_SETTLES = 5  # times that a file which is being written is read again at the start
_NEW = -2  # in the place of the slot of a record that is new
_FEW = 20_000  # changed records up to which the catalogue is changed, not filled anew


class _Known(NamedTuple):
    """The records of a reading that are items.

    Attributes:
        hashes: (n,) of their bytes, ascending; a record that came twice is in it twice.
        slots: (n,) of the items that they speak of, in the catalogue.
        holds: (slots,) hash of the record that holds for each item, which is its last one.
    """

    hashes: NDArray[np.int64]
    slots: NDArray[np.int64]
    holds: NDArray[np.int64]

    @classmethod
    def of(cls, hashes: NDArray[np.int64], slots: NDArray[np.int64]) -> _Known:
        """Those of records in the order of the file."""
        holds = np.zeros(int(slots.max(initial=-1)) + 1, np.int64)
        holds[slots] = hashes  # of several, the last one is assigned
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], slots[order], holds)

    def slots_of(self, hashes: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) slots of records with these hashes, -1 for one that is new."""
        if not len(self.hashes):
            return np.full(len(hashes), -1, np.int64)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found: NDArray[np.int64] = np.where(self.hashes[place] == hashes, self.slots[place], -1)
        return found


class _Changes(NamedTuple):
    """What a reading has that the one before had not.

    Attributes:
        items: by id; None: the item is gone.
        hashes: (n,) of all records that are items, in the order of the file.
        slots: (n,) of their items, in the catalogue as it was; below 0 for the records that are new.
        names: the items of these, in order.
    """

    items: dict[str, CatalogueItem | None]
    hashes: NDArray[np.int64]
    slots: NDArray[np.int64]
    names: list[bytes]


class CatalogueFile:
    """A catalogue in a file. Later records win.

    Args:
        path: .jsonl, .ndjson, .json, .csv, .tsv (each also with .gz or .zst) or .parquet.

    Raises:
        InputFormatError: its name promises no known format.
    """

    def __init__(self, path: str, settings: Settings) -> None:
        self.path, self._settings = os.path.abspath(path), settings
        self._format = format_of(path)
        self.catalogue = Catalogue(serve_unlisted=settings.items.unlisted == "serve")
        self._read: tuple[int, ...] | None = None  # how the file stood when it was read
        self._known: _Known | None = None

    def refresh(self) -> Reading | None:
        """Read the file again where it has changed.

        Raises:
            InputError: it cannot be read; the catalogue stays as it is.
        """
        stood = self._stands()
        if stood == self._read:
            return None
        for _ in range(_SETTLES if self._read is None else 1):
            reading = Reading()
            changes = self._changes(reading)
            filled = None
            if changes is None:
                reading, filled = Reading(), self.catalogue.blank()
                known = self._fill(filled, reading)
            if reading.records and reading.refused == reading.records:
                first = reading.shown[0]
                raise InputFormatError(
                    f"{self.path}: none of its {reading.records} records is an item; {first.place}: "
                    f"{first.reason}. Correct the file, or the names in items.fields."
                )
            before, stood = stood, self._stands()
            if stood == before:
                if filled is not None:
                    self.catalogue.adopt(filled)
                    self._known = known
                elif changes is not None:
                    self._known = self._changed(changes)
                self._read = stood
                return reading
        if self._read is None:
            raise InputError(f"{self.path} is written all the time. Write a new file and rename it to this.")
        return None  # it is being written; the next look finds it whole

    def close(self) -> None:
        """Nothing is open between two readings."""

    def _stands(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise InputError(
                f"the catalogue {self.path} cannot be read ({error.strerror}). Correct items.file, or put "
                "the file there."
            ) from error
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _items(
        self, piece: Piece, which: NDArray[np.int64], reading: Reading
    ) -> tuple[list[int], list[CatalogueItem]]:
        """The items of some of a piece's records, and which records these are; the others are refused."""
        fields, longest = self._settings.items.fields, self._settings.events.max_id_bytes
        cells = self._format in ("csv", "tsv")
        good: list[int] = []
        items: list[CatalogueItem] = []
        for k, place, record in piece.decoded(which.tolist()):
            reading.records += 1
            try:
                if isinstance(record, NoItemError):
                    raise record
                items.append(item_of(record, fields, longest, cells=cells))
                good.append(k)
            except NoItemError as error:
                reading.refuse(place, str(error))
        return good, items

    def _fill(self, catalogue: Catalogue, reading: Reading) -> _Known:
        """Decode all of the file."""
        hashes, slots = [_NONE], [_NONE]
        for piece in pieces_of(self.path, self._format):
            good, items = self._items(piece, np.arange(len(piece.hashes)), reading)
            catalogue.update({item.item: item for item in items})
            hashes.append(piece.hashes[good])
            names = Ids.of([item.item.encode() for item in items])
            slots.append(catalogue.ids.slots_of(names).astype(np.int64))
        return _Known.of(np.concatenate(hashes), np.concatenate(slots))

    def _changes(self, reading: Reading) -> _Changes | None:
        """Decode what is new; None where that is much, or all."""
        if self._known is None:
            return None
        hashes, slots = [_NONE], [_NONE]
        new: list[CatalogueItem] = []
        for piece in pieces_of(self.path, self._format):
            found = self._known.slots_of(piece.hashes)
            unknown = np.flatnonzero(found < 0)
            reading.records += len(found) - len(unknown)
            good, items = self._items(piece, unknown, reading)
            if len(new) + len(items) > _FEW:
                return None
            found[good] = _NEW
            kept = found != -1
            hashes.append(piece.hashes[kept])
            slots.append(found[kept])
            new += items
        return self._compared(np.concatenate(hashes), np.concatenate(slots), new)

    def _compared(
        self, hashes: NDArray[np.int64], slots: NDArray[np.int64], new: list[CatalogueItem]
    ) -> _Changes | None:
        """Which items are changed or gone; None where an item is what an earlier record says, again."""
        assert self._known is not None
        names, holds = [item.item.encode() for item in new], self._known.holds
        of_new = self.catalogue.ids.slots_of(Ids.of(names)).astype(np.int64)
        numbers = {name: len(holds) + k for k, name in enumerate(names)}  # of items never seen
        of_new = np.where(of_new >= 0, of_new, [numbers[name] for name in names] if names else 0)
        places = np.flatnonzero(slots < 0)
        whole = slots.copy()
        whole[places] = of_new
        last = np.full(len(holds) + len(names), -1)
        last[whole] = np.arange(len(whole))  # of several, the last one is assigned
        changed = {item.item: item for k, item in enumerate(new) if last[of_new[k]] == places[k]}
        was = np.zeros(len(holds), np.bool_)
        was[self._known.slots] = True
        now = last[: len(holds)]
        old = np.flatnonzero(now >= 0)
        old = old[slots[now[old]] >= 0]  # a record that is not new holds
        if not np.array_equal(hashes[now[old]], holds[old]):
            return None
        gone = [self.catalogue.ids.id_of(slot).decode() for slot in np.flatnonzero(was & (now < 0)).tolist()]
        if len(gone) > _FEW:
            return None
        return _Changes({**dict.fromkeys(gone), **changed}, hashes, slots, names)

    def _changed(self, changes: _Changes) -> _Known:
        """Take changes in."""
        self.catalogue.update(changes.items)
        changes.slots[changes.slots < 0] = self.catalogue.ids.slots_of(Ids.of(changes.names))
        return _Known.of(changes.hashes, changes.slots)


_NONE = np.zeros(0, np.int64)
