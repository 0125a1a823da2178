"""Routing is a pure function of (salt, user), and shares change without reshuffling."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.errors import SettingError
from streaming.routing import BUCKETS, Arm, Route, bucket_of, divided, route

NAMES = ("a", "b", "c", "d")


@st.composite
def shares(draw: st.DrawFn) -> dict[str, float]:
    """Shares of one to four arms, which add up to 1."""
    cuts = sorted(draw(st.lists(st.integers(1, BUCKETS - 1), max_size=3, unique=True)))
    names = draw(st.permutations(NAMES))
    ends = [0, *cuts, BUCKETS]
    return {n: (b - a) / BUCKETS for n, a, b in zip(names, ends, ends[1:], strict=False)}


def owners(arms: tuple[Arm, ...]) -> list[str]:
    """The arm of each bucket."""
    owner = [""] * BUCKETS
    for arm in arms:
        for first, end in arm.ranges:
            owner[first:end] = [arm.version] * (end - first)
    return owner


@pytest.mark.parametrize(
    ("salt", "user", "bucket"),
    [("summer", "ann", 8259), ("summer", "bob", 290), ("winter", "ann", 9497), ("", "zoë", 1263)],
)
def test_bucket_is_the_documented_one(salt: str, user: str, bucket: int) -> None:
    plain = hashlib.sha256(salt.encode() + b"\x00" + user.encode()).hexdigest()
    assert int(plain[:16], 16) % 10_000 == bucket_of(salt, user) == bucket


def test_table_of_the_documentation_is_right() -> None:
    text = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
    rows = re.findall(r"^\| (.+) \| (.+) \| (\d+) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for salt, user, bucket in rows:
        assert bucket_of(*("" if "empty" in cell else cell.strip("`") for cell in (salt, user))) == int(
            bucket
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(shares(), min_size=1, max_size=6))
def test_arms_have_their_shares_and_hold_each_bucket_once(path: list[dict[str, float]]) -> None:
    arms: tuple[Arm, ...] = ()
    for step in path:
        arms = divided(step, arms)
        assert {arm.version: arm.share for arm in arms} == pytest.approx(step)
        Route("salt", arms)  # refuses arms that leave a bucket out or hold it twice
        assert "" not in owners(arms)


@settings(max_examples=60, deadline=None)
@given(shares(), shares())
def test_users_move_only_from_arms_that_shrink_to_arms_that_grow_and_no_more_than_they_must(
    before: dict[str, float], after: dict[str, float]
) -> None:
    old = divided(before)
    new = divided(after, old)
    moved = Counter((a, b) for a, b in zip(owners(old), owners(new), strict=True) if a != b)
    grows = {n: after.get(n, 0.0) - before.get(n, 0.0) for n in NAMES}
    for source, target in moved:
        assert grows[source] < 0 < grows[target]
    needed = sum(change for change in grows.values() if change > 0)
    assert sum(moved.values()) == round(needed * BUCKETS)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, BUCKETS))
def test_ramp_of_one_arm_that_goes_back_gives_each_user_the_arm_they_had(b: int) -> None:
    arms = divided({"a": 0.9, "b": 0.1})
    there = divided({"a": 1 - b / BUCKETS, "b": b / BUCKETS}, arms)
    assert owners(divided({"a": 0.9, "b": 0.1}, there)) == owners(arms)


def test_users_are_divided_as_the_shares_say() -> None:
    by = Route("salt", divided({"a": 0.5, "b": 0.3, "c": 0.2}))
    count = Counter(r.version for k in range(20_000) if (r := route(f"user-{k}", by)))
    assert [count[n] / 20_000 for n in "abc"] == pytest.approx([0.5, 0.3, 0.2], abs=0.015)


def test_another_salt_divides_the_users_independently() -> None:
    arms = divided({"a": 0.5, "b": 0.5})
    one, two = Route("one", arms), Route("two", arms)
    same = sum(route(f"u{k}", one) == route(f"u{k}", two) for k in range(10_000))
    assert same == pytest.approx(5000, abs=300)


def test_override_comes_before_hold_out_and_hold_out_before_shares() -> None:
    by = Route("s", divided({"b": 1.0}), {"ann": "c"}, holdout=BUCKETS)
    assert route("ann", by) == ("c", "override")
    assert route("bob", by) == (None, "holdout")
    assert route("bob", Route("s", by.arms, holdout=BUCKETS, holdout_version="a")) == ("a", "holdout")
    assert route("bob", Route("s", by.arms)) == ("b", "share")
    assert route("bob", Route("s", overrides={"ann": "c"})) is None
    assert by.versions() == {"b", "c"}


def test_hold_out_is_independent_of_the_experiment_and_grows_one_way() -> None:
    arms = divided({"a": 0.5, "b": 0.5})
    users = [f"u{k}" for k in range(5000)]

    def held(salt: str, holdout: int) -> set[str]:
        by = Route(salt, arms, holdout=holdout)
        return {user for user in users if (r := route(user, by)) and r.by == "holdout"}

    small = held("one", 500)
    assert len(small) / len(users) == pytest.approx(0.05, abs=0.015)
    assert held("two", 500) == small < held("two", 1000)
    own = [bucket_of("one", user) < 5000 for user in small]
    assert sum(own) / len(own) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"a": 0.5, "b": 0.4}, "add up to 1, got a=0.5 b=0.4, which is 0.9"),
        ({"a": 1.5, "b": -0.5}, "between 0 and 1, got 1.5"),
        ({"a": 0.99999, "b": 0.00001}, "at least 0.0001"),
        ({"a": float("nan")}, "between 0 and 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        divided(wrong)


def test_thirds_are_rounded_and_leave_no_bucket_over() -> None:
    arms = divided({"a": 0.3333, "b": 0.3333, "c": 0.3333})
    assert [arm.buckets for arm in arms] == [3334, 3333, 3333]


@pytest.mark.parametrize("ranges", [((0, 5000),), ((0, 6000), (5000, 10_000)), ((0, 10_000), (3, 3))])
def test_route_whose_arms_do_not_hold_each_bucket_once_is_refused(
    ranges: tuple[tuple[int, int], ...],
) -> None:
    with pytest.raises(SettingError, match="each of the 10000 buckets once"):
        Route("s", (Arm("a", ranges),))
