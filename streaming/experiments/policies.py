"""Counts by arm enter, choices of river's bandits leave.

In a file of its own, since river takes a second to load and most experiments have no bandit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import sqrt
from typing import cast

from river import bandit, proba, stats

DRAWS = 500  # choices of Thompson sampling that shares are counted from


class _Conversions(proba.Beta):
    """River's Beta posterior, updated by counts instead of one by one."""

    def update(self, x: float, users: int = 1) -> None:
        """Add users of whom x converted."""
        self.alpha += int(x)
        self.beta += users - int(x)


class _UpperBounds(bandit.UCB):
    """River's UCB, updated by counts instead of one by one."""

    def update(self, arm_id: str, rate: float, users: int = 1) -> None:
        """Add users of an arm with this rate of conversion."""
        cast(stats.Mean, self._rewards[arm_id]).update(rate, w=users)
        self._counts[arm_id] += users
        self._n += users


def thompson(counts: Mapping[str, tuple[int, int]], seed: int) -> Counter[str]:
    """Choices as far as these counts tell; in many, each arm's part is its chance of being the best."""
    policy = bandit.ThompsonSampling(reward_obj=_Conversions(), seed=seed)
    for arm, (entered, converted) in counts.items():
        policy.update(arm, converted, entered)  # type: ignore[no-untyped-call]
    return Counter(cast(str, policy.pull(list(counts))) for _ in range(DRAWS))


def ucb(counts: Mapping[str, tuple[int, int]], seed: int, users: int) -> Counter[str]:
    """Choices for so many users, with the rates held as they are."""
    everyone = sum(entered for entered, _ in counts.values())
    if not everyone:
        return Counter(counts.keys())
    rate = sum(converted for _, converted in counts.values()) / everyone
    # The bound is in standard deviations of an outcome, which river leaves to who calls it.
    policy = _UpperBounds(delta=sqrt(rate * (1.0 - rate)), seed=seed)
    rates = {arm: converted / entered if entered else rate for arm, (entered, converted) in counts.items()}
    for arm, (entered, _) in counts.items():
        if entered:
            policy.update(arm, rates[arm], entered)
    chosen: Counter[str] = Counter()
    for _ in range(users):
        arm = cast(str, policy.pull(list(counts)))
        policy.update(arm, rates[arm])
        chosen[arm] += 1
    return chosen
