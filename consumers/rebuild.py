"""A version made again: its journal and log enter; a store learned anew leaves, and how the old one differs.

The journal says which records were learned in which order, and the ledger by which rules they were
read. The worker's own code learns them again, so that the new store is equal to the byte, or the old
one is not what its log says.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.journal import JournalLog, topic_of
from consumers.eventlog.kafka_part import parsed_name
from consumers.metrics import WorkerMetrics
from consumers.rebuilt import Rebuilt, compare
from consumers.settings import WorkerSettings
from state.directories import alive
from state.erasure import forget
from state.erasure_list import read_erasures
from state.learned import Learned
from state.ledger import JournalSlice, Ledger, journal_of
from state.lineage import read_lineage
from state.rocksdb import RocksStore
from state.store import Store
from state.versions import Version
from streaming.errors import InputError, InputVanishedError, VersionError
from streaming.rules import EventRules


class _Reading(NamedTuple):
    """How sources are read: the format of files, and the settings of Kafka's client."""

    format: str | None
    client: Mapping[str, Any] | None


def rebuild(
    version: Version,
    *,
    from_snapshot: int | None = None,
    replace: bool = False,
    format: str | None = None,
    client: Mapping[str, Any] | None = None,
    settings: WorkerSettings | None = None,
    observe: Callable[[int, int], None] | None = None,
) -> Rebuilt:
    """Learn a version again from its log, and compare with its store as of the same offsets.

    Args:
        from_snapshot: begin with this snapshot, where the log before it is gone. Without it, begin with
            what the version began with: nothing, or what it was forked from.
        replace: put the new store in the place of one that differs; no worker may run.
        format: of the files, where their names do not tell.
        client: settings of kafka-python's consumer, needed where the version learned from a topic.
        observe: told the records learned again and those there are.

    Raises:
        SettingError: the version learned from Kafka, and `client` is missing.
        BrokerError: Kafka cannot be reached.
        VersionError: nothing was learned yet, or something that cannot be read again, as standard input.
        InputError: the log is not what it was.
        StoreLockedError: `replace`, and a worker has the store.
        CorruptRowError: the journal itself is damaged.
    """
    begun = time.monotonic()
    settings = settings or WorkerSettings()
    with version.open() if replace else version.reading() as store, _workplace(version) as place:
        made = place / "store"
        if from_snapshot is None:
            from_snapshot = _beginning(version, store)
        if from_snapshot is not None:
            with RocksStore(version.snapshot_path(from_snapshot)) as snapshot:
                snapshot.checkpoint(made)
        with RocksStore(made) as fresh, closing(DeadLetters(place / "dead-letters.jsonl")) as refused:
            learned = Learned(version.spec, fresh, user_cache=settings.user_cache)
            start = learned.ledger.records
            try:
                _learn_again(version, store, learned, refused, _Reading(format, client), settings, observe)
            except InputError as error:
                raise _with_way_out(error, version, from_snapshot) from error
            result = compare(store, fresh)
        result.events, result.records = learned.ledger.number, learned.ledger.records - start
        if replace and result.found:
            version.adopt(made)
            result.replaced = True
    result.seconds = time.monotonic() - begun
    return result


def _beginning(version: Version, store: Store) -> int | None:
    """The snapshot of what a version began with; None where that was nothing."""
    origins = read_lineage(store)
    if not origins:
        return None
    newest = origins[-1]
    if newest.number not in version.snapshots():
        begun = {"fork": f'as a fork of "{newest.source}"', "vectors": f"with vectors of {newest.source}"}
        raise VersionError(
            f'"{version.name}" began {begun[newest.kind]} after event {newest.number}, and the snapshot of '
            "that, which no log gives again, is gone. Begin with a later one: --from-snapshot NUMBER."
        )
    return newest.number


def _learn_again(
    version: Version,
    store: Store,
    learned: Learned,
    refused: DeadLetters,
    reading: _Reading,
    settings: WorkerSettings,
    observe: Callable[[int, int], None] | None,
) -> None:
    """Learn what the journal of `store` has beyond `learned`, in its order and by its rules.

    What was forgotten on the way is forgotten at the same places.
    """
    wanted, journal = Ledger.read(store), list(journal_of(store))
    start, end = learned.ledger.records, wanted.records
    _check_start(version, learned, wanted, journal)
    needed = {wanted.sources[part.partition].name for part in _cut(journal, start, end)}
    _check_sources(version, needed, [source.name for source in wanted.sources])
    metrics = WorkerMetrics(CollectorRegistry()).of(version.name)
    erasures, due = read_erasures(version.home), wanted.erasures[len(learned.ledger.erasures) :]
    periods = list(_periods(journal, wanted.rules, learned.ledger.rules, [at for at, _ in due], start, end))
    for number, (rules, slices) in enumerate(periods):
        while due and due[0][0] == learned.ledger.records:
            forget(learned, erasures.first(due.pop(0)[1]))
        units = {s.name: s.time_unit for s in learned.ledger.sources if s.time_unit}
        log = JournalLog(
            wanted.sources,
            slices,
            rules_of(rules),
            format=reading.format,
            client=reading.client,
            time_units=units,
            to_the_end=number == len(periods) - 1,
        )
        worker = EmbeddingWorker(
            learned,
            log,
            dead_letters=refused,
            metrics=metrics,
            rules=rules,
            batch_events=settings.batch_events,
            observe=lambda _: observe(learned.ledger.records - start, end - start) if observe else None,
            erasures=lambda: erasures.first(learned.ledger.erased),
        )
        try:
            worker.run(Flag())
        finally:
            log.close()
    for _, erased in due:
        forget(learned, erasures.first(erased))
    learned.commit()


def rules_of(text: str) -> EventRules:
    """The rules that the ledger notes as text."""
    given = json.loads(text)
    return EventRules(**{**given, "where": tuple(tuple(pair) for pair in given["where"])})


def _periods(
    journal: Sequence[JournalSlice],
    rules: Sequence[tuple[int, str]],
    begun: Sequence[tuple[int, str]],
    stops: Sequence[int],
    start: int,
    end: int,
) -> Iterator[tuple[str, list[JournalSlice]]]:
    """(rules, slices learned by them), in order, of records start … end - 1.

    Args:
        rules: (from record number, text).
        begun: those that held before `start`.
        stops: record numbers at which a period ends, whatever the rules.

    >>> journal = [JournalSlice(0, 0, 5), JournalSlice(1, 0, 5)]
    >>> [(r, len(s)) for r, s in _periods(journal, [(0, "a"), (7, "b")], [(0, "a")], [9], 4, 10)]
    [('a', 2), ('b', 1), ('b', 1)]
    """
    held = [(start, begun[-1][1])] if begun else []
    held += rules[len(begun) :]
    ends = [first for first, _ in held[1:]] + [end]
    for (first, text), last in zip(held, ends, strict=True):
        for stop in sorted({at for at in stops if first < at < last}):
            yield text, list(_cut(journal, first, stop))
            first = stop
        yield text, list(_cut(journal, first, last))


def _cut(journal: Sequence[JournalSlice], first: int, last: int) -> Iterator[JournalSlice]:
    """The journal's records first … last - 1."""
    at = 0
    for part in journal:
        after = at + part.next_offset - part.first
        start, stop = max(first, at), min(last, after)
        if start < stop:
            yield JournalSlice(part.partition, part.first + start - at, part.first + stop - at)
        at = after


def _check_start(version: Version, learned: Learned, wanted: Ledger, journal: list[JournalSlice]) -> None:
    """Raise unless the store to begin with lies on the way to the wanted one."""
    if not wanted.records:
        raise VersionError(f'"{version.name}" has learned nothing yet; there is nothing to rebuild.')
    begin = learned.ledger
    same_way = (
        list(journal_of(learned.store)) == list(_cut(journal, 0, begin.records))
        and wanted.rules[: len(begin.rules)] == begin.rules
        and wanted.erasures[: len(begin.erasures)] == begin.erasures
        and [s.name for s in wanted.sources[: len(begin.sources)]] == [s.name for s in begin.sources]
    )
    if not same_way:
        raise VersionError(
            f'The snapshot of "{version.name}" after event {begin.number} is not a part of what it learned '
            "since: it was left behind by a restore. Begin with another snapshot."
        )
    if not all(text for _, text in wanted.rules):
        raise VersionError(f'"{version.name}" does not know by which rules its records were read.')


def _check_sources(version: Version, needed: Collection[str], names: Collection[str]) -> None:
    """Raise unless those that are needed of all the sources can be read again."""
    for name in sorted(needed):
        if os.path.isabs(name):
            continue
        topic = topic_of(name)
        place = parsed_name(topic, name)
        if place is None:
            what = "standard input" if name == "-" else f'"{name}"'
            raise VersionError(
                f'"{version.name}" learned from {what}, which cannot be read again as a file; '
                "it cannot be rebuilt. Snapshots keep what it knows: `freshet versions snapshot`."
            )
        others = (parsed_name(topic, other) for other in names)
        if any(other is not None and other[1] == place[1] and other[0] > place[0] for other in others):
            # The worker began anew under another name because the newest of these were gone.
            raise InputVanishedError(
                f"{name}: the log lost records that were learned, and the worker went on without them. Only "
                "what comes after a snapshot can be learned again then: --from-snapshot NUMBER."
            )


def _with_way_out(error: InputError, version: Version, from_snapshot: int | None) -> InputError:
    """The same error; where a snapshot may help, it says so."""
    kept = [number for number in version.snapshots() if number > (from_snapshot or 0)]
    if not kept:
        return error
    return type(error)(f"{error} Where the log's beginning is gone for good: --from-snapshot {kept[0]}.")


@contextmanager
def _workplace(version: Version) -> Iterator[Path]:
    """A directory beside the store, so that the new store can be moved into its place at once."""
    for left in version.path.glob(".rebuild-*"):
        pid = int(left.name.rpartition("-")[2])
        if pid == os.getpid() or not alive(pid):
            shutil.rmtree(left)
    place = version.path / f".rebuild-{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place)
