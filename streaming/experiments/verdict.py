"""An experiment enters; what `status` shows of it leaves: figures by arm, verdicts and their reasons."""

from __future__ import annotations

from math import exp, isfinite
from typing import Any

import numpy as np

from streaming.experiments.confidence import mixture_evidence
from streaming.experiments.experiment import MICRO, Experiment
from streaming.experiments.lift import Comparison, difference_interval, lift_interval
from streaming.experiments.ratio import ALPHA, mismatch


def summary(experiment: Experiment) -> dict[str, Any]:
    """Users, outcomes and verdicts as plain JSON; None stands for what is not known yet.

    Returns:
        `arms`: figures by arm; `challengers`: `lift`, `difference` and their always-valid intervals,
        `verdict` ("better", "worse", "undecided", "withheld") with its `reason`, and `guardrail`;
        `sample_ratio`: `fits`, the `evidence` against it and a `reason`; `users`, `strays`; `looks`: by
        challenger what looks showed on the way, [users, lift, lower, upper].
    """
    strays = sum(phase.strays for phase in experiment.phases)
    return {
        "users": experiment.users,
        "strays": strays,
        "arms": {arm: _arm(experiment, arm) for arm in experiment.arms},
        "challengers": {arm: _challenger(experiment, arm) for arm in experiment.arms[1:]},
        "sample_ratio": _sample_ratio(experiment, strays),
        "looks": {arm: experiment.looks.of(k) for k, arm in enumerate(experiment.arms[1:])},
    }


def winner(experiment: Experiment) -> str:
    """The arm to promote: the challenger shown to be better with the greatest lift, else the champion.

    An arm whose guardrail acted does not win, and nobody but the champion does while shares do not fit.
    """
    champion = experiment.arms[0]
    if experiment.mismatch_at is not None:
        return champion
    better = [
        arm
        for arm, one in experiment.decisions.items()
        if one.verdict == "better" and experiment.guardrails[arm].state != "acted"
    ]
    return max(better, key=lambda arm: float(experiment.comparison(arm).challenger), default=champion)


def _arm(experiment: Experiment, arm: str) -> dict[str, Any]:
    k = experiment.arms.index(arm)
    tallies = [phase.tallies[k] for phase in experiment.phases]
    users = sum(tally.users for tally in tallies)
    total = sum(tally.total for tally in tallies) / MICRO
    return {
        "share": experiment.phases[-1].shares[arm],
        "users": users,
        "left_out": sum(tally.left_out for tally in tallies),
        "users_with_outcome": sum(tally.active for tally in tallies),
        "total": total,
        "mean": total / users if users else None,
    }


def _challenger(experiment: Experiment, arm: str) -> dict[str, Any]:
    found = experiment.comparison(arm)
    critical = experiment.sequence.critical(found.effective)
    unknown = _unknown(experiment, arm, found)
    decision = experiment.decisions.get(arm)
    guardrail = experiment.guardrails[arm]
    known = unknown is None
    figures: dict[str, Any] = dict.fromkeys(("lift", "lift_interval", "difference", "difference_interval"))
    if known:
        figures["difference"] = float(found.challenger - found.champion)
        figures["difference_interval"] = _interval(difference_interval(found, critical))
    if known and float(found.champion) != 0.0:
        figures["lift"] = float(found.challenger / found.champion - 1.0)
        figures["lift_interval"] = _interval(lift_interval(found, critical))
    verdict = "undecided" if decision is None else decision.verdict
    return {
        "verdict": verdict if experiment.mismatch_at is None else "withheld",
        "reason": unknown or _reason(experiment, arm, figures),
        "decided_at_users": None if decision is None else decision.at_users,
        **figures,
        "level": experiment.sequence.alpha,
        "evidence": _evidence(experiment, found),
        "effective_users": float(found.effective),
        "guardrail": {
            "state": guardrail.state,
            "at_users": guardrail.at_users,
            "lift": experiment.design.guardrail,
            "reason": _guardrail_reason(experiment, arm),
        },
    }


def _evidence(experiment: Experiment, found: Comparison) -> float:
    """The e-value now against "no difference": at 1 / level and above the interval excludes 0."""
    s = found.z() * np.sqrt(found.effective)
    return exp(min(700.0, float(mixture_evidence(s, found.effective, experiment.sequence.rho))))


def _unknown(experiment: Experiment, arm: str, found: Comparison) -> str | None:
    """Why nothing can be said about a challenger; None where something can."""
    for one in (arm, experiment.arms[0]):
        figures = _arm(experiment, one)
        if figures["users"] == 0:
            if figures["share"] == 0.0:
                return f"{one} has share 0: no user is sent to it"
            return (
                f"no user of {one} has entered yet: that is when the window after the first exposure closes"
            )
    if float(found.effective) == 0.0:
        return (
            f"{arm} and {experiment.arms[0]} had no users under the same shares, so nothing can be compared"
        )
    if not any(_arm(experiment, one)["users_with_outcome"] for one in (arm, experiment.arms[0])):
        return "no user of either arm has an outcome yet"
    if float(found.champion_variance) == 0.0:
        return "all users have the same outcome, so chance cannot be judged"
    return None


def _reason(experiment: Experiment, arm: str, figures: dict[str, Any]) -> str:
    if experiment.mismatch_at is not None:
        return f"users are not spread as the shares say (since {experiment.mismatch_at:,} users): no verdict"
    decision = experiment.decisions.get(arm)
    if decision is not None:
        than = f"{decision.verdict} than {experiment.arms[0]}"
        return f"the interval left out 0 at {decision.at_users:,} users: {than}"
    if figures["lift"] is None:
        return f"no user of {experiment.arms[0]} has an outcome: lift is undefined, the difference holds 0"
    if figures["lift_interval"] == [None, None]:
        return "too few outcomes for an interval of the lift; the difference holds 0"
    return "no difference shown yet: the interval holds 0"


def _guardrail_reason(experiment: Experiment, arm: str) -> str:
    guardrail, bound = experiment.guardrails[arm], experiment.design.guardrail
    if bound is None:
        return "no guardrail is set"
    if guardrail.state == "acted":
        return (
            f"worse than {bound:+.1%} at {guardrail.at_users:,} users: {arm} is to be taken out of the route"
        )
    return f"not shown to be worse than {bound:+.1%}"


def _sample_ratio(experiment: Experiment, strays: int) -> dict[str, Any]:
    evidence = experiment.ratio_evidence()
    fits = experiment.mismatch_at is None and not mismatch(evidence)
    reason = (
        "users are spread as the shares say"
        if fits
        else (
            "users are not spread as the shares say: look for arms that lose users or exposures, "
            "or for users who were sent elsewhere"
        )
    )
    if strays:
        reason += f"; {strays:,} users entered in an arm of share 0 and are left out"
    return {"fits": fits, "evidence": exp(min(700.0, evidence)), "alarm_at": 1.0 / ALPHA, "reason": reason}


def _interval(ends: tuple[Any, Any]) -> list[float | None]:
    return [float(end) if isfinite(float(end)) else None for end in ends]
