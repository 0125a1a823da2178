"""Event files enter, their events leave in time order and numbered: what a backtest learns from."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from consumers.eventlog.byte_sources import FileBytes
from consumers.eventlog.files import FilesLog
from streaming.decoding import no_events
from streaming.errors import UsageError, nearest
from streaming.events import BadRecord, EventBatch, Ids
from streaming.rules import FIELDS, EventRules

KEPT_BAD = 100  # bad records that are kept to be shown
_POLL_S = 0.1
_SURVEY_EVENTS = 65_536  # read at a time when the files are looked through


class History:
    """Events in time order, ties in the order of the files and of their records (protocol P1).

    The files are looked through once, which counts the events and shows whether their times ever
    fall. One file in time order is then read again slice by slice. Of files that are not, of several
    files and of standard input the events are held in memory, about 150 bytes each while they are
    sorted, and their ids.

    Events are numbered by their place in this order, and the number stands as their offset: random
    keys come from it, so that a file and a shuffled copy of it give the same figures.

    Args:
        open_log: opens the files; called once or twice.
        limit: only the first so many events, None for all.
        observe: told the bytes read while the files are looked through.

    Attributes:
        records: events there are before `limit`.
        in_order: whether the files already were in time order.
        bad, bad_records: how many records are no events; the first of them, with their source.

    Raises:
        InputError: a file cannot be read.
    """

    def __init__(
        self,
        open_log: Callable[[], FilesLog],
        *,
        limit: int | None = None,
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self._open_log = open_log
        self._observe = observe or (lambda done: None)
        self._held: EventBatch | None = None
        log = open_log()
        single = len(log.sources()) == 1 and log.repeatable
        kept = self._look_through(log, keep=not single)
        if single and not self.in_order:
            kept = self._look_through(open_log(), keep=True)
        if kept:
            self._held = _joined(kept)
        if self._held is not None and not self.in_order:
            self._held = _sorted(self._held)
        self.events = self.records if limit is None else min(limit, self.records)

    def _look_through(self, log: FilesLog, keep: bool) -> list[EventBatch]:
        """Count, find out whether times ever fall, and keep the events where that is wanted."""
        self.records = self.bad = 0
        self.bad_records: list[tuple[str, BadRecord]] = []
        self.in_order = True
        newest, kept = 0, []
        try:
            while not log.ended:
                found = log.poll(_SURVEY_EVENTS, _POLL_S)
                if found is None:
                    continue
                ts = found.events.ts
                self.in_order &= bool(len(ts) == 0 or (ts[0] >= newest and (ts[1:] >= ts[:-1]).all()))
                newest = int(ts.max(initial=newest))
                self.records += len(found.events)
                self.bad += len(found.bad)
                room = KEPT_BAD - len(self.bad_records)
                self.bad_records += [(found.source, bad) for bad in found.bad[:room]]
                if keep and len(ts):
                    kept.append(_compact(found.events))
                self._observe(log.progress()[0])
        finally:
            log.close()
        return kept

    def batches(self, size: int) -> Iterator[EventBatch]:
        """The events, about `size` at a time; how many never matters to what is learned."""
        number = 0
        for batch in self._slices(size):
            part = batch.part(0, min(len(batch), self.events - number))
            if len(part):
                yield replace(part, offsets=np.arange(number, number + len(part)))
            number += len(part)
            if number == self.events:
                return

    def _slices(self, size: int) -> Iterator[EventBatch]:
        if self._held is not None:
            for first in range(0, len(self._held), size):
                yield self._held.part(first, min(first + size, len(self._held)))
            return
        log = self._open_log()
        try:
            while not log.ended:
                found = log.poll(size, _POLL_S)
                if found is not None:
                    yield found.events
        finally:
            log.close()


def _compact(events: EventBatch) -> EventBatch:
    """The same events, their ids alone in buffers of their own."""
    return replace(events, users=_gathered(events.users), items=_gathered(events.items))


def _gathered(ids: Ids) -> Ids:
    length = ids.end - ids.start
    end = np.cumsum(length)
    start = end - length
    place = np.arange(int(length.sum())) + np.repeat(ids.start - start, length)
    return Ids(ids.data[place], start, end)


def _joined(parts: Sequence[EventBatch]) -> EventBatch:
    """Parts as one batch, in their order."""
    if not parts:
        return no_events()
    return EventBatch(
        users=_joined_ids([part.users for part in parts]),
        items=_joined_ids([part.items for part in parts]),
        offsets=np.arange(sum(map(len, parts))),
        ts=np.concatenate([part.ts for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
    )


def _joined_ids(parts: Sequence[Ids]) -> Ids:
    at = np.concatenate([[0], np.cumsum([len(ids.data) for ids in parts])])
    return Ids(
        np.concatenate([ids.data for ids in parts]),
        np.concatenate([ids.start + shift for ids, shift in zip(parts, at[:-1], strict=True)]),
        np.concatenate([ids.end + shift for ids, shift in zip(parts, at[:-1], strict=True)]),
    )


def _sorted(events: EventBatch) -> EventBatch:
    """Events by time; those of the same time stay in their order."""
    order: NDArray[np.int64] = np.argsort(events.ts, kind="stable")
    users, items = events.users, events.items
    return EventBatch(
        users=Ids(users.data, users.start[order], users.end[order]),
        items=Ids(items.data, items.start[order], items.end[order]),
        offsets=events.offsets,
        ts=events.ts[order],
        values=events.values[order],
        weights=events.weights[order],
    )


def parsed_where(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs from "field=value".

    Raises:
        UsageError: a word that is not of this form.

    >>> parsed_where(["value=5", "country=France"])
    (('value', '5'), ('country', 'France'))
    """
    pairs = []
    for word in words:
        field, equals, value = word.partition("=")
        if not (equals and field and value):
            raise UsageError(f'--where must be followed by field=value, got "{word}".')
        pairs.append((field, value))
    return tuple(pairs)


def check_where(paths: Sequence[str], rules: EventRules, *, none_passed: bool = False) -> None:
    """Raise where a field of `rules.where` is unknown to the files.

    Before reading, only the files that name their fields in advance (parquet, CSV) can tell; once no
    record has passed, the first records of JSON can, too.

    Raises:
        UsageError: the message names the nearest field.
    """
    found = [_field_names(path) for path in paths]
    if not none_passed and not all(certain for _, certain in found):
        return
    known = dict.fromkeys([*FIELDS, *(name for names, _ in found for name in names)])
    for field, _ in rules.where:
        if rules.name(field) not in known:
            near = nearest(field, known)
            raise UsageError(f'--where: events have no field "{field}".{near} Known: {", ".join(known)}.')


def doubt_of_where(paths: Sequence[str], rules: EventRules) -> str:
    """What to say before reading where none of the first records of JSON has a field of `rules.where`.

    It is no error: a later record may have it.
    """
    names = [name for path in paths for name in _field_names(path)[0]]
    known = dict.fromkeys([*FIELDS, *names])
    for field, _ in rules.where:
        if names and rules.name(field) not in known:
            near = nearest(field, known)
            return (
                f'--where: none of the first records has a field "{field}".{near} The rest is looked through.'
            )
    return ""


def _field_names(path: str) -> tuple[list[str], bool]:
    """Names of the fields of a file's records, and whether these are surely all."""
    if path == "-":
        return [], False
    source = FileBytes(path)
    try:
        head = source.read(0)
    finally:
        source.close()
    if head.startswith(b"PAR1"):
        return list(pq.read_schema(path).names), True
    lines = head.decode("utf-8-sig", "replace").splitlines()
    if lines and not lines[0].lstrip().startswith("{"):
        return next(csv.reader(lines[:1], delimiter="\t" if "\t" in lines[0] else ",")), True
    return [name for line in lines for name in _keys(line)], False


def _keys(line: str) -> list[str]:
    """Keys of a JSON record; a line that is none, perhaps cut off, has none."""
    try:
        record = json.loads(line)
    except ValueError:
        return []
    return list(record) if isinstance(record, dict) else []
