"""`freshet replay`: files of events enter; a topic gets their records at a chosen speed."""

from __future__ import annotations

import time
from itertools import chain
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from kafka import KafkaConsumer

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, pairs, progress, stderr
from consumers.event_rules import event_rules
from consumers.file_records import FileRecords, made
from consumers.kafka_settings import client_settings
from consumers.producing import KeyedProducer
from consumers.replays import Replay
from consumers.sending import Pace, Sent, Timestamps, ready_topic, send_all
from streaming.errors import UsageError


def replay(
    files: Annotated[list[str], Parameter(negative=())],
    /,
    *,
    to: Literal["kafka"] = "kafka",
    topic: str | None = None,
    speed: str = "max",
    timestamps: Timestamps = "event",
    again: Switch = False,
    json: Switch = False,
) -> int:
    """Send the events of files to a Kafka topic, keyed by user.

    A JSON line is sent as it is; a row of CSV or parquet as a JSON object with user, item, ts, type and
    value. Records that are no events are left out. After an end of any kind the same command goes on where
    the topic stands: no record is left out, and none is sent twice. For that it notes in the home directory
    what was begun; records of a file that is already in the topic are not sent again.

    Parameters
    ----------
    files
        Event files (JSON lines, CSV, parquet, plain or .gz or .zst), sent one after the other.
    to
        Where the events go.
    topic
        The topic; the one in the settings when left out. It is made where it is absent.
    speed
        How many times faster than the events' own time, such as 10x; max for as fast as Kafka takes them.
    timestamps
        Timestamp of each record: the time of its event, or the time at which it is sent. Kafka's retention
        counts from it.
    again
        Send all of the files, whatever was sent before.
    json
        Print {topic, files, sent, seconds, records_per_second}.
    """
    pace, settings = Pace(speed=speed_of(speed)), current_settings()
    client, name = client_settings(settings, KafkaConsumer), topic or settings.events.topic
    rules, began = event_rules(settings), time.monotonic()
    done: dict[str, Sent] = {}
    for path in files:
        records = FileRecords(path, rules)
        try:
            pieces = iter(records)
            head = next(pieces, made([], [], [], []))
            target = ready_topic(client, name, int(head.ts.min()) if len(head) else None, timestamps)
            with (
                Replay.open(settings.home, records.source, target, client, again=again) as run,
                progress(f"Sending {path} (bytes)", records.progress()[1]) as show,
                KeyedProducer(target, client, run.note.run) as producer,
            ):
                done[path] = send_all(
                    chain([head], pieces), run, producer, client,
                    pace=pace, timestamps=timestamps, tell=lambda: show(records.progress()[0]),  # noqa: B023
                )  # fmt: skip
        finally:
            records.close()
        _tell(path, done[path])
    report = _report(name, done, time.monotonic() - began)
    emit(report, json, lambda: pairs({key: report[key] for key in ("topic", "sent", "records_per_second")}))
    return 0


def speed_of(text: str) -> float | None:
    """How many times faster, None for "max".

    >>> speed_of("10x"), speed_of("0.5x"), speed_of("max")
    (10.0, 0.5, None)
    """
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise UsageError(f'--speed: expected a number above 0 such as 10x, or max, got "{text}".')
    return speed


def _tell(path: str, done: Sent) -> None:
    if done.already_there:
        stderr.print(f"{path}: {done.already_there:,} records were in the topic already (--again sends all)")
    if done.left_out:
        stderr.print(f"{path}: {done.left_out:,} records are no events and were left out")


def _report(topic: str, done: dict[str, Sent], seconds: float) -> dict[str, Any]:
    sent = sum(one.sent for one in done.values())
    return {
        "topic": topic,
        "files": done,
        "sent": sent,
        "seconds": round(seconds, 3),
        "records_per_second": round(sent / seconds, 1) if seconds else None,
    }
