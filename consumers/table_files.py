"""Tables or JSON lines enter, piece by piece; a file in the form that its name says leaves."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import zstandard

from streaming.errors import FreshetError, UsageError, nearest

_TEXT = (".jsonl", ".ndjson", ".json", ".csv")
_PACKED = (".gz", ".zst")
_ENDINGS = [*_TEXT, *(text + packed for text in _TEXT for packed in _PACKED), ".parquet"]

Write = Callable[[Callable[[], pa.Table], Callable[[], bytes]], None]


def form_of(out: str) -> str:
    """ "jsonl", "csv" or "parquet", by the name.

    Raises:
        UsageError: the name ends in nothing known.
    """
    name = Path(out).name.lower()
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
    if out == "-":
        return "jsonl"
    if ending is None:
        near = nearest("".join(Path(name).suffixes), _ENDINGS)
        raise UsageError(f'"{out}": expected a name that ends in one of {", ".join(_ENDINGS)}.{near}')
    return "parquet" if ending == ".parquet" else "csv" if ending.startswith(".csv") else "jsonl"


@contextmanager
def table_file(out: str) -> Iterator[Write]:
    """A function that appends a piece to the file: a table, or JSON lines, as the file's name asks.

    Args:
        out: its name; "-" is standard output, in JSON lines.

    Raises:
        UsageError: the name's form is unknown.
        FreshetError: the file cannot be written.
    """
    form = form_of(out)
    try:
        with ExitStack() as stack:
            target = _open(out, stack)
            if form == "jsonl":
                yield lambda _, lines: _flush(target, lines())
            elif form == "csv":
                yield _csv_writer(target)
            else:
                yield _parquet_writer(target, stack)
    except BrokenPipeError:
        raise  # the reader has seen enough; the command line ends quietly
    except OSError as error:
        raise FreshetError(
            f"{out}: cannot write ({error.strerror or error}). Mend this, or choose another file."
        ) from error


def _open(out: str, stack: ExitStack) -> BinaryIO:
    """The file, behind a compressor where its name asks for one; closed by the stack."""
    if out == "-":
        return sys.stdout.buffer
    file = stack.enter_context(Path(out).open("wb"))  # noqa: SIM115 — the stack closes it
    if out.lower().endswith(".gz"):
        # No time and no name in the header: the same seed gives the same file.
        packed = gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0)
        return cast(BinaryIO, stack.enter_context(packed))
    if out.lower().endswith(".zst"):
        return cast(BinaryIO, stack.enter_context(zstandard.ZstdCompressor().stream_writer(file)))
    return file


def _flush(target: BinaryIO, lines: bytes) -> None:
    target.write(lines)
    target.flush()


def _csv_writer(target: BinaryIO) -> Write:
    started = False

    def write(table: Callable[[], pa.Table], _: Callable[[], bytes]) -> None:
        nonlocal started
        piece = io.BytesIO()
        form = pyarrow.csv.WriteOptions(include_header=not started, quoting_style="needed")
        pyarrow.csv.write_csv(table(), piece, form)
        started = True
        _flush(target, piece.getvalue())

    return write


def _parquet_writer(target: BinaryIO, stack: ExitStack) -> Write:
    writer: pyarrow.parquet.ParquetWriter | None = None

    def write(table: Callable[[], pa.Table], _: Callable[[], bytes]) -> None:
        nonlocal writer
        made = table()
        if writer is None:
            writer = stack.enter_context(pyarrow.parquet.ParquetWriter(target, made.schema))
        writer.write_table(made)

    return write
