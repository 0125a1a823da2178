"""Lines of both logs become what the joiner takes, as the worker's own rules say."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.outcomes_records import EventReader, Lines, ReadEvents, read_exposures
from streaming.exposures import Exposure, Happening
from streaming.rules import Event, EventRules, event_from_mapping

BEGIN = 1_700_000_000_000_000
RECORDS = st.lists(
    st.fixed_dictionaries(
        {"user": st.sampled_from(["u", "ü", 7, "", None]), "item": st.sampled_from(["i", "пирог"]),
         "ts": st.sampled_from([BEGIN - 1, BEGIN, BEGIN + 5, "2023-11-14T22:13:21Z", "no time"])},
        optional={
            "type": st.sampled_from(["buy", "view", None, "a\\b"]),
            "value": st.sampled_from([1, 1.0, 19.99, None, "x"]),
            "exposure": st.sampled_from(["x1", "ü\n", 5, None]),
        },
    ),
    min_size=1,
    max_size=12,
)  # fmt: skip


def lines_of(*records: Any, stamps: list[int] | None = None) -> Lines:
    made = Lines.of("events", b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return Lines(made.source, made.data, made.start, made.end, np.array(stamps) if stamps else None)


def read(lines: Lines, metric: str = "buy", **rules: Any) -> ReadEvents:
    return EventReader(EventRules(**rules), metric, BEGIN, 60_000_000, {"events": "us"}).read(lines)


def one_by_one(records: list[dict[str, Any]]) -> tuple[list[tuple[str, Happening]], list[int], int]:
    """Records of the metric, times of all, and bad ones, each record by the definition alone."""
    found, times, bad = [], [], 0
    for record in records:
        event = event_from_mapping(record, EventRules(), "us")
        if not isinstance(event, Event):
            bad += 1
            continue
        if event.ts < BEGIN:
            continue
        times.append(event.ts)
        named = record.get("exposure")
        if (record.get("type") or "event") == "buy":
            exposure = named if isinstance(named, str) else ""
            found.append(
                (event.user.decode(), Happening(event.ts, event.item.decode(), event.value, exposure))
            )
    return found, times, bad


@settings(max_examples=40, deadline=None)
@given(RECORDS)
def test_events_are_those_of_the_rules_one_by_one(records: list[dict[str, Any]]) -> None:
    found = read(lines_of(*records))
    expected, times, bad = one_by_one(records)
    assert (found.records, found.ts.tolist(), found.bad) == (expected, times, bad)
    assert found.ts[found.places].tolist() == [event.ts for _, event in expected]
    assert [found.users[k] for k in found.places] == [user for user, _ in expected]


def test_names_of_fields_and_the_default_type_are_those_of_the_settings() -> None:
    fields = {"user": "who", "item": "what", "ts": "at", "type": "kind", "value": "paid"}
    record = {"who": "u", "what": "i", "at": BEGIN, "paid": 2.5}
    found = read(lines_of(record, {**record, "kind": "buy"}), "event", fields=fields)
    assert found.records == [("u", Happening(BEGIN, "i", 2.5))]
    assert len(found.ts) == 2


def test_unit_of_time_is_decided_once_for_a_source() -> None:
    reader = EventReader(EventRules(), "event", 0, 0, {})
    event = {"user": "u", "item": "i"}
    reader.read(lines_of({**event, "ts": 1_700_000_000}))
    assert reader.units == {"events": "s"}
    again = EventReader(EventRules(), "event", 0, 0, reader.units)
    assert again.read(lines_of({**event, "ts": 5})).ts.tolist() == [5_000_000]


def test_event_of_a_clock_that_is_far_ahead_is_left_out_where_the_log_knows() -> None:
    event = {"user": "u", "item": "i", "type": "buy"}
    taken = BEGIN // 1000
    lines = lines_of({**event, "ts": BEGIN + 60_000_000}, {**event, "ts": BEGIN + 60_000_001},
                     {**event, "ts": BEGIN + 10**12}, stamps=[taken, taken, -1])  # fmt: skip
    found = read(lines)
    assert (found.ts.tolist(), found.ahead) == ([BEGIN + 60_000_000, BEGIN + 10**12], 1)


def test_exposures_of_other_experiments_and_what_is_none_are_passed_over() -> None:
    one = {"id": "x", "user": "ü", "experiment": "exp", "arm": "a", "version": "a", "items": ["i", "j"],
           "positions": [0, 1], "scores": [2.0, 1.0], "ts": 5}  # fmt: skip
    found = read_exposures(lines_of(one, {**one, "experiment": "other"}, {**one, "ts": "now"}, "no"), "exp")
    assert found.records == [("ü", Exposure(5, "x", "a", ("i", "j")))]
    assert found.bad == 2
