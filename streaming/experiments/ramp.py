"""A ramp of shares: time, users and verdicts enter, the step that holds now leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streaming.errors import SettingError


@dataclass(frozen=True, slots=True)
class Ramp:
    """Shares of the challengers together, step by step; pure, so that the same log gives the same steps.

    Attributes:
        steps: rising shares, the last one stays.
        least_users: users of the challengers that must have entered during a step before the next.
        least_seconds: how long a step must last.
        step: index of the step that holds.
        since_s: when it began, seconds.
        users: users of the challengers who had entered when it began.
        halted: whether the ramp ended, by a guardrail or a mismatch of shares.
    """

    steps: tuple[float, ...]
    least_users: int = 500
    least_seconds: float = 0.0
    step: int = 0
    since_s: float = 0.0
    users: int = 0
    halted: bool = False

    def __post_init__(self) -> None:
        """Refuse steps that do not rise.

        Raises:
            SettingError: no steps, a share outside 0 … 1, or one that does not rise.
        """
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        if not (self.steps and rising and self.steps[0] > 0.0 and self.steps[-1] <= 1.0):
            got = ", ".join(f"{share:g}" for share in self.steps)
            raise SettingError(f"ramp: expected rising shares above 0, at most 1; got [{got}].")

    @property
    def share(self) -> float:
        """Share of the challengers now; one that is halted keeps the share of its step."""
        return self.steps[self.step]

    def advance(self, now_s: float, users: int, halted: bool) -> Ramp:
        """The ramp after a look.

        Args:
            now_s: time of the look, seconds, in the same clock as `since_s`.
            users: users of the challengers who have entered so far.
            halted: whether a guardrail has acted or the shares do not fit.

        >>> ramp = Ramp((0.05, 0.2, 0.5), least_users=500)
        >>> ramp.advance(10.0, 499, False).share, ramp.advance(10.0, 500, False).share
        (0.05, 0.2)
        """
        if self.halted or halted:
            return replace(self, halted=True)
        held = users - self.users >= self.least_users and now_s - self.since_s >= self.least_seconds
        if not held or self.step + 1 == len(self.steps):
            return self
        return replace(self, step=self.step + 1, since_s=now_s, users=users)


def with_challengers(shares: dict[str, float], together: float) -> dict[str, float]:
    """Shares in which the challengers have this much together, in their old proportions.

    >>> with_challengers({"champion": 0.75, "b": 0.125, "c": 0.125}, 0.5)
    {'champion': 0.5, 'b': 0.25, 'c': 0.25}
    """
    (champion, _), *challengers = shares.items()
    whole = sum(share for _, share in challengers)
    equal = together / len(challengers) if challengers else 0.0
    found = {arm: together * share / whole if whole > 0.0 else equal for arm, share in challengers}
    return {champion: 1.0 - together if challengers else 1.0, **found}


def without(shares: dict[str, float], arm: str) -> dict[str, float]:
    """Shares after a challenger was taken out: its part goes to the champion, the first arm.

    >>> without({"champion": 0.5, "b": 0.25, "c": 0.25}, "b")
    {'champion': 0.75, 'b': 0.0, 'c': 0.25}
    """
    champion = next(iter(shares))
    return {**shares, champion: shares[champion] + shares[arm], arm: 0.0}
