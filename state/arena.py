"""Where the arrays of a version's tables lie: names and shapes enter, zeroed arrays leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streaming.learners.model import aligned

T = TypeVar("T", bound=tuple[Any, ...])

# Places in the head: what a reader has to know of the tables as a whole.
FORMAT, GENERATION, USERS_SEQUENCE, ITEMS_SEQUENCE, DONE, WATERMARK, COUNT, OLDEST = range(8)
NEXT_SERIAL, DURABLE, COMPLETE, HEARTBEAT_NS, LEFT = range(8, 13)
HEAD_SIZE = 16


class Arena:
    """Arrays in the process's own memory.

    Attributes:
        head: (HEAD_SIZE,) int64, what a reader has to know of the tables as a whole.
    """

    def __init__(self) -> None:
        self._depth = [0] * HEAD_SIZE
        self.head: NDArray[np.int64] = self.zeros("head", (HEAD_SIZE,), np.int64)

    def zeros(self, name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        """A zeroed array; rows of float32 start on a cache line. An earlier one of the name is given up."""
        if len(shape) == 2 and kind == np.float32:
            return aligned(*shape)
        return np.zeros(shape, kind)

    def keep(self, name: str, arrays: T) -> T:
        """A named tuple of arrays, kept here as `name.field`."""
        kept = []
        for field, array in zip(arrays._fields, arrays, strict=True):  # type: ignore[attr-defined]
            new = self.zeros(f"{name}.{field}", array.shape, array.dtype)
            new[...] = array
            kept.append(new)
        return type(arrays)(*kept)

    def grown(self, name: str, array: NDArray[Any], size: int, axis: int = 0) -> NDArray[Any]:
        """A copy with room for `size` rows; what is new is zero, and its pages are taken when touched."""
        shape = list(array.shape)
        shape[axis] = size
        new = self.zeros(name, tuple(shape), array.dtype)
        new[(slice(None),) * axis + (slice(0, array.shape[axis]),)] = array
        return new

    def all_grown(self, name: str, arrays: T, size: int, axis: int = 0) -> T:
        """A named tuple of arrays, each `grown`."""
        fields = arrays._fields  # type: ignore[attr-defined]
        pairs = zip(fields, arrays, strict=True)
        return type(arrays)(*(self.grown(f"{name}.{field}", a, size, axis) for field, a in pairs))

    @contextmanager
    def changing(self, sequence: int) -> Iterator[None]:
        """While slots change hands, which no row's own number tells: readers wait or read again.

        Args:
            sequence: USERS_SEQUENCE or ITEMS_SEQUENCE; odd while it lasts.
        """
        self._depth[sequence] += 1
        if self._depth[sequence] == 1:
            self.head[sequence] += 1
        try:
            yield
        finally:
            self._depth[sequence] -= 1
            if not self._depth[sequence]:
                self.head[sequence] += 1

    def publish(self) -> None:
        """Let readers see the arrays that are in use now."""

    def beat(self) -> None:
        """Say that all that came so far is learned."""

    def close(self) -> None:
        """No more changes come."""


PRIVATE = Arena()  # for arrays that nobody else reads, of whatever name
