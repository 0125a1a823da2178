"""Users who entered, with their outcomes, come in; verdicts, guardrails and a state to keep leave.

A user enters once, when the window after the first exposure has closed, in the phase of that exposure.
All sums are whole numbers, and looks happen after every 100 users: so the state is the same however
users are batched, and a verdict does not depend on when somebody asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streaming.errors import SettingError
from streaming.experiments.guardrail import Guardrail, GuardrailBoundary
from streaming.experiments.lift import Comparison, Counts, compare
from streaming.experiments.looks import Lift, Looks, lift_of
from streaming.experiments.plan import Design, Sequence
from streaming.experiments.ratio import mismatch, ratio_evidence

LOOK = 100  # users between two looks
MICRO = 1_000_000  # outcomes are kept in millionths
MOST_VALUE = 1e9  # a greater outcome counts as this one


@dataclass(slots=True)
class Tally:
    """Whole sums of one arm in one phase; `total` in millionths, `squares` in their squares.

    Attributes:
        left_out: users of this arm who did not enter, since they were moved to another one.
    """

    users: int = 0
    active: int = 0
    total: int = 0
    squares: int = 0
    left_out: int = 0

    def add(self, micro: int) -> None:
        """One user with this outcome."""
        self.users += 1
        self.active += micro != 0
        self.total += micro
        self.squares += micro * micro


@dataclass(slots=True)
class Phase:
    """A stretch of time with the same shares.

    Attributes:
        since_us: its beginning, microseconds since 1970.
        shares: part of the users by arm, in any unit.
        tallies: one for each arm, in their order.
        strays: users who entered in an arm of share 0: counted, not compared.
    """

    since_us: int
    shares: dict[str, float]
    tallies: list[Tally] = field(default_factory=list)
    strays: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What the confidence sequence of a challenger has shown: "better" or "worse", and when."""

    verdict: str
    at_users: int


class Experiment:
    """One experiment. The first arm is the champion; a look compares each other arm with it.

    Args:
        design: what is expected, and the levels.
        shares: the first phase's shares by arm.
        since_us: its beginning.

    Raises:
        SettingError: fewer than two arms, or shares that are negative or all 0.
    """

    def __init__(self, design: Design, shares: Mapping[str, float], since_us: int = 0) -> None:
        self.design = design
        self.arms = tuple(shares)
        if len(self.arms) < 2:
            raise SettingError(f"experiment: at least two arms are needed; got {len(self.arms)}.")
        self.phases: list[Phase] = []
        self.users = 0
        self.decisions: dict[str, Decision] = {}
        self.mismatch_at: int | None = None
        self.looks = Looks()
        challengers = self.arms[1:]
        self.sequence = Sequence.of(design, len(challengers))
        self.boundary = GuardrailBoundary.of(design, len(challengers))
        watching = Guardrail("off" if self.boundary is None else "watching")
        self.guardrails = dict.fromkeys(challengers, watching)
        self.begin_phase(shares, since_us)

    def begin_phase(self, shares: Mapping[str, float], since_us: int) -> int:
        """Shares change: exposures from `since_us` on belong to a new phase.

        Returns:
            Its number.

        Raises:
            SettingError: other arms, impossible shares, or a time before the last phase's.
        """
        wrong = tuple(shares) != self.arms
        wrong |= not all(0.0 <= share < np.inf for share in shares.values()) or not sum(shares.values())
        if wrong:
            raise SettingError(f"experiment: expected shares of {', '.join(self.arms)}; got {dict(shares)}.")
        if self.phases and since_us < self.phases[-1].since_us:
            raise SettingError(
                f"experiment: a phase cannot begin at {since_us} µs, before {self.phases[-1].since_us} µs."
            )
        self.phases.append(Phase(since_us, dict(shares), [Tally() for _ in self.arms]))
        return len(self.phases) - 1

    def phase_at(self, ts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the phases in which these times lie; a time before the first counts to it."""
        starts = np.array([phase.since_us for phase in self.phases], np.int64)
        return np.maximum(np.searchsorted(starts, ts, side="right") - 1, 0)

    def add(
        self,
        arms: NDArray[np.int64],
        outcomes: NDArray[np.float64],
        phases: NDArray[np.int64],
        left_out: NDArray[np.bool_] | None = None,
    ) -> list[str]:
        """N users enter, in this order.

        Args:
            arms: (N,) number of each user's arm.
            outcomes: (N,) value; for a conversion, anything but 0 counts as 1.
            phases: (N,) as `phase_at` gives.
            left_out: (N,) users who do not enter, but count where users are compared with shares: a change
                of shares moves the users of one arm only, so that leaving them out changes the ratio.

        Returns:
            Challengers whose guardrail acted on the way.

        Raises:
            ValueError: an outcome is not finite.
        """
        if not np.isfinite(outcomes).all():
            raise ValueError(
                "experiment: an outcome is not finite; leave such events out before they are joined."
            )
        conversion = self.design.metric == "conversion"
        value = (
            (outcomes != 0.0).astype(np.float64) if conversion else np.clip(outcomes, -MOST_VALUE, MOST_VALUE)
        )
        micro = np.rint(value * MICRO).astype(np.int64).tolist()
        acted: list[str] = []
        out = np.zeros(len(arms), np.bool_) if left_out is None else left_out
        columns = (arms.tolist(), micro, phases.tolist(), out.tolist())
        for arm, amount, number, leaves in zip(*columns, strict=True):
            phase = self.phases[number]
            if phase.shares[self.arms[arm]] == 0.0:
                phase.strays += 1
                continue
            if leaves:
                phase.tallies[arm].left_out += 1
                continue
            phase.tallies[arm].add(amount)
            self.users += 1
            if self.users % LOOK == 0:
                acted += self._look()
        return acted

    def counts(self, arm: str) -> Counts:
        """Sums of an arm by phase, for `compare`."""
        k = self.arms.index(arm)
        tallies = [phase.tallies[k] for phase in self.phases]
        columns = (
            np.array([tally.users for tally in tallies], np.float64),
            np.array([tally.active for tally in tallies], np.float64),
            np.array([tally.total / MICRO for tally in tallies], np.float64),
            np.array([tally.squares / MICRO**2 for tally in tallies], np.float64),
        )
        return Counts(*columns)

    def comparison(self, arm: str) -> Comparison:
        """A challenger against the champion, as it stands."""
        return compare(self.counts(self.arms[0]), self.counts(arm))

    def ratio_evidence(self) -> float:
        """Log evidence that users are not spread as the shares say, over all phases."""
        return sum(
            ratio_evidence(
                [t.users + t.left_out for t in phase.tallies], [phase.shares[arm] for arm in self.arms]
            )
            for phase in self.phases
        )

    def _look(self) -> list[str]:
        """Compare all arms once; returns the challengers whose guardrail acts now."""
        if self.mismatch_at is None and mismatch(self.ratio_evidence()):
            self.mismatch_at = self.users
        acted = []
        for arm in self.arms[1:]:
            found = self.comparison(arm)
            z = float(found.z())
            if arm not in self.decisions and abs(z) >= float(self.sequence.critical(found.effective)):
                self.decisions[arm] = Decision("better" if z > 0.0 else "worse", self.users)
            before = self.guardrails[arm]
            crossed = self.boundary is not None and bool(self.boundary.crossed(found))
            self.guardrails[arm] = before.look(crossed, self.users)
            if self.guardrails[arm] != before:
                acted.append(arm)
        self.looks.note(self.users // LOOK, self.users, self._lifts)
        return acted

    def _lifts(self) -> list[Lift]:
        found = [self.comparison(arm) for arm in self.arms[1:]]
        return [lift_of(one, self.sequence.critical(one.effective)) for one in found]

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON; `squares` is text, since it may exceed 64 bits."""
        return {
            "design": self.design.state(),
            "phases": [
                {
                    "since_us": phase.since_us,
                    "shares": phase.shares,
                    "tallies": [_row(tally) for tally in phase.tallies],
                    "strays": phase.strays,
                }
                for phase in self.phases
            ],
            "users": self.users,
            "decisions": {arm: asdict(one) for arm, one in self.decisions.items()},
            "guardrails": {arm: asdict(one) for arm, one in self.guardrails.items()},
            "mismatch_at": self.mismatch_at,
            "looks": self.looks.state(),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Experiment:
        """The experiment that `state` gave."""
        first = state["phases"][0]
        found = cls(Design(**state["design"]), first["shares"], first["since_us"])
        found.phases = [
            Phase(one["since_us"], dict(one["shares"]), list(_tallies(one["tallies"])), one["strays"])
            for one in state["phases"]
        ]
        found.users, found.mismatch_at = state["users"], state["mismatch_at"]
        found.looks = Looks.restored(state["looks"]) if "looks" in state else Looks()
        found.decisions = {arm: Decision(**one) for arm, one in state["decisions"].items()}
        found.guardrails = {arm: Guardrail(**one) for arm, one in state["guardrails"].items()}
        return found


def _row(tally: Tally) -> list[Any]:
    return [tally.users, tally.active, tally.total, str(tally.squares), tally.left_out]


def _tallies(rows: Iterable[list[Any]]) -> Iterable[Tally]:
    for users, active, total, squares, left_out in rows:
        yield Tally(users, active, total, int(squares), left_out)
