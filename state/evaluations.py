"""How well a version predicts, as its store keeps it: totals under one key, the newest events in blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator

from state.ledger import as_json, sealed, unsealed
from state.store import Store
from streaming.evaluation import Prequential

TOTALS = b"mprequential"
_NEWEST = b"e"


def read_prequential(store: Store) -> Prequential | None:
    """What a store says; None where nothing was committed yet.

    Raises:
        CorruptRowError: a checksum does not fit.
    """
    totals = store.get_many([TOTALS])[0]
    if totals is None:
        return None
    blocks = ((int(key[1:]), unsealed(key, value)) for key, value in store.scan(_NEWEST))
    return Prequential.restored(json.loads(unsealed(TOTALS, totals)), blocks)


def prequential_puts(prequential: Prequential) -> Iterator[tuple[bytes, bytes]]:
    """What a commit must write: the totals, and the blocks that moved since the last one."""
    yield TOTALS, sealed(as_json(prequential.state()))
    for number, block in prequential.blocks():
        yield _NEWEST + b"%06d" % number, sealed(block)
