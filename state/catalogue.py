"""The catalogue: items with availability, categories and features enter; what may be served leaves.

A catalogue is held in flat arrays: ids in one table, categories as numbers, features as JSON bytes. A
version has its own items in its own slots; a `catalogue_listing` keeps masks over these, and after each
change of either side works out again only the slots that it concerns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from threading import RLock

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.ids import IdTable, remove
from state.spans import Spans, having, longer
from streaming.errors import UnknownIdError, nearest
from streaming.events import Ids

Feature = float | int | str | bool | list[float]

_LOG = 65_536  # changed ids that are remembered; who is further behind looks at all items


class CatalogueItem(msgspec.Struct, frozen=True, gc=False):
    """What the catalogue says of an item.

    Attributes:
        categories: names, in the order given.
        features: kept for learners; a version does not learn from them.
    """

    item: str
    available: bool = True
    categories: tuple[str, ...] = ()
    features: dict[str, Feature] = {}


class Catalogue:
    """All listed items. One thread changes it, any may ask; both hold `lock` meanwhile.

    Args:
        serve_unlisted: whether an item that is not in the catalogue may be served.

    Attributes:
        changes: items that were put or removed so far, each time counted.
    """

    def __init__(self, *, serve_unlisted: bool = False) -> None:
        self.serve_unlisted = serve_unlisted
        self.lock = RLock()
        self.changes = 0
        self._log: deque[bytes] = deque(maxlen=_LOG)
        self._codes: dict[str, int] = {}
        self._begin()

    def _begin(self) -> None:
        self.ids = IdTable(1024)
        self.available = np.zeros(0, np.bool_)
        self._categories, self._features = Spans(np.int32), Spans(np.uint8)
        self._free: list[int] = []
        self._slots = 0

    def __len__(self) -> int:
        return self._slots - len(self._free)

    def update(self, changes: Mapping[str, CatalogueItem | None]) -> None:
        """Put items, replacing what was said of them before; None takes one out."""
        if not changes:
            return
        with self.lock:
            names = [name.encode() for name in changes]
            slots = self.ids.slots_of(Ids.of(names)).tolist()
            for slot, item in zip(slots, changes.values(), strict=True):
                if item is None and slot >= 0:
                    self._remove(slot)
            put = [
                (name, slot, item)
                for name, slot, item in zip(names, slots, changes.values(), strict=True)
                if item is not None
            ]
            self._put([name for name, _, _ in put], [s for _, s, _ in put], [i for _, _, i in put])
            self._note(names)

    def blank(self) -> Catalogue:
        """An empty one, to be filled while this one is asked, and then adopted."""
        other = Catalogue(serve_unlisted=self.serve_unlisted)
        other._codes = self._codes  # masks by category stay true
        return other

    def adopt(self, other: Catalogue) -> None:
        """Hold what a `blank` one was filled with, and nothing else."""
        with self.lock:
            self.ids, self.available = other.ids, other.available
            self._categories, self._features = other._categories, other._features
            self._free, self._slots = other._free, other._slots
            self.changes += _LOG + 1  # whoever follows looks at all items
            self._log.clear()

    def item(self, name: str) -> CatalogueItem | None:
        """What is said of an item, None where it is not listed."""
        with self.lock:
            slot = self.ids.slot_of(name)
            if slot < 0:
                return None
            by_code = list(self._codes)
            categories = tuple(by_code[code] for code in self._categories.of(slot).tolist())
            features = self._features.of(slot).tobytes()
            return CatalogueItem(
                name,
                bool(self.available[slot]),
                categories,
                msgspec.json.decode(features, type=dict[str, Feature]) if features else {},
            )

    def categories(self) -> dict[str, int]:
        """Category → number of available items in it, in the order in which they were first seen."""
        with self.lock:
            places = np.flatnonzero(self.available[: self._slots]).astype(np.int32)
            return {name: int(self.having(places, code).sum()) for name, code in self._codes.items()}

    def code(self, category: str) -> int:
        """Number of a category.

        Raises:
            UnknownIdError: no item was ever in it.
        """
        if category not in self._codes:
            raise UnknownIdError(
                f'No item of the catalogue is in the category "{category}".'
                f"{nearest(category, self._codes)} `freshet catalogue categories` lists them."
            )
        return self._codes[category]

    def offered(self, places: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether the items in these slots of the catalogue (-1: not listed) may be served."""
        if not len(self.available):
            return np.full(len(places), self.serve_unlisted)
        found: NDArray[np.bool_] = np.where(places >= 0, self.available[places], self.serve_unlisted)
        return found

    def having(self, places: NDArray[np.int32], code: int) -> NDArray[np.bool_]:
        """Whether the items in these slots of the catalogue are in a category."""
        out, spans_of = np.empty(len(places), np.bool_), self._categories
        having(spans_of.first, spans_of.number, spans_of.data, places, code, out)
        return out

    def allows(self, names: Sequence[str], category: str | None = None) -> NDArray[np.bool_]:
        """Whether items may be served, by their ids.

        Raises:
            UnknownIdError: no item was ever in the category.
        """
        with self.lock:
            places = self.ids.slots_of(Ids.of([name.encode() for name in names]))
            allowed = self.offered(places)
            return allowed if category is None else allowed & self.having(places, self.code(category))

    def changed_since(self, changes: int) -> list[bytes] | None:
        """Ids that were put or removed after so many changes; None where they are no longer known."""
        behind = self.changes - changes
        if behind > len(self._log):
            return None
        return list(self._log)[len(self._log) - behind :] if behind else []

    def _note(self, names: list[bytes]) -> None:
        self.changes += len(names)
        self._log.extend(names)

    def _remove(self, slot: int) -> None:
        remove(self.ids.arrays, slot)
        self.available[slot] = False
        nothing = np.zeros(1, np.int32), np.zeros(0, np.int32)
        self._categories.put(np.array([slot]), *nothing)
        self._features.put(np.array([slot]), *nothing)
        self._free.append(slot)

    def _put(self, names: list[bytes], found: list[int], items: list[CatalogueItem]) -> None:
        if not names:
            return
        new = [k for k, slot in enumerate(found) if slot < 0]
        given = [self._free.pop() for _ in range(min(len(new), len(self._free)))]
        given += range(self._slots, self._slots + len(new) - len(given))
        self._slots = max(self._slots, *(slot + 1 for slot in given)) if given else self._slots
        if self._slots > len(self.available):
            self._make_room(max(1024, 2 * self._slots))
        self.ids.make_room(len(self.available), sum(len(names[k]) for k in new))
        self.ids.insert(np.array(given, np.int64), [names[k] for k in new])
        for k, slot in zip(new, given, strict=True):
            found[k] = slot
        slots = np.array(found, np.int64)
        self.available[slots] = [item.available for item in items]
        codes = self._codes
        flat = [codes.setdefault(name, len(codes)) for item in items for name in item.categories]
        lengths = np.array([len(item.categories) for item in items], np.int32)
        self._categories.put(slots, lengths, np.array(flat, np.int32))
        encoded = [msgspec.json.encode(item.features) if item.features else b"" for item in items]
        lengths = np.array([len(each) for each in encoded], np.int32)
        self._features.put(slots, lengths, np.frombuffer(b"".join(encoded), np.uint8))

    def _make_room(self, slots: int) -> None:
        self.available = longer(self.available, slots)
        self._categories.make_room(slots)
        self._features.make_room(slots)
