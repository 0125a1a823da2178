"""`freshet work`: a version learns from event files, or from Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from threading import Event as Flag
from typing import TYPE_CHECKING, Annotated, Any, Literal

import structlog
from cyclopts import Parameter
from prometheus_client import REGISTRY

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, progress
from consumers.control import Control
from consumers.control_commands import Holder
from consumers.dead_letters import DeadLetterLog
from consumers.embeddings import EmbeddingWorker, Totals
from consumers.event_rules import event_rules, rules_text
from consumers.eventlog.files import FilesLog
from consumers.eventlog.segments import EVENTS
from consumers.live import forget_first, live_arena
from consumers.machine_metrics import MachineMetrics
from consumers.metrics import WorkerMetrics
from consumers.metrics_server import metrics_page
from consumers.pace import Pace
from consumers.settings import Settings
from consumers.signals import stop_on_signals
from consumers.standby import opened
from consumers.version_logs import (
    KafkaOptions,
    dead_letters,
    files_log,
    is_topic,
    kafka_log,
    known_files,
    started_at,
)
from state.erasure_list import read_erasures
from state.learned import Learned
from state.versions import Registry, Version

if TYPE_CHECKING:
    from consumers.eventlog.kafka import KafkaLog

logger = structlog.get_logger()


def work(
    version: str,
    /,
    *,
    from_: Annotated[list[str] | None, Parameter(name="--from", consume_multiple=True, negative=())] = None,
    until_end: Switch = False,
    follow: Switch = False,
    format: str | None = None,
    start: str = "earliest",
    on_lost_offsets: Literal["earliest", "latest", "stop"] = "stop",
    take_over: Switch = False,
    json: Switch = False,
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
    settings = current_settings()
    by_kafka = is_topic(from_, settings, until_end=until_end, follow=follow, format=format)
    chosen = Registry(settings.home).get(version)
    topic = KafkaOptions(started_at(start), on_lost_offsets, take_over, until_end)
    stop = stop_on_signals()
    with _learned(chosen, settings, stop, waits=by_kafka) as learned:
        if learned is None:
            return 0  # told to stop while another worker had the store
        ledger, rules = learned.ledger, event_rules(settings)
        log: FilesLog | KafkaLog
        if by_kafka:
            log = kafka_log(chosen, ledger, rules, settings, topic)
        else:
            sources = [source.name for source in ledger.sources]
            paths = from_ or known_files(settings.home / EVENTS, sources, follow=follow)
            log = files_log(paths, ledger, rules, follow=follow, format=format)
        aside = dead_letters(chosen, log, settings, stop)
        totals = _run(chosen, learned, log, aside, settings, stop)
        emit(_report(chosen, learned, totals), json, lambda: _words(chosen, learned, totals, aside.place))
    return 0


@contextmanager
def _learned(version: Version, settings: Settings, stop: Flag, *, waits: bool) -> Iterator[Learned | None]:
    """The version over its store and its live tables; None when told to stop before the store was free."""
    store = opened(version, stop, waits=waits)
    if store is None:
        yield None
        return
    with store:
        forget_first(version, store)
        with closing(live_arena(version, settings)) as arena:
            yield Learned(version.spec, store, user_cache=settings.worker.user_cache, arena=arena)


def _run(
    version: Version,
    learned: Learned,
    log: FilesLog | KafkaLog,
    aside: DeadLetterLog,
    settings: Settings,
    stop: Flag,
) -> Totals:
    """Learn until the log ends or `stop` is set, with control, metrics page and progress beside it."""
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
    with control, metrics_page(settings, f"work-{version.name}", REGISTRY), progress(doing, size) as show:
        embedding_worker = EmbeddingWorker(
            learned,
            log,
            dead_letters=None if settings.events.on_bad_record == "stop" else aside,
            metrics=seen,
            rules=rules_text(event_rules(settings)),
            pace=Pace(worker.commit_interval_min, worker.commit_interval_max, worker.commit_share),
            batch_events=worker.batch_events,
            observe=observe,
            control=control,
            confirm=None if isinstance(log, FilesLog) else log.confirm,
            erasures=partial(read_erasures, version.home),
        )
        with closing(aside), closing(log):
            totals = embedding_worker.run(stop)
    for source in learned.ledger.sources:
        if source.time_unit:
            logger.info("time_unit", source=source.name, unit=source.time_unit)
    if not log.repeatable:
        effect = "this version cannot be rebuilt from its log"
        logger.warning("input_not_repeatable", source="-", effect=effect)
    return totals


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
