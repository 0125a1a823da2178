"""Records become events: bytes or columns enter, an `EventBatch` and the bad records leave.

The fast path (`json_scan`, or whole parquet columns) fills `Columns` for the
plain records; `settle` sends the rest, one by one, to `event_from_mapping`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.events import BadRecord, EventBatch, Ids
from streaming.json_scan import BAD, BLANK, FRACTION, LITERALS, SLOW, WHOLE, scan
from streaming.rules import (
    DEFAULT_TYPE,
    FIELDS,
    MICROSECONDS,
    Event,
    EventRules,
    event_from_mapping,
    matches,
    over_long,
)

__all__ = ["Columns", "Event", "EventRules", "JsonDecoder", "event_from_mapping", "no_events", "settle"]

RAW_BYTES = 1_000  # of a bad record are kept


@dataclass(slots=True)
class Columns:
    """N records on their way to events; row k counts where `kind[k]` is WHOLE or FRACTION."""

    data: NDArray[np.uint8]  # bytes that the spans point into
    kind: NDArray[np.uint8]  # (N,) SLOW, WHOLE, FRACTION, BLANK
    spans: NDArray[np.int64]  # (4, N) user start, user end, item start, item end
    whole: NDArray[np.int64]  # (N,) integer time in the source's unit
    fraction: NDArray[np.float64]  # (N,) decimal time in the source's unit
    values: NDArray[np.float64]  # (N,)
    weights: NDArray[np.float32]  # (N,)

    @classmethod
    def doubtful(cls, data: NDArray[np.uint8], n: int) -> Columns:
        """N records that nothing is known of yet: all SLOW."""
        return cls(
            _read_only(data),
            np.full(n, SLOW, np.uint8),
            np.zeros((4, n), np.int64),
            np.zeros(n, np.int64),
            np.zeros(n),
            np.ones(n),
            np.ones(n, np.float32),
        )


def settle(
    columns: Columns,
    offsets: NDArray[np.int64],
    rules: EventRules,
    unit: str | None,
    judge: Callable[[int, str | None], Event | str | None],
    refuse: Callable[[int, str], BadRecord],
) -> tuple[EventBatch, list[BadRecord], str | None]:
    """Decide what is still open, and make the batch.

    Args:
        columns: what the fast path found; used up.
        offsets: (N,) ascending.
        unit: unit of numeric times, None while the source has had no event with one.
        judge: record k read by the slow path in a unit: an event, a reason, or None where it is left out.
        refuse: record k and the reason against it → what goes to the dead letters.

    Returns:
        Events in offset order; bad records in offset order; the unit, if it is decided by now.
    """
    judged: dict[int, Event | str | None] = {}
    if unit is None:
        for k in np.flatnonzero(columns.kind != BLANK).tolist():
            outcome = judged[k] = judge(k, None)
            if isinstance(outcome, Event) and outcome.unit is not None:
                unit = outcome.unit
                break
    ts, late = _microseconds(columns, rules, unit)
    for k in np.flatnonzero((columns.kind == SLOW) | late).tolist():
        if k not in judged:
            judged[k] = judge(k, unit)
    bad = _insert(columns, ts, judged, refuse)
    return _batch(columns, offsets, ts), bad, unit


def _microseconds(
    columns: Columns, rules: EventRules, unit: str | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times in microseconds, and which of them lie beyond the bound."""
    scale = MICROSECONDS[unit or "us"]
    decimal = columns.kind == FRACTION
    late = (columns.kind == WHOLE) & (columns.whole > rules.latest_ts // scale)
    ts = columns.whole * scale
    if decimal.any():
        scaled = columns.fraction * scale
        late |= decimal & (scaled > rules.latest_ts)
        ts[decimal & ~late] = np.rint(scaled[decimal & ~late]).astype(np.int64)
    return ts, late


def _insert(
    columns: Columns,
    ts: NDArray[np.int64],
    judged: dict[int, Event | str | None],
    refuse: Callable[[int, str], BadRecord],
) -> list[BadRecord]:
    """Write the slow path's events into the columns, their ids behind the data; return the bad records."""
    rows: list[int] = []
    events: list[Event] = []
    bad: list[BadRecord] = []
    for k in sorted(judged):
        outcome = judged[k]
        if isinstance(outcome, Event):
            rows.append(k)
            events.append(outcome)
        elif outcome is None:
            columns.kind[k] = BLANK
        else:
            columns.kind[k] = BAD
            bad.append(refuse(k, outcome))
    if events:
        ids = [text for event in events for text in (event.user, event.item)]
        bounds = columns.data.shape[0] + np.cumsum([0, *map(len, ids)], dtype=np.int64)
        columns.data = _read_only(np.concatenate([columns.data, np.frombuffer(b"".join(ids), np.uint8)]))
        columns.spans[:, rows] = (bounds[:-1:2], bounds[1::2], bounds[1::2], bounds[2::2])
        ts[rows] = [event.ts for event in events]
        columns.values[rows] = [event.value for event in events]
        columns.weights[rows] = [event.weight for event in events]
        columns.kind[rows] = WHOLE
    return bad


def _batch(columns: Columns, offsets: NDArray[np.int64], ts: NDArray[np.int64]) -> EventBatch:
    good = (columns.kind == WHOLE) | (columns.kind == FRACTION)
    keep: NDArray[np.intp] | slice = slice(None) if good.all() else np.flatnonzero(good)
    user_start, user_end, item_start, item_end = (row[keep] for row in columns.spans)
    return EventBatch(
        Ids(columns.data, user_start, user_end),
        Ids(columns.data, item_start, item_end),
        offsets[keep],
        ts[keep],
        columns.values[keep].astype(np.float32),
        columns.weights[keep],
    )


def _read_only(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same bytes, read-only: kernels are compiled for one kind of array, not for two."""
    view = data.view()
    view.flags.writeable = False
    return view


def no_events() -> EventBatch:
    """A batch of none."""
    return _batch(Columns.doubtful(np.zeros(0, np.uint8), 0), np.zeros(0, np.int64), np.zeros(0, np.int64))


class JsonDecoder:
    """JSON records of one source → events.

    Args:
        rules: what an event is.
        time_unit: the unit decided in an earlier run; None: the rules' own, or the first event decides.
        fast: whether the kernel reads the plain records; the result is the same without it.

    Attributes:
        time_unit: unit of numeric times, None while undecided; may be set before the first record.

    >>> decoder = JsonDecoder(EventRules())
    >>> line = np.frombuffer(b'{"user": "u", "item": "i", "ts": 1700000000}', np.uint8)
    >>> events, bad = decoder.decode(line, np.array([0]), np.array([len(line)]), np.array([0]))
    >>> events.users[0], int(events.ts[0]), decoder.time_unit, bad
    ('u', 1700000000000000, 's', [])
    """

    def __init__(self, rules: EventRules, time_unit: str | None = None, *, fast: bool = True) -> None:
        self.rules = rules
        self.time_unit = rules.given_unit or time_unit
        self._json = msgspec.json.Decoder()
        names = [rules.name(field).encode("utf-8", "surrogatepass") for field in FIELDS]
        types = dict.fromkeys(
            [DEFAULT_TYPE, *rules.weights, *(str(w) for f, w in rules.where if f == "type")]
        )
        self._types = list(types)
        words = [*names, *LITERALS, *(kind.encode("utf-8", "surrogatepass") for kind in self._types)]
        self._words = np.frombuffer(b"".join(words), np.uint8)
        self._bounds = np.cumsum([0, *(len(word) for word in words)], dtype=np.int64)
        known = [rules.weight(kind) for kind in self._types]
        # One more entry, found by the index of an unknown type (negative): the weight of all others.
        self._weights = np.array([*known, rules.weights.get("*", 1.0)], np.float32)
        self._fast = (
            fast
            and len(set(names)) == len(FIELDS)
            and all(field in ("type", "value") for field, _ in rules.where)
        )

    def decode(
        self,
        buffer: NDArray[np.uint8],
        start: NDArray[np.int64],
        end: NDArray[np.int64],
        offsets: NDArray[np.int64],
    ) -> tuple[EventBatch, list[BadRecord]]:
        """Decode N records; record k is `buffer[start[k]:end[k]]` and has the offset `offsets[k]`.

        Records of white space are left out, as are those that `rules.where` leaves out. The batch points
        into `buffer`, or into a copy where the slow path had to add ids.
        """
        columns = self._scan(buffer, start, end) if self._fast else Columns.doubtful(buffer, len(start))

        def judge(k: int, unit: str | None) -> Event | str | None:
            return self._judge(buffer[start[k] : end[k]], unit)

        def refuse(k: int, reason: str) -> BadRecord:
            length = int(end[k] - start[k])
            raw = buffer[start[k] : min(end[k], start[k] + RAW_BYTES)].tobytes()
            return BadRecord(int(offsets[k]), reason, raw, length if length > RAW_BYTES else None)

        batch, bad, self.time_unit = settle(columns, offsets, self.rules, self.time_unit, judge, refuse)
        return batch, bad

    def _scan(self, buffer: NDArray[np.uint8], start: NDArray[np.int64], end: NDArray[np.int64]) -> Columns:
        columns = Columns.doubtful(buffer, len(start))
        types = np.zeros(len(start), np.int64)
        scan(
            columns.data, start, end, self._words, self._bounds, 0,
            self.rules.max_id_bytes, self.rules.max_record_bytes,
            columns.kind, columns.spans, columns.whole, columns.fraction, columns.values, types,
        )  # fmt: skip
        types[(types < 0) | (types >= len(self._types))] = len(self._types)
        columns.weights = self._weights[types]
        for field, wanted in self.rules.where:
            self._leave_out(columns, types, field, wanted)
        return columns

    def _leave_out(
        self, columns: Columns, types: NDArray[np.int64], field: str, wanted: str | int | float
    ) -> None:
        sure = (columns.kind == WHOLE) | (columns.kind == FRACTION)
        if field == "type":
            fits = np.array([*(matches(kind, wanted) for kind in self._types), False])[types]
        else:
            distinct, which = np.unique(columns.values, return_inverse=True)
            fits = np.array([matches(value, wanted) for value in distinct.tolist()], np.bool_)[which]
        columns.kind[sure & ~fits] = BLANK

    def _judge(self, record: NDArray[np.uint8], unit: str | None) -> Event | str | None:
        if len(record) > self.rules.max_record_bytes:
            return over_long(len(record), self.rules)
        text = record.tobytes()
        if not text.strip(b" \t\r\n"):
            return None
        try:
            mapping = self._json.decode(text)
        except RecursionError:
            return "the record is nested too deeply."
        except UnicodeDecodeError as error:
            return f"the record is not UTF-8 ({error.reason})."
        except ValueError as error:
            return f"the record is not JSON ({error})."
        if not isinstance(mapping, dict):
            return f"the record must be a JSON object, got {_kind_of(mapping)}."
        return event_from_mapping(mapping, self.rules, unit)


def _kind_of(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "a literal"
    return "text" if isinstance(value, str) else "an array" if isinstance(value, list) else "a number"
