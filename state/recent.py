"""The ring of recent items as a store keeps it: in blocks, of which a commit writes those that moved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from state.items import ItemTable
from state.ledger import sealed, unsealed
from state.store import Store
from streaming.learners.contract import Recent

RING_BLOCK = 1000  # items of a block
RING = b"r"  # and the number of the block


def ring_key(block: int) -> bytes:
    """The key of a block."""
    return RING + b"%06d" % block


class RecentRing:
    """Which blocks of a ring are durable.

    Args:
        ring: the arrays that the kernels write.
    """

    def __init__(self, ring: Recent) -> None:
        self._ring = ring
        self._committed = 0

    def puts(self) -> Iterator[tuple[bytes, bytes]]:
        """What a commit must write: the blocks that moved since the last one."""
        serial, pushed = self._ring.serial, int(self._ring.pushed[0])
        size = len(serial)
        if not size or pushed == self._committed:
            return
        moved = np.arange(max(self._committed, pushed - size), pushed) % size
        for block in np.unique(moved // RING_BLOCK).tolist():
            part = serial[block * RING_BLOCK : (block + 1) * RING_BLOCK]
            yield ring_key(block), sealed(part.tobytes())

    def committed(self) -> None:
        """All blocks are durable."""
        self._committed = int(self._ring.pushed[0])

    def restore(self, store: Store, pushed: int, items: ItemTable) -> None:
        """Read the ring back, and count in `items` how often each is in it.

        Raises:
            CorruptRowError: a checksum does not fit.
        """
        ring = self._ring
        for key, value in store.scan(RING):
            block = np.frombuffer(unsealed(key, value), np.int32)
            start = int(key[1:]) * RING_BLOCK
            ring.serial[start : start + len(block)] = block
        ring.pushed[0] = self._committed = pushed
        slots = items.slot_of_serial[ring.serial[: min(pushed, len(ring.serial))]]
        items.recent_count += np.bincount(slots[slots >= 0], minlength=items.capacity).astype(np.int32)
