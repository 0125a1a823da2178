"""What an experiment expects enters; its boundaries and the users that it will need leave.

The clock of all boundaries is the number of *effective* users, n_A n_B / (n_A + n_B): of N users in
arms with shares a and b, N a b / (a + b). Boundaries hold whatever is expected here; they are tightest
where it comes true.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import inf, isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.errors import SettingError
from streaming.experiments.confidence import NORMAL, mixture_bound, mixture_rho

TUNED_FOR = 1.25  # of the sample with fixed horizon: where the mixture's boundary is tightest


@dataclass(frozen=True, slots=True)
class Design:
    """What is compared, what is expected, and how often the answer may be wrong.

    Attributes:
        metric: "conversion" (0 or 1 for a user) or "value".
        mean: expected outcome of a champion's user: a rate, or a mean value.
        deviation: standard deviation of a user's value; None for a conversion.
        lift: relative difference that the experiment shall find.
        alpha: chance that any arm without a difference is called better or worse, ever.
        power: chance that `lift` is found, in the planning of samples.
        guardrail: lift below which a challenger is taken out (−0.03: worse by more than 3 %); None: off.
        guardrail_drop: drop that the guardrail is tuned to find fast.
    """

    metric: str = "conversion"
    mean: float = 0.05
    deviation: float | None = None
    lift: float = 0.10
    alpha: float = 0.05
    power: float = 0.8
    guardrail: float | None = None
    guardrail_drop: float = 0.2

    def __post_init__(self) -> None:
        """Refuse what cannot be planned.

        Raises:
            SettingError: an impossible value.
        """
        conversion = self.metric == "conversion"
        _must(self.metric in ("conversion", "value"), "metric", self.metric, '"conversion" or "value"')
        wanted = "between 0 and 1" if conversion else "above 0"
        _must(0.0 < self.mean < (1.0 if conversion else inf), "mean", self.mean, wanted)
        if conversion:
            _must(self.deviation is None, "deviation", self.deviation, "left out: a conversion has its own")
        else:
            known = self.deviation is not None and 0.0 < self.deviation < inf
            _must(known, "deviation", self.deviation, "above 0")
        most = 1.0 / self.mean - 1.0 if conversion else inf
        _must(
            self.lift != 0.0 and -1.0 < self.lift < most,
            "lift",
            self.lift,
            f"above -1, below {most:g}, not 0",
        )
        _must(0.0 < self.alpha < 0.5, "alpha", self.alpha, "between 0 and 0.5")
        _must(0.5 <= self.power < 1.0, "power", self.power, "at least 0.5, below 1")
        _must(0.0 < self.guardrail_drop < 1.0, "guardrail_drop", self.guardrail_drop, "between 0 and 1")
        if self.guardrail is not None:
            wanted = f"above -{self.guardrail_drop:g} (guardrail_drop), at most 0"
            _must(-self.guardrail_drop < self.guardrail <= 0.0, "guardrail", self.guardrail, wanted)

    def variance(self, lift: float) -> float:
        """Variance of a user's outcome in an arm with this lift."""
        mean = self.mean * (1.0 + lift)
        return mean * (1.0 - mean) if self.deviation is None else self.deviation**2

    def signal(self, lift: float, null: float = 0.0) -> float:
        """Expected z of `lift` against `null` per square root of an effective user, arms of equal size."""
        spread = 0.5 * (self.variance(lift) + (1.0 + null) ** 2 * self.variance(0.0))
        return self.mean * (lift - null) / sqrt(spread)

    def fixed_sample(self, lift: float) -> float:
        """Effective users of a test with fixed horizon, two-sided at `alpha`, that finds `lift` with `power`.

        >>> round(2 * Design(mean=0.05, lift=0.1).fixed_sample(0.1))  # for each of two equal arms
        31231
        """
        z = NORMAL.inv_cdf(1.0 - self.alpha / 2.0) + NORMAL.inv_cdf(self.power)
        return (z / self.signal(lift)) ** 2

    def state(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sequence:
    """The confidence sequence of one challenger against the champion.

    Attributes:
        alpha: level of this comparison: that of the design, divided by the number of challengers.
        rho: precision of the normal mixture, in effective users.
    """

    alpha: float
    rho: float

    @classmethod
    def of(cls, design: Design, challengers: int = 1) -> Sequence:
        """Tuned for the planned lift; the level divided among the challengers (Bonferroni)."""
        alpha = design.alpha / challengers
        return cls(alpha, mixture_rho(TUNED_FOR * design.fixed_sample(design.lift), alpha))

    def critical(self, effective: NDArray[np.float64]) -> NDArray[np.float64]:
        """|z| from which zero lies outside the sequence; infinite without users."""
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = mixture_bound(effective, self.rho, self.alpha) / np.sqrt(effective)
        return np.where(effective > 0.0, bound, np.inf)


def users(effective: float, share: float, champion: float) -> float:
    """Users of a whole experiment for this many effective ones in two of its arms; inf without a share.

    >>> users(100.0, 0.1, 0.9)
    1111.111111111111
    """
    both = share * champion
    return effective * (share + champion) / both if both > 0.0 else inf


def expected(design: Design, shares: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """Users that enter the experiment before a decision, by challenger (the first arm is the champion).

    Returns:
        `fixed_horizon`: of a test that looks once; `half` and `planned_power`: users after which half of
        the experiments, and the planned share of them, have found the planned lift. None: never (share 0).

    >>> plan = expected(Design(), {"champion": 0.5, "challenger": 0.5})["challenger"]
    >>> {name: round(figure, -3) for name, figure in plan.items()}
    {'fixed_horizon': 62000.0, 'half': 62000.0, 'planned_power': 108000.0}
    """
    (_, champion), *challengers = shares.items()
    sequence = Sequence.of(design, max(1, len(challengers)))
    half, planned = found_by(design, sequence, (0.5, design.power))
    fixed = design.fixed_sample(design.lift)
    figures = {"fixed_horizon": fixed, "half": half, "planned_power": planned}
    return {
        arm: {name: _finite(users(effective, share, champion)) for name, effective in figures.items()}
        for arm, share in challengers
    }


def found_by(
    design: Design, sequence: Sequence, powers: tuple[float, ...], paths: int = 2000
) -> tuple[float, ...]:
    """Effective users after which the planned lift is found with these chances.

    From simulated Brownian paths with the expected drift, always the same ones.
    """
    fixed = design.fixed_sample(design.lift)
    time = fixed * np.geomspace(0.01, 30.0, 400)
    steps = np.sqrt(np.diff(time, prepend=0.0))
    noise = np.cumsum(np.random.default_rng(1).standard_normal((paths, len(time))) * steps, axis=1)
    z = abs(design.signal(design.lift)) * np.sqrt(time) + noise / np.sqrt(time)
    found = z >= sequence.critical(time)
    first = np.where(found.any(axis=1), time[found.argmax(axis=1)], np.inf)
    return tuple(float(at) for at in np.quantile(first, powers, method="higher"))


def _finite(figure: float) -> float | None:
    return figure if isfinite(figure) else None


def _must(holds: bool, name: str, got: object, wanted: str) -> None:
    if not holds:
        raise SettingError(f"experiment: {name} must be {wanted}; got {got!r}.")
