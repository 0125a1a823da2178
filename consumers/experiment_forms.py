"""What the server says of experiments: the forms of its answers, and one example of each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

State = Literal["starting", "running", "stopped", "concluded"]
Interval = list[float | None]
Look = tuple[int, float | None, float | None, float | None]


class ExperimentListed(Struct, frozen=True):
    """An experiment as the list shows it.

    Attributes:
        shares: by version, the champion first, as the route has them.
        since: when it began; null where it has not.
    """

    name: str
    state: State
    metric: str
    shares: dict[str, float]
    since: datetime | None
    winner: str | None


class ExperimentsForm(Struct, frozen=True):
    """All experiments, and the one that takes users now."""

    running: str | None
    experiments: list[ExperimentListed]


class PhaseForm(Struct, frozen=True):
    """A stretch of time with the same shares."""

    since: datetime
    shares: dict[str, float]


class BanditForm(Struct, frozen=True):
    """What decides the shares from outcomes, and what the statistics do not guarantee then."""

    policy: Literal["thompson", "ucb"]
    floor: float
    note: str


class ArmForm(Struct, frozen=True):
    """Figures of an arm; the mean is that of a user's outcome."""

    share: float
    users: int
    left_out: int
    users_with_outcome: int
    total: float
    mean: float | None


class GuardrailForm(Struct, frozen=True):
    """Whether the guardrail has taken the challenger out of the route, and why, or why not."""

    state: Literal["off", "watching", "acted"]
    at_users: int | None
    lift: float | None
    reason: str


class ChallengerForm(Struct, frozen=True):
    """A challenger against the champion; intervals hold at any time, null is no bound, or not known yet.

    Attributes:
        level: chance that the true lift ever lies outside its interval.
        evidence: e-value against no difference.
        effective_users: the clock of the boundaries.
    """

    verdict: Literal["better", "worse", "undecided", "withheld"]
    reason: str
    decided_at_users: int | None
    lift: float | None
    lift_interval: Interval | None
    difference: float | None
    difference_interval: Interval | None
    level: float
    evidence: float
    effective_users: float
    guardrail: GuardrailForm


class RatioForm(Struct, frozen=True):
    """Whether users are spread over the arms as the shares say."""

    fits: bool
    evidence: float
    alarm_at: float
    reason: str


class EarlyForm(Struct, frozen=True, omit_defaults=True):
    """How two versions predicted the same events before they learned them; `reason` where nobody knows.

    Attributes:
        difference: b − a, the challenger's figure less the champion's, with its 95 % interval for one look.
    """

    events: int | None = None
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


class EvidenceForm(Struct, frozen=True):
    """Early evidence beside the verdict, by challenger, and what it is."""

    what: str
    measure: str
    challengers: dict[str, EarlyForm]


class ExperimentForm(Struct, frozen=True):
    """All that is known of an experiment.

    Attributes:
        joined: whether `freshet outcomes` has joined anything yet; what follows from that is null before.
        looks: by challenger, (users, lift, lower, upper) along the experiment, at most 160 of them.
        best: the arm to promote as far as is shown.
        records: what became of exposures and events.
        notes: what was left out, in words.
    """

    name: str
    state: State
    metric: str
    winner: str | None
    why: str
    phases: list[PhaseForm]
    bandit: BanditForm | None
    joined: bool
    users: int
    strays: int
    arms: dict[str, ArmForm]
    challengers: dict[str, ChallengerForm]
    sample_ratio: RatioForm
    early_evidence: EvidenceForm
    looks: dict[str, list[Look]] = {}
    best: str | None = None
    open_windows: int | None = None
    joined_until_us: int | None = None
    waits_for: str | None = None
    records: dict[str, int] = {}
    notes: list[str] = []


_MOMENT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
_SHARES = {"mine": 0.5, "other": 0.5}
EXPERIMENTS_EXAMPLE = ExperimentsForm(
    "exp", [ExperimentListed("exp", "running", "purchase", _SHARES, _MOMENT, None)]
)
EXPERIMENT_EXAMPLE = ExperimentForm(
    name="exp",
    state="running",
    metric="purchase",
    winner=None,
    why="",
    phases=[PhaseForm(_MOMENT, _SHARES)],
    bandit=None,
    joined=True,
    users=2000,
    strays=0,
    arms={
        "mine": ArmForm(0.5, 1010, 0, 51, 51.0, 0.0505),
        "other": ArmForm(0.5, 990, 0, 60, 60.0, 0.0606),
    },
    challengers={
        "other": ChallengerForm(
            verdict="undecided",
            reason="no difference shown yet: the interval holds 0",
            decided_at_users=None,
            lift=0.2,
            lift_interval=[-0.45, 1.63],
            difference=0.0101,
            difference_interval=[-0.028, 0.048],
            level=0.05,
            evidence=0.35,
            effective_users=499.95,
            guardrail=GuardrailForm("watching", None, -0.03, "not shown to be worse than -3.0%"),
        )
    },
    sample_ratio=RatioForm(True, 0.42, 1000.0, "users are spread as the shares say"),
    early_evidence=EvidenceForm(
        "early evidence: how each version predicts all users' events before it learns them",
        "hr@10",
        {"other": EarlyForm(1751, 0.31, 0.33, 0.02, 0.005, 0.035)},
    ),
    looks={"other": [(1000, 0.1, None, None), (2000, 0.2, -0.45, 1.63)]},
    best="mine",
    open_windows=120,
    joined_until_us=1_795_521_600_000_000,
    waits_for="events",
    records={"exposures": 4249, "joined": 111},
)
