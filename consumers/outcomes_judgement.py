"""Users whose windows have closed enter; the comparison, the ramp and the shares that are wanted leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from consumers.outcomes_route import wanted_shares
from state.experiments import Trial
from streaming.experiments import Bandit, Design, Experiment, Ramp
from streaming.experiments.experiment import LOOK
from streaming.exposures import Outcome
from streaming.joining import SECOND


class Judgement:
    """The comparison of one experiment's arms.

    Args:
        trial: begun.
        saved: what `state` gave; empty at the beginning.
    """

    def __init__(self, trial: Trial, saved: Mapping[str, Any]) -> None:
        first, ramp = trial.phases[0], saved.get("ramp")
        self.experiment = (
            Experiment.restored(saved["experiment"])
            if saved
            else Experiment(Design(**trial.design), first.shares, first.since_us)
        )
        self.ramp: Ramp | None = None
        if ramp is not None:
            self.ramp = Ramp(**{**ramp, "steps": tuple(ramp["steps"])})
        elif trial.ramp:
            self.ramp = Ramp(trial.ramp, trial.ramp_users, trial.ramp_seconds, since_s=first.since_us / 1e6)

    def count(self, outcomes: Sequence[Outcome], trial: Trial) -> None:
        """Users enter, in this order, each in the phase of the first exposure.

        The ramp goes on at a look only, by the event time of the look: its steps depend on nothing else.
        """
        for phase in trial.phases[len(self.experiment.phases) :]:
            self.experiment.begin_phase(phase.shares, phase.since_us)
        done = 0
        while done < len(outcomes):
            before = self.experiment.users
            some = outcomes[done : done + LOOK - before % LOOK]
            self._enter(some)
            done += len(some)
            looked = self.experiment.users != before and self.experiment.users % LOOK == 0
            if self.ramp is not None and looked:
                halted = self.experiment.mismatch_at is not None or bool(self.taken_out())
                now_s = (some[-1].first_us + trial.window_us) / SECOND
                self.ramp = self.ramp.advance(now_s, self._challengers(), halted)

    def _enter(self, outcomes: Sequence[Outcome]) -> None:
        self.experiment.add(
            np.array([one.arm for one in outcomes], np.int64),
            np.array([one.value for one in outcomes], np.float64),
            self.experiment.phase_at(np.array([one.first_us for one in outcomes], np.int64)),
            np.array([bool(one.left_out) for one in outcomes], np.bool_),
        )

    def _challengers(self) -> int:
        return sum(tally.users for phase in self.experiment.phases for tally in phase.tallies[1:])

    def taken_out(self) -> list[str]:
        """Challengers whose guardrail has acted."""
        return [arm for arm, one in self.experiment.guardrails.items() if one.state == "acted"]

    def wanted(self, trial: Trial) -> dict[str, float]:
        """The shares that ramp, bandit and guardrails ask for; a bandit's hold until it decides anew."""
        decided = None
        if trial.bandit is not None:
            found = Bandit(trial.bandit, trial.floor).shares(self.experiment, self.taken_out())
            decided = trial.phases[-1].shares if found is None else found
        return wanted_shares(trial, self.ramp, self.taken_out(), decided)

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        ramp = asdict(self.ramp) if self.ramp is not None else None
        return {"experiment": self.experiment.state(), "ramp": ramp}
