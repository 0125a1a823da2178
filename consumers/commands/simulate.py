"""`freshet simulate`: a seed enters, the events of a simulated stream leave for a file or a topic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Literal

import numpy as np
from kafka import KafkaConsumer

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import progress, stderr
from consumers.file_records import Records
from consumers.kafka_settings import client_settings
from consumers.producing import KeyedProducer
from consumers.replays import Replay
from consumers.sending import Pace, Timestamps, ready_topic, send_all
from consumers.simulated_tables import event_table, item_lines, item_table, records
from consumers.table_files import form_of, table_file
from streaming.errors import UsageError
from streaming.simulator import SimulatedBatch, SimulatedItems, Simulator, SimulatorOptions

_CHUNK = 10_000  # events made and written at once
_STEP_S = 0.1  # with a rate, the time between two writes


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
    truth: Switch = False,
    to: Literal["file", "kafka"] = "file",
    topic: str | None = None,
    timestamps: Timestamps = "now",
    again: Switch = False,
) -> None:
    """Write the events of a simulated stream whose true preferences are known.

    The same seed gives the same events. Standard error says what hit rate the best possible recommender
    would reach on them. With `--to kafka` they go to a topic, keyed by user; after an end of any kind the
    same command goes on where the topic stands, without a gap or a double.

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
        Also write each event's oracle_rank (items that were truly likelier) and probability; no JSON lines.
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
    if to == "kafka":
        hits = _to_topic(simulator, events, rate, topic, timestamps, again)
    else:
        hits = _to_file(simulator, events, rate, out, truth)
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
    if truth and form_of(out) == "jsonl":
        raise UsageError(f'--truth: expected a .csv or .parquet file in --out, got "{out}".')
    if items_out is not None and form_of(items_out) and items_out == out:
        raise UsageError(f'--items-out: expected another file than --out, got "{out}" for both.')
    if to == "kafka" and out != "-":
        raise UsageError(f'--out is for files, got "{out}" with --to kafka. Leave it out.')


def _to_file(simulator: Simulator, events: int, rate: float | None, out: str, truth: bool) -> int:
    """Write the events to a file; returns how many the best possible recommender has among its first ten."""
    hits = written = 0
    with progress("Simulating", events) as tell, table_file(out) as write:
        for batch in _batches(simulator, events, rate, rate):
            write(partial(event_table, batch, truth), batch.json_lines)
            hits, written = hits + _hits(batch), written + len(batch)
            tell(written)
    return hits


def _to_topic(
    simulator: Simulator,
    events: int,
    rate: float | None,
    topic: str | None,
    timestamps: Timestamps,
    again: bool,
) -> int:
    """Send the events to Kafka, those that are not there yet; returns as `_to_file`."""
    settings = current_settings()
    client = client_settings(settings, KafkaConsumer)
    world = ", ".join(f"{name}={value}" for name, value in asdict(simulator.options).items())
    target = ready_topic(client, topic or settings.events.topic, simulator.options.start_us, timestamps)
    hits, start = 0, simulator.position

    def pieces() -> Iterator[Records]:
        nonlocal hits
        for batch in _batches(simulator, events, None, rate):
            hits += _hits(batch)
            yield records(batch)

    with (
        progress("Simulating", events) as tell,
        Replay.open(settings.home, f"simulator[{world}]", target, client, again=again) as run,
        KeyedProducer(target, client, run.note.run) as producer,
    ):
        done = send_all(
            pieces(), run, producer, client, pace=Pace(rate=rate), timestamps=timestamps,
            tell=lambda: tell(simulator.position - start),
        )  # fmt: skip
    stderr.print(f"{done.sent:,} events sent to {target.name}; {done.already_there:,} were there already")
    return hits


def _write_items(items: SimulatedItems, out: str) -> None:
    with table_file(out) as write:
        write(partial(item_table, items), partial(item_lines, items))


def _hits(batch: SimulatedBatch) -> int:
    return int(np.count_nonzero(batch.oracle_rank < 10))


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
