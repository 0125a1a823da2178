"""`freshet work`: a version learns from event files, or from Kafka."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import msgspec
import structlog
from cyclopts import Parameter
from prometheus_client import REGISTRY

from consumers.commands.context import current_settings
from consumers.commands.output import emit, progress
from consumers.control import Control, Holder
from consumers.dead_letters import DeadLetterLog, DeadLetters
from consumers.embeddings import EmbeddingWorker, Pace, Totals
from consumers.eventlog.files import FilesLog
from consumers.eventlog.segments import EVENTS, Segments, is_segments
from consumers.kafka_settings import client_settings
from consumers.live import forget_first, live_arena
from consumers.machine_metrics import MachineMetrics, announced
from consumers.metrics import WorkerMetrics, serve_metrics
from consumers.settings import Settings
from state.erasure import read_erasures
from state.learned import Learned
from state.ledger import Ledger, as_json
from state.rocksdb import RocksStore
from state.versions import Registry, Version
from streaming.errors import StoreLockedError, UsageError
from streaming.rules import EventRules

if TYPE_CHECKING:
    from consumers.eventlog.kafka import KafkaLog

logger = structlog.get_logger()

KAFKA = "kafka"
_STANDBY_S = 0.5  # between two tries to get the store
_START = '--start must be earliest, latest, or a time with its zone such as 2026-11-24T12:00:00Z, got "{}".'


def work(
    version: str,
    /,
    *,
    from_: Annotated[list[str] | None, Parameter(name="--from", consume_multiple=True, negative=())] = None,
    until_end: Annotated[bool, Parameter(negative=())] = False,
    follow: Annotated[bool, Parameter(negative=())] = False,
    format: str | None = None,
    start: str = "earliest",
    on_lost_offsets: Literal["earliest", "latest", "stop"] = "stop",
    take_over: Annotated[bool, Parameter(negative=())] = False,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Learn events into a version, and keep rows and offsets together in its store.

    Parameters
    ----------
    version
        The version that learns; `freshet versions create` makes one.
    from_
        Event files (JSON lines, CSV, parquet, plain or .gz or .zst), read one after the other; "-" is
        standard input, "kafka" the topic in the settings, HOME/events what `freshet serve` was sent.
        Without it, Kafka where kafka.bootstrap_servers is set, else the files that the version learned
        from before, else HOME/events.
    until_end
        Stop at the end of the files. This is what happens without --follow, too. With Kafka: stop at
        what is the end now.
    follow
        Wait for events that are appended.
    format
        Format of the files (jsonl, csv, tsv, parquet), where their names do not tell.
    start
        Where a version that has learned nothing of the topic begins: earliest, latest, or a time, as
        2026-11-24T12:00:00Z or in milliseconds since 1970.
    on_lost_offsets
        What to do where Kafka no longer has what comes next (retention passed it, the topic was made
        anew, the log lost records): go on at the earliest or the latest record, or stop.
    take_over
        Go on although the consumer group says that another store learns this version.
    json
        Print what was done as JSON.
    """
    if follow and until_end:
        raise UsageError("--follow waits for more and --until-end stops at the end; give one of them.")
    settings = current_settings()
    chosen = Registry(settings.home).get(version)
    by_kafka = from_ == [KAFKA] or (from_ is None and bool(settings.kafka.bootstrap_servers))
    if by_kafka and (follow or format):
        raise UsageError("--follow and --format are for files; Kafka is followed, and holds JSON.")
    begin = started_at(start)
    stop = stop_on_signals()
    with ExitStack() as held:
        store = opened(chosen, stop, waits=by_kafka)
        if store is None:
            return 0  # told to stop while another worker had the store
        held.enter_context(store)
        forget_first(chosen, store)
        arena = live_arena(chosen, settings)
        held.callback(arena.close)
        learned = Learned(chosen.spec, store, user_cache=settings.worker.user_cache, arena=arena)
        rules = event_rules(settings)
        log: FilesLog | KafkaLog
        if by_kafka:
            options = KafkaOptions(begin, on_lost_offsets, take_over, until_end)
            log = kafka_log(chosen, learned.ledger, rules, settings, options)
        else:
            sources = [source.name for source in learned.ledger.sources]
            paths = from_ or known_files(settings.home / EVENTS, sources, follow=follow)
            log = files_log(paths, learned.ledger, rules, follow=follow, format=format)
        aside = _dead_letters(chosen, log, settings, stop)
        totals = _run(chosen, learned, log, aside, settings, stop)
        if not log.repeatable:
            effect = "this version cannot be rebuilt from its log"
            logger.warning("input_not_repeatable", source="-", effect=effect)
        emit(_report(chosen, learned, totals), json, lambda: _words(chosen, learned, totals, aside.place))
    return 0


def known_files(events: Path, sources: list[str], *, follow: bool) -> list[str]:
    """What a version reads that is told nothing: what it read before, else what the server was sent.

    Raises:
        UsageError: there is neither.
    """
    here = os.path.abspath(events)
    others = [name for name in sources if os.path.dirname(name) != here]
    if follow and not others:
        Segments(events).settle()  # the server may begin later than this worker
    sent = len(others) < len(sources) or (not others and is_segments(events))
    paths = [*others, str(events)] if sent else others
    if not paths:
        raise UsageError(
            "The version has learned nothing yet and the server was sent no events, so --from must name "
            "event files; or give --follow, to wait for what `freshet serve` is sent."
        )
    return paths


def files_log(
    paths: list[str], ledger: Ledger, rules: EventRules, *, follow: bool, format: str | None
) -> FilesLog:
    """Event files, read on from where a ledger stands."""
    units = {s.name: s.time_unit for s in ledger.sources if s.time_unit}
    return FilesLog(paths, rules, follow=follow, format=format, time_units=units)


class KafkaOptions(NamedTuple):
    """Where a topic is begun, and what is done where it is not as it was."""

    start: str | int
    on_lost: Literal["earliest", "latest", "stop"]
    take_over: bool
    until_end: bool


def started_at(text: str) -> str | int:
    """`--start`: "earliest", "latest", or milliseconds since 1970.

    Raises:
        UsageError: it is neither, nor a time with its zone.

    >>> started_at("latest"), started_at("1970-01-01T00:01:00Z"), started_at("60000")
    ('latest', 60000, 60000)
    """
    if text in ("earliest", "latest"):
        return text
    try:
        if text.isdecimal():
            return int(text)
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            return round(moment.timestamp() * 1000)
    except ValueError as error:
        raise UsageError(_START.format(text)) from error
    raise UsageError(_START.format(text))


def opened(version: Version, stop: Flag, *, waits: bool) -> RocksStore | None:
    """The version's store, once no other worker has it; None when told to stop before."""
    told = False
    while True:
        try:
            store = version.open()
        except StoreLockedError:
            if not waits:
                raise
            if not told:
                logger.info("standby", version=version.name, waits_for="the worker that has the store")
            told = True
            if stop.wait(_STANDBY_S):
                return None
        else:
            if told:
                logger.info("taking_over", version=version.name)
            return store


def kafka_log(
    version: Version, ledger: Ledger, rules: EventRules, settings: Settings, options: KafkaOptions
) -> KafkaLog:
    """The topic in the settings, read on from where a ledger stands."""
    from kafka import KafkaConsumer

    from consumers.eventlog.group_offsets import GroupOffsets
    from consumers.eventlog.kafka import KafkaLog

    client = client_settings(settings, KafkaConsumer)
    topic, sources = settings.events.topic, ledger.sources
    # A restored or rebuilt store has a new identity; those it had here are still this machine's own.
    path = version.path / "kafka-identities"
    earlier = path.read_text().split() if path.exists() else []
    if version.identity not in earlier:
        with path.open("a") as file:
            file.write(version.identity + "\n")
    group = GroupOffsets(
        client, f"freshet.{version.name}", version.identity, earlier=earlier, take_over=options.take_over
    )
    try:
        return KafkaLog(
            topic,
            rules,
            client,
            known=sources,
            start=options.start,
            on_lost_offsets=options.on_lost,
            until_end=options.until_end,
            group=group,
            learned_until_s=ledger.watermark if any("[" not in s.name for s in sources) else 0,
        )
    except BaseException:
        group.close()
        raise


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


def _run(
    version: Version,
    learned: Learned,
    log: FilesLog | KafkaLog,
    dead_letters: DeadLetterLog,
    settings: Settings,
    stop: Flag,
) -> Totals:
    worker = settings.worker
    metrics = WorkerMetrics(REGISTRY)
    MachineMetrics(settings.home, REGISTRY)
    seen = metrics.of(version.name)
    doing, size = ("Learning (bytes)", log.progress()[1]) if isinstance(log, FilesLog) else ("Learning", None)

    def done(totals: Totals) -> float:
        return log.progress()[0] if isinstance(log, FilesLog) else totals.events

    def observe(totals: Totals) -> None:
        show(done(totals))
        seen.observe_turn()
        if not isinstance(log, FilesLog):
            seen.observe_key_mismatches(log.key_mismatches)

    control = Control(Holder(version, learned.store, lambda: learned))
    with control, _metrics_page(version, settings), progress(doing, size) as show:
        embedding_worker = EmbeddingWorker(
            learned,
            log,
            dead_letters=None if settings.events.on_bad_record == "stop" else dead_letters,
            metrics=seen,
            rules=rules_text(event_rules(settings)),
            pace=Pace(worker.commit_interval_min, worker.commit_interval_max, worker.commit_share),
            batch_events=worker.batch_events,
            observe=observe,
            control=control,
            confirm=None if isinstance(log, FilesLog) else log.confirm,
            erasures=partial(read_erasures, version.home),
        )
        with closing(dead_letters), closing(log):
            totals = embedding_worker.run(stop)
    for source in learned.ledger.sources:
        if source.time_unit:
            logger.info("time_unit", source=source.name, unit=source.time_unit)
    return totals


@contextmanager
def _metrics_page(version: Version, settings: Settings) -> Iterator[None]:
    """The metrics page, for as long as the worker runs, where the settings want one."""
    worker = settings.worker
    if worker.metrics_port is None:
        yield
        return
    port = serve_metrics(REGISTRY, worker.metrics_port, worker.metrics_host)
    address = f"{'127.0.0.1' if worker.metrics_host == '0.0.0.0' else worker.metrics_host}:{port}"
    logger.info("metrics_served", address=f"http://{address}/metrics")
    with announced(settings.home, f"work-{version.name}", address):
        yield


def _dead_letters(
    version: Version, log: FilesLog | KafkaLog, settings: Settings, stop: Flag
) -> DeadLetterLog:
    """Where bad records go: those of files into the version's own file, those of a topic into a topic."""
    if isinstance(log, FilesLog):
        return DeadLetters(version.dead_letters_path)
    from kafka import KafkaConsumer

    from consumers.dead_letter_topic import KafkaDeadLetters
    from consumers.dead_letters_waiting import PatientLetters

    letters = KafkaDeadLetters(log.topic, version.name, client_settings(settings, KafkaConsumer))
    return PatientLetters(letters, stop)


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
        "evaluation": {
            "rate": learned.spec.evaluation_rate,
            "seconds_each": learned.evaluation_cost_s(),
        },
    }


def _words(version: Version, learned: Learned, totals: Totals, aside: str) -> str:
    rates = learned.prequential.summary()["overall"]
    speed = totals.events / totals.seconds if totals.seconds else 0.0
    lines = [
        f"{version.name}: {_counted(totals.events, 'event')} in {totals.seconds:.1f} s "
        f"({speed:,.0f} a second), {_counted(totals.commits, 'commit')}",
        f"knows {learned.items.count:,} items; learned {learned.ledger.learned:,} events in all",
    ]
    if rates["events"]:
        rate, cost = learned.spec.evaluation_rate, learned.evaluation_cost_s()
        lines += [
            f"hit rate at 10, each event predicted before it was learned: {rates['hr@10']:.3f} "
            f"({_counted(rates['events'], 'event')} drawn)",
        ]
        if cost:  # nothing was drawn in this run otherwise
            lines.append(
                f"evaluated: {rate:.3g} of the events, each among all items in {1e6 * cost:,.0f} µs, "
                f"so {1e6 * rate * cost:.2f} µs an event (evaluation_rate)"
            )
    if totals.dead_letters:
        lines.append(f"{_counted(totals.dead_letters, 'bad record')} set aside: {aside}")
    return "\n".join(lines)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
