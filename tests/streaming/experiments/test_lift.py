"""The comparison of arms against textbook forms, and its intervals against the test that they invert."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming.experiments import lift
from streaming.experiments.lift import Comparison, Counts, compare, difference_interval, lift_interval


def counts(users: list[float], converted: list[float]) -> Counts:
    u, c = np.array(users, np.float64), np.array(converted, np.float64)
    return Counts(u, c, c, c)


def test_comparison_of_one_phase_is_the_difference_of_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lift, "PRIOR_OUTCOMES", 0.0)
    found = compare(counts([10_000], [500]), counts([5_000], [300]))
    assert float(found.effective) == pytest.approx(10_000 * 5_000 / 15_000)
    variance = 0.05 * 0.95 / 10_000 + 0.06 * 0.94 / 5_000
    assert float(found.z()) == pytest.approx(0.01 / np.sqrt(variance))


def test_phases_are_combined_as_mantel_and_haenszel_do() -> None:
    # A rate that doubles while the share grows: pooled counts would show a lift of 60 %.
    champion, challenger = counts([9_000, 5_000], [360, 400]), counts([1_000, 5_000], [40, 400])
    found = compare(champion, challenger)
    assert float(found.challenger - found.champion) == pytest.approx(0.0)
    weights = np.array([9_000 * 1_000 / 10_000, 5_000 * 5_000 / 10_000])
    assert float(found.champion) == pytest.approx(float(weights @ [0.04, 0.08] / weights.sum()))


def test_common_variance_vanishes_with_many_outcomes() -> None:
    found = compare(counts([1e7], [5e5]), counts([1e7], [6e5]))
    assert float(found.challenger_variance) == pytest.approx(0.06 * 0.94 / 1e7, rel=1e-3)


def test_arm_without_outcomes_is_no_proof_while_it_is_small() -> None:
    found = compare(counts([9_000], [450]), counts([60], [0]))
    assert -2.0 < float(found.z()) < -1.0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(50, 5000),
    st.integers(50, 5000),
    st.floats(0.02, 0.9),
    st.floats(0.02, 0.9),
    st.floats(1.5, 6.0),
)
def test_lift_interval_holds_just_the_lifts_that_the_test_keeps(
    n: int, m: int, p: float, q: float, critical: float
) -> None:
    found = compare(counts([n], [round(p * n)]), counts([m], [round(q * m)]))
    lower, upper = (float(end) for end in lift_interval(found, np.asarray(critical)))
    for end in (lower, upper):
        if np.isfinite(end):
            assert abs(float(found.z(end))) == pytest.approx(critical, rel=1e-6)
    if np.isfinite(lower) and np.isfinite(upper):
        assert lower <= float(found.challenger / found.champion) - 1.0 <= upper
        assert abs(float(found.z(lower + 0.5 * (upper - lower)))) <= critical + 1e-9


def test_lift_is_bounded_below_only_when_the_champion_may_have_none() -> None:
    found = compare(counts([1000], [2]), counts([1000], [60]))
    lower, upper = (float(end) for end in lift_interval(found, np.asarray(3.0)))
    assert lower > 0.0
    assert upper == np.inf


def test_intervals_are_unbounded_without_users() -> None:
    found = compare(counts([0], [0]), counts([0], [0]))
    assert float(found.z()) == 0.0
    assert [float(end) for end in lift_interval(found, np.asarray(np.inf))] == [-np.inf, np.inf]
    assert [float(end) for end in difference_interval(found, np.asarray(np.inf))] == [-np.inf, np.inf]


def test_difference_interval_leaves_out_zero_just_where_the_test_does() -> None:
    found = Comparison(*(np.asarray(x) for x in (100.0, 1.0, 1.5, 0.01, 0.0125)))
    z = float(found.z())
    for critical, inside in ((z + 0.01, True), (z - 0.01, False)):
        lower, upper = difference_interval(found, np.asarray(critical))
        assert (float(lower) <= 0.0 <= float(upper)) is inside
