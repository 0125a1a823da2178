"""What was served and what happened, as the joiner takes it, and what it makes of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import msgspec


class Exposure(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """A list that was served; `ts` in microseconds since 1970."""

    ts: int
    id: str
    arm: str
    items: tuple[str, ...]


class Happening(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """An event that counts for the metric; `exposure` is the id that it names, or ""."""

    ts: int
    item: str
    value: float = 1.0
    exposure: str = ""


class Outcome(NamedTuple):
    """A user whose window has closed: one who enters the experiment, or is left out.

    Attributes:
        arm: number of the arm of the first exposure.
        first_us: time of the first exposure.
        value: sum of the values of the events that were joined; 0 without any.
        events: how many they were.
        exposures: lists that the user was served in the window, repeated ones once.
        left_out: "two_arms" or "moved" where the user does not enter, else "".
    """

    user: str
    arm: int
    first_us: int
    value: float
    events: int
    exposures: int
    left_out: str = ""


@dataclass(slots=True)
class JoinCounts:
    """What became of all records; each record is counted once, users on their own.

    Attributes:
        exposures: within the window of their user.
        repeated_exposures: with an id that this user's window holds already.
        later_exposures: after the window of their user.
        late_exposures: older than their source may still bring; left out.
        other_exposures: of an arm that is not in the experiment.
        joined: events that belong to an exposure.
        repeated: events like one that was joined: same item, time, value and exposure.
        unexposed: events of users, or for items, that were not exposed before in the window.
        after_window: events after the window of their user.
        late: events older than their source may still bring; left out.
        users: those who entered.
        two_arms: users left out, seen in more than one arm within the window.
        moved: users left out, whom the route moved within the window, whether they were seen again or not.
    """

    exposures: int = 0
    repeated_exposures: int = 0
    later_exposures: int = 0
    late_exposures: int = 0
    other_exposures: int = 0
    joined: int = 0
    repeated: int = 0
    unexposed: int = 0
    after_window: int = 0
    late: int = 0
    users: int = 0
    two_arms: int = 0
    moved: int = 0
