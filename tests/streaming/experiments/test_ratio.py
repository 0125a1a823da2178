"""The check of shares against another implementation, against quadrature, and under repeated looks."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from streaming.experiments.ratio import mismatch, ratio_evidence


@pytest.mark.parametrize(
    ("counts", "shares", "odds"),
    [  # odds of savvi 0.3's Multinomial, with the same prior
        ([5100, 4900], [0.5, 0.5], 0.7192747246537329),
        ([880, 120], [0.9, 0.1], 1.8972079463690403),
        ([300, 350, 350], [0.34, 0.33, 0.33], 2.4617117279742553),
    ],
)
def test_evidence_equals_savvi(counts: list[int], shares: list[float], odds: float) -> None:
    assert exp(ratio_evidence(counts, shares)) == pytest.approx(odds, rel=1e-9)


def test_evidence_equals_the_integral_over_the_prior() -> None:
    theta = np.linspace(0.0, 1.0, 200_001)[1:-1]
    prior = theta**29 * (1 - theta) ** 69  # Beta(30, 70)
    ratio = (theta / 0.3) ** 45 * ((1 - theta) / 0.7) ** 55
    assert ratio_evidence([45, 55], [0.3, 0.7]) == pytest.approx(
        log((prior * ratio).sum() / prior.sum()), rel=1e-6
    )


def test_arm_of_share_zero_is_left_out_while_it_is_empty() -> None:
    assert ratio_evidence([50, 50, 0], [0.5, 0.5, 0.0]) == ratio_evidence([50, 50], [1.0, 1.0])
    assert ratio_evidence([50, 50, 1], [0.5, 0.5, 0.0]) == float("inf")
    assert ratio_evidence([0, 0], [0.5, 0.5]) == 0.0


def test_alarm_is_rare_however_often_one_looks_and_sure_with_a_mismatch() -> None:
    rng = np.random.default_rng(2)
    for share, least, most in ((0.5, 0, 1), (0.45, 40, 40)):
        entered = rng.binomial(100, share, (40, 100)).cumsum(axis=1)
        alarms = sum(
            any(mismatch(ratio_evidence([100 * (k + 1) - int(n), int(n)], [1, 1])) for k, n in enumerate(one))
            for one in entered
        )
        assert least <= alarms <= most
