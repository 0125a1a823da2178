"""Parquet files enter, slices of events leave; plain columns are taken whole, without a step for each row."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from consumers.eventlog.byte_sources import FileBytes
from consumers.eventlog.contract import Slice
from consumers.eventlog.tabular import check_columns
from streaming.decoding import RAW_BYTES, Columns, settle
from streaming.errors import InputError, InputFormatError
from streaming.events import BadRecord
from streaming.json_scan import BLANK, FRACTION, SLOW, WHOLE, plain_ids
from streaming.rules import (
    DEFAULT_TYPE,
    FIELDS,
    LARGEST_VALUE,
    Event,
    EventRules,
    default_of,
    event_from_mapping,
    matches,
)

_ROWS = 8_192  # in memory at a time


class ParquetReader:
    """Events of a parquet file; offsets count its rows.

    Raises:
        InputFormatError: it is not parquet, is cut short or damaged, or lacks a column.
    """

    def __init__(self, path: str, rules: EventRules, time_unit: str | None) -> None:
        self.position = 0
        self._path = path
        self._rules = rules
        self._source = FileBytes(path)  # keeps an eye on the file
        try:
            self._open(time_unit)
        except InputError:
            self._source.close()
            raise

    def _open(self, time_unit: str | None) -> None:
        path, rules = self._path, self._rules
        self._file: Any = self._guarded(
            lambda: pq.ParquetFile(
                path, pre_buffer=False, buffer_size=1 << 16, page_checksum_verification=True
            )
        )
        self._total: int = self._file.metadata.num_rows
        schema = self._file.schema_arrow
        check_columns(path, schema.names, rules)
        wanted = [rules.name(field) for field in (*FIELDS, *(field for field, _ in rules.where))]
        self._columns = [name for name in dict.fromkeys(wanted) if name in schema.names]
        # A column of timestamps says its own unit.
        typed = _is_time(schema.field(rules.name("ts")).type)
        self.time_unit = "us" if typed else rules.given_unit or time_unit
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = None  # rows from `position` on
        self._start(0)

    @property
    def ended(self) -> bool:
        """Whether all rows were read."""
        return self.position >= self._total

    def read(self, most: int) -> Slice | None:
        """The next rows, at most `most`; None at the end."""
        if self.ended:
            return None
        rows = self._rows(most)
        try:
            found = self._decoded(rows)
        except pa.ArrowException as error:  # an index beyond its dictionary, say
            raise self._damaged(str(error).rstrip(".")) from error
        self._batch = self._batch.slice(rows.num_rows)
        self.position, self.time_unit = found.next_offset, found.time_unit
        return found

    def mappings(self, most: int) -> list[dict[str, object] | str | None] | None:
        """What the next rows say, at most `most`: column → cell; None at the end."""
        if self.ended:
            return None
        rows = self._rows(most)
        try:
            columns = _ParquetColumns(rows, self._rules)
            found = [columns.record(k) for k in range(rows.num_rows)]
        except pa.ArrowException as error:
            raise self._damaged(str(error).rstrip(".")) from error
        self._batch = self._batch.slice(rows.num_rows)
        self.position += rows.num_rows
        return list(found)

    def _rows(self, most: int) -> Any:
        """The next rows, at most `most`, as arrow columns; they stay the next ones."""
        self._source.check(self.position)
        while self._batch is None or self._batch.num_rows == 0:
            self._batch = self._guarded(lambda: next(self._batches, None))
            if self._batch is None:
                raise self._damaged(f"it ends at row {self.position} of {self._total}")
        return self._batch.slice(0, most)

    def _decoded(self, rows: Any) -> Slice:
        first, n = self.position, rows.num_rows
        columns = _ParquetColumns(rows, self._rules)

        def refuse(k: int, reason: str) -> BadRecord:
            raw = json.dumps(columns.record(k), default=str).encode()
            return BadRecord(first + k, reason, raw[:RAW_BYTES], len(raw) if len(raw) > RAW_BYTES else None)

        events, bad, unit = settle(
            columns.columns(), np.arange(first, first + n), self._rules, self.time_unit, columns.judge, refuse
        )
        return Slice(self._path, first, first + n, events, bad, time.time(), unit)

    def skip(self, records: int) -> int:
        """Go past so many rows; returns how many of them there were."""
        records = min(records, self._total - self.position)
        self.position += records
        self._start(self.position)
        return records

    def remaining(self) -> int:
        """Rows still to be read."""
        return self._total - self.position

    def progress(self) -> tuple[int, int]:
        """Bytes read and bytes in all."""
        size = self._source.progress()[1]
        return size * self.position // max(1, self._total), size

    def close(self) -> None:
        """Close the file."""
        self._source.close()
        self._file.close()

    def _start(self, row: int) -> None:
        metadata = self._file.metadata
        group = 0
        while group < metadata.num_row_groups and metadata.row_group(group).num_rows <= row:
            row -= metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, metadata.num_row_groups))
        self._batches = self._file.iter_batches(
            batch_size=_ROWS, row_groups=groups, columns=self._columns, use_threads=False
        )
        self._batch = None
        while row and groups:
            batch = self._guarded(lambda: next(self._batches, None))
            if batch is None:
                raise self._damaged("it has fewer rows than it says")
            self._batch = batch.slice(min(row, batch.num_rows))
            row -= min(row, batch.num_rows)

    def _guarded(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(str(error).rstrip(".")) from error

    def _damaged(self, why: str) -> InputError:
        return InputFormatError(
            f"{self._path} after row {self.position}: the parquet file is damaged or cut short ({why}). "
            "Put the whole file in its place and run the same command again."
        )


class _ParquetColumns:
    """Rows of one arrow batch, as columns and, where doubtful, as mappings."""

    def __init__(self, rows: Any, rules: EventRules) -> None:
        self._rules = rules
        self._n: int = rows.num_rows
        self._arrays = {
            name: _plain(array) for name, array in zip(rows.schema.names, rows.columns, strict=True)
        }

    def record(self, k: int) -> dict[str, object]:
        return {name: _cell(array[k]) for name, array in self._arrays.items()}

    def judge(self, k: int, unit: str | None) -> Event | str | None:
        return event_from_mapping(self.record(k), self._rules, unit)

    def columns(self) -> Columns:
        """What whole columns tell; rows with anything unexpected stay SLOW."""
        rules, n = self._rules, self._n
        user, user_plain = self._ids(rules.name("user"))
        item, item_plain = self._ids(rules.name("item"))
        columns = Columns.doubtful(np.concatenate([user[0], item[0]]), n)
        columns.spans[0], columns.spans[1] = user[1], user[2]
        columns.spans[2], columns.spans[3] = item[1] + len(user[0]), item[2] + len(user[0])
        sure = user_plain & item_plain & self._values(columns) & self._weights(columns)
        columns.kind[:] = np.where(sure, self._times(columns), SLOW)
        for field, wanted in rules.where:
            columns.kind[~self._fits(field, wanted)] = BLANK
        return columns

    def _ids(
        self, name: str
    ) -> tuple[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]:
        """Bytes, starts and ends of an id column, and which are valid ids as they are."""
        array = self._arrays[name]
        plain = np.zeros(self._n, np.bool_)
        nothing = np.zeros(self._n, np.int64)
        if pa.types.is_integer(array.type):
            array = array.cast(pa.large_string()).cast(pa.large_binary())
        elif not pa.types.is_large_binary(array.type):
            return (np.zeros(0, np.uint8), nothing, nothing), plain
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int64)[array.offset : array.offset + self._n + 1]
        base, stop = int(bounds[0]), int(bounds[-1])
        content = np.frombuffer(data, np.uint8)[base:stop] if stop > base else np.zeros(0, np.uint8)
        content.flags.writeable = False
        start, end = bounds[:-1] - base, bounds[1:] - base
        plain_ids(content, start, end, self._rules.max_id_bytes, plain)
        return (content, start, end), plain & _valid(array)

    def _times(self, columns: Columns) -> NDArray[np.uint8]:
        array = self._arrays[self._rules.name("ts")]
        kind = np.full(self._n, SLOW, np.uint8)
        if pa.types.is_integer(array.type) and not pa.types.is_uint64(array.type):
            columns.whole[:] = array.fill_null(-1).to_numpy(zero_copy_only=False)
            kind[columns.whole >= 0] = WHOLE
        elif pa.types.is_floating(array.type):
            columns.fraction[:] = array.cast(pa.float64()).fill_null(-1.0).to_numpy(zero_copy_only=False)
            kind[(columns.fraction >= 0) & np.isfinite(columns.fraction)] = FRACTION
        return kind

    def _values(self, columns: Columns) -> NDArray[np.bool_]:
        array = self._arrays.get(self._rules.name("value"))
        if array is None:
            return np.ones(self._n, np.bool_)
        if not (pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
            return ~_valid(array)
        values = array.cast(pa.float64(), safe=False).fill_null(1.0)
        columns.values[:] = values.to_numpy(zero_copy_only=False)
        return np.abs(columns.values) <= LARGEST_VALUE

    def _weights(self, columns: Columns) -> NDArray[np.bool_]:
        array = self._arrays.get(self._rules.name("type"))
        columns.weights[:] = self._rules.weight(DEFAULT_TYPE)
        if array is None:
            return np.ones(self._n, np.bool_)
        if not pa.types.is_large_binary(array.type):
            return ~_valid(array)
        distinct, which = _distinct(array)
        kinds = [DEFAULT_TYPE if kind is None else str(kind) for kind in distinct]
        columns.weights[:] = np.array([self._rules.weight(kind) for kind in kinds], np.float32)[which]
        return np.ones(self._n, np.bool_)

    def _fits(self, field: str, wanted: str | int | float) -> NDArray[np.bool_]:
        array = self._arrays.get(self._rules.name(field))
        if array is None:
            return np.full(self._n, matches(default_of(field), wanted))
        if pa.types.is_nested(array.type):
            return np.array([matches(_cell(scalar), wanted) for scalar in array], np.bool_)
        distinct, which = _distinct(array)
        values = [default_of(field) if value is None else value for value in distinct]
        return np.array([matches(value, wanted) for value in values], np.bool_)[which]


def _plain(array: Any) -> Any:
    """Dictionaries written out, text as bytes (parquet does not promise UTF-8), times in microseconds."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _plain(array.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_decimal(kind):
        return array.cast(pa.float64())
    if _is_time(kind):
        zone = kind.tz if pa.types.is_timestamp(kind) else None
        return array.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
    return array


def _is_time(kind: Any) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _cell(scalar: Any) -> object:
    value = scalar.as_py()
    if value is not None and pa.types.is_float32(scalar.type):
        return float(str(np.float32(value)))  # 4.1 as it was meant, not 4.099999904632568
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _distinct(array: Any) -> tuple[list[object], NDArray[np.int64]]:
    """Distinct cells, and for each row which it has."""
    encoded = pc.dictionary_encode(array, null_encoding="encode")
    which = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return [_cell(scalar) for scalar in encoded.dictionary], which


def _valid(array: Any) -> NDArray[np.bool_]:
    valid: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid
