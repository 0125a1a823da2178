"""A catalogue's file enters, of any format; its records leave in pieces, each with a hash of its bytes.

A record is decoded only where that is asked for: what has the hash that it had before says what it said
before. Hashes are keyed at random for each process, so that no file can be made to deceive.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from consumers.catalogue_records import NoItemError
from consumers.eventlog.byte_sources import FileBytes
from streaming.errors import InputFormatError
from streaming.events import Ids
from streaming.siphash import hash_each

_ROWS = 10_000  # of a table in one piece
_KEY = np.frombuffer(os.urandom(16), np.uint64)
_Row = tuple[str, ...] | csv.Error  # the cells, or why they cannot be read
_NULL = np.uint64(0x9E3779B97F4A7C15)


class Piece(NamedTuple):
    """Some records of a file, one behind the other.

    Attributes:
        hashes: (n,) of their bytes; a blank line has one, too.
        decoded: (position among them, place in the file, record) of those at these positions, in order;
            in place of a record that cannot be read, why. Blank lines are left out.
    """

    hashes: NDArray[np.int64]
    decoded: Callable[[Sequence[int]], Iterator[tuple[int, str, object]]]


def pieces_of(path: str, kind: str) -> Iterator[Piece]:
    """The records of a file.

    Args:
        kind: jsonl, csv, tsv or parquet.

    Raises:
        InputError: it cannot be read.
    """
    if kind == "parquet":
        return _of_parquet(path)
    return _of_lines(path) if kind == "jsonl" else _of_csv(path, "\t" if kind == "tsv" else ",")


def _of_lines(path: str) -> Iterator[Piece]:
    number = 1
    for lines in _lines(path):
        yield Piece(_hashes(map(hash, lines), len(lines)), _line_decoder(lines, number))
        number += len(lines)


def _line_decoder(
    lines: list[bytes], first: int
) -> Callable[[Sequence[int]], Iterator[tuple[int, str, object]]]:
    def decoded(which: Sequence[int]) -> Iterator[tuple[int, str, object]]:
        decode = msgspec.json.decode
        for k in which:
            if line := lines[k].strip():
                record: object
                try:
                    record = decode(line)
                except (msgspec.DecodeError, RecursionError) as error:
                    record = NoItemError(f"expected JSON, got what is none: {error}")
                yield k, f"line {first + k}", record

    return decoded


def _of_csv(path: str, separator: str) -> Iterator[Piece]:
    parts = (b"\n".join(part).decode("utf-8", "surrogateescape").split("\n") for part in _lines(path) if part)
    lines = (line + "\n" for part in parts for line in part)
    rows = csv.reader(lines, delimiter=separator, strict=True)
    header = [name.removeprefix("\ufeff") for name in next(rows, [])]
    names = np.int64(hash(tuple(header)))
    read = _rows_of(rows)
    while found := list(islice(read, _ROWS)):
        # The same cells under another header are another record.
        hashes = _hashes((hash(row) for _, row in found), len(found)) ^ names
        yield Piece(hashes, _row_decoder(found, header))


def _rows_of(rows: Any) -> Iterator[tuple[int, _Row]]:
    """(line, cells) of each row, or why it cannot be read."""
    while True:
        line = rows.line_num + 1
        try:
            yield line, tuple(next(rows))
        except StopIteration:
            return
        except csv.Error as error:
            yield line, error


def _row_decoder(
    rows: list[tuple[int, _Row]], header: list[str]
) -> Callable[[Sequence[int]], Iterator[tuple[int, str, object]]]:
    def decoded(which: Sequence[int]) -> Iterator[tuple[int, str, object]]:
        for k in which:
            line, row = rows[k]
            if row != ():
                yield k, f"line {line}", _record_of(row, header)

    return decoded


def _record_of(row: _Row, header: list[str]) -> object:
    if isinstance(row, csv.Error):
        return NoItemError(f"the row cannot be read: {row}")
    if len(row) > len(header):
        return NoItemError(f"expected {len(header)} cells as in the header, got {len(row)}")
    if not _is_text(row):
        return NoItemError("expected UTF-8, got other bytes")
    return dict(zip(header, row, strict=False))


def _of_parquet(path: str) -> Iterator[Piece]:
    number = 1
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS):
                yield Piece(_hashes_of_batch(batch), _batch_decoder(batch, number))
                number += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputFormatError(
            f"{path} after row {number - 1}: this is no whole parquet file ({error}). Write it again."
        ) from error


def _batch_decoder(
    batch: pa.RecordBatch, first: int
) -> Callable[[Sequence[int]], Iterator[tuple[int, str, object]]]:
    def decoded(which: Sequence[int]) -> Iterator[tuple[int, str, object]]:
        wanted = batch if len(which) == len(batch) else batch.take(pa.array(which, pa.int64()))
        for k, record in zip(which, wanted.to_pylist(), strict=True):
            yield k, f"row {first + k}", record

    return decoded


def _hashes_of_batch(batch: pa.RecordBatch) -> NDArray[np.int64]:
    """(rows,) hashes of a table's rows."""
    words = np.empty((len(batch), len(batch.schema) + 1), np.uint64)
    words[:, -1] = np.int64(hash(tuple(batch.schema.names))).astype(np.uint64)
    for k, column in enumerate(batch.columns):
        words[:, k] = _hashes_of_column(column)
    return _hashes_of_words(words.ravel(), np.arange(len(batch) + 1) * words.shape[1]).view(np.int64)


def _hashes_of_column(column: pa.Array) -> NDArray[np.uint64]:
    """(rows,) hashes of a column's values, lists and structs by their parts."""
    kind, n = column.type, len(column)
    if pa.types.is_null(kind):
        return np.full(n, _NULL)
    if pa.types.is_dictionary(kind):
        return _hashes_of_column(column.dictionary_decode())
    if pa.types.is_struct(kind):
        parts = [_hashes_of_column(part) for part in column.flatten()]
        words = np.stack(parts, axis=1) if parts else np.zeros((n, 0), np.uint64)
        found = _hashes_of_words(words.ravel(), np.arange(n + 1) * words.shape[1])
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        found = _hashes_of_words(_hashes_of_column(column.flatten()), np.append(0, np.cumsum(lengths)))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        values = column.fill_null(pa.scalar(0).cast(kind)).to_numpy(zero_copy_only=False)
        whole = values.astype(np.float64).view(np.uint64) if pa.types.is_floating(kind) else values
        found = _hashes_of_words(whole.astype(np.uint64), np.arange(n + 1))
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = column.cast(pa.large_string())
        _, ends, data = text.buffers()
        at = np.frombuffer(ends, np.int64)[text.offset : text.offset + n + 1]
        found = hash_each(_KEY, Ids(np.frombuffer(data or b"\0", np.uint8), at[:-1], at[1:]))
    else:  # nothing that an item may have
        found = _hashes((hash(repr(value)) for value in column.to_pylist()), n).view(np.uint64)
    found[~column.is_valid().to_numpy(zero_copy_only=False)] = _NULL
    return found


def _hashes_of_words(words: NDArray[np.uint64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) hashes of n runs of words, of which run k is words[ends[k]:ends[k + 1]]."""
    data = np.ascontiguousarray(words).view(np.uint8) if len(words) else np.zeros(1, np.uint8)
    return hash_each(_KEY, Ids(data, ends[:-1] * 8, ends[1:] * 8))


def _hashes(found: Iterator[int], count: int) -> NDArray[np.int64]:
    return np.fromiter(found, np.int64, count)


def _lines(path: str) -> Iterator[list[bytes]]:
    """The lines of a file without their ends, some thousands at a time."""
    rest = b""
    with closing(FileBytes(path)) as file:
        while block := file.read(0):
            *lines, rest = (rest + block).split(b"\n")
            yield lines
    if rest:
        yield [rest]


def _is_text(row: tuple[str, ...]) -> bool:
    """Whether the bytes of all cells were UTF-8."""
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return False
    return True
