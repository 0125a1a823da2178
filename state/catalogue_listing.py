"""A catalogue and a version's items enter; which of the version's slots may be served leaves."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from state.catalogue import Catalogue
from state.ids import IdTable
from state.spans import longer
from streaming.events import Ids

_MASKS = 32  # categories whose masks a listing keeps


class Items(Protocol):
    """The items of a version, in slots 0 … count - 1; a serial is never given to a second item."""

    ids: IdTable
    count: int
    serial: NDArray[np.int32]


class Listing:
    """What of a version's items the catalogue allows, as masks over the version's slots.

    Any thread may ask. Where another process moves the items meanwhile, the caller reads again as it
    does for the rows, or asks `Catalogue.allows` for the ids that it found.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self._seen = 0  # changes of the catalogue that are in the masks
        self._serial = np.zeros(0, np.int32)  # of the items that the masks are of
        self._place = np.zeros(0, np.int32)  # their slots in the catalogue, -1 for none
        self._allowed = np.zeros(0, np.bool_)
        self._by_code: OrderedDict[int, NDArray[np.bool_]] = OrderedDict()

    def allowed(self, items: Items, category: str | None = None) -> NDArray[np.bool_]:
        """(count,) whether the item of each slot may be served; of a category, where one is given.

        Raises:
            UnknownIdError: no item was ever in the category.
        """
        catalogue = self.catalogue
        with catalogue.lock:
            count = items.count
            self._refresh(items, count)
            if category is None:
                return self._allowed[:count].copy()
            code = catalogue.code(category)
            if code not in self._by_code:
                mask = np.zeros(len(self._serial), np.bool_)
                mask[:count] = catalogue.having(self._place[:count], code)
                self._by_code[code] = mask
                if len(self._by_code) > _MASKS:
                    self._by_code.popitem(last=False)
            self._by_code.move_to_end(code)
            both: NDArray[np.bool_] = self._allowed[:count] & self._by_code[code][:count]
            return both

    def _refresh(self, items: Items, count: int) -> None:
        """Bring the masks up to both sides."""
        if count > len(self._serial):
            self._make_room(max(1024, 2 * count))
        serial = items.serial[:count]
        stale = self._serial[:count] != serial
        changed = self.catalogue.changed_since(self._seen)
        if changed is None:
            stale[:] = True
        elif changed:
            slots = items.ids.slots_of(Ids.of(changed))
            stale[slots[(slots >= 0) & (slots < count)]] = True
        self._seen = self.catalogue.changes
        old = np.flatnonzero(stale)
        if not len(old):
            return
        self._serial[old] = serial[old]
        ids = items.ids.arrays
        start = ids.start[old]
        places = self.catalogue.ids.slots_of(Ids(ids.data, start, start + ids.length[old]))
        self._place[old] = places
        self._allowed[old] = self.catalogue.offered(places)
        for code, mask in self._by_code.items():
            mask[old] = self.catalogue.having(places, code)

    def _make_room(self, slots: int) -> None:
        have = len(self._serial)
        self._serial = longer(self._serial, slots)
        self._serial[have:] = -1
        self._place = longer(self._place, slots)
        self._allowed = longer(self._allowed, slots)
        for code, mask in self._by_code.items():
            self._by_code[code] = longer(mask, slots)
