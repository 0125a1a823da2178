"""`freshet simulate`: a seed enters, the events of a simulated stream leave for a file or a topic."""

from __future__ import annotations

import gzip
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import zstandard
from cyclopts import Parameter
from kafka import KafkaConsumer

from consumers.commands.context import current_settings
from consumers.commands.output import progress, stderr
from consumers.file_records import Records
from consumers.kafka_settings import client_settings
from consumers.producing import KeyedProducer
from consumers.replays import Replay
from consumers.sending import Pace, Timestamps, ready_topic, send_all
from streaming.errors import FreshetError, UsageError, nearest
from streaming.events import Ids
from streaming.simulator import TYPES, SimulatedBatch, SimulatedItems, Simulator, SimulatorOptions

_CHUNK = 10_000  # events made and written at once
_STEP_S = 0.1  # with a rate, the time between two writes
_TEXT = (".jsonl", ".ndjson", ".json", ".csv")
_PACKED = (".gz", ".zst")
_ENDINGS = [*_TEXT, *(text + packed for text in _TEXT for packed in _PACKED), ".parquet"]

Write = Callable[[Callable[[], pa.Table], Callable[[], bytes]], None]


def simulate(
    *,
    events: int = 100_000,
    seed: int = 1,
    out: str = "-",
    rate: float | None = None,
    items_out: str | None = None,
    users: int = 5_000,
    items: int = 1_500,
    dimension: int = 16,
    shift_at: int | None = None,
    start: int = 0,
    truth: Annotated[bool, Parameter(negative=())] = False,
    to: Literal["file", "kafka"] = "file",
    topic: str | None = None,
    timestamps: Timestamps = "now",
    again: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Write the events of a simulated stream whose true preferences are known.

    The same seed gives the same events. Standard error says what hit rate the
    best possible recommender would reach on them. With `--to kafka` they go to a
    topic, keyed by user; after an end of any kind the same command goes on where
    the topic stands, without a gap or a double.

    Parameters
    ----------
    events
        Number of events.
    seed
        Seed of the simulated world.
    out
        File to write, its form by its name: .jsonl, .csv (each also with .gz or .zst) or .parquet;
        "-" for JSON lines on standard output.
    rate
        Events per second of wall time; as fast as possible when left out.
    items_out
        File for the items: id, category, content features; same forms.
    users
        Users who may come back at any one time.
    items
        Items that are alive at any one time.
    dimension
        Dimension of the true tastes.
    shift_at
        Event number at which all tastes and popularities change at once.
    start
        Number of the first event written; those before it are made and left out.
    truth
        Also write, for each event, oracle_rank (items that were truly likelier) and its probability.
        Not for JSON lines.
    to
        Where the events go: to the file of --out, or to Kafka.
    topic
        With --to kafka, the topic; the one in the settings when left out. It is made where it is absent.
    timestamps
        With --to kafka, timestamp of each record: the time at which it is sent, or the simulated time.
    again
        With --to kafka, send all events, whatever was sent before.
    """
    _check(events, start, rate)
    _check_files(out, items_out, truth, to)
    options = SimulatorOptions(seed=seed, users=users, items=items, dimension=dimension, shift_at=shift_at)
    simulator = Simulator(options)
    simulator.skip(start)
    hits = 0

    def counted(batch: SimulatedBatch) -> SimulatedBatch:
        nonlocal hits
        hits += int(np.count_nonzero(batch.oracle_rank < 10))
        return batch

    with progress("Simulating", events) as tell:
        if to == "kafka":
            pieces = (_records(counted(batch)) for batch in _batches(simulator, events, None, rate))
            _send(pieces, options, topic, rate, timestamps, again, lambda: tell(simulator.position - start))
        else:
            with _writer(out) as write:
                for batch in _batches(simulator, events, rate, rate):
                    write(partial(_event_table, batch, truth), counted(batch).json_lines)
                    tell(simulator.position - start)
    if items_out is not None:
        _write_items(simulator.items(), items_out)
    stderr.print(f"{events:,} events of simulator[{seed}]; the best possible HR@10 is {hits / events:.4f}")


def _check(events: int, start: int, rate: float | None) -> None:
    """Raises UsageError for numbers that make no sense."""
    for name, value, least in (("events", events, 1), ("start", start, 0)):
        if value < least:
            raise UsageError(f"--{name}: expected a number from {least}, got {value}.")
    if rate is not None and not 0 < rate < float("inf"):
        raise UsageError(f"--rate: expected a number above 0, got {rate}.")


def _check_files(out: str, items_out: str | None, truth: bool, to: Literal["file", "kafka"]) -> None:
    """Raises UsageError for files whose form is unknown, or that cannot hold what is asked for."""
    if truth and _form(out) == "jsonl":
        raise UsageError(f'--truth: expected a .csv or .parquet file in --out, got "{out}".')
    if items_out is not None and _form(items_out) and items_out == out:
        raise UsageError(f'--items-out: expected another file than --out, got "{out}" for both.')
    if to == "kafka" and out != "-":
        raise UsageError(f'--out is for files, got "{out}" with --to kafka. Leave it out.')


def _send(
    pieces: Iterable[Records],
    options: SimulatorOptions,
    topic: str | None,
    rate: float | None,
    timestamps: Timestamps,
    again: bool,
    tell: Callable[[], None],
) -> None:
    """Send the events to Kafka, those that are not there yet."""
    settings = current_settings()
    client = client_settings(settings, KafkaConsumer)
    world = ", ".join(f"{name}={value}" for name, value in asdict(options).items())
    target = ready_topic(client, topic or settings.events.topic, options.start_us, timestamps)
    with (
        Replay.open(settings.home, f"simulator[{world}]", target, client, again=again) as run,
        KeyedProducer(target, client, run.note.run) as producer,
    ):
        done = send_all(pieces, run, producer, client, pace=Pace(rate=rate), timestamps=timestamps, tell=tell)
    stderr.print(f"{done.sent:,} events sent to {target.name}; {done.already_there:,} were there already")


def _records(batch: SimulatedBatch) -> Records:
    """Simulated events as a topic takes them."""
    lines = np.frombuffer(batch.json_lines(), np.uint8)
    ends = np.flatnonzero(lines == 10)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    numbers = np.arange(batch.first, batch.first + len(batch))
    return Records(numbers, batch.user_ids(), Ids(lines, starts, ends), batch.ts)


def _batches(
    simulator: Simulator, events: int, rate: float | None, chunk_rate: float | None
) -> Iterator[SimulatedBatch]:
    """The events in pieces, each when its last one falls due; of about 0.1 s each with `chunk_rate`."""
    began = time.monotonic()
    chunk = _CHUNK if chunk_rate is None else max(1, min(_CHUNK, int(chunk_rate * _STEP_S)))
    for done in range(0, events, chunk):
        count = min(chunk, events - done)
        if rate is not None:
            time.sleep(max(0.0, began + (done + count) / rate - time.monotonic()))
        yield simulator.events(count)


def _form(out: str) -> str:
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
def _writer(out: str) -> Iterator[Write]:
    """A function that appends a table to the file, in the form that the file's name says.

    Raises:
        UsageError: the name's form is unknown.
        FreshetError: the file cannot be written.
    """
    form = _form(out)
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


def _strings(ids: Ids) -> pa.Array:
    """Ids that lie one after the other as an Arrow array, without a copy of the text."""
    offsets = np.zeros(len(ids) + 1, np.int32)
    offsets[1:] = ids.end
    return pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(ids.data))


def _event_table(batch: SimulatedBatch, truth: bool) -> pa.Table:
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


def _write_items(items: SimulatedItems, out: str) -> None:
    with _writer(out) as write:
        write(partial(_item_table, items), partial(_item_lines, items))


def _item_table(items: SimulatedItems) -> pa.Table:
    """One row for each item; feature k is the column feature_k."""
    columns = {"item": _strings(items.ids()), "category": _strings(items.categories())}
    columns |= {f"feature_{k}": pa.array(column.copy()) for k, column in enumerate(items.features.T)}
    return pa.table(columns)


def _item_lines(items: SimulatedItems) -> bytes:
    """One JSON line for each item, its features in a list."""
    ids, categories = items.ids(), items.categories()
    return msgspec.json.Encoder().encode_lines(
        {"item": ids[k], "category": categories[k], "features": items.features[k].round(6).tolist()}
        for k in range(len(ids))
    )
