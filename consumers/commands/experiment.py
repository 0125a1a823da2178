"""`freshet experiment`: arms and what is expected enter; verdicts, their reasons, and a winner leave."""

from __future__ import annotations

from cyclopts import App

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.experiment_parts import Arms, Measure, Outcome, Steering, arms, form, trial_of
from consumers.commands.home import releases
from consumers.commands.output import emit, table
from consumers.experiment_status import newest, status_of
from consumers.experiments import begin, blank, end, new_salt
from consumers.outcomes_store import read_verdict
from state.experiments import Experiments
from streaming.errors import VersionError
from streaming.experiments import Design, expected, winner

app = App(name="experiment", help="Compare versions on users, with verdicts that may be looked at any time.")


@app.command
def create(
    name: str,
    /,
    *,
    arm: Arms,
    outcome: Outcome,
    steering: Steering = Steering(),  # noqa: B008 — frozen, so one serves all calls
    why: str = "",
    json: Switch = False,
) -> None:
    """Begin an experiment: its arms get their shares of the users at once.

    Parameters
    ----------
    name
        Of the experiment.
    arm
        version=share, the champion first, two or more of them: --arm champion=0.9 --arm challenger=0.1.
    why
        The reason, for `freshet versions log`.
    json
        Print what `freshet experiment status --json` prints.
    """
    settings = current_settings()
    if settings.kafka.bootstrap_servers:
        from consumers.exposure_topic import made_exposure_topic

        made_exposure_topic(settings)
    begin(settings.home, trial_of(name, arm, outcome, steering, new_salt()), why)
    _show(name, json)


@app.command
def status(name: str | None = None, /, *, json: Switch = False) -> None:
    """Show users, outcomes, lifts and verdicts, each with its reason; looking costs nothing.

    Parameters
    ----------
    name
        The experiment; without it the one that runs, or the newest.
    json
        Print {name, state, metric, phases, arms, challengers, sample_ratio, early_evidence, records, …}.
    """
    _show(name or newest(_experiments()), json)


@app.command
def stop(name: str | None = None, /, *, why: str = "", json: Switch = False) -> None:
    """End an experiment without a winner: all users get the promoted version, else the first arm.

    Parameters
    ----------
    name
        The experiment; without it, the one that runs.
    why
        The reason, for `freshet versions log`.
    json
        Print what `freshet experiment status --json` prints.
    """
    chosen = name or newest(_experiments())
    end(current_settings().home, _experiments().get(chosen), "stopped", why)
    _show(chosen, json)


@app.command
def conclude(
    name: str | None = None, /, *, promote: Switch = False, why: str = "", json: Switch = False
) -> None:
    """End an experiment, and say which arm is best: a challenger only where it was shown to be better.

    Parameters
    ----------
    name
        The experiment; without it, the one that runs.
    promote
        Promote that version, too.
    why
        The reason, for `freshet versions log`.
    json
        Print what `freshet experiment status --json` prints, with `winner`.
    """
    home = current_settings().home
    chosen = name or newest(_experiments())
    trial = _experiments().get(chosen)
    if trial.state == "concluded":
        raise VersionError(f'The experiment "{chosen}" is concluded: {trial.winner} is best.')
    if not trial.phases:
        raise VersionError(f'The experiment "{chosen}" was not begun. Create it again, or stop it.')
    verdict = read_verdict(home, chosen)
    best = str(verdict["best"]) if verdict is not None else winner(blank(trial))
    if promote and releases().read().champion != best:
        releases().promote(best, why or f"experiment {chosen}")
    end(home, trial, "concluded", why, best)
    _show(chosen, json)


@app.command
def plan(
    *,
    arm: Arms,
    measure: Measure = "conversion",
    mean: float = 0.05,
    deviation: float | None = None,
    lift: float = 0.1,
    users_a_day: float | None = None,
    json: Switch = False,
) -> None:
    """Estimate the users, and the days, until a verdict.

    Parameters
    ----------
    arm
        version=share, the champion first.
    measure
        Whether a user counts as 0 or 1 (conversion), or with a value.
    mean
        Outcome of a champion's user that is expected.
    deviation
        Standard deviation of a user's value; for --measure value.
    lift
        Relative difference that is to be found.
    users_a_day
        Users who are served for the first time in a day.
    json
        Print {arm: {fixed_horizon, half, planned_power, days}}.
    """
    found = expected(Design(measure, mean, deviation, lift), arms(arm))
    data: dict[str, dict[str, float | None]] = {
        name: {**figures, "days": _days(figures["planned_power"], users_a_day)}
        for name, figures in found.items()
    }
    columns = ("challenger", "one look", "half are decided", "80 % are decided", "days")
    emit(data, json, lambda: table(columns, [(name, *figures.values()) for name, figures in data.items()]))


def _days(users: float | None, a_day: float | None) -> float | None:
    return users / a_day if users is not None and a_day else None


def _experiments() -> Experiments:
    return Experiments(current_settings().home)


def _show(name: str, json: bool) -> None:
    data = status_of(current_settings().home, name)
    emit(data, json, lambda: form(data))
