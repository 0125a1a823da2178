"""Boundaries against figures of confseq and ville, and against simulated paths."""

from __future__ import annotations

import numpy as np
import pytest

from streaming.experiments.confidence import (
    flat_level,
    mean_interval,
    mixture_bound,
    mixture_evidence,
    mixture_rho,
    one_sided_bound,
)


def test_mixture_equals_confseq() -> None:
    # test/uniform_boundaries_unittest.cpp of Howard's confseq: two-sided normal mixture, v_opt 100, α 0.05.
    rho = mixture_rho(100, 0.05)
    assert rho == pytest.approx(12.60056, abs=1e-5)
    assert mixture_evidence(10.0, 100.0, rho) == pytest.approx(-0.6510052, abs=1e-5)
    assert mixture_bound(100.0, rho, 0.05) == pytest.approx(30.35209, abs=1e-5)


def test_one_sided_bound_lies_just_above_the_exact_one_of_confseq() -> None:
    rho = mixture_rho(100, 0.1)  # as confseq tunes the one-sided mixture at α 0.05
    bound = float(one_sided_bound(100.0, rho, 0.05))
    assert 27.66071 <= bound <= 1.005 * 27.66071
    exact = np.array([27.67992227, 95.43453574])  # ville 0.1, for another rho
    closed = one_sided_bound(np.array([100.0, 1000.0]), 12.60056, 0.05)
    assert np.all(closed >= exact)
    assert closed == pytest.approx(exact, rel=0.005)


def test_mean_interval_equals_ville_asymptotic_sequence() -> None:
    x = (np.arange(1000) % 7) * (np.arange(1000) % 3) / 6.0
    for n, lower, upper in [
        (500, 0.41607396885226444, 0.5765926978144023),
        (1000, 0.44139836965849305, 0.5562682970081736),
    ]:
        found = mean_interval(n, x[:n].mean(), x[:n].var(ddof=1), 60.88679014904041, 0.05)
        assert [float(end) for end in found] == pytest.approx([lower, upper], rel=1e-9)


def test_mean_interval_has_the_form_of_the_paper() -> None:
    # Waudby-Smith et al. 2024, theorem 2.2: σ √(2 (tρ² + 1) / (t²ρ²) · log(√(tρ² + 1) / α)).
    t, sigma, rho, alpha = 730.0, 0.3, 0.08, 0.05
    radius = sigma * np.sqrt(2 * (t * rho**2 + 1) / (t * rho) ** 2 * np.log(np.sqrt(t * rho**2 + 1) / alpha))
    lower, upper = mean_interval(t, 0.0, sigma**2, 1 / rho**2, alpha)
    assert float(upper) == pytest.approx(radius)
    assert float(lower) == pytest.approx(-radius)


def test_evidence_reaches_the_level_where_the_sum_reaches_the_bound() -> None:
    v = np.array([1.0, 10.0, 1e4])
    assert np.exp(mixture_evidence(mixture_bound(v, 5.0, 0.02), v, 5.0)) == pytest.approx(np.full(3, 50.0))


def test_boundaries_are_crossed_no_more_often_than_said() -> None:
    rng = np.random.default_rng(4)
    time = np.geomspace(1e-3, 30.0, 500)
    steps = np.sqrt(np.diff(time, prepend=0.0))
    paths = np.cumsum(rng.standard_normal((4000, 500)) * steps, axis=1)
    two = (np.abs(paths) >= mixture_bound(time, mixture_rho(1.0, 0.05), 0.05)).any(axis=1).mean()
    one = (paths >= one_sided_bound(time, mixture_rho(1.0, 0.1), 0.05)).any(axis=1).mean()
    flat = ((paths >= flat_level(0.05)) & (time <= 1.0)).any(axis=1).mean()
    assert 0.02 < two < 0.05
    assert 0.015 < one < 0.05
    assert 0.03 < flat < 0.055
