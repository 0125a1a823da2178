"""`freshet sessions`: the transformer's worker of a version, until it is told to stop."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import structlog
from cyclopts import Parameter

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, progress
from consumers.commands.version_parts import given_of
from consumers.control import Control
from consumers.control_commands import Holder
from consumers.event_rules import event_rules, rules_text
from consumers.eventlog.files import FilesLog
from consumers.eventlog.segments import EVENTS
from consumers.live import live_arena
from consumers.machine_metrics import process_registry
from consumers.metrics_server import metrics_page
from consumers.pace import Pace
from consumers.settings import Settings
from consumers.signals import stop_on_signals
from consumers.standby import opened
from consumers.version_logs import KafkaOptions, files_log, is_topic, kafka_log, known_files, started_at
from state.erasure_list import read_erasures
from state.ledger import Ledger
from state.reader import Reader
from state.sequences_directory import SequenceDirectory, sequences_of
from state.versions import Registry, Version
from streaming import learners
from streaming.errors import StoreError, UsageError

if TYPE_CHECKING:
    from consumers.eventlog.kafka import KafkaLog
    from consumers.sessions import SessionTotals, SessionWorker
    from consumers.sessions_training import Training
    from state.arena import Arena
    from state.sequences import Sequences
    from state.store import Store

logger = structlog.get_logger()

_WAIT_S = 0.2  # between two looks for what the version has learned


def sessions(
    version: str,
    /,
    *,
    from_: Annotated[list[str] | None, Parameter(name="--from", consume_multiple=True, negative=())] = None,
    until_end: Switch = False,
    follow: Switch = False,
    format: str | None = None,
    start: str = "earliest",
    on_lost_offsets: Literal["earliest", "latest", "stop"] = "stop",
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    warm_start: Path | None = None,
    save: Path | None = None,
    json: Switch = False,
) -> int:
    """Train a transformer on what users do one after the other, and keep their sequence embeddings fresh.

    It runs beside `freshet work VERSION`, reads the same log from a position of its own, and changes nothing
    in the version. Servers use its embeddings while it runs and where their record is better.

    Parameters
    ----------
    version
        The version, with the learner softmax; it must have learned something, or be learning.
    from_
        As for `freshet work`; without it, Kafka where kafka.bootstrap_servers is set, else what the version
        learned from.
    until_end
        Stop at the end of the log. This is what happens with files without --follow, too.
    follow
        Wait for events that are appended.
    format
        Format of the files, where their names do not tell.
    start
        Where it begins in a topic of which it has read nothing: earliest, latest, or a time.
    on_lost_offsets
        What to do where Kafka no longer has what comes next.
    set_
        One option of the transformer as key=value (layers=2, length=50); may be repeated. They hold for good.
    warm_start
        Begin with weights that --save wrote for a transformer of the same form; only at the first start.
    save
        Write the weights there at the end.
    json
        Print {version, events, refreshed, steps, dropped, left_out, commits, seconds, offsets, gate}.
    """
    settings = current_settings()
    by_kafka = is_topic(from_, settings, until_end=until_end, follow=follow, format=format)
    kafka = KafkaOptions(started_at(start), on_lost_offsets, False, until_end) if by_kafka else None
    given = {key: str(value) for key, value in given_of(set_ or []).items()}
    chosen = Registry(settings.home).get(version)
    report = _followed(chosen, _Wanted(from_, follow, format, kafka, given, warm_start, save))
    if report is not None:
        emit(report, json, lambda: _words(report))
    return 0


class _Wanted(NamedTuple):
    """What the command line asks for; `kafka` where the log is a topic."""

    paths: list[str] | None
    follow: bool
    format: str | None
    kafka: KafkaOptions | None
    given: dict[str, str]
    warm_start: Path | None
    save: Path | None

    @property
    def follows(self) -> bool:
        """Whether the log is never read to its end."""
        return self.follow or (self.kafka is not None and not self.kafka.until_end)


def _followed(chosen: Version, wanted: _Wanted) -> dict[str, Any] | None:
    """Follow the log; returns what was done, None where it was told to stop before it began."""
    settings, directory, stop = current_settings(), sequences_of(chosen), stop_on_signals()
    with ExitStack() as held:
        reader = held.enter_context(closing(Reader(chosen)))
        if not _readable(reader, stop, waits=wanted.follows):
            return None
        store = opened(directory, stop, waits=wanted.kafka is not None)
        if store is None:
            return None
        held.enter_context(store)
        arena = live_arena(directory, settings)
        held.callback(arena.close)
        sequences, training = _opened_sequences(chosen, store, wanted, settings, arena)
        log = held.enter_context(closing(_log(chosen, sequences.ledger, wanted, settings)))
        sequences.warm()
        worker, totals = _run(
            chosen, sequences, training, log, reader, settings, stop, follows=wanted.follows
        )
        if wanted.save is not None:
            training.save(wanted.save)
        return _report(chosen.name, worker, totals)


def _opened_sequences(
    version: Version, store: Store, wanted: _Wanted, settings: Settings, arena: Arena
) -> tuple[Sequences, Training]:
    # They load JAX, which takes a second.
    from consumers.sessions_training import Training
    from state.sequences import open_sequences, settled_options

    options = settled_options(version.spec, store, wanted.given, round(settings.sessions.idle))
    limit, learner = settings.sessions.active_users, learners.load(version.spec.learner)
    sequences = open_sequences(version.spec, store, options, limit=limit, arena=arena)
    sequences.set_mode(settings.sessions.gate)
    training = Training(options, learner, version.spec.seed, sequences.counts, sequences.arrays)
    if wanted.warm_start is not None:
        if sequences.ledger.number:
            raise UsageError(
                f'The sequences of "{version.name}" have begun; --warm-start is for the first start.'
            )
        training.begin_with(wanted.warm_start)
    return sequences, training


def _log(version: Version, ledger: Ledger, wanted: _Wanted, settings: Settings) -> FilesLog | KafkaLog:
    rules = event_rules(settings)
    if wanted.kafka is not None:
        return kafka_log(sequences_of(version), ledger, rules, settings, wanted.kafka)
    paths = wanted.paths or _files(version, ledger, settings, follow=wanted.follow)
    return files_log(paths, ledger, rules, follow=wanted.follow, format=wanted.format)


def _readable(reader: Reader, stop: Flag, *, waits: bool) -> bool:
    """Whether the version can be read; waits for its worker where the log is followed."""
    told = False
    while not stop.is_set():
        try:
            reader.ask(lambda answers: answers.as_of)
        except StoreError as error:
            if not waits:
                raise
            if not told:
                logger.info("waiting_for_version", reason=str(error))
            told = True
            stop.wait(_WAIT_S)
        else:
            return True
    return False


def _files(version: Version, ledger: Ledger, settings: Settings, *, follow: bool) -> list[str]:
    """What the sequences read before, else what their version has."""
    sources = [source.name for source in ledger.sources]
    if not sources and version.learned_anything:
        with version.reading() as store:
            sources = [source.name for source in Ledger.read(store).sources]
    return known_files(settings.home / EVENTS, sources, follow=follow)


def _run(
    version: Version,
    sequences: Sequences,
    training: Training,
    log: FilesLog | KafkaLog,
    reader: Reader,
    settings: Settings,
    stop: Flag,
    *,
    follows: bool,
) -> tuple[SessionWorker, SessionTotals]:
    from consumers.sessions import SessionWorker
    from consumers.sessions_metrics import SessionMetrics

    directory, pace = sequences_of(version), settings.worker
    log_confirm = None if isinstance(log, FilesLog) else log.confirm

    def confirm() -> None:
        if log_confirm is not None:
            log_confirm()
        must_belong(directory)

    registry = process_registry()
    logger.info("kernels_compiling", takes="up to a minute, the first time")
    control = Control(Holder(directory, sequences.store, lambda: sequences))
    with (
        control,
        metrics_page(settings, f"sessions-{version.name}", registry),
        progress("Following (events)", None) as show,
    ):
        worker = SessionWorker(
            sequences,
            log,
            reader,
            metrics=SessionMetrics(registry, version.name),
            learner=learners.load(version.spec.learner),
            seed=version.spec.seed,
            training=training,
            pace=Pace(pace.commit_interval_min, pace.commit_interval_max, pace.commit_share),
            batch_events=pace.batch_events,
            behind_s=settings.sessions.behind if follows else None,
            compared=settings.sessions.compared,
            rules=rules_text(event_rules(settings)),
            control=control,
            confirm=confirm,
            erasures=partial(read_erasures, version.home),
            observed=lambda totals: show(totals.events),
        )
        totals = worker.run(stop)
    return worker, totals


def must_belong(directory: SequenceDirectory) -> None:
    """Refuse to go on for a version whose store was replaced.

    Raises:
        StoreError: so it is.
    """
    if not directory.belongs:
        raise StoreError(
            f"{directory.path}: the version was restored or rebuilt, and these sequences are of what it was "
            "before. Start `freshet sessions` again: it goes on from what belongs to the version now."
        )


def _report(version: str, worker: SessionWorker, totals: SessionTotals) -> dict[str, Any]:
    sequences, training = worker.sequences, worker.training
    return {
        "version": version,
        "events": totals.events,
        "refreshed": totals.refreshed,
        "steps": training.steps,
        "dropped": training.dropped,
        "left_out": sequences.counts.left_out,
        "commits": totals.commits,
        "seconds": round(totals.seconds, 3),
        "offsets": {source.name: source.next_offset for source in sequences.ledger.sources},
        "gate": [standing.reason for standing in sequences.gate.standings()],
    }


def _words(report: dict[str, Any]) -> str:
    lines = [
        f"{report['version']}: {report['events']:,} events in {report['seconds']:.1f} s, "
        f"{report['refreshed']:,} sequence embeddings, {report['commits']:,} commits",
        f"{report['steps']:,} training steps in all, of which {report['dropped']:,} were dropped; "
        f"{report['left_out']:,} were left out to keep up",
    ]
    return "\n".join(lines)
