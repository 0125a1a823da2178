"""`freshet work`: a version learns from event files."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from threading import Event as Flag
from typing import Annotated, Any

import msgspec
import structlog
from cyclopts import Parameter
from prometheus_client import REGISTRY

from consumers.commands.context import current_settings
from consumers.commands.output import emit, progress
from consumers.control import Control, Holder
from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker, Pace, Totals
from consumers.eventlog.files import FilesLog
from consumers.metrics import WorkerMetrics, serve_metrics
from consumers.settings import Settings
from state.learned import Learned
from state.ledger import as_json
from state.versions import Registry, Version
from streaming.errors import UsageError
from streaming.rules import EventRules

logger = structlog.get_logger()


def work(
    version: str,
    /,
    *,
    from_: Annotated[list[str] | None, Parameter(name="--from", consume_multiple=True)] = None,
    until_end: Annotated[bool, Parameter(negative=())] = False,
    follow: Annotated[bool, Parameter(negative=())] = False,
    format: str | None = None,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Learn events into a version, and keep rows and offsets together in its store.

    Parameters
    ----------
    version
        The version that learns; `freshet versions create` makes one.
    from_
        Event files (JSON lines, CSV, parquet, plain or .gz or .zst), read one after the other; "-" is
        standard input. Without it, the files that the version learned from before.
    until_end
        Stop at the end of the files. This is what happens without --follow, too.
    follow
        Wait for events that are appended.
    format
        Format of the files (jsonl, csv, tsv, parquet), where their names do not tell.
    json
        Print what was done as JSON.
    """
    if follow and until_end:
        raise UsageError("--follow waits for more and --until-end stops at the end; give one of them.")
    settings = current_settings()
    chosen = Registry(settings.home).get(version)
    with chosen.open() as store:
        learned = Learned(chosen.spec, store, user_cache=settings.worker.user_cache)
        rules = event_rules(settings)
        paths = from_ or [s.name for s in learned.ledger.sources]
        if not paths:
            raise UsageError(f'"{version}" has learned nothing yet, so --from must name its event files.')
        units = {s.name: s.time_unit for s in learned.ledger.sources if s.time_unit}
        log = FilesLog(paths, rules, follow=follow, format=format, time_units=units)
        totals = _run(chosen, learned, log, rules, settings)
        if not log.repeatable:
            effect = "this version cannot be rebuilt from its log"
            logger.warning("input_not_repeatable", source="-", effect=effect)
        emit(_report(chosen, learned, totals), json, lambda: _words(chosen, learned, totals))
    return 0


def event_rules(settings: Settings) -> EventRules:
    """The rules by which records become events, as set."""
    events = settings.events
    return EventRules(
        fields=msgspec.to_builtins(events.fields),
        weights=events.weights,
        time_unit=events.time_unit,
        max_record_bytes=events.max_record_bytes,
        max_id_bytes=events.max_id_bytes,
    )


def rules_text(rules: EventRules) -> str:
    """The rules as canonical text, to be kept beside what was learned by them."""
    return as_json(asdict(rules)).decode()


def _run(version: Version, learned: Learned, log: FilesLog, rules: EventRules, settings: Settings) -> Totals:
    worker = settings.worker
    metrics = WorkerMetrics(REGISTRY)
    if worker.metrics_port is not None:
        port = serve_metrics(REGISTRY, worker.metrics_port)
        logger.info("metrics_served", address=f"http://127.0.0.1:{port}/metrics")
    stop = stop_on_signals()
    dead_letters = DeadLetters(version.dead_letters_path)
    _, size = log.progress()
    control = Control(Holder(version, learned.store, lambda: learned))
    with control, progress("Learning (bytes)", size) as show:
        embedding_worker = EmbeddingWorker(
            learned,
            log,
            dead_letters=None if settings.events.on_bad_record == "stop" else dead_letters,
            metrics=metrics.of(version.name),
            rules=rules_text(rules),
            pace=Pace(worker.commit_interval_min, worker.commit_interval_max, worker.commit_share),
            batch_events=worker.batch_events,
            observe=lambda totals: show(log.progress()[0]),
            control=control,
        )
        try:
            totals = embedding_worker.run(stop)
        finally:
            log.close()
            dead_letters.close()
    for source in learned.ledger.sources:
        if source.time_unit:
            logger.info("time_unit", source=source.name, unit=source.time_unit)
    return totals


def stop_on_signals() -> Flag:
    """A flag that Ctrl-C and SIGTERM set, so that the loop commits and leaves; a second Ctrl-C interrupts."""
    stop = Flag()

    def handle(number: int, _: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        print("stopping: committing what was learned", file=sys.stderr)
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop


def _report(version: Version, learned: Learned, totals: Totals) -> dict[str, Any]:
    return {
        "version": version.name,
        "events": totals.events,
        "learned": totals.learned,
        "dead_letters": totals.dead_letters,
        "commits": totals.commits,
        "seconds": round(totals.seconds, 3),
        "events_per_second": round(totals.events / totals.seconds, 1) if totals.seconds else None,
        "offsets": {s.name: s.next_offset for s in learned.ledger.sources},
        "prequential": learned.prequential.summary(),
    }


def _words(version: Version, learned: Learned, totals: Totals) -> str:
    rates = learned.prequential.summary()["overall"]
    speed = totals.events / totals.seconds if totals.seconds else 0.0
    lines = [
        f"{version.name}: {totals.events:,} events in {totals.seconds:.1f} s ({speed:,.0f} a second), "
        f"{totals.commits} commits",
        f"knows {learned.items.count:,} items; learned {learned.ledger.learned:,} events in all",
    ]
    if rates["events"]:
        lines.append(
            f"hit rate at 10, each event predicted before it was learned: {rates['hr@10']:.3f} "
            f"({rates['events']:,} events drawn)"
        )
    if totals.dead_letters:
        lines.append(f"{totals.dead_letters} bad records set aside: {Path(version.dead_letters_path)}")
    return "\n".join(lines)
