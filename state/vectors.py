"""Vectors of a version as a parquet file, out and in: the exchange form of the field.

id         text
vector     list of float32, of the version's dimension
bias       float32; only of items whose learner has one: what ranks is vector · user + bias
events     learned of the id
last_seen  time of the newest one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from state.answer_forms import Kind
from state.answers import learners_with_vectors
from state.guests import Guests
from state.learned import Learned
from state.lineage import Origin, lineage_put
from state.rocksdb import RocksStore
from state.spec import Spec
from state.versions import Registry, Version, checkpoint_of
from streaming import learners
from streaming.errors import InputError, InputFormatError, SettingError, StoreError, VersionError
from streaming.events import Ids
from streaming.learners.contract import Layout, Rows
from streaming.learners.decay import half_life_scale

_ROWS = 8192  # of a row group


def export_vectors(
    version: Version, kind: Kind, to: Path, observe: Callable[[int], None] | None = None
) -> int:
    """Write the vectors of a version's items or users, as of its last commit; the file is there whole or not.

    Args:
        observe: told how many were written.

    Returns:
        How many.

    Raises:
        VersionError: the learner has no vectors of this kind.
        StoreError: nothing was learned yet, or the file cannot be written.
    """
    half = to.with_name(f".{to.name}.new")
    with version.reading() as store:
        learned = Learned(version.spec, store, user_cache=1)
        parts = _items(version, learned) if kind == "item" else _users(version, learned)
        schema = _schema(learned, kind)
        try:
            with pq.ParquetWriter(half, schema) as writer:
                count = 0
                for part in parts:
                    writer.write_table(pa.Table.from_pydict(part, schema=schema))
                    count += len(part["id"])
                    if observe is not None:
                        observe(count)
            half.replace(to)
        except OSError as error:
            raise StoreError(f"{to}: the vectors cannot be written there ({error}).") from error
        finally:
            half.unlink(missing_ok=True)
    return count


def create_from_vectors(registry: Registry, name: str, spec: Spec, path: Path) -> int:
    """Make a version whose items begin with given vectors; their accumulators begin as always.

    Args:
        path: parquet with columns id and vector, and perhaps bias; other columns are left aside.

    Returns:
        How many items.

    Raises:
        InputError: the file cannot be read.
        InputFormatError: it does not hold ids with vectors of the version's dimension.
        SettingError: the learner has no item vectors, or given items would expire.
        VersionError, StoreError: as `Registry.create`.
    """
    column = _vector_column(spec)
    ids, vectors, bias = _given(path, column.stop - column.start, _bias_of(_layout(spec)) is not None)
    with registry.making(name, spec) as half, RocksStore(checkpoint_of(half)) as store:
        learned = Learned(spec, store, user_cache=1)
        slots, _ = learned.items.resolve(ids, np.ones(len(ids), np.bool_))
        if spec.options.get("cosine"):
            vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        learned.items.rows.floats[slots, column] = vectors
        place = _bias_of(learned.layout)
        if bias is not None and place is not None:
            learned.items.rows.floats[slots, place] = bias
        learned.commit()
        store.write([lineage_put([Origin("vectors", str(path.absolute()), 0, f"{len(ids):,} items")])])
        # No log gives these rows again: they stay beside the store.
        store.checkpoint(half / "snapshots" / f"{0:012d}")
    return len(ids)


def _layout(spec: Spec) -> Layout:
    learner = learners.load(spec.learner)
    layout: Layout = learner.layout(learners.options_of(learner, spec.options))
    return layout


def _vector_column(spec: Spec) -> slice:
    layout = _layout(spec)
    if not any(field.name == "vector" for field in layout.item):
        raise SettingError(
            f'The learner "{spec.learner}" has no item vectors to begin with. Learners that have: '
            f"{', '.join(learners_with_vectors())}."
        )
    if spec.items_live_s:
        raise SettingError(
            "Given items were never seen, so with items_live_s they would expire at once. Leave it 0."
        )
    return layout.column("item", "vector")


def _bias_of(layout: Layout) -> int | None:
    """Column of the items' bias."""
    has = any(field.name == "bias" for field in layout.item)
    return layout.column("item", "bias").start if has else None


def _given(
    path: Path, dimension: int, with_bias: bool
) -> tuple[Ids, NDArray[np.float32], NDArray[np.float32] | None]:
    """(N ids, (N, dimension) vectors, (N,) biases where the file has any) of a parquet file."""
    try:
        file = pq.ParquetFile(path)
        there = set(file.schema_arrow.names)
        if missing := {"id", "vector"} - there:
            raise _wrong(path, f"it has no column {' and no column '.join(sorted(missing))}")
        table = file.read([*("id", "vector"), *(("bias",) if with_bias and "bias" in there else ())])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: the vectors cannot be read ({error}).") from error
    names = [str(value) for value in table["id"].to_pylist()]
    if table["id"].null_count or "" in names or len(set(names)) != len(names):
        raise _wrong(path, "ids must be there, not empty, and each once")
    vectors = _matrix(table["vector"].combine_chunks(), path, dimension)
    bias = None
    if "bias" in table.column_names:
        bias = table["bias"].to_numpy().astype(np.float32)
    if not np.isfinite(vectors).all() or not (bias is None or np.isfinite(bias).all()):
        raise _wrong(path, "numbers must be finite")
    return _ids(names), vectors, bias


def _matrix(lists: Any, path: Path, dimension: int) -> NDArray[np.float32]:
    kind = lists.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise _wrong(path, f"the column vector must hold lists of numbers, it holds {kind}")
    lengths = set(pc.list_value_length(lists).to_pylist())
    if lengths - {dimension} or lists.flatten().null_count:
        found = ", ".join(map(str, sorted(lengths - {dimension}, key=str))) or "a number that is missing"
        raise _wrong(
            path, f"vectors must have {dimension} numbers, as the version's dimension says, got {found}"
        )
    try:
        flat = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"the column vector must hold lists of numbers, it holds {kind}") from error
    return np.ascontiguousarray(flat.reshape(-1, dimension))


def _wrong(path: Path, what: str) -> InputFormatError:
    return InputFormatError(
        f"{path}: these are no vectors to begin with: {what}. `freshet versions export` writes the form."
    )


def _ids(names: list[str]) -> Ids:
    pieces = [name.encode() for name in names]
    bounds = np.cumsum([0, *map(len, pieces)], dtype=np.int64)
    return Ids(np.frombuffer(b"".join(pieces), np.uint8), bounds[:-1], bounds[1:])


def _schema(learned: Learned, kind: Kind) -> pa.Schema:
    fields = [("id", pa.string()), ("vector", pa.list_(pa.float32()))]
    if kind == "item" and _bias_of(learned.layout) is not None:
        fields.append(("bias", pa.float32()))
    return pa.schema([*fields, ("events", pa.uint32()), ("last_seen", pa.timestamp("s", "UTC"))])


def _part(ids: list[str], vectors: NDArray[np.float32], rows: Rows, at: slice) -> dict[str, Any]:
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    ends = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1])
    seen = rows.seen[at]
    times = pa.array(seen, pa.timestamp("s", "UTC"), mask=seen == 0)  # 0: given, and never seen
    vector = pa.ListArray.from_arrays(ends, flat)
    return {"id": ids, "vector": vector, "events": pa.array(rows.events[at]), "last_seen": times}


def _items(version: Version, learned: Learned) -> Iterator[dict[str, Any]]:
    if not any(field.name == "vector" for field in learned.layout.item):
        raise _no_vectors(version, "item")
    items, column, bias = learned.items, learned.layout.column("item", "vector"), _bias_of(learned.layout)
    scale = np.float32(1.0)
    if learned.learner.bias_half_life is not None:
        half_life = learned.learner.bias_half_life(learned.options)
        scale = np.float32(half_life_scale(learned.ledger.number, half_life))
    for first in range(0, items.count, _ROWS):
        at = slice(first, min(items.count, first + _ROWS))
        names = [items.ids.id_of(slot).decode() for slot in range(at.start, at.stop)]
        part = _part(names, items.rows.floats[at, column], items.rows, at)
        if bias is not None:
            part["bias"] = items.rows.floats[at, bias] * scale
        yield part


def _users(version: Version, learned: Learned) -> Iterator[dict[str, Any]]:
    has = any(field.name == "vector" for field in learned.layout.user)
    if learned.learner.query is None and not has:
        raise _no_vectors(version, "user")
    guests = Guests(learned, _ROWS)
    for keys in guests.scan():
        n = len(keys)
        alive = np.flatnonzero(guests.alive(n))
        names = [keys[k].decode() for k in alive.tolist()]
        own = guests.rows
        rows = Rows(own.floats[alive], own.events[alive], own.seen[alive], own.touched[alive])
        yield _part(names, guests.vectors(n)[alive], rows, slice(None))


def _no_vectors(version: Version, kind: Kind) -> VersionError:
    return VersionError(
        f'The learner "{version.spec.learner}" of version "{version.name}" has no vectors of {kind}s. '
        f"Learners that have: {', '.join(learners_with_vectors())}."
    )
