"""Simulated events and items enter; tables, JSON lines and records of a topic leave."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa

from consumers.file_records import Records
from streaming.events import Ids
from streaming.simulator import TYPES, SimulatedBatch, SimulatedItems


def event_table(batch: SimulatedBatch, truth: bool) -> pa.Table:
    """One row for each event; with `truth` also its rank by the true preferences, and its probability."""
    columns = {
        "user": _strings(batch.user_ids()),
        "item": _strings(batch.item_ids()),
        "ts": pa.array(batch.ts),
        "type": pa.array(TYPES).take(pa.array(batch.type)),
        "value": pa.array(batch.value),
    }
    if truth:
        columns |= {
            "oracle_rank": pa.array(batch.oracle_rank),
            "probability": pa.array(batch.probability),
        }
    return pa.table(columns)


def item_table(items: SimulatedItems) -> pa.Table:
    """One row for each item; feature k is the column feature_k."""
    columns = {"item": _strings(items.ids()), "category": _strings(items.categories())}
    columns |= {f"feature_{k}": pa.array(column.copy()) for k, column in enumerate(items.features.T)}
    return pa.table(columns)


def item_lines(items: SimulatedItems) -> bytes:
    """One JSON line for each item, its features in a list."""
    ids, categories = items.ids(), items.categories()
    return msgspec.json.Encoder().encode_lines(
        {"item": ids[k], "category": categories[k], "features": items.features[k].round(6).tolist()}
        for k in range(len(ids))
    )


def records(batch: SimulatedBatch) -> Records:
    """Simulated events as a topic takes them."""
    lines = np.frombuffer(batch.json_lines(), np.uint8)
    ends = np.flatnonzero(lines == 10)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    numbers = np.arange(batch.first, batch.first + len(batch))
    return Records(numbers, batch.user_ids(), Ids(lines, starts, ends), batch.ts)


def _strings(ids: Ids) -> pa.Array:
    """Ids that lie one after the other as an Arrow array, without a copy of the text."""
    offsets = np.zeros(len(ids) + 1, np.int32)
    offsets[1:] = ids.end
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(ids.data))
