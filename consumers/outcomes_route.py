"""What ramp, bandit and guardrails ask for enters; the route of an experiment, and its phases, leave.

The route (`state/releases.py`) is the only lever on users. It is changed first and the phase is written
after: where a kill comes between, the phase begins when the route was changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from state.experiments import Experiments, Trial
from state.release_file import Released
from state.releases import Releases
from streaming.errors import FreshetError
from streaming.experiments import Ramp, with_challengers, without
from streaming.routing import Route, divided

_ROUTING = ("route", "promote", "rollback")  # changes that may end the arms of a route


def wanted_shares(
    trial: Trial, ramp: Ramp | None, taken_out: Iterable[str], decided: dict[str, float] | None = None
) -> dict[str, float]:
    """Shares after the ramp's step, or the bandit's decision, and the guardrails.

    >>> trial = Trial("x", {"a": 0.9, "b": 0.1}, "buy", {}, "s", 1, 0)
    >>> wanted_shares(trial, Ramp((0.25, 0.5)), []), wanted_shares(trial, None, ["b"])
    ({'a': 0.75, 'b': 0.25}, {'a': 1.0, 'b': 0.0})
    """
    shares = dict(trial.shares if decided is None else decided)
    if ramp is not None:
        shares = with_challengers(shares, ramp.share)
    for arm in taken_out:
        shares = without(shares, arm)
    return shares


def steered(
    experiments: Experiments, releases: Releases, trial: Trial, shares: dict[str, float], **fields: Any
) -> bool:
    """Set the route to these shares and begin a phase; whether the route is the experiment's still."""

    def made(state: Released) -> Route:
        before = state.route
        if before is None or not is_steered(state, trial):
            raise _TakenAwayError
        arms = divided({arm: share for arm, share in shares.items() if share > 0.0}, before.arms)
        return msgspec.structs.replace(before, arms=arms)

    released = releases.read()
    try:
        if released.route is None or made(released) != released.route:
            detail = " ".join(f"{arm}={share:g}" for arm, share in shares.items())
            released = releases.change_route(made, f"experiment {trial.name}: {detail}")
    except _TakenAwayError:
        taken_away(experiments, releases.read(), trial)
        return False
    assert released.route is not None, "it was set just now"
    experiments.begin_phase(trial.name, route_changed_us(released), shares, released.route.arms, **fields)
    return True


def is_steered(released: Released, trial: Trial) -> bool:
    """Whether the route is the experiment's."""
    return released.route is not None and released.route.salt == trial.salt and bool(released.route.arms)


def taken_away(experiments: Experiments, released: Released, trial: Trial) -> None:
    """Somebody took the route: the experiment ends, and users whose windows were open then are left out."""
    shares = {arm: float(arm == trial.arms[0]) for arm in trial.arms}
    at, why = route_changed_us(released), "the route was taken away"
    experiments.begin_phase(trial.name, at, shares, (), state="stopped", why=why)


def route_changed_us(released: Released) -> int:
    """When the route was changed last."""
    at = next((one.at for one in reversed(released.history) if one.what in _ROUTING), None)
    return int(datetime.fromisoformat(at).timestamp() * 1e6) if at is not None else int(time.time() * 1e6)


class _TakenAwayError(FreshetError):
    """The route is not the experiment's any more."""
