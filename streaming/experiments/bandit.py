"""Counts by arm enter, shares leave: river's bandits, with a floor for each arm.

Thompson sampling: an arm's share is the chance that it is the best one, as far as the counts tell
(probability matching), found by letting river's policy choose many times. UCB: an arm's share is its part
of the next choices of river's policy, each of which narrows the bound of the arm that was chosen. Shares
are decided anew after some users, and each decision begins a phase, so that the comparison of arms stays
one within phases.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from streaming.errors import SettingError
from streaming.experiments.experiment import Experiment

Policy = Literal["thompson", "ucb"]

EVERY = 500  # users from one decision to the next
_WORTH = 0.02  # a change moves users, who are then left out: smaller ones are not made


@dataclass(frozen=True, slots=True)
class Bandit:
    """When shares are decided, and how; pure, so that the same counts give the same shares.

    Attributes:
        floor: least share of an arm that was not taken out.
        users: that must have entered since the shares were changed last.
    """

    policy: Policy
    floor: float
    users: int = EVERY

    def shares(self, experiment: Experiment, taken_out: Collection[str] = ()) -> dict[str, float] | None:
        """The shares from now on; None where they stay as they are.

        Args:
            taken_out: arms that a guardrail took out; they have share 0.
        """
        last = experiment.phases[-1]
        arms = [arm for arm in experiment.arms if arm not in taken_out]
        if sum(t.users + t.left_out for t in last.tallies) < self.users or len(arms) < 2:
            return None
        counts = {arm: _counts(experiment, arm) for arm in arms}
        found = bandit_shares(counts, self.floor, len(experiment.phases), self.policy, self.users)
        shares = {arm: found.get(arm, 0.0) for arm in experiment.arms}
        changed = max(abs(share - last.shares[arm]) for arm, share in shares.items())
        return shares if changed >= _WORTH else None


def bandit_shares(
    counts: dict[str, tuple[int, int]],
    floor: float,
    seed: int,
    policy: Policy = "thompson",
    users: int = EVERY,
) -> dict[str, float]:
    """Shares by arm, at least `floor` each; they sum to 1. The same counts and seed give the same shares.

    Args:
        counts: (users, users who converted) by arm.
        floor: least share of an arm, between 0 and 1 / arms.
        seed: of the draws; a new one for each decision.
        users: for whom the shares are meant.

    Raises:
        SettingError: a floor that the arms cannot all have, or more conversions than users.

    >>> bandit_shares({"a": (1000, 50), "b": (1000, 120)}, 0.05, seed=1)
    {'a': 0.05, 'b': 0.95}
    >>> bandit_shares({"a": (1000, 100), "b": (1000, 110)}, 0.05, seed=1, policy="ucb")
    {'a': 0.05, 'b': 0.95}
    """
    if not 0.0 <= floor * len(counts) <= 1.0:
        raise SettingError(f"bandit: floor must be between 0 and 1/{len(counts)}; got {floor:g}.")
    for arm, (entered, converted) in counts.items():
        if not 0 <= converted <= entered:
            raise SettingError(f"bandit: {arm} has {converted} conversions of {entered} users.")
    # Loaded here, since river takes a second and most experiments have no bandit.
    from streaming.experiments.policies import thompson, ucb

    chosen = thompson(counts, seed) if policy == "thompson" else ucb(counts, seed, users)
    free = 1.0 - floor * len(counts)
    return {arm: round(floor + free * chosen[arm] / chosen.total(), 6) for arm in counts}


def _counts(experiment: Experiment, arm: str) -> tuple[int, int]:
    """Users of an arm, and those who converted, over all phases."""
    k = experiment.arms.index(arm)
    tallies = [phase.tallies[k] for phase in experiment.phases]
    return sum(tally.users for tally in tallies), sum(tally.active for tally in tallies)
