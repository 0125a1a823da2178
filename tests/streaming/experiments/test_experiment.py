"""Experiments as they are kept: batches, states, verdicts, and the reason for each case without one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streaming.errors import SettingError
from streaming.experiments import Design, Experiment, summary, winner

Users = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]
SMALL = Design(mean=0.2, lift=0.5, guardrail=-0.05)
HALVES = {"champion": 0.5, "challenger": 0.5}


def entered(
    n: int, rates: tuple[float, ...], seed: int = 0, shares: tuple[float, ...] | None = None
) -> Users:
    rng = np.random.default_rng(seed)
    arms = rng.choice(len(rates), size=n, p=shares)
    outcomes = (rng.random(n) < np.array(rates)[arms]).astype(np.float64)
    return arms, outcomes, np.zeros(n, np.int64)


def run(rates: tuple[float, ...], n: int = 4000, design: Design = SMALL) -> Experiment:
    experiment = Experiment(design, HALVES)
    experiment.add(*entered(n, rates))
    return experiment


def challenger(experiment: Experiment) -> dict[str, Any]:
    found: dict[str, Any] = summary(experiment)["challengers"]["challenger"]
    return found


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=6), st.sampled_from(["conversion", "value"]))
def test_state_is_the_same_however_users_are_batched(cuts: list[int], metric: str) -> None:
    design = SMALL if metric == "conversion" else Design("value", 3.0, 9.0, lift=0.5, guardrail=0.0)
    arms, outcomes, _ = entered(700, (0.3, 0.05))
    values = np.round(outcomes * np.random.default_rng(1).lognormal(1, 1, 700), 3)
    phases = (np.arange(700) // 300).astype(np.int64)
    states = []
    for edges in ([0, 700], [0, *sorted(cuts), 700]):
        experiment = Experiment(design, HALVES)
        experiment.begin_phase(HALVES, 10)
        experiment.begin_phase({"champion": 0.2, "challenger": 0.8}, 20)
        for first, last in itertools.pairwise(edges):
            experiment.add(arms[first:last], values[first:last], phases[first:last])
            experiment = Experiment.restored(json.loads(json.dumps(experiment.state())))
        states.append(json.dumps(experiment.state(), sort_keys=True))
    assert states[0] == states[1]


def test_better_challenger_is_found_and_wins() -> None:
    experiment = run((0.2, 0.3))
    found = challenger(experiment)
    assert found["verdict"] == "better"
    assert found["lift_interval"][0] > 0.0
    assert found["evidence"] >= 1 / found["level"]
    assert found["reason"].startswith("the interval left out 0 at ")
    assert found["guardrail"]["state"] == "watching"
    assert winner(experiment) == "challenger"


def test_worse_challenger_is_taken_out_once_and_does_not_win() -> None:
    experiment = Experiment(SMALL, HALVES)
    assert experiment.add(*entered(2000, (0.2, 0.1))) == ["challenger"]
    assert experiment.add(*entered(2000, (0.2, 0.1), seed=1)) == []
    found = challenger(experiment)
    assert found["verdict"] == "worse"
    assert found["guardrail"]["state"] == "acted"
    assert "is to be taken out of the route" in found["guardrail"]["reason"]
    assert winner(experiment) == "champion"


def test_equal_arms_stay_undecided() -> None:
    found = challenger(run((0.2, 0.2)))
    assert (found["verdict"], found["decided_at_users"]) == ("undecided", None)
    assert found["lift_interval"][0] < 0.0 < found["lift_interval"][1]


def test_arm_without_users_is_explained() -> None:
    experiment = Experiment(SMALL, HALVES)
    experiment.add(np.zeros(50, np.int64), np.ones(50), np.zeros(50, np.int64))
    found = challenger(experiment)
    assert found["reason"].startswith("no user of challenger has entered yet")
    assert found["lift"] is found["difference"] is None
    json.dumps(summary(experiment), allow_nan=False)


def test_share_of_zero_is_explained_and_strays_are_left_out() -> None:
    experiment = Experiment(SMALL, {"champion": 1.0, "challenger": 0.0})
    experiment.add(*entered(300, (0.2, 0.2)))
    shown = summary(experiment)
    assert shown["challengers"]["challenger"]["reason"] == "challenger has share 0: no user is sent to it"
    assert 100 < shown["strays"] < 200
    assert shown["users"] + shown["strays"] == 300
    assert shown["sample_ratio"]["fits"]
    assert "in an arm of share 0" in shown["sample_ratio"]["reason"]


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        ((0.0, 0.0), "no user of either arm has an outcome yet"),
        ((1.0, 1.0), "all users have the same outcome, so chance cannot be judged"),
    ],
)
def test_outcomes_without_difference_are_explained(rates: tuple[float, float], reason: str) -> None:
    experiment = run(rates)
    found = challenger(experiment)
    assert (found["verdict"], found["reason"]) == ("undecided", reason)
    json.dumps(summary(experiment), allow_nan=False)


def test_zero_base_rate_leaves_the_difference() -> None:
    few = challenger(run((0.0, 0.01), n=400))
    assert few["lift"] is None
    assert few["difference"] > 0.0
    assert few["reason"].startswith("no user of champion has an outcome: lift is undefined")
    many = challenger(run((0.0, 0.2)))
    assert (many["verdict"], many["lift"]) == ("better", None)
    assert many["difference_interval"][0] > 0.0


def test_verdict_is_withheld_when_users_are_not_spread_as_the_shares_say() -> None:
    experiment = Experiment(SMALL, HALVES)
    experiment.add(*entered(4000, (0.2, 0.3), shares=(0.6, 0.4)))
    found = challenger(experiment)
    assert found["verdict"] == "withheld"
    assert "not spread as the shares say" in found["reason"]
    assert not summary(experiment)["sample_ratio"]["fits"]
    assert winner(experiment) == "champion"


def test_users_left_out_after_a_change_of_shares_are_no_mismatch() -> None:
    shares = {"champion": 0.95, "challenger": 0.05}
    arms, outcomes, phases = entered(4000, (0.2, 0.2), shares=(0.95, 0.05))
    # The share grows to 50 %: that moves 9 of 19 of the champion's users, and none of the challenger's.
    moved = (arms == 0) & (np.random.default_rng(1).random(4000) < 9 / 19)
    told, untold = Experiment(SMALL, shares), Experiment(SMALL, shares)
    told.add(arms, outcomes, phases, moved)
    untold.add(arms[~moved], outcomes[~moved], phases[~moved])
    assert summary(told)["sample_ratio"]["fits"]
    assert summary(told)["arms"]["champion"]["left_out"] == int(moved.sum())
    assert told.users == untold.users == int((~moved).sum())
    assert not summary(untold)["sample_ratio"]["fits"]


def test_rates_that_drift_while_shares_change_show_no_lift() -> None:
    experiment = Experiment(SMALL, {"champion": 0.9, "challenger": 0.1})
    experiment.begin_phase(HALVES, 1_000)
    for phase, (rate, share) in enumerate([(0.1, 0.1), (0.4, 0.5)]):
        arms, outcomes, _ = entered(4000, (rate, rate), phase, (1 - share, share))
        experiment.add(arms, outcomes, np.full(4000, phase))
    found = challenger(experiment)
    pooled = summary(experiment)["arms"]
    assert pooled["challenger"]["mean"] / pooled["champion"]["mean"] > 1.3
    assert found["verdict"] == "undecided"
    assert abs(found["lift"]) < 0.1


def test_arms_that_never_ran_together_cannot_be_compared() -> None:
    experiment = Experiment(SMALL, HALVES)
    experiment.begin_phase(HALVES, 1_000)
    for phase in (0, 1):
        experiment.add(np.full(20, phase), np.ones(20), np.full(20, phase))
    assert "had no users under the same shares" in challenger(experiment)["reason"]


def test_many_arms_share_the_level_and_the_best_wins() -> None:
    experiment = Experiment(SMALL, {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25})
    experiment.add(*entered(12_000, (0.2, 0.26, 0.32, 0.2)))
    shown = summary(experiment)["challengers"]
    assert {one["level"] for one in shown.values()} == {SMALL.alpha / 3}
    assert [one["verdict"] for one in shown.values()] == ["better", "better", "undecided"]
    assert winner(experiment) == "c"


def test_phase_is_that_of_the_first_exposure() -> None:
    experiment = Experiment(SMALL, HALVES, since_us=100)
    assert experiment.begin_phase({"champion": 0.2, "challenger": 0.8}, 200) == 1
    assert experiment.phase_at(np.array([50, 100, 199, 200, 999])).tolist() == [0, 0, 0, 1, 1]


def test_impossible_experiments_are_refused() -> None:
    with pytest.raises(SettingError, match="at least two arms"):
        Experiment(SMALL, {"only": 1.0})
    with pytest.raises(SettingError, match="expected shares of champion, challenger"):
        Experiment(SMALL, {"champion": 0.0, "challenger": 0.0})
    experiment = Experiment(SMALL, HALVES, since_us=100)
    with pytest.raises(SettingError, match="expected shares of champion, challenger"):
        experiment.begin_phase({"champion": 1.0, "other": 1.0}, 200)
    with pytest.raises(SettingError, match="cannot begin at 50"):
        experiment.begin_phase(HALVES, 50)
    with pytest.raises(ValueError, match="not finite"):
        experiment.add(np.array([0]), np.array([np.nan]), np.array([0]))
