"""What a version began with, where that was not nothing: another version's rows, or given vectors.

It stands in the store. A snapshot of the beginning stays beside it for good, because no log gives it again.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from state.ledger import as_json, sealed, unsealed
from state.store import Store

LINEAGE = b"mlineage"


class Origin(msgspec.Struct, frozen=True):
    """A beginning.

    Attributes:
        source: name of the version that was forked, or the file of the vectors.
        number: of the newest event in what it began with; the snapshot of this number is kept for good.
        detail: what was changed, in words.
        spec: of the version that was forked: what taught the rows until then.
        offsets: next offset of each source at that point.
    """

    kind: Literal["fork", "vectors"]
    source: str
    number: int
    detail: str = ""
    spec: dict[str, Any] = {}
    offsets: dict[str, int] = {}


def read_lineage(store: Store) -> list[Origin]:
    """The beginnings of a store's version, the newest last: a fork has those of what it was forked from."""
    value = store.get_many([LINEAGE])[0]
    return [] if value is None else msgspec.json.decode(unsealed(LINEAGE, value), type=list[Origin])


def lineage_put(origins: list[Origin]) -> tuple[bytes, bytes]:
    """Key and value of a lineage."""
    return LINEAGE, sealed(as_json(msgspec.to_builtins(origins)))
