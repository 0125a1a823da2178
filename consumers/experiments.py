"""Experiments begin and end: what was asked for enters; a route, phases and the best arm leave.

The route (`state/releases.py`) is the only lever on users. It is set first and the experiment's file is
written after: done again, either finishes what a kill left undone.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Literal

from consumers.outcomes_route import is_steered, route_changed_us
from state.experiments import Experiments, Trial
from state.release_file import Released
from state.releases import Releases
from streaming.errors import VersionError
from streaming.experiments import Design, Experiment, Ramp, with_challengers
from streaming.routing import Route, divided


def new_salt() -> str:
    """A salt that divides users anew."""
    return uuid.uuid4().hex[:8]


def begin(home: Path, trial: Trial, why: str = "") -> None:
    """Write an experiment, and send its users to its arms from now on.

    Raises:
        SettingError: what is asked for is impossible; nothing was written.
        VersionError: the name is taken, another experiment runs, or a route divides users already.
    """
    shares = first_shares(trial)
    Experiment(Design(**trial.design), shares)
    ranges = divided(shares)
    experiments, releases = Experiments(home), Releases(home)
    state = releases.read()
    divides = state.route is not None and len(state.route.arms) > 1
    if divides and experiments.running() is None and not _left_starting(experiments, trial.name, state):
        raise VersionError("A route divides users already. `freshet route clear` first.")
    experiments.create(trial)

    def made(before: Released) -> Route:
        kept = before.route or Route("")
        return Route(trial.salt, ranges, kept.overrides, kept.holdout, kept.holdout_version)

    detail = " ".join(f"{version}={share:g}" for version, share in shares.items())
    released = releases.change_route(made, f"experiment {trial.name}: {detail}", why)
    at = route_changed_us(released)
    experiments.begin_phase(trial.name, at, shares, ranges, state="running", why=why)


def end(
    home: Path, trial: Trial, state: Literal["stopped", "concluded"], why: str = "", best: str | None = None
) -> None:
    """End an experiment: all users get the promoted version, else the first arm."""
    experiments, releases = Experiments(home), Releases(home)
    first = trial.arms[0]
    released = releases.read()
    if is_steered(released, trial):

        def made(before: Released) -> Route | None:
            kept = before.route or Route("")
            arms = divided({first: 1.0}) if before.champion is None else ()
            salt, named = kept.salt, (kept.overrides, kept.holdout, kept.holdout_version)
            return Route(salt, arms, *named) if arms or kept.overrides or kept.holdout else None

        released = releases.change_route(made, f"experiment {trial.name}: {state}", why)
    if trial.phases and not trial.ended:
        shares = {arm: float(arm == first) for arm in trial.arms}
        # Who was sent on to the arm that served them before is not moved.
        ranges = divided({released.champion or first: 1.0})
        at = route_changed_us(released)
        experiments.begin_phase(trial.name, at, shares, ranges, state=state, why=why, winner=best)
    else:
        experiments.change(trial.name, state=state, why=why, winner=best)


def first_shares(trial: Trial) -> dict[str, float]:
    """Shares of the first phase."""
    shares = dict(trial.shares)
    ramp = Ramp(trial.ramp, trial.ramp_users, trial.ramp_seconds) if trial.ramp else None
    return with_challengers(shares, ramp.share) if ramp is not None else shares


def blank(trial: Trial) -> Experiment:
    """The experiment as it is before anybody has entered."""
    return Experiment(Design(**trial.design), trial.phases[0].shares if trial.phases else trial.shares)


def _left_starting(experiments: Experiments, name: str, state: Released) -> bool:
    """Whether the route is that of an experiment of this name, which a kill left starting."""
    found = experiments.get(name) if name in experiments.names() else None
    return found is not None and found.state == "starting" and is_steered(state, found)
