"""What is an event, what is not, and that the kernel never judges otherwise than the slow path."""

from __future__ import annotations

import json
import math
import os
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.decoding import EventRules, JsonDecoder, event_from_mapping
from streaming.errors import SettingError
from streaming.events import BadRecord, EventBatch
from streaming.json_scan import SLOW
from streaming.rules import Event
from tests.streaming.columns import rows_of

GOOD = b'{"user": "ann", "item": "i7", "ts": 1700000000}'
RULES = EventRules(weights={"view": 0.2, "buy": 1.0, "*": 0.5}, time_unit="s")


def decode(
    lines: list[bytes], rules: EventRules = RULES, *, fast: bool = True, unit: str | None = None
) -> tuple[EventBatch, list[BadRecord], str | None]:
    decoder = JsonDecoder(rules, unit, fast=fast)
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    buffer = np.frombuffer(b"".join(lines), np.uint8)
    events, bad = decoder.decode(buffer, starts, ends, np.arange(len(lines)) + 100)
    return events, bad, decoder.time_unit


def same_on_both_paths(lines: list[bytes], rules: EventRules) -> None:
    fast, fast_bad, fast_unit = decode(lines, rules)
    slow, slow_bad, slow_unit = decode(lines, rules, fast=False)
    assert rows_of(fast) == rows_of(slow)
    assert fast_bad == slow_bad
    assert fast_unit == slow_unit


def one(record: bytes, rules: EventRules = RULES) -> tuple[object, ...]:
    events, bad, _ = decode([record], rules)
    assert not bad
    assert len(events) == 1
    return rows_of(events)[0][1:]


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (GOOD, ("ann", "i7", 1_700_000_000_000_000, 1.0, 0.5)),
        (b'{"user":5,"item":-6,"ts":0}', ("5", "-6", 0, 1.0, 0.5)),
        (
            b'{"user":123456789012345678901,"item":"i","ts":1}',
            ("123456789012345678901", "i", 10**6, 1.0, 0.5),
        ),
        (b'{"user":"u","item":"i","ts":1.25,"value":-2.5,"type":"buy"}', ("u", "i", 1_250_000, -2.5, 1.0)),
        (b'{"user":"u","item":"i","ts":1e3,"value":1e2}', ("u", "i", 10**9, 100.0, 0.5)),
        (b'{"user":"u","item":"i","ts":1,"value":null,"type":null}', ("u", "i", 10**6, 1.0, 0.5)),
        (b'{"user":"u","item":"i","ts":1,"x":[1,{"user":2}],"y":"\\u00e9"}', ("u", "i", 10**6, 1.0, 0.5)),
        (
            b'{"user":"\\u00e9\\"","item":"\xe2\x82\xac \xf0\x9f\x8c\x8a","ts":1}',
            ('é"', "€ 🌊", 10**6, 1.0, 0.5),
        ),
        (b'{"user":"a","user":"b","item":"i","ts":1,"ts":2}', ("b", "i", 2 * 10**6, 1.0, 0.5)),
        (b'{"user":null,"user":"b","item":"i","ts":1}', ("b", "i", 10**6, 1.0, 0.5)),
        (b'{"user":"u","item":"i","ts":"1970-01-01T01:00:00.5+01:00"}', ("u", "i", 500_000, 1.0, 0.5)),
        (b'{"user":"u","item":"i","ts":"2024-02-29t00:00:00z"}', ("u", "i", 1_709_164_800_000_000, 1.0, 0.5)),
        (
            b' \t{ "user" : "u" , "item" : "i" , "ts" : 1 , "type" : "view" } \r',
            ("u", "i", 10**6, 1.0, np.float32(0.2)),
        ),
    ],
)
def test_record_becomes_event_when_it_is_valid(record: bytes, expected: tuple[object, ...]) -> None:
    assert one(record) == expected


BAD = [
    (b"hello", "not JSON"),
    (b'{"user":"u","item":"i","ts":1', "not JSON"),
    (b'{"user":"u","item":"i","ts":1,}', "not JSON"),
    (b'{"user":"u","item":"i","ts":01}', "not JSON"),
    (b'{"user":"u","item":"i","ts":1} x', "not JSON"),
    (b'{"user":"u","item":"i","ts":1,"value":NaN}', "not JSON"),
    (b'{"user":"u","item":"i","ts":1,"value":1e999}', "not JSON"),
    (b'{"user":"\xff","item":"i","ts":1}', "not UTF-8"),
    (b'{"user":"\xed\xa0\x80","item":"i","ts":1}', "not UTF-8"),
    (b'{"user":"u","item":"i","ts":1,"x":"\xc0\x80"}', "not UTF-8"),
    (b'{"user":"\\ud800","item":"i","ts":1}', "JSON"),
    (b'{"user":"\x01","item":"i","ts":1}', "not JSON"),
    (b"[1]", "object, got an array"),
    (b"7", "object, got a number"),
    (b"null", "object, got a literal"),
    (b'"u"', "object, got text"),
    (b"[" * 100_000, "nested"),
    (b'{"item":"i","ts":1}', "user is missing"),
    (b'{"user":"u","item":"i"}', "ts is missing"),
    (b'{"user":null,"item":"i","ts":1}', "user is null"),
    (b'{"user":1.5,"item":"i","ts":1}', "user must be text or an integer, got 1.5"),
    (b'{"user":true,"item":"i","ts":1}', "user must be text or an integer, got true"),
    (b'{"user":["u"],"item":"i","ts":1}', "got an array"),
    (b'{"user":"","item":"i","ts":1}', "user is empty"),
    (b'{"user":"' + b"u" * 257 + b'","item":"i","ts":1}', "257 bytes"),
    (b'{"user":"a\\u0000b","item":"i","ts":1}', "control character"),
    (b'{"user":"a\\nb","item":"i","ts":1}', "control character"),
    (b'{"user":"a\x7fb","item":"i","ts":1}', "control character"),
    (b'{"user":"a\xc2\x85b","item":"i","ts":1}', "control character"),
    (b'{"user":"u","item":"i","ts":-1}', "after 1970"),
    (b'{"user":"u","item":"i","ts":4102444801}', "future"),
    (b'{"user":"u","item":"i","ts":99999999999999999999}', "future"),
    (b'{"user":"u","item":"i","ts":4102444800.5}', "future"),
    (b'{"user":"u","item":"i","ts":true}', "ts must be a number"),
    (b'{"user":"u","item":"i","ts":"1700000000"}', "RFC 3339"),
    (b'{"user":"u","item":"i","ts":"2024-02-30T00:00:00Z"}', "no time"),
    (b'{"user":"u","item":"i","ts":"2024-02-03T00:00:00"}', "RFC 3339"),
    (b'{"user":"u","item":"i","ts":"1960-02-03T00:00:00Z"}', "after 1970"),
    (b'{"user":"u","item":"i","ts":"2160-02-03T00:00:00Z"}', "future"),
    (b'{"user":"u","item":"i","ts":1,"value":"5"}', "value must be a number"),
    (b'{"user":"u","item":"i","ts":1,"value":false}', "value must be a number"),
    (b'{"user":"u","item":"i","ts":1,"value":1e39}', "finite"),
    (b'{"user":"u","item":"i","ts":1,"type":3}', "type must be text"),
    (b'{"user":"u","item":"i","ts":1,"x":"' + b"x" * 1_048_576 + b'"}', "1048613 bytes"),
]


@pytest.mark.parametrize(
    ("record", "reason"), BAD, ids=[f"{k}-{reason}" for k, (_, reason) in enumerate(BAD)]
)
def test_bad_record_is_refused_and_its_neighbours_are_kept(record: bytes, reason: str) -> None:
    events, bad, _ = decode([GOOD, record, GOOD])
    assert events.offsets.tolist() == [100, 102]
    assert [refused.offset for refused in bad] == [101]
    assert reason in bad[0].reason
    assert bad[0].raw == record[:1000]
    assert bad[0].length == (len(record) if len(record) > 1000 else None)
    same_on_both_paths([GOOD, record, GOOD], RULES)


def test_nan_and_infinity_are_refused_where_a_format_can_hold_them() -> None:
    for value in (math.nan, math.inf, -math.inf):
        record = {"user": "u", "item": "i", "ts": 1, "value": value}
        assert "finite" in str(event_from_mapping(record, RULES, None))
    assert "1970" in str(event_from_mapping({"user": "u", "item": "i", "ts": math.nan}, RULES, None))
    assert "surrogate" in str(event_from_mapping({"user": "\ud800", "item": "i", "ts": 1}, RULES, None))


def test_blank_record_is_neither_event_nor_bad() -> None:
    events, bad, _ = decode([GOOD, b"", b" \r", GOOD])
    assert events.offsets.tolist() == [100, 103]
    assert bad == []


@pytest.mark.parametrize(
    ("ts", "unit"), [(1_700_000_000, "s"), (1_700_000_000_000, "ms"), (1_700_000_000_000_000, "us")]
)
def test_time_unit_is_decided_by_the_first_event_and_kept(ts: int, unit: str) -> None:
    def line(time: int) -> bytes:
        return b'{"user":"u","item":"i","ts":%d}' % time

    lines = [b"junk", line(-5), line(ts), line(5)]
    events, bad, found = decode(lines, EventRules())
    assert found == unit
    assert [refused.offset for refused in bad] == [100, 101]
    assert events.ts.tolist() == [1_700_000_000_000_000, 5 * {"s": 10**6, "ms": 1000, "us": 1}[unit]]
    resumed, _, _ = decode([line(5)], EventRules(), unit=unit)
    assert resumed.ts.tolist() == events.ts.tolist()[1:]
    same_on_both_paths(lines, EventRules())


def test_stated_unit_wins_over_a_stored_one() -> None:
    events, _, unit = decode([b'{"user":"u","item":"i","ts":5}'], EventRules(time_unit="ms"), unit="us")
    assert (unit, events.ts.tolist()) == ("ms", [5000])


def test_fields_and_where_follow_the_rules() -> None:
    lines = [
        b'{"visitorid":1,"itemid":2,"timestamp":3,"event":"buy","value":5}',
        b'{"visitorid":1,"itemid":3,"timestamp":3,"event":"view","value":5.0}',
        b'{"visitorid":1,"itemid":4,"timestamp":3,"event":"buy","value":4}',
        b'{"visitorid":true,"itemid":4,"timestamp":3,"event":"other","value":4}',
        b'{"visitorid":1,"itemid":5,"timestamp":3}',
    ]
    fields = {"user": "visitorid", "item": "itemid", "ts": "timestamp", "type": "event"}
    for where, items in [
        ((), ["2", "3", "4", "5"]),
        ((("value", "5"),), ["2", "3"]),
        ((("value", 1),), ["5"]),
        ((("type", "buy"),), ["2", "4"]),
        ((("type", "event"),), ["5"]),
        ((("type", "buy"), ("value", 5)), ["2"]),
        ((("itemid", "4"),), ["4"]),
        ((("user", 1),), ["2", "3", "4", "5"]),
    ]:
        rules = EventRules(fields=fields, where=where, time_unit="s")
        events, bad, _ = decode(lines, rules)
        assert [events.items[k] for k in range(len(events))] == items
        assert len(bad) == (0 if where and where[0] != ("itemid", "4") else 1)
        same_on_both_paths(lines, rules)


def test_two_fields_of_one_name_are_read_from_it() -> None:
    rules = EventRules(fields={"user": "id", "item": "id"}, time_unit="s")
    assert one(b'{"id":"x","ts":1}', rules)[:2] == ("x", "x")


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": {"usr": "u"}},
        {"fields": {"user": ""}},
        {"weights": {"view": math.nan}},
        {"time_unit": "ns"},
        {"max_id_bytes": 0},
    ],
)
def test_impossible_rules_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        EventRules(**wrong)  # type: ignore[arg-type]


def test_plain_records_take_the_fast_path() -> None:
    lines = [
        GOOD,
        b'{"user":1,"item":"\xc3\xa9","ts":1.5,"type":"buy","value":0.1,"x":null,"y":-1.5,"z":true}',
    ]
    decoder = JsonDecoder(RULES)
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    columns = decoder._scan(
        np.frombuffer(b"".join(lines), np.uint8), ends - [len(line) for line in lines], ends
    )
    assert (columns.kind != SLOW).all()


def test_slices_of_any_size_decode_to_the_same_events() -> None:
    lines = mutated_lines(300, seed=5)
    whole, bad, _ = decode(lines)
    parts = [decode(lines[k : k + 7]) for k in range(0, len(lines), 7)]
    assert sum(len(events) for events, _, _ in parts) == len(whole)
    assert [b.reason for _, part, _ in parts for b in part] == [b.reason for b in bad]


_PIECES = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\t",
    b"\r",
    b"-",
    b"0",
    b"9",
    b".",
    b"e5",
    b"null",
    b"true",
    b"false",
    b"\x00",
    b"\x1f",
    b"\x7f",
    b"\x80",
    b"\xc2\x85",
    b"\xc3\xa9",
    b"\xe2\x82\xac",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x8c\x8a",
    b"\xff",
    b"\\u0041",
    b"\\ud800",
    b"1.5",
    b"-0",
    b"1e400",
    b"00",
    b'"user"',
    b'"ts":',
    b"9007199254740993",
    b"123456789012345678",
    b"0.1000000000000000055",
    b'"x":[1]',
    b"NaN",
    b"\xef\xbb\xbf",
    b'"":"",',
]


def mutated_lines(count: int, seed: int) -> list[bytes]:
    """Lines that are records, near-records and rubbish."""
    chance = random.Random(seed)
    lines: list[bytes] = []
    for k in range(count):
        record: dict[str, object] = {
            "user": chance.choice([f"u{k}", k, "é", "", "x" * 300, None, 1.5]) if k % 3 else f"u{k}",
            "item": chance.choice([f"i{k}", -k, "€"]),
            "ts": chance.choice([1_700_000_000 + k, 1_700_000_000.25, k, "2024-01-01T00:00:00Z", 10**17]),
        }
        if chance.random() < 0.7:
            record["value"] = chance.choice([1, 4.5, -0.1, None, 0.1 + 0.2, chance.random(), "5", 10**17 + 1])
        if chance.random() < 0.5:
            record["type"] = chance.choice(["view", "buy", "event", "", None, 3])
        if chance.random() < 0.3:
            record["extra"] = chance.choice(["t", [1], {"a": 2}, 2.5, None, True])
        parts = list(record.items())
        chance.shuffle(parts)
        line = bytearray(json.dumps(dict(parts), ensure_ascii=chance.random() < 0.5).encode())
        for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 5])):
            at = chance.randrange(len(line) + 1)
            match chance.randrange(4):
                case 0:
                    line[at:at] = chance.choice(_PIECES)
                case 1:
                    line[at : at + chance.randrange(1, 4)] = b""
                case 2:
                    line[at : at + 1] = bytes([chance.randrange(256)])
                case _:
                    del line[at:]
        lines.append(bytes(line).replace(b"\n", b" "))
    return lines


def compare_mutated_lines(count: int, seed: int = 0) -> int:
    """Decode `count` mutated lines on both paths; returns how many were events."""
    events = 0
    for first in range(0, count, 10_000):
        lines = mutated_lines(min(10_000, count - first), seed + first)
        for rules in (RULES, EventRules(where=(("value", 1),))) if first % 50_000 == 0 else (RULES,):
            same_on_both_paths(lines, rules)
        events += len(decode(lines)[0])
    return events


def test_kernel_agrees_with_the_slow_path_on_mutated_lines() -> None:
    count = int(os.environ.get("FRESHET_CRASH_COUNT", "4000"))
    assert compare_mutated_lines(count) > count // 10


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
_RECORDS = st.dictionaries(
    st.sampled_from(["user", "item", "ts", "type", "value", "x"]),
    st.one_of(_VALUES, st.integers(0, 10**10), st.just("u"), st.lists(_VALUES, max_size=2)),
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(_RECORDS, st.booleans(), st.integers(0, 200), st.binary(max_size=3)), min_size=1, max_size=8
    ),
    st.sampled_from(["auto", "ms"]),
)
def test_kernel_agrees_with_the_slow_path_on_generated_bytes(
    records: list[tuple[dict[str, object], bool, int, bytes]], unit: str
) -> None:
    lines = []
    for record, ascii_only, at, inserted in records:
        try:
            line = json.dumps(record, ensure_ascii=ascii_only).encode()
        except UnicodeEncodeError:
            line = json.dumps(record).encode()
        lines.append((line[:at] + inserted + line[at:]).replace(b"\n", b""))
    same_on_both_paths(lines, EventRules(time_unit=unit))


def test_event_has_no_unit_when_its_time_is_text() -> None:
    outcome = event_from_mapping({"user": "u", "item": "i", "ts": "2024-01-01T00:00:00Z"}, EventRules(), None)
    assert isinstance(outcome, Event)
    assert outcome.unit is None
