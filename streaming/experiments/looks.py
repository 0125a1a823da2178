"""Looks at an experiment enter, one after every 100 users; a bounded number of them is kept to be drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from numpy.typing import NDArray

from streaming.experiments.lift import Comparison, lift_interval

MOST = 160  # looks that are kept

Lift = tuple[float | None, float | None, float | None]  # lift, lower and upper end; None: not known, no bound


class Looks:
    """Lifts and their always-valid intervals along the experiment.

    Where there are too many, every second one is given up and the distance doubles, so that the same
    looks are kept however users were batched.

    >>> looks = Looks()
    >>> for number in range(1, 2 * MOST + 1):
    ...     looks.note(number, 100 * number, lambda: [(0.1, None, 0.3)])
    >>> len(looks.kept), looks.every, looks.kept[-1]
    (160, 2, (32000, [(0.1, None, 0.3)]))
    """

    def __init__(self) -> None:
        self.every = 1
        self.kept: list[tuple[int, list[Lift]]] = []  # users, and a lift for each challenger

    def note(self, number: int, users: int, lifts: Callable[[], list[Lift]]) -> None:
        """A look, the `number`-th; its lifts are asked for only where it is kept."""
        if number % self.every:
            return
        self.kept.append((users, lifts()))
        if len(self.kept) > MOST:
            # The look numbers kept are every, 2 every, 3 every, …: those at odd places leave.
            self.kept = self.kept[1::2]
            self.every *= 2

    def of(self, challenger: int) -> list[tuple[int, float | None, float | None, float | None]]:
        """(users, lift, lower, upper) of one challenger, by its place among them."""
        return [(users, *lifts[challenger]) for users, lifts in self.kept]

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return {"every": self.every, "kept": self.kept}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Looks:
        """The looks that `state` gave."""
        found = cls()
        found.every = state["every"]
        found.kept = [(users, [_lift(one) for one in lifts]) for users, lifts in state["kept"]]
        return found


def lift_of(found: Comparison, critical: NDArray[Any]) -> Lift:
    """The lift and its interval as plain numbers."""
    if not float(found.effective) or not float(found.champion) or not float(found.champion_variance):
        return None, None, None
    lower, upper = (_plain(end) for end in lift_interval(found, critical))
    return _plain(found.challenger / found.champion - 1.0), lower, upper


def _plain(value: Any) -> float | None:
    return round(float(value), 6) if isfinite(float(value)) else None


def _lift(row: Sequence[float | None]) -> Lift:
    lift, lower, upper = row
    return lift, lower, upper
