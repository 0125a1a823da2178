"""Counts of two arms enter, by phase; lift, standard errors and intervals leave.

A *phase* is a stretch of time with the same shares. Arms are compared within phases only, since rates
drift (weekends, campaigns) while shares change; phases are combined with the weights of Cochran,
Mantel & Haenszel, n_A n_B / (n_A + n_B), which hold whatever came out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PRIOR_OUTCOMES = 250.0  # users with an outcome that the common variance counts for in each arm's own

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Counts:
    """One arm: figures by phase; axis 0 is the phase, others are free (many experiments at once).

    Attributes:
        users: users who entered.
        active: those with an outcome other than 0.
        total: sum of outcomes.
        squares: sum of squared outcomes.
    """

    users: Array  # (J, …)
    active: Array  # (J, …)
    total: Array  # (J, …)
    squares: Array  # (J, …)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A challenger against the champion, phases combined.

    Attributes:
        effective: Σ n_A n_B / (n_A + n_B), the clock of the boundaries.
        champion: mean outcome; `champion_variance` is that of this mean.
        challenger: mean outcome; `challenger_variance` is that of this mean.
    """

    effective: Array
    champion: Array
    challenger: Array
    champion_variance: Array
    challenger_variance: Array

    def z(self, lift: float = 0.0) -> Array:
        """Standardised difference from this lift; 0 where nothing can be said yet."""
        ratio = 1.0 + lift
        variance = self.challenger_variance + ratio * ratio * self.champion_variance
        known = (variance > 0.0) & (self.effective > 0.0)
        difference = self.challenger - ratio * self.champion
        return np.where(known, difference / np.sqrt(np.where(known, variance, 1.0)), 0.0)


def compare(champion: Counts, challenger: Counts) -> Comparison:
    """Combine phases.

    The variance of an arm is that within its phases, drawn towards the variance of both arms by as many
    users as hold 250 outcomes: an arm of a few users without any outcome has no variance of its own yet.
    """
    n, m = champion.users, challenger.users
    both = n + m
    weight = n * m / np.where(both > 0, both, 1.0)  # (J, …)
    effective = weight.sum(axis=0)
    whole = np.where(effective > 0, effective, 1.0)
    inside = _inside(champion), _inside(challenger)
    in_all = n.sum(axis=0), m.sum(axis=0)
    active = champion.active.sum(axis=0) + challenger.active.sum(axis=0)
    everyone = in_all[0] + in_all[1]
    common = (inside[0] + inside[1]) / np.where(everyone > 0, everyone, 1.0)
    prior = PRIOR_OUTCOMES * everyone / np.where(active > 0, active, 1.0)
    means, variances = [], []
    for arm, squares, arm_users in zip((champion, challenger), inside, in_all, strict=True):
        seen = np.where(arm.users > 0, arm.users, 1.0)
        means.append((weight * arm.total / seen).sum(axis=0) / whole)
        one = (squares + prior * common) / np.where(arm_users + prior > 0, arm_users + prior, 1.0)
        variances.append(one * (weight * weight / seen).sum(axis=0) / (whole * whole))
    return Comparison(effective, means[0], means[1], variances[0], variances[1])


def _inside(arm: Counts) -> Array:
    """Sum of squared deviations from the means of the phases."""
    square = arm.squares - arm.total * arm.total / np.where(arm.users > 0, arm.users, 1.0)
    return np.asarray(np.maximum(square, 0.0).sum(axis=0))


def lift_interval(found: Comparison, critical: Array) -> tuple[Array, Array]:
    """Relative lifts that are not excluded: the r with |z(r)| ≤ critical (Fieller 1954).

    Returns:
        (lower, upper); −inf or inf where the champion's mean is too uncertain for a bound.
    """
    q = np.where(np.isfinite(critical), critical, 0.0) ** 2
    a = found.champion**2 - q * found.champion_variance
    b = found.champion * found.challenger
    c = found.challenger**2 - q * found.challenger_variance
    root = np.sqrt(np.maximum(b * b - a * c, 0.0))
    bounded = (a > 0.0) & np.isfinite(critical) & (found.effective > 0.0)
    # With a < 0 the set is what lies outside two roots: beyond the greater one for a better challenger.
    above = ~bounded & (a < 0.0) & np.isfinite(critical) & (found.z() > critical)
    divisor = np.where(a == 0.0, 1.0, a)
    low, high = (b - root) / divisor - 1.0, (b + root) / divisor - 1.0
    lower = np.where(bounded, low, np.where(above, np.maximum(low, high), -np.inf))
    return lower, np.where(bounded, high, np.inf)


def difference_interval(found: Comparison, critical: Array) -> tuple[Array, Array]:
    """Absolute differences of the means that are not excluded."""
    middle = found.challenger - found.champion
    deviation = np.sqrt(found.champion_variance + found.challenger_variance)
    radius = np.where(np.isfinite(critical) & (deviation > 0.0), deviation, np.inf)
    radius = radius * np.where(np.isfinite(critical), critical, 1.0)
    return middle - radius, middle + radius
