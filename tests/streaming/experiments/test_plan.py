"""Samples against the textbook, and what the boundaries promise against small simulations."""

from __future__ import annotations

import numpy as np
import pytest

from streaming.errors import SettingError
from streaming.experiments import Design, Guardrail, GuardrailBoundary, Sequence, expected
from streaming.experiments.guardrail import Spent
from streaming.experiments.lift import Comparison, Counts, compare
from streaming.experiments.plan import users


def runs(
    seed: int, total: float, rates: tuple[float, float], share: float = 0.5, count: int = 300
) -> Comparison:
    rng = np.random.default_rng(seed)
    challenger = rng.binomial(100, share, (count, int(total // 100)))
    arms = []
    for n, rate in zip((100 - challenger, challenger), rates, strict=True):
        converted = rng.binomial(n, rate).cumsum(axis=1)[None].astype(float)
        arms.append(Counts(n.cumsum(axis=1)[None].astype(float), converted, converted, converted))
    return compare(*arms)


def test_fixed_sample_is_that_of_the_textbook() -> None:
    # (1.95996 + 0.84162)² (0.05 · 0.95 + 0.055 · 0.945) / 0.005² for each arm.
    assert 2 * Design().fixed_sample(0.1) == pytest.approx(31_231, abs=1)
    assert users(100.0, 0.1, 0.9) == pytest.approx(100 / 0.09)


def test_plan_says_never_for_a_share_of_zero() -> None:
    plan = expected(Design(), {"champion": 1.0, "challenger": 0.0})["challenger"]
    assert plan == {"fixed_horizon": None, "half": None, "planned_power": None}


def test_plan_needs_more_users_for_more_challengers_and_smaller_lifts() -> None:
    two = expected(Design(), {"a": 0.4, "b": 0.3, "c": 0.3})["b"]["half"]
    one = expected(Design(), {"a": 0.4, "b": 0.3})["b"]["half"]
    small = expected(Design(lift=0.05), {"a": 0.4, "b": 0.3})["b"]["half"]
    assert one is not None and two is not None and small is not None
    assert one < two < small


def test_negative_lift_is_planned_like_a_positive_one() -> None:
    plan = expected(Design(lift=-0.1), {"champion": 0.5, "challenger": 0.5})["challenger"]
    assert plan["half"] == pytest.approx(60_000, rel=0.1)


def test_equal_arms_are_rarely_told_apart_and_a_lift_mostly_is() -> None:
    design = Design(mean=0.1, lift=0.2)
    sequence = Sequence.of(design)
    total = 2 * users(design.fixed_sample(0.2), 0.5, 0.5)
    same, better = runs(1, total, (0.1, 0.1)), runs(2, total, (0.1, 0.12))
    assert (np.abs(same.z()) >= sequence.critical(same.effective)).any(axis=1).mean() <= 0.05
    assert (better.z() >= sequence.critical(better.effective)).any(axis=1).mean() >= 0.75


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_guardrail_keeps_equal_arms_and_takes_a_drop_out(share: float) -> None:
    design = Design(mean=0.1, guardrail=-0.03)
    boundary = GuardrailBoundary.of(design)
    assert boundary is not None
    fixed = users(design.fixed_sample(-0.2), share, 1 - share)
    assert boundary.crossed(runs(3, 3 * fixed, (0.1, 0.1), share)).any(axis=1).mean() <= 0.02
    assert boundary.crossed(runs(4, 1.5 * fixed, (0.1, 0.08), share)).any(axis=1).mean() >= 0.72


def test_guardrail_keeps_an_arm_that_is_just_at_it() -> None:
    boundary = GuardrailBoundary.of(Design(mean=0.1, guardrail=-0.1))
    assert boundary is not None
    assert boundary.crossed(runs(5, 20_000, (0.1, 0.09))).any(axis=1).mean() <= 0.05


def test_spent_level_needs_ever_less_until_the_horizon_and_never_ends() -> None:
    critical = Spent.of(0.01, 1000.0).critical(
        np.array([0.0, 10.0, 100.0, 125.0, 500.0, 1000.0, 1001.0, 1e6])
    )
    assert critical[0] == np.inf
    assert np.all(np.diff(critical[[1, 2, 3]]) < 0)
    assert critical[5] < critical[4] < 5.0
    assert np.isfinite(critical[6:]).all()


def test_guardrail_that_acted_stays_so() -> None:
    acted = Guardrail().look(True, 300)
    assert acted.look(False, 400) is acted
    assert Guardrail("off").look(True, 100) == Guardrail("off")
    assert GuardrailBoundary.of(Design()) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metric": "clicks"}, "metric must be"),
        ({"mean": 0.0}, "mean must be between 0 and 1"),
        ({"metric": "value"}, "deviation must be above 0"),
        ({"deviation": 2.0}, "deviation must be left out"),
        ({"lift": 0.0}, "lift must be"),
        ({"mean": 0.6, "lift": 0.9}, "below 0.666667"),
        ({"alpha": 0.7}, "alpha must be"),
        ({"guardrail": 0.03}, "guardrail must be above -0.2"),
        ({"guardrail": -0.3}, "guardrail must be above -0.2"),
        ({"mean": float("nan")}, "mean must be"),
    ],
)
def test_design_refuses_what_cannot_be_planned(settings: dict[str, float], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Design(**settings)  # type: ignore[arg-type]
