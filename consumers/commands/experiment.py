"""`freshet experiment`: arms and what is expected enter; verdicts, their reasons, and a winner leave."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from rich.console import Group, RenderableType

from consumers.commands.context import current_settings
from consumers.commands.output import emit, pairs, table
from consumers.commands.route import _shares as shares_of
from consumers.commands.version_parts import Json, releases
from consumers.outcomes import is_steered, read_verdict, route_changed_us
from consumers.settings import duration
from state.experiments import Experiments, Trial
from state.releases import Released
from streaming.errors import UsageError, VersionError
from streaming.experiments import Design, Experiment, Ramp, expected, summary, winner, with_challengers
from streaming.routing import Route, divided

app = App(name="experiment", help="Compare versions on users, with verdicts that may be looked at any time.")

_Arms = Annotated[list[str], Parameter(name="--arm", negative=())]
_Guardrail = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
_Flag = Annotated[bool, Parameter(negative=())]


@app.command
def create(
    name: str,
    /,
    *,
    arm: _Arms,
    metric: str,
    measure: Literal["conversion", "value"] = "conversion",
    mean: float = 0.05,
    deviation: float | None = None,
    lift: float = 0.1,
    guardrail: _Guardrail = None,
    ramp: str | None = None,
    ramp_users: int = 500,
    ramp_time: str = "0s",
    window: str = "1d",
    lateness: str = "1m",
    why: str = "",
    json: Json = False,
) -> None:
    """Begin an experiment: its arms get their shares of the users at once.

    Parameters
    ----------
    name
        Of the experiment.
    arm
        version=share, the champion first, two or more of them: --arm champion=0.9 --arm challenger=0.1.
    metric
        Type of the events that count.
    measure
        Whether a user counts as 0 or 1 (conversion), or with the sum of the events' values (value).
    mean
        Outcome of a champion's user that is expected. A wrong guess costs users, never validity.
    deviation
        Expected standard deviation of a user's value; for --measure value.
    lift
        Relative difference that is to be found.
    guardrail
        Lift below which a challenger is taken out: -3%.
    ramp
        Shares of the challengers together, step by step: 5%,20%,50%.
    ramp_users
        Users of the challengers who must have entered during a step.
    ramp_time
        How long a step must last at least: 12h.
    window
        How long after the first exposure a user's events count.
    lateness
        How far a record may lie behind the newest one of its log.
    why
        The reason, for `freshet versions log`.
    json
        Print what `freshet experiment status --json` prints.
    """
    settings = current_settings()
    if settings.kafka.bootstrap_servers:
        raise UsageError(
            "Experiments read the logs of the home directory, and this home posts to Kafka: nothing would be "
            "joined. Unset kafka.bootstrap_servers for it."
        )
    shares = _arms(arm)
    design = Design(measure, mean, deviation, lift, guardrail=_percent(guardrail) if guardrail else None)
    steps = tuple(_percent(step) for step in ramp.split(",")) if ramp else ()
    ramp_s = _seconds("--ramp-time", ramp_time)
    begin = dict(shares)
    if steps:
        begin = with_challengers(dict(shares), Ramp(steps, ramp_users, ramp_s).share)
    trial = Trial(
        name, shares, metric, design.state(), new_salt(), _us("--window", window, least=1),
        _us("--lateness", lateness), steps, ramp_users, ramp_s,
    )  # fmt: skip
    Experiment(design, begin)  # refuses what is impossible before anything is written
    ranges = divided(begin)
    state = releases().read()
    running = Experiments(settings.home).running()
    if (
        running is None
        and state.route is not None
        and len(state.route.arms) > 1
        and _unfinished(name, state) is None
    ):
        raise VersionError("A route divides users already. `freshet route clear` first.")
    experiments = Experiments(settings.home)
    experiments.create(trial)

    def made(before: Released) -> Route:
        kept = before.route or Route("")
        return Route(trial.salt, ranges, kept.overrides, kept.holdout, kept.holdout_version)

    detail = " ".join(f"{version}={share:g}" for version, share in begin.items())
    released = releases().change_route(made, f"experiment {name}: {detail}", why)
    experiments.begin_phase(name, route_changed_us(released), begin, ranges, state="running", why=why)
    _show(name, json)


@app.command
def status(name: str | None = None, /, *, json: Json = False) -> None:
    """Show users, outcomes, lifts and verdicts, each with its reason; looking costs nothing.

    Parameters
    ----------
    name
        The experiment; without it the one that runs, or the newest.
    json
        Print {name, state, metric, phases, arms, challengers, sample_ratio, records, …}.
    """
    _show(name or _newest(), json)


@app.command
def stop(name: str | None = None, /, *, why: str = "", json: Json = False) -> None:
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
    chosen = name or _newest()
    _end(Experiments(current_settings().home).get(chosen), "stopped", why, None)
    _show(chosen, json)


@app.command
def conclude(
    name: str | None = None, /, *, promote: _Flag = False, why: str = "", json: Json = False
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
    chosen = name or _newest()
    trial = Experiments(home).get(chosen)
    if trial.state == "concluded":
        raise VersionError(f'The experiment "{chosen}" is concluded: {trial.winner} is best.')
    if not trial.phases:
        raise VersionError(f'The experiment "{chosen}" was not begun. Create it again, or stop it.')
    verdict = read_verdict(home, chosen)
    best = str(verdict["best"]) if verdict is not None else winner(_empty(trial))
    if promote and releases().read().champion != best:
        releases().promote(best, why or f"experiment {chosen}")
    _end(trial, "concluded", why, best)
    _show(chosen, json)


@app.command
def plan(
    *,
    arm: _Arms,
    measure: Literal["conversion", "value"] = "conversion",
    mean: float = 0.05,
    deviation: float | None = None,
    lift: float = 0.1,
    users_a_day: float | None = None,
    json: Json = False,
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
    found = expected(Design(measure, mean, deviation, lift), _arms(arm))
    data: dict[str, dict[str, float | None]] = {
        name: {**figures, "days": _days(figures["planned_power"], users_a_day)}
        for name, figures in found.items()
    }
    columns = ("challenger", "one look", "half are decided", "80 % are decided", "days")
    emit(data, json, lambda: table(columns, [(name, *figures.values()) for name, figures in data.items()]))


def new_salt() -> str:
    """A salt that divides users anew."""
    return uuid.uuid4().hex[:8]


def _days(users: float | None, a_day: float | None) -> float | None:
    return users / a_day if users is not None and a_day else None


def _end(trial: Trial, state: Literal["stopped", "concluded"], why: str, best: str | None) -> None:
    """Route first, file after: run again, it finishes what a kill left undone."""
    experiments, route = Experiments(current_settings().home), releases()
    first = trial.arms[0]
    released = route.read()
    if is_steered(released, trial):

        def made(before: Released) -> Route | None:
            kept = before.route or Route("")
            if before.champion is None:
                return Route(
                    kept.salt, divided({first: 1.0}), kept.overrides, kept.holdout, kept.holdout_version
                )
            plain = Route(kept.salt, (), kept.overrides, kept.holdout, kept.holdout_version)
            return plain if kept.overrides or kept.holdout else None

        released = route.change_route(made, f"experiment {trial.name}: {state}", why)
    if trial.phases and not trial.ended:
        shares = {arm: float(arm == first) for arm in trial.arms}
        # Who was sent on to the arm that served them before is not moved.
        ranges = divided({released.champion or first: 1.0})
        at = route_changed_us(released)
        experiments.begin_phase(trial.name, at, shares, ranges, state=state, why=why, winner=best)
    else:
        experiments.change(trial.name, state=state, why=why, winner=best)


def _arms(given: list[str]) -> dict[str, float]:
    shares = shares_of(tuple(given))
    if len(shares) < 2:
        raise UsageError("An experiment needs two arms or more: --arm champion=0.9 --arm challenger=0.1.")
    divided(shares)  # they add up to 1
    return shares


def _unfinished(name: str, state: Released) -> Trial | None:
    """The experiment of this name that was left starting, whose route it is."""
    experiments = Experiments(current_settings().home)
    found = experiments.get(name) if name in experiments.names() else None
    return found if found is not None and found.state == "starting" and is_steered(state, found) else None


def _newest() -> str:
    experiments = Experiments(current_settings().home)
    running = experiments.running()
    if running is not None:
        return running.name
    found = [experiments.get(name) for name in experiments.names()]
    if not found:
        raise VersionError("There is no experiment. Begin one with `freshet experiment create`.")
    return max(found, key=lambda one: one.phases[-1].since_us if one.phases else 0).name


def _empty(trial: Trial) -> Experiment:
    return Experiment(Design(**trial.design), trial.phases[0].shares if trial.phases else trial.shares)


def _show(name: str, json: bool) -> None:
    home = current_settings().home
    trial = Experiments(home).get(name)
    verdict = read_verdict(home, name)
    data: dict[str, Any] = {
        "name": name,
        "state": trial.state,
        "metric": trial.metric,
        "winner": trial.winner,
        "why": trial.why,
        "phases": [{"since": _moment(p.since_us), "shares": p.shares} for p in trial.phases],
        "joined": verdict is not None,
        **(verdict if verdict is not None else summary(_empty(trial))),
    }
    for arm, share in (trial.phases[-1].shares if trial.phases else {}).items():
        data["arms"][arm]["share"] = share  # the route may have changed since the last outcome
    emit(data, json, lambda: _form(data))


def _form(data: dict[str, Any]) -> RenderableType:
    until = data.get("joined_until_us")
    head: dict[str, object] = {"experiment": data["name"], "state": data["state"], "counts": data["metric"]}
    if data["winner"]:
        head["winner"] = data["winner"]
    if data["why"]:
        head["why"] = data["why"]
    head["joined until"] = _moment(until) if until else "nothing yet: `freshet outcomes` joins"
    head["shares fit"] = data["sample_ratio"]["reason"]
    arms = [
        (arm, f"{one['share']:.1%}", one["users"], one["users_with_outcome"], one["mean"], one["left_out"])
        for arm, one in data["arms"].items()
    ]
    parts: list[RenderableType] = [
        pairs(head),
        table(("arm", "share", "users", "with outcome", "mean", "left out"), arms),
    ]
    for arm, one in data["challengers"].items():
        said = {
            "verdict": f"{one['verdict']}: {one['reason']}",
            "lift": _lift(one["lift"], one["lift_interval"], one["level"]),
            "guardrail": f"{one['guardrail']['state']}: {one['guardrail']['reason']}",
        }
        parts.append(pairs({f"{arm} · {key}": value for key, value in said.items()}))
    if "records" in data:
        parts.append(pairs({"records": {key: count for key, count in data["records"].items() if count}}))
    return Group(*parts)


def _lift(lift: float | None, interval: list[float | None] | None, level: float) -> str:
    """The lift with its interval in words.

    >>> _lift(0.1, [0.02, None], 0.05)
    '+10.0 %, between +2.0 % and no bound (95 %, at any time)'
    """
    if lift is None or interval is None:
        return "not known yet"
    low, high = (f"{100 * end:+.1f} %" if end is not None else "no bound" for end in interval)
    return f"{100 * lift:+.1f} %, between {low} and {high} ({100 * (1 - level):.3g} %, at any time)"


def _percent(text: str) -> float:
    """A share or a lift.

    >>> _percent("-3%"), _percent("0.2")
    (-0.03, 0.2)
    """
    try:
        return float(text.strip()[:-1]) / 100 if text.strip().endswith("%") else float(text)
    except ValueError:
        raise UsageError(f'Expected a share such as 5% or 0.05, got "{text}".') from None


def _seconds(option: str, text: str) -> float:
    try:
        return duration(text)
    except ValueError:
        raise UsageError(f'{option}: expected a time such as 30s, 12h or 7d, got "{text}".') from None


def _us(option: str, text: str, least: int = 0) -> int:
    found = int(_seconds(option, text) * 1e6)
    if found < least:
        raise UsageError(f'{option}: expected a time above 0, got "{text}".')
    return found


def _moment(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
