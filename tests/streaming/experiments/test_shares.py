"""Ramps and bandit shares: floors, order, and what ends them."""

from __future__ import annotations

import numpy as np
import pytest

from streaming.errors import SettingError
from streaming.experiments import (
    Bandit,
    Design,
    Experiment,
    Policy,
    Ramp,
    bandit_shares,
    with_challengers,
    without,
)


def test_ramp_climbs_by_users_and_time_and_stays_at_the_last_step() -> None:
    ramp = Ramp((0.05, 0.2, 0.5), least_users=100, least_seconds=60.0)
    assert ramp.advance(59.0, 1000, False).share == 0.05
    second = ramp.advance(60.0, 1000, False)
    assert (second.share, second.users, second.since_s) == (0.2, 1000, 60.0)
    assert second.advance(200.0, 1099, False).share == 0.2
    third = second.advance(200.0, 1100, False)
    assert third.share == 0.5
    assert third.advance(1e6, 10**6, False) == third


def test_halted_ramp_never_climbs_again() -> None:
    halted = Ramp((0.05, 0.5), least_users=1).advance(10.0, 50, True)
    assert halted.halted
    assert halted.advance(20.0, 500, False) == halted


@pytest.mark.parametrize("steps", [(), (0.0, 0.5), (0.5, 0.2), (0.5, 1.2)])
def test_ramp_refuses_steps_that_do_not_rise(steps: tuple[float, ...]) -> None:
    with pytest.raises(SettingError, match="expected rising shares"):
        Ramp(steps)


def test_shares_keep_their_sum_and_proportions() -> None:
    assert with_challengers({"a": 1.0, "b": 0.0, "c": 0.0}, 0.5) == {"a": 0.5, "b": 0.25, "c": 0.25}
    assert without({"a": 0.5, "b": 0.5}, "b") == {"a": 1.0, "b": 0.0}


POLICIES: tuple[Policy, ...] = ("thompson", "ucb")


@pytest.mark.parametrize("policy", POLICIES)
def test_bandit_keeps_the_floor_and_prefers_the_better_arm(policy: Policy) -> None:
    counts = {"a": (5000, 250), "b": (5000, 400), "c": (0, 0)}
    shares = bandit_shares(counts, 0.1, seed=3, policy=policy)
    assert min(shares.values()) >= 0.1
    assert shares["b"] > shares["a"] or policy == "ucb"  # who has no user yet comes first there
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == bandit_shares(counts, 0.1, seed=3, policy=policy)
    assert bandit_shares({"a": (900, 45), "b": (900, 90)}, 0.2, 1, policy)["b"] > 0.7


@pytest.mark.parametrize("policy", POLICIES)
def test_bandit_without_any_user_divides_them_about_evenly(policy: Policy) -> None:
    shares = bandit_shares({"a": (0, 0), "b": (0, 0)}, 0.05, 1, policy, users=50)
    assert shares["a"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("policy", POLICIES)
def test_bandit_loses_less_than_equal_shares(policy: Policy) -> None:
    rng = np.random.default_rng(5)
    rates, counts, lost = np.array([0.05, 0.1]), {"a": (0, 0), "b": (0, 0)}, 0.0
    for decision in range(10):
        shares = bandit_shares(counts, 0.05, decision, policy)
        sent = rng.multinomial(500, list(shares.values()))
        lost += float(sent @ (0.1 - rates))
        counts = {
            arm: (counts[arm][0] + int(n), counts[arm][1] + int(rng.binomial(n, rate)))
            for arm, n, rate in zip(counts, sent, rates, strict=True)
        }
    assert lost < 0.5 * (5000 * 0.025)


def enter(experiment: Experiment, arm: int, users: int, converted: int) -> None:
    """Users of one arm enter in the newest phase."""
    outcomes = np.arange(users) < converted
    phase = np.full(users, len(experiment.phases) - 1)
    experiment.add(np.full(users, arm), outcomes.astype(np.float64), phase)


def test_bandit_decides_after_its_users_and_not_again_before_as_many_more() -> None:
    experiment = Experiment(Design(), {"a": 0.5, "b": 0.5, "c": 0.0})
    bandit = Bandit("thompson", 0.1, users=400)
    enter(experiment, 0, 200, 10)
    enter(experiment, 1, 199, 60)
    assert bandit.shares(experiment) is None
    enter(experiment, 1, 1, 0)
    found = bandit.shares(experiment, taken_out=["c"])
    assert found == {"a": 0.1, "b": 0.9, "c": 0.0}  # the floor is that of arms that were not taken out
    experiment.begin_phase(found, 1)
    assert bandit.shares(experiment, ["c"]) is None
    enter(experiment, 1, 400, 120)
    assert bandit.shares(experiment, ["c"]) is None  # nothing would change


def test_bandit_leaves_the_last_arm_as_it_is() -> None:
    experiment = Experiment(Design(), {"a": 0.5, "b": 0.5})
    enter(experiment, 0, 100, 10)
    assert Bandit("ucb", 0.1, users=100).shares(experiment, taken_out=["b"]) is None


def test_bandit_refuses_floors_and_counts_that_cannot_be() -> None:
    with pytest.raises(SettingError, match="floor must be between 0 and 1/2"):
        bandit_shares({"a": (0, 0), "b": (0, 0)}, 0.6, seed=1)
    with pytest.raises(SettingError, match="a has 3 conversions of 2 users"):
        bandit_shares({"a": (2, 3), "b": (0, 0)}, 0.1, seed=1)
