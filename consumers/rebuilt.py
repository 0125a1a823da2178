"""A store and one that was made again enter; where they differ leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from state.findings import text_of
from state.store import Store
from streaming.errors import StoreError

MOST_DIFFERENCES = 1000  # kept; the others are counted


class Difference(NamedTuple):
    """A key whose value is not what the log says; "" for the store as a whole."""

    key: str
    what: str


@dataclass(slots=True)
class Rebuilt:
    """What came of a rebuild.

    Attributes:
        records: learned again: events, bad and blank ones.
        keys: compared.
        differences: the first MOST_DIFFERENCES of them.
        found: number of differences in all.
        replaced: whether the new store is now in the old one's place.
    """

    events: int = 0
    records: int = 0
    keys: int = 0
    differences: list[Difference] = field(default_factory=list)
    found: int = 0
    replaced: bool = False
    seconds: float = 0.0


def compare(old: Store, new: Store) -> Rebuilt:
    """Which keys of a store are not as in the store that was made again."""
    result = Rebuilt()
    for key, have, want in _side_by_side(_readable(old, result), new.scan(b"")):
        result.keys += 1
        if have is None:
            _note(result, key, "the log gives it; the store lacks it.")
        elif want is None:
            _note(result, key, "the store has it; the log does not give it.")
        elif have != want:
            pairs = enumerate(zip(have, want, strict=False))
            same = next((k for k, (a, b) in pairs if a != b), min(len(have), len(want)))
            sizes = f"{len(have)} bytes in the store, {len(want)} from the log"
            what = f"{sizes}; byte {same} is the first to differ."
            _note(result, key, what)
    return result


def _note(result: Rebuilt, key: bytes, what: str) -> None:
    result.found += 1
    if len(result.differences) < MOST_DIFFERENCES:
        result.differences.append(Difference(text_of(key), what))


def _readable(store: Store, result: Rebuilt) -> Iterator[tuple[bytes, bytes]]:
    """All that can be read of a store that may be damaged."""
    for letter in range(255):
        try:
            yield from store.scan(bytes([letter]))
        except StoreError as damage:
            _note(result, bytes([letter]), f"keys that start like this can be read in part only: {damage}")


def _side_by_side(
    old: Iterator[tuple[bytes, bytes]], new: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, old value, new value) of two ordered sequences."""
    a, b = next(old, None), next(new, None)
    while a is not None or b is not None:
        if b is None or (a is not None and a[0] < b[0]):
            assert a is not None
            yield a[0], a[1], None
            a = next(old, None)
        elif a is None or b[0] < a[0]:
            yield b[0], None, b[1]
            b = next(new, None)
        else:
            yield a[0], a[1], b[1]
            a, b = next(old, None), next(new, None)
