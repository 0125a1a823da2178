"""The join against a naive one, however sources interleave, batches end and joiners start again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import SettingError
from streaming.experiments import Design, Experiment
from streaming.exposures import Exposure, Happening, JoinCounts, Outcome
from streaming.joining import Joiner

WINDOW, SKEW, LATENESS = 100, 5, 20
END = 10_000
ARMS = ("champion", "challenger")


def joiner(**settings: Any) -> Joiner:
    options = {"window_us": WINDOW, "skew_us": SKEW, "lateness_us": LATENESS}
    return Joiner(ARMS, ["x", "e"], **{**options, **settings})


def shown(ts: int, id: str = "", arm: str = "champion", items: str = "a") -> Exposure:
    return Exposure(ts, id or f"x{ts}", arm, tuple(items))


def joined(
    exposures: list[tuple[str, Exposure]], events: list[tuple[str, Happening]], **settings: Any
) -> tuple[list[Outcome], JoinCounts]:
    one = joiner(**settings)
    one.observe("e", events)  # what happened arrives before what was served
    one.expose("x", exposures)
    for source in ("x", "e"):
        one.advance(source, END)
    return one.close(), one.counts


def counted(counts: JoinCounts) -> dict[str, int]:
    return {name: count for name, count in asdict(counts).items() if count}


def test_event_belongs_to_an_exposure_of_its_item_within_the_window() -> None:
    events = [("u", Happening(ts, item)) for ts, item in [(150, "a"), (160, "b"), (200, "a"), (201, "a")]]
    outcomes, counts = joined([("u", shown(100))], events)
    assert outcomes == [Outcome("u", 0, 100, 2.0, 2, 1)]
    assert counted(counts) == {"exposures": 1, "joined": 2, "unexposed": 1, "after_window": 1, "users": 1}


def test_event_belongs_to_the_exposure_that_it_names_whatever_its_item() -> None:
    exposures = [("u", shown(100, "first")), ("u", shown(120, "second", items="b"))]
    events = [
        ("u", Happening(110, "z", 2.0, "first")),
        ("u", Happening(110, "a", 4.0, "second")),  # before that exposure
        ("u", Happening(130, "a", 8.0, "unknown")),
        ("u", Happening(130, "z", 16.0, "second")),
    ]
    outcomes, counts = joined(exposures, events)
    assert outcomes[0].value == 18.0
    assert counts.unexposed == 2


def test_outcome_before_its_exposure_counts_only_within_the_skew() -> None:
    events = [("u", Happening(100 - SKEW, "a")), ("u", Happening(100 - SKEW - 1, "a"))]
    outcomes, counts = joined([("u", shown(100))], events)
    assert outcomes[0].events == 1
    assert counted(counts) == {"exposures": 1, "joined": 1, "unexposed": 1, "users": 1}


def test_repeated_records_count_once() -> None:
    exposures = [("u", shown(100, "x")), ("u", shown(105, "y")), ("u", shown(110, "x"))]
    outcomes, counts = joined(exposures, [("u", Happening(120, "a"))] * 3)
    assert outcomes == [Outcome("u", 0, 100, 1.0, 1, 2)]
    assert (counts.repeated, counts.repeated_exposures) == (2, 1)


def test_user_seen_in_two_arms_is_left_out_and_never_enters_again() -> None:
    one = joiner()
    one.expose("x", [("u", shown(100)), ("u", shown(150, arm="challenger")), ("v", shown(150))])
    for ts in (1_000, 2_000):
        one.advance("x", ts)
        one.advance("e", ts)
        left = [(outcome.user, outcome.left_out) for outcome in one.close()]
        assert left == ([("u", "two_arms"), ("v", "")] if ts == 1_000 else [])
        one.expose("x", [("u", shown(ts))])
    assert (one.counts.two_arms, one.counts.users, one.counts.later_exposures) == (1, 1, 2)


def test_second_arm_after_the_window_does_not_matter() -> None:
    outcomes, counts = joined([("u", shown(100)), ("u", shown(201, arm="challenger"))], [])
    assert [outcome.user for outcome in outcomes] == ["u"]
    assert counts.later_exposures == 1


def test_user_whom_the_route_moved_is_left_out_though_never_seen_again() -> None:
    asked = []

    def moved(user: str, first: int, last: int) -> bool:
        asked.append((user, first, last))
        return user == "u"

    outcomes, counts = joined([("u", shown(100)), ("v", shown(110))], [], moved=moved)
    assert [(outcome.user, outcome.left_out) for outcome in outcomes] == [("u", "moved"), ("v", "")]
    assert (counts.moved, counts.users) == (1, 1)
    assert asked == [("u", 100, 200), ("v", 110, 210)]


def test_late_records_are_left_out_and_counted() -> None:
    exposures = [("u", shown(500)), ("u", shown(500 - LATENESS)), ("v", shown(500 - LATENESS - 1))]
    events = [("u", Happening(600, "a")), ("u", Happening(600 - LATENESS - 1, "a"))]
    outcomes, counts = joined(exposures, events)
    assert [(outcome.user, outcome.first_us) for outcome in outcomes] == [("u", 480)]
    assert (counts.late_exposures, counts.late) == (1, 1)


def test_exposure_of_another_arm_is_counted_only() -> None:
    outcomes, counts = joined([("u", shown(100, arm="held out"))], [("u", Happening(110, "a"))])
    assert outcomes == []
    assert counted(counts) == {"other_exposures": 1, "unexposed": 1}


def test_window_stays_open_while_a_source_may_bring_more() -> None:
    one = joiner()
    one.expose("x", [("u", shown(100)), ("v", shown(1000))])
    assert one.watermark is None
    assert one.close() == []
    one.advance("e", 200 + LATENESS)
    assert one.close() == []
    one.advance("e", 201 + LATENESS)
    assert [outcome.user for outcome in one.close()] == ["u"]


def test_memory_is_bounded_by_the_window() -> None:
    one, most = joiner(), 0
    for ts in range(0, 20_000, 2):
        one.expose("x", [(f"u{ts}", shown(ts))])
        one.observe("e", [(f"u{ts}", Happening(ts, "a")), (f"stranger{ts}", Happening(ts, "a"))])
        one.close()
        most = max(most, one.held)
    assert most <= 2 * (WINDOW + LATENESS)
    assert len(one._closing) + sum(map(len, one._waiting.values())) <= 2 * (WINDOW + LATENESS)


def test_forgotten_user_leaves_nothing() -> None:
    one = joiner()
    one.expose("x", [("u", shown(100)), ("v", shown(100))])
    one.advance("x", 1000)
    one.advance("e", 1000)
    one.forget("u")
    assert [outcome.user for outcome in one.close()] == ["v"]
    one.forget("v")
    assert (one.users(), list(one.entered)) == ([], [])


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"window_us": 0}, {"skew_us": -1}, {"lateness_us": -1}):
        with pytest.raises(SettingError, match="the window must be above 0"):
            joiner(**wrong)
    with pytest.raises(SettingError, match="at least one arm"):
        Joiner([], ["x"], window_us=1)


Record = tuple[str, Exposure | Happening]
Stream = list[Record]
USERS = st.sampled_from("uvw")
EXPOSED = st.tuples(
    USERS,
    st.builds(
        Exposure,
        st.integers(0, 400),
        st.sampled_from(["p", "q", "r", "s"]),
        st.sampled_from([*ARMS, "champion", "champion", "other"]),
        st.sampled_from([("a",), ("a", "b"), ("c",)]),
    ),
)
HAPPENED = st.tuples(
    USERS,
    st.builds(
        Happening,
        st.integers(0, 400),
        st.sampled_from("abc"),
        st.sampled_from([1.0, 0.1, 0.2]),
        st.sampled_from(["", "", "p", "q"]),
    ),
)


def punctual(records: Stream) -> tuple[Stream, int]:
    """Records of one source that are not late, and how many are."""
    kept: Stream = []
    newest = -(10**9)
    for user, record in records:
        if record.ts >= newest - LATENESS:
            kept.append((user, record))
            newest = max(newest, record.ts)
    return kept, len(records) - len(kept)


def fits(exposure: Exposure, event: Happening) -> bool:
    """Whether an event may belong to an exposure, whatever their times."""
    return exposure.id == event.exposure if event.exposure else event.item in exposure.items


def naive(exposed: Stream, happened: Stream) -> tuple[list[Outcome], Counter[str]]:
    """The join of all records at once, by going through all pairs."""
    (exposed, late_exposures), (happened, late) = punctual(exposed), punctual(happened)
    ours = [(user, x) for user, x in exposed if isinstance(x, Exposure) and x.arm in ARMS]
    counts = Counter(late_exposures=late_exposures, late=late, other_exposures=len(exposed) - len(ours))
    outcomes = []
    for user in "uvw":
        exposures = sorted(x for u, x in ours if u == user)
        events = sorted(e for u, e in happened if u == user and isinstance(e, Happening))
        if not exposures:
            counts["unexposed"] += len(events)
            continue
        end = exposures[0].ts + WINDOW
        inside = [x for x in exposures if x.ts <= end]
        ids = len({x.id for x in inside})
        counts.update(
            exposures=ids, repeated_exposures=len(inside) - ids, later_exposures=len(exposures) - len(inside)
        )
        taken = []
        for event in events:
            firsts = [x for k, x in enumerate(inside) if x.id not in {y.id for y in inside[:k]}]
            if event.ts > end:
                counts["after_window"] += 1
            elif not any(fits(x, event) and x.ts <= event.ts + SKEW for x in firsts):
                counts["unexposed"] += 1
            elif event in taken:
                counts["repeated"] += 1
            else:
                counts["joined"] += 1
                taken.append(event)
        if len({x.arm for x in inside}) > 1:
            counts["two_arms"] += 1
            left_out = "two_arms"
        else:
            counts["users"] += 1
            left_out = ""
        value = round(sum(event.value for event in taken), 6)
        outcomes.append(
            Outcome(user, ARMS.index(inside[0].arm), inside[0].ts, value, len(taken), ids, left_out)
        )
    return sorted(outcomes, key=lambda one: (one.first_us, one.user)), counts


def rows(one: Joiner) -> dict[str, bytes]:
    return {user: row for user in one.users() if (row := one.row(user)) is not None}


def again(one: Joiner) -> Joiner:
    """A joiner that starts from what another one wrote down."""
    other = joiner(entered=set(one.entered))
    other.restore(json.loads(json.dumps(one.state())), rows(one).items())
    return other


@settings(max_examples=100, deadline=None)
@given(st.lists(EXPOSED, max_size=12), st.lists(HAPPENED, max_size=12), st.randoms(use_true_random=False))
def test_join_equals_the_naive_one_however_records_arrive(
    exposed: Stream, happened: Stream, random: Any
) -> None:
    one, outcomes, left = joiner(), [], {"x": list(exposed), "e": list(happened)}
    while left["x"] or left["e"]:
        source = random.choice([name for name, records in left.items() if records])
        batch = [left[source].pop(0) for _ in range(random.randint(1, len(left[source])))]
        one.expose("x", batch) if source == "x" else one.observe("e", batch)  # type: ignore[arg-type]
        if random.random() < 0.5:
            outcomes += one.close()
        if random.random() < 0.2:
            one = again(one)
    one.advance("x", END)
    one.advance("e", END)
    outcomes += one.close()
    expected, counts = naive(exposed, happened)
    assert [one._replace(value=round(one.value, 6)) for one in outcomes] == expected
    assert counted(one.counts) == {name: count for name, count in counts.items() if count}
    assert one.users() == []


def taken(exposed: Stream, happened: Stream, random: Any) -> list[Any]:
    """Outcomes and all that is kept, after both streams were taken in some order."""
    one, outcomes, left = joiner(), [], {"x": list(exposed), "e": list(happened)}
    while left["x"] or left["e"]:
        source = random.choice([name for name, records in left.items() if records])
        batch = [left[source].pop(0) for _ in range(random.randint(1, len(left[source])))]
        one.expose("x", batch) if source == "x" else one.observe("e", batch)  # type: ignore[arg-type]
        outcomes += one.close()
    return [outcomes, json.dumps(one.state(), sort_keys=True), rows(one), sorted(one.entered)]


@settings(max_examples=100, deadline=None)
@given(st.lists(EXPOSED, max_size=12), st.lists(HAPPENED, max_size=12), st.randoms(use_true_random=False))
def test_kept_state_is_the_same_whichever_source_came_first(
    exposed: Stream, happened: Stream, random: Any
) -> None:
    assert taken(exposed, happened, random) == taken(exposed, happened, random)


def test_outcomes_make_an_experiment() -> None:
    rng = np.random.default_rng(3)
    exposures = [(f"u{k}", shown(10 * k, arm=ARMS[k % 2])) for k in range(400)]
    events = [(f"u{k}", Happening(10 * k + 30, "a")) for k in range(400) if rng.random() < (0.1, 0.5)[k % 2]]
    outcomes, _ = joined(exposures, events)
    experiment = Experiment(Design(mean=0.1, lift=2.0), dict.fromkeys(ARMS, 0.5))
    arms, firsts = (np.array([one[k] for one in outcomes], np.int64) for k in (1, 2))
    values = np.array([one.value for one in outcomes])
    experiment.add(arms, values, experiment.phase_at(firsts))
    assert experiment.users == 400
    assert experiment.decisions["challenger"].verdict == "better"
