"""What makes a record an event: one record as a mapping enters, an event or the reason against it leaves.

This is the only definition. The fast paths of JSON and parquet take the plain
records and must agree with it; every doubtful record comes here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from streaming.errors import SettingError, nearest

FIELDS = ("user", "item", "ts", "type", "value")
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
DEFAULT_TYPE = "event"
LARGEST_VALUE = 3.4028234663852886e38  # float32
YEAR_2100 = 4_102_444_800_000_000  # microseconds

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class EventRules:
    """How the records of a log become events; by default as the settings' own defaults say.

    Attributes:
        fields: name in the record of `user`, `item`, `ts`, `type`, `value`, where it is another one.
        weights: weight of each event type; "*" is the weight of the types not listed (else 1).
        time_unit: unit of numeric times: "s", "ms", "us", or "auto" (decided by a source's first event).
        max_record_bytes: a longer record is bad.
        max_id_bytes: a longer id, in UTF-8, is bad.
        latest_ts: a later time, in microseconds since 1970, is bad.
        where: (field, wanted) pairs; records that differ are left out and are not bad. A field is one of
            the five, or the name of any other field of the record.

    Raises:
        SettingError: an unknown field or unit, or an impossible number.

    >>> EventRules(fields={"user": "visitorid"}).name("user")
    'visitorid'
    """

    fields: Mapping[str, str] = field(default_factory=lambda: {name: name for name in FIELDS})
    weights: Mapping[str, float] = field(default_factory=lambda: {"*": 1.0})
    time_unit: str = "auto"
    max_record_bytes: int = 1_048_576
    max_id_bytes: int = 256
    latest_ts: int = YEAR_2100
    where: tuple[tuple[str, str | int | float], ...] = ()

    def __post_init__(self) -> None:
        for known, name in self.fields.items():
            if known not in FIELDS:
                raise SettingError(
                    f"events.fields has an unknown field {known!r}; expected one of {', '.join(FIELDS)}."
                    + nearest(known, FIELDS)
                )
            if not name:
                raise SettingError(f"events.fields.{known} is empty; it must name a field of the record.")
        for kind, weight in self.weights.items():
            if not abs(weight) <= LARGEST_VALUE:
                raise SettingError(f"events.weights.{kind} must be a finite number, got {weight!r}.")
        if self.time_unit not in ("auto", *MICROSECONDS):
            raise SettingError(
                f'events.time_unit must be "auto", "s", "ms" or "us", got {self.time_unit!r}.'
                + nearest(str(self.time_unit), MICROSECONDS)
            )
        for setting in ("max_record_bytes", "max_id_bytes", "latest_ts"):
            if getattr(self, setting) < 1:
                raise SettingError(f"events.{setting} must be 1 or more, got {getattr(self, setting)}.")

    def name(self, field: str) -> str:
        """The name that one of the five fields has in the record; any other name stands for itself."""
        return self.fields.get(field, field)

    def weight(self, kind: str) -> float:
        """Weight of an event type."""
        return float(self.weights.get(kind, self.weights.get("*", 1.0)))

    @property
    def given_unit(self) -> str | None:
        """The stated time unit, or None where the first event decides."""
        return None if self.time_unit == "auto" else self.time_unit

    def wants(self, record: Mapping[str, object]) -> bool:
        """Whether a record passes `where`."""
        for name, wanted in self.where:
            value = record.get(self.name(name))
            if not matches(default_of(name) if value is None else value, wanted):
                return False
        return True


class Event(NamedTuple):
    """One valid event; `ts` in microseconds, `unit` that of its numeric time (None for RFC 3339)."""

    user: bytes
    item: bytes
    ts: int
    value: float
    weight: float
    unit: str | None


class _RefusalError(Exception):
    """The record is bad; the message is the reason."""


def event_from_mapping(
    record: Mapping[str, object], rules: EventRules, unit: str | None
) -> Event | str | None:
    """Judge one record.

    Args:
        record: field name → value, as JSON knows them (text, int, float, bool, None, list, dict).
        unit: unit of numeric times; None: decided from this record's.

    Returns:
        The event; or the reason why there is none; or None where `rules.where` leaves the record out.

    >>> event_from_mapping({"user": "u", "item": 7, "ts": 1700000000}, EventRules(), None)
    Event(user=b'u', item=b'7', ts=1700000000000000, value=1.0, weight=1.0, unit='s')
    >>> event_from_mapping({"user": "u", "item": 7.5, "ts": 1700000000}, EventRules(), None)
    'item must be text or an integer, got 7.5.'
    """
    if not rules.wants(record):
        return None
    try:
        user = _id(record, rules.name("user"), rules)
        item = _id(record, rules.name("item"), rules)
        weight = rules.weight(_type(record, rules.name("type")))
        value = _value(record, rules.name("value"))
        ts, unit = _time(record, rules.name("ts"), rules, unit)
    except _RefusalError as refused:
        return str(refused)
    return Event(user, item, ts, value, weight, unit)


def over_long(length: int, rules: EventRules) -> str:
    """The reason against a record of `length` bytes, more than `max_record_bytes`."""
    limit = rules.max_record_bytes
    return f"the record has {length} bytes; expected at most {limit} (events.max_record_bytes)."


def unit_of(time: float) -> str:
    """The unit in which a number is most likely a time after 1970.

    >>> unit_of(1_700_000_000), unit_of(1_700_000_000_000), unit_of(1_700_000_000_000_000)
    ('s', 'ms', 'us')
    """
    return "s" if time < 1e11 else "ms" if time < 1e14 else "us"


def default_of(field: str) -> object:
    """What a missing or null field means."""
    return {"type": DEFAULT_TYPE, "value": 1.0}.get(field)


def matches(value: object, wanted: object) -> bool:
    """Whether a field's value is the wanted one: the same text, or the same number.

    >>> matches(5.0, "5"), matches("click", "click"), matches(None, "5")
    (True, True, False)
    """
    if value is None:
        return False
    text = _bare(value)
    goal = _bare(wanted)
    if text == goal:
        return True
    number, other = number_in(text), number_in(goal)
    return number is not None and number == other


def number_in(text: str) -> float | int | None:
    """The number that a text is, None where it is none; NaN and infinity are no numbers.

    >>> number_in("12"), number_in("1.50"), number_in("1_0"), number_in("nan")
    (12, 1.5, None, None)
    """
    found = _NUMBER.fullmatch(text) if len(text) <= 400 else None
    if found is None:
        return None
    return int(text) if found[1] is None and found[2] is None else float(text)


def _bare(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _shown(value: object) -> str:
    """A value as a reason quotes it, short and in ASCII."""
    if isinstance(value, list | dict):
        return "an array" if isinstance(value, list) else "an object"
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 40 else value[:40] + "…")
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    text = str(value)
    return text if len(text) <= 40 else text[:40] + "…"


def _absent(record: Mapping[str, object], name: str) -> _RefusalError:
    return _RefusalError(f"{name} is null." if name in record else f"{name} is missing.")


def _id(record: Mapping[str, object], name: str, rules: EventRules) -> bytes:
    value = record.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        raise _absent(record, name)
    if not isinstance(value, str):
        raise _RefusalError(f"{name} must be text or an integer, got {_shown(value)}.")
    if not value:
        raise _RefusalError(f"{name} is empty.")
    if _CONTROL.search(value):
        raise _RefusalError(f"{name} holds a control character: {_shown(value)}.")
    try:
        text = value.encode()
    except UnicodeEncodeError:
        raise _RefusalError(f"{name} holds a lone surrogate or broken UTF-8: {_shown(value)}.") from None
    if len(text) > rules.max_id_bytes:
        limit = rules.max_id_bytes
        raise _RefusalError(f"{name} has {len(text)} bytes; expected at most {limit} (events.max_id_bytes).")
    return text


def _type(record: Mapping[str, object], name: str) -> str:
    value = record.get(name)
    if value is None:
        return DEFAULT_TYPE
    if not isinstance(value, str):
        raise _RefusalError(f"{name} must be text, got {_shown(value)}.")
    return value


def _value(record: Mapping[str, object], name: str) -> float:
    value = record.get(name)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RefusalError(f"{name} must be a number, got {_shown(value)}.")
    if not abs(value) <= LARGEST_VALUE:
        raise _RefusalError(f"{name} must be finite and at most 3.4e38, got {_shown(value)}.")
    return float(value)


def _time(
    record: Mapping[str, object], name: str, rules: EventRules, unit: str | None
) -> tuple[int, str | None]:
    """Time in microseconds, and the unit of a numeric one."""
    value = record.get(name)
    if value is None:
        raise _absent(record, name)
    if isinstance(value, str):
        return _rfc3339(value, name, rules), None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _RefusalError(f"{name} must be a number or RFC 3339 text, got {_shown(value)}.")
    if not 0 <= value < math.inf:
        raise _RefusalError(f"{name} must be a time after 1970, got {_shown(value)}.")
    unit = unit or rules.given_unit or unit_of(value)
    ts = value * MICROSECONDS[unit]
    if ts > rules.latest_ts:
        raise _RefusalError(f"{name} is too far in the future: {_shown(value)} in {unit} (events.time_unit).")
    return round(ts), unit


def _rfc3339(text: str, name: str, rules: EventRules) -> int:
    if not _RFC3339.fullmatch(text):
        raise _RefusalError(
            f"{name} must be a number or RFC 3339 text such as 2024-01-31T12:00:00Z, got {_shown(text)}."
        )
    try:
        time = datetime.fromisoformat(text.upper())
        ts = (time - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError) as error:
        raise _RefusalError(f"{name} is no time: {_shown(text)} ({error}).") from None
    if ts < 0:
        raise _RefusalError(f"{name} must be a time after 1970, got {_shown(text)}.")
    if ts > rules.latest_ts:
        raise _RefusalError(f"{name} is too far in the future: {_shown(text)}.")
    return ts
