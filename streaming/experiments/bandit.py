"""Counts by arm enter, shares leave: river's Thompson sampling, with a floor for each arm.

An arm's share is the chance that it is the best one, as far as the counts tell (probability matching),
found by letting river's policy choose many times. Shares are decided anew after some users, and each
decision begins a phase, so that the comparison of arms stays valid.
"""

from __future__ import annotations

from collections import Counter
from typing import cast

from river import bandit, proba

from streaming.errors import SettingError

DRAWS = 500


class _Conversions(proba.Beta):
    """River's Beta posterior, updated by counts instead of one by one."""

    def update(self, x: float, users: int = 1) -> None:
        """Add users of whom x converted."""
        self.alpha += int(x)
        self.beta += users - int(x)


def bandit_shares(counts: dict[str, tuple[int, int]], floor: float, seed: int) -> dict[str, float]:
    """Shares by arm, at least `floor` each; they sum to 1. The same counts and seed give the same shares.

    Args:
        counts: (users, users who converted) by arm.
        floor: least share of an arm, between 0 and 1 / arms.
        seed: of the draws; a new one for each decision.

    Raises:
        SettingError: a floor that the arms cannot all have, or more conversions than users.

    >>> bandit_shares({"a": (1000, 50), "b": (1000, 120)}, 0.05, seed=1)
    {'a': 0.05, 'b': 0.95}
    """
    if not 0.0 <= floor * len(counts) <= 1.0:
        raise SettingError(f"bandit: floor must be between 0 and 1/{len(counts)}; got {floor:g}.")
    policy = bandit.ThompsonSampling(reward_obj=_Conversions(), seed=seed)
    for arm, (users, converted) in counts.items():
        if not 0 <= converted <= users:
            raise SettingError(f"bandit: {arm} has {converted} conversions of {users} users.")
        policy.update(arm, converted, users)  # type: ignore[no-untyped-call]
    chosen = Counter(cast(str, policy.pull(list(counts))) for _ in range(DRAWS))
    free = 1.0 - floor * len(counts)
    return {arm: round(floor + free * chosen[arm] / DRAWS, 6) for arm in counts}
