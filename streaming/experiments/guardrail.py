"""When is a challenger so much worse that it is taken out: a boundary, and a state machine over looks.

Two things must be shown at once: that the challenger is worse than the champion (an arm that is as good
is taken out in at most 1 % of experiments), and that it is worse than the guardrail allows (an arm just
there is taken out in at most 5 %). Each level is spent on three boundaries: flat ones (O'Brien & Fleming
1979) up to the planned sample, for the drop that was planned for, and up to an eighth of it, for a
catastrophe; and a mixture for ever after. So one may look whenever and however often one likes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streaming.experiments.confidence import flat_level, mixture_rho, one_sided_bound
from streaming.experiments.lift import Comparison
from streaming.experiments.plan import Design

EQUAL_LEVEL = 0.01  # an arm as good as the champion is taken out at most this often
BOUND_LEVEL = 0.05  # an arm just at the guardrail is taken out at most this often
HORIZON = 1.5  # of the sample with fixed horizon for the planned drop

# Parts of the level. A fifth is kept back: boundaries hold in the limit, and small arms are skewed.
_PLANNED, _EIGHTH, _AFTER = 0.74, 0.03, 0.03


@dataclass(frozen=True, slots=True)
class Spent:
    """A one-sided level spent over time, mostly at the planned horizon.

    Attributes:
        horizon: planned effective users.
        planned: the flat boundary up to the horizon, as z at its end.
        eighth: the one up to an eighth of the horizon, as z at its end.
        after_alpha: level of the mixture for ever after.
        after_rho: its precision, in effective users.
    """

    horizon: float
    planned: float
    eighth: float
    after_alpha: float
    after_rho: float

    @classmethod
    def of(cls, level: float, horizon: float) -> Spent:
        """Spend this level around this horizon."""
        after = _AFTER * level
        flat = flat_level(_PLANNED * level), flat_level(_EIGHTH * level)
        return cls(horizon, *flat, after, mixture_rho(4.0 * horizon, 2.0 * after))

    def critical(self, effective: ArrayLike) -> NDArray[np.float64]:
        """The z that is reached, at any time at all, with at most the chance of the level."""
        users = np.asarray(effective, np.float64)
        v = np.where(users > 0.0, users, 1.0)
        time = v / self.horizon
        planned = np.where(time <= 1.0, self.planned / np.sqrt(time), np.inf)
        eighth = np.where(time <= 0.125, self.eighth * np.sqrt(0.125 / time), np.inf)
        after = one_sided_bound(v, self.after_rho, self.after_alpha) / np.sqrt(v)
        return np.where(users > 0.0, np.minimum(np.minimum(planned, eighth), after), np.inf)


@dataclass(frozen=True, slots=True)
class GuardrailBoundary:
    """Where the guardrail acts: `equal` against lift 0 and `bound` against the guardrail's lift."""

    lift: float
    equal: Spent
    bound: Spent

    @classmethod
    def of(cls, design: Design, challengers: int = 1) -> GuardrailBoundary | None:
        """Tuned for the planned drop, the levels divided among the challengers; None without a guardrail."""
        if design.guardrail is None:
            return None
        horizon = HORIZON * design.fixed_sample(-design.guardrail_drop)
        levels = EQUAL_LEVEL / challengers, BOUND_LEVEL / challengers
        return cls(design.guardrail, *(Spent.of(level, horizon) for level in levels))

    def crossed(self, found: Comparison) -> NDArray[np.bool_]:
        """Whether the challenger is shown to be worse, and worse than the guardrail allows."""
        worse = found.z() <= -self.equal.critical(found.effective)
        beyond = found.z(self.lift) <= -self.bound.critical(found.effective)
        return np.asarray(worse & beyond)


@dataclass(frozen=True, slots=True)
class Guardrail:
    """State of one challenger's guardrail: "off", "watching" or "acted", which is final.

    Attributes:
        at_users: users of the experiment when it acted.
    """

    state: str = "watching"
    at_users: int | None = None

    def look(self, crossed: bool, users: int) -> Guardrail:
        """The state after one look.

        >>> Guardrail().look(False, 100).look(True, 200).look(False, 300)
        Guardrail(state='acted', at_users=200)
        """
        if self.state != "watching" or not crossed:
            return self
        return replace(self, state="acted", at_users=users)
