"""Boundaries that a sum of outcomes crosses by chance at most as often as is said, however often one looks.

All are boundaries of a Brownian motion S with variance v, which the standardised sums of outcomes
approach (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit theory and
asymptotic confidence sequences"). A statistic z at variance v stands for S = z · √v. Libraries:
confseq has no wheels for current Pythons, and none of the others compares arms; its figures are in
the tests.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL = NormalDist()


def mixture_rho(tuned_for: float, alpha: float) -> float:
    """Precision ρ of the normal mixture whose boundary is tightest at variance `tuned_for`.

    ρ = v / (2 log(1/α) + log(1 + 2 log(1/α))): Howard, Ramdas, McAuliffe & Sekhon 2021, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", section 3.5.

    >>> round(mixture_rho(100, 0.05), 5)
    12.60056
    """
    twice = -2.0 * np.log(alpha)
    return float(tuned_for / (twice + np.log1p(twice)))


def mixture_bound(v: ArrayLike, rho: float, alpha: float) -> NDArray[np.float64]:
    """Bound u with P(|S| ≥ u(v) at any v) ≤ α: the two-sided normal mixture (ibid., eq. 14).

    u(v) = √((v + ρ) log((v + ρ) / (ρ α²)))

    >>> float(mixture_bound(100.0, 12.60056, 0.05).round(5))
    30.35209
    """
    w = np.asarray(v, np.float64) + rho
    return np.sqrt(w * np.log(w / (rho * alpha * alpha)))


def mixture_evidence(s: ArrayLike, v: ArrayLike, rho: float) -> NDArray[np.float64]:
    """Log of the e-process of that mixture: it reaches log(1/α) just where |S| reaches the bound.

    >>> float(mixture_evidence(10.0, 100.0, 12.60056).round(5))
    -0.65101
    """
    w = np.asarray(v, np.float64) + rho
    return 0.5 * np.log(rho / w) + np.square(s) / (2.0 * w)


def one_sided_bound(v: ArrayLike, rho: float, alpha: float) -> NDArray[np.float64]:
    """Bound u with P(S ≥ u(v) at any v) ≤ α: the closed bound just above the one-sided mixture's.

    u(v) = √(2 (v + ρ) log(1 + √((v + ρ) / ρ) / (2α))): ibid., proposition 6.
    """
    w = np.asarray(v, np.float64) + rho
    return np.sqrt(2.0 * w * np.log1p(np.sqrt(w / rho) / (2.0 * alpha)))


def flat_level(probability: float) -> float:
    """The level that S reaches at any variance ≤ 1 with this probability (by reflection).

    >>> round(flat_level(0.05), 6)
    1.959964
    """
    return NORMAL.inv_cdf(1.0 - probability / 2.0)


def mean_interval(
    users: ArrayLike, mean: ArrayLike, variance: ArrayLike, rho: float, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Asymptotic confidence sequence of one mean (Waudby-Smith et al. 2024, theorem 2.2).

    With `rho` = 1/ρ² of that paper. For paired differences too: of two versions on the same events.

    Args:
        users: observations so far.
        mean: their mean.
        variance: their variance.
        rho: as `mixture_rho(observations that it is tuned for, alpha)` gives.
        alpha: chance that the mean ever lies outside.
    """
    n = np.asarray(users, np.float64)
    radius = np.sqrt(np.asarray(variance, np.float64)) * mixture_bound(n, rho, alpha) / n
    return np.asarray(mean) - radius, np.asarray(mean) + radius
