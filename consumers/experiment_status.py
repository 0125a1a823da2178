"""What is known of an experiment: a home and a name enter; users, verdicts, reasons, early evidence leave."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consumers.experiments import blank
from consumers.outcomes_store import read_verdict
from state.comparison import compare_versions
from state.experiments import Experiments, Trial
from state.versions import Registry
from streaming.errors import StoreError, VersionError
from streaming.experiments import summary

EARLY = (
    "early evidence: how each version predicts all users' events before it learns them, paired by event. "
    "It says nothing of what users do when they are served, and its interval is for one look"
)
_BANDIT = (
    "shares follow the outcomes ({policy}, floor {floor:.0%}): within a phase they are fixed, so differences "
    "are fair, but 5 % and 1 % are not proven for them; users move between arms with every decision and are "
    "then left out, and an arm at its floor is known less exactly"
)


def newest(experiments: Experiments) -> str:
    """The experiment that runs, else the one that began last.

    Raises:
        VersionError: there is none.
    """
    running = experiments.running()
    if running is not None:
        return running.name
    found = [experiments.get(name) for name in experiments.names()]
    if not found:
        raise VersionError("There is no experiment. Begin one with `freshet experiment create`.")
    return max(found, key=lambda one: one.phases[-1].since_us if one.phases else 0).name


def status_of(home: Path, name: str) -> dict[str, Any]:
    """All that is known of an experiment, as plain JSON.

    Raises:
        VersionError: there is none of this name.
    """
    trial = Experiments(home).get(name)
    verdict = read_verdict(home, name)
    data: dict[str, Any] = {
        "name": name,
        "state": trial.state,
        "metric": trial.metric,
        "winner": trial.winner,
        "why": trial.why,
        "phases": [{"since": moment(p.since_us), "shares": p.shares} for p in trial.phases],
        "bandit": _bandit(trial),
        "joined": verdict is not None,
        **(verdict if verdict is not None else summary(blank(trial))),
        "early_evidence": early_evidence(home, trial),
    }
    for arm, share in (trial.phases[-1].shares if trial.phases else {}).items():
        data["arms"][arm]["share"] = share  # the route may have changed since the last outcome
    return data


def early_evidence(home: Path, trial: Trial) -> dict[str, Any]:
    """Challenger − champion in HR@10 on the events that both predicted before they learned them.

    Returns:
        `what` it is, and by challenger {events, a, b, difference, low, high}, or {reason} without any.
    """
    registry, champion = Registry(home), trial.arms[0]
    found: dict[str, Any] = {}
    for arm in trial.arms[1:]:
        try:
            compared = compare_versions(registry.get(champion), registry.get(arm))
        except (VersionError, StoreError) as error:
            found[arm] = {"reason": str(error)}
            continue
        found[arm] = compared.segments["overall"]["hr@10"]._asdict()
    return {"what": EARLY, "measure": "hr@10", "challengers": found}


def moment(us: int) -> str:
    """RFC 3339.

    >>> moment(1_700_000_000_000_000)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _bandit(trial: Trial) -> dict[str, Any] | None:
    if trial.bandit is None:
        return None
    note = _BANDIT.format(policy=trial.bandit, floor=trial.floor)
    return {"policy": trial.bandit, "floor": trial.floor, "note": note}
