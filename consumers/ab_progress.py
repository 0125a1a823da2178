"""How the A/B demonstration goes: verdicts and choices enter; looks, truths and a summary leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from state.experiments import Trial


@dataclass(frozen=True, slots=True)
class Look:
    """The verdict at one moment: figures of the challenger against the champion.

    Attributes:
        users: who have entered.
        low, high: of the lift, always valid; None for no bound.
        share: of the challenger.
    """

    users: int
    lift: float | None
    low: float | None
    high: float | None
    share: float
    verdict: str
    guardrail: str


@dataclass(slots=True)
class Truth:
    """What an arm's lists are truly worth: the mean chance that a list is chosen from."""

    lists: int = 0
    chance: float = 0.0

    def add(self, chance: float) -> None:
        """One more list."""
        self.lists += 1
        self.chance += (chance - self.chance) / self.lists


class Visit(NamedTuple):
    """A user who was served, and the position in the list of what was chosen; None: it stood in none."""

    user: str
    version: str
    position: int | None


@dataclass(slots=True)
class Progress:
    """How far the demonstration has come.

    Attributes:
        visits: of users so far.
        noted: lists of them that the server counts.
        shown: the newest visit.
        verdict: the newest one.
    """

    visits: int = 0
    noted: int = 0
    looks: list[Look] = field(default_factory=list)
    truth: dict[str, Truth] = field(default_factory=dict)
    shown: Visit | None = None
    verdict: dict[str, Any] = field(default_factory=dict)

    @property
    def lists_counted(self) -> int:
        """Noted lists that the joiner is done with: their user's window has closed, or they are left out."""
        records = self.verdict.get("records", {})
        return sum(count for name, count in records.items() if name.endswith("exposures"))

    def note(self, verdict: dict[str, Any], trial: Trial) -> None:
        """Keep a verdict, as `Outcomes.verdict` gives it, where it says something new."""
        self.verdict, arm = verdict, trial.arms[1]
        one = verdict["challengers"][arm]
        low, high = one["lift_interval"] or (None, None)
        share, guardrail = trial.phases[-1].shares[arm], one["guardrail"]["state"]
        seen = Look(verdict["users"], one["lift"], low, high, share, one["verdict"], guardrail)
        if not self.looks or self.looks[-1] != seen:
            self.looks.append(seen)


def summary(progress: Progress, trial: Trial, challenger: str, seconds: float) -> dict[str, Any]:
    """How it ended, as plain data.

    Args:
        trial: ended.
        challenger: what it truly is.
    """
    verdict = progress.verdict
    one: Mapping[str, Any] = verdict.get("challengers", {}).get(trial.arms[1], {})
    told = ("verdict", "reason", "decided_at_users", "lift", "lift_interval", "guardrail")
    return {
        "experiment": trial.name,
        "challenger": challenger,
        "events": progress.visits,
        "seconds": round(seconds, 2),
        "users": verdict.get("users", 0),
        "arms": {arm: _arm(progress, trial, arm) for arm in trial.arms},
        **{key: one.get(key) for key in told},
        "winner": trial.winner,
        "records": verdict.get("records", {}),
    }


def _arm(progress: Progress, trial: Trial, arm: str) -> dict[str, Any]:
    truth = progress.truth.get(arm, Truth())
    return {
        **progress.verdict.get("arms", {}).get(arm, {}),
        "share": trial.phases[-2].shares[arm],  # the last phase is the end
        "lists": truth.lists,
        "true_chance_of_a_list": truth.chance if truth.lists else None,
    }
