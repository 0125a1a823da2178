"""`freshet experiment`: options enter, a trial leaves; what is known of one enters, a form leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Group, RenderableType
from rich.text import Text

from consumers.commands.output import pairs, table
from consumers.commands.route import _shares as shares_of
from consumers.experiment_status import moment
from consumers.settings import duration
from state.experiments import Trial
from streaming.errors import UsageError
from streaming.experiments import Design
from streaming.routing import divided

Arms = Annotated[list[str], Parameter(name="--arm", negative=())]
Measure = Literal["conversion", "value"]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Outcome:
    """What counts.

    Attributes
    ----------
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
    window
        How long after the first exposure a user's events count.
    lateness
        How far a record may lie behind the newest one of its log.
    """

    metric: str
    measure: Measure = "conversion"
    mean: float = 0.05
    deviation: float | None = None
    lift: float = 0.1
    guardrail: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None
    window: str = "1d"
    lateness: str = "1m"

    def design(self) -> Design:
        """What the statistics expect."""
        bound = percent(self.guardrail) if self.guardrail else None
        return Design(self.measure, self.mean, self.deviation, self.lift, guardrail=bound)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Steering:
    """How shares change.

    Attributes
    ----------
    ramp
        Shares of the challengers together, step by step: 5%,20%,50%.
    ramp_users
        Users of the challengers who must have entered during a step.
    ramp_time
        How long a step must last at least: 12h.
    bandit
        Let the outcomes decide the shares, anew after every 500 users; for --measure conversion. Verdicts
        are not proven for shares that follow outcomes.
    floor
        Least share of an arm, with --bandit.
    """

    ramp: str | None = None
    ramp_users: int = 500
    ramp_time: str = "0s"
    bandit: Literal["thompson", "ucb"] | None = None
    floor: str = "5%"


def trial_of(name: str, given: list[str], outcome: Outcome, steering: Steering, salt: str) -> Trial:
    """The experiment that was asked for.

    Raises:
        UsageError: it is impossible.
    """
    shares = arms(given)
    steps = tuple(percent(step) for step in steering.ramp.split(",")) if steering.ramp else ()
    floor = percent(steering.floor) if steering.bandit else 0.0
    if steering.bandit:
        _check_bandit(shares, outcome.measure, steps, floor)
    return Trial(
        name,
        shares,
        metric=outcome.metric,
        design=outcome.design().state(),
        salt=salt,
        window_us=_us("--window", outcome.window, least=1),
        lateness_us=_us("--lateness", outcome.lateness),
        ramp=steps,
        ramp_users=steering.ramp_users,
        ramp_seconds=_seconds("--ramp-time", steering.ramp_time),
        bandit=steering.bandit,
        floor=floor,
    )


def arms(given: list[str]) -> dict[str, float]:
    """Shares by version, the champion first.

    Raises:
        UsageError: fewer than two.
        SettingError: they do not add up to 1.
    """
    shares = shares_of(tuple(given))
    if len(shares) < 2:
        raise UsageError("An experiment needs two arms or more: --arm champion=0.9 --arm challenger=0.1.")
    divided(shares)
    return shares


def _check_bandit(shares: dict[str, float], measure: Measure, ramp: tuple[float, ...], floor: float) -> None:
    """Raises UsageError for a bandit that cannot be."""
    if ramp:
        raise UsageError("--ramp and --bandit both decide the shares; give one of them.")
    if measure != "conversion":
        raise UsageError("--bandit is for conversions; leave --measure out.")
    if not 0.0 <= floor <= min(shares.values()):
        raise UsageError(
            f"--floor: expected 0 to the smallest share of --arm, {min(shares.values()):g}, got {floor:g}."
        )


def form(data: dict[str, Any]) -> RenderableType:
    """What `freshet experiment status` shows."""
    until = data.get("joined_until_us")
    head: dict[str, object] = {"experiment": data["name"], "state": data["state"], "counts": data["metric"]}
    if data["winner"]:
        head["winner"] = data["winner"]
    if data["why"]:
        head["why"] = data["why"]
    head["joined until"] = moment(until) if until else "nothing yet: `freshet outcomes` joins"
    head["shares fit"] = data["sample_ratio"]["reason"]
    if data["bandit"]:
        head["bandit"] = data["bandit"]["note"]
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
    parts += _early(data["early_evidence"])
    if "records" in data:
        parts.append(pairs({"records": {key: count for key, count in data["records"].items() if count}}))
    parts += [Text(f"· {note}", style="dim") for note in data.get("notes", ())]
    return Group(*parts)


def _early(evidence: dict[str, Any]) -> list[RenderableType]:
    """The paired difference on all events, named as what it is."""
    rows = [
        (arm, one["events"], f"{one['difference']:+.4f}", f"{one['low']:+.4f} … {one['high']:+.4f}")
        for arm, one in evidence["challengers"].items()
        if "events" in one
    ]
    parts: list[RenderableType] = [Text(f"\n{evidence['what']}", style="dim")]
    if rows:
        parts.append(table((evidence["measure"].upper(), "events", "difference", "95 % of it"), rows))
    missing = {arm: one["reason"] for arm, one in evidence["challengers"].items() if "reason" in one}
    return [*parts, pairs(missing)] if missing else parts


def _lift(lift: float | None, interval: list[float | None] | None, level: float) -> str:
    """The lift with its interval in words.

    >>> _lift(0.1, [0.02, None], 0.05)
    '+10.0 %, between +2.0 % and no bound (95 %, at any time)'
    """
    if lift is None or interval is None:
        return "not known yet"
    low, high = (f"{100 * end:+.1f} %" if end is not None else "no bound" for end in interval)
    return f"{100 * lift:+.1f} %, between {low} and {high} ({100 * (1 - level):.3g} %, at any time)"


def percent(text: str) -> float:
    """A share or a lift.

    >>> percent("-3%"), percent("0.2")
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
