"""Which version answers a user: a pure function of (salt, user) over a route's ranges of buckets.

    bucket(salt, user) = first 8 bytes of SHA-256(salt + 0x00 + user), as a big-endian integer, modulo 10,000

Salt and user are UTF-8. Each arm of a route holds ranges of the buckets 0 … 9,999. When shares change,
arms that shrink give up the buckets that they got last, and arms that grow take these: so a user moves
only from an arm that shrinks to one that grows, and no more users move than the shares say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

from streaming.errors import SettingError

BUCKETS = 10_000
HOLDOUT_SALT = "holdout"  # not the experiment's: who is held out stays so from one experiment to the next

By = Literal["override", "holdout", "share"]


class Arm(msgspec.Struct, frozen=True):
    """A version that takes traffic.

    Attributes:
        ranges: (first bucket, bucket after the last), in the order in which the arm got them.
    """

    version: str
    ranges: tuple[tuple[int, int], ...]

    @property
    def buckets(self) -> int:
        """How many of the 10,000."""
        return sum(end - first for first, end in self.ranges)

    @property
    def share(self) -> float:
        """Of the users that are neither held out nor named in an override."""
        return self.buckets / BUCKETS


class Route(msgspec.Struct, frozen=True):
    """How users are divided.

    Attributes:
        salt: of the experiment; another salt divides the users anew.
        arms: they hold all buckets, or there are none and everyone gets the champion.
        overrides: user → version, before all else.
        holdout: this many buckets under HOLDOUT_SALT, from 0 on, take no part in the experiment.
        holdout_version: what users who are held out get; None for the champion, whichever that is.
    """

    salt: str
    arms: tuple[Arm, ...] = ()
    overrides: dict[str, str] = {}
    holdout: int = 0
    holdout_version: str | None = None

    def __post_init__(self) -> None:
        if "\0" in self.salt:
            raise SettingError("A salt must not hold the byte 0, which ends it.")
        if not 0 <= self.holdout <= BUCKETS:
            raise SettingError(f"A hold-out must be 0 … {BUCKETS} buckets, got {self.holdout}.")
        ranges = sorted(pair for arm in self.arms for pair in arm.ranges)
        ends = [0, *(end for _, end in ranges)]
        whole = [first for first, _ in ranges] == ends[:-1] and ends[-1] == BUCKETS
        if self.arms and not (whole and all(first < end for first, end in ranges)):
            raise SettingError(f"Arms must hold each of the {BUCKETS} buckets once, got {ranges}.")

    def versions(self) -> set[str]:
        """All versions that it names."""
        named = {arm.version for arm in self.arms} | set(self.overrides.values())
        return named | ({self.holdout_version} if self.holdout and self.holdout_version else set())


class Routed(NamedTuple):
    """Where a user goes: a version, None for the champion; and why."""

    version: str | None
    by: By


def bucket_of(salt: str, user: str) -> int:
    """The bucket of a user, 0 … 9,999.

    >>> [bucket_of("summer", user) for user in ("ann", "bob", "7", "zoë", "")]
    [8259, 290, 1026, 8464, 629]
    """
    digest = hashlib.sha256(f"{salt}\0{user}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def route(user: str, by: Route) -> Routed | None:
    """Where a route sends a user; None where it says nothing of them, and the champion answers.

    >>> half = Route("summer", (Arm("a", ((0, 5000),)), Arm("b", ((5000, 10_000),))), {"zoë": "c"}, 100)
    >>> [route(user, half).version for user in ("ann", "bob", "7", "zoë")]
    ['b', 'a', 'a', 'c']
    """
    if user in by.overrides:
        return Routed(by.overrides[user], "override")
    if by.holdout and bucket_of(HOLDOUT_SALT, user) < by.holdout:
        return Routed(by.holdout_version, "holdout")
    if not by.arms:
        return None
    bucket = bucket_of(by.salt, user)
    for arm in by.arms:
        for first, end in arm.ranges:
            if first <= bucket < end:
                return Routed(arm.version, "share")
    raise AssertionError(f"bucket {bucket} is in no arm of {by.arms}")  # a Route holds all of them


def divided(shares: Mapping[str, float], before: tuple[Arm, ...] = ()) -> tuple[Arm, ...]:
    """Arms with these shares, which move as few users as can be from where `before` had them.

    Args:
        shares: version → share; they add up to 1, and are rounded to ten thousandths.

    Raises:
        SettingError: a share is not within 0 … 1, or they do not add up to 1.

    >>> divided({"a": 0.9, "b": 0.1})
    (Arm(version='a', ranges=((0, 9000),)), Arm(version='b', ranges=((9000, 10000),)))
    >>> divided({"a": 0.8, "b": 0.2}, divided({"a": 0.9, "b": 0.1}))[1]
    Arm(version='b', ranges=((9000, 10000), (8000, 9000)))
    """
    wanted = _in_buckets(shares)
    held = {arm.version: list(arm.ranges) for arm in before}
    free: list[tuple[int, int]] = [] if before else [(0, BUCKETS)]
    for version, ranges in held.items():
        free += _given_up(ranges, _size(ranges) - wanted.get(version, 0))
    arms = []
    for version, buckets in wanted.items():
        ranges = held.get(version, [])
        for first, end in _taken(free, buckets - _size(ranges)):
            if ranges and ranges[-1][1] == first:
                ranges[-1] = (ranges[-1][0], end)
            else:
                ranges.append((first, end))
        if buckets:
            arms.append(Arm(version, tuple(ranges)))
    return tuple(arms)


def in_buckets(name: str, share: float) -> int:
    """A share as a number of buckets.

    Raises:
        SettingError: it is not within 0 … 1, or too small for a bucket.

    >>> in_buckets("the hold-out", 0.05)
    500
    """
    if not 0.0 <= share <= 1.0:
        raise SettingError(f"The share of {name} must be between 0 and 1, got {share:g}.")
    buckets = round(share * BUCKETS)
    if share and not buckets:
        raise SettingError(f"The share of {name} must be 0 or at least {1 / BUCKETS:g}, got {share:g}.")
    return buckets


def _in_buckets(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares as buckets, 10,000 in all; what rounding leaves goes to the largest."""
    buckets = {version: in_buckets(f'"{version}"', share) for version, share in shares.items()}
    total = sum(shares.values())
    if abs(total - 1.0) > max(1, len(shares)) / BUCKETS:
        given = " ".join(f"{version}={share:g}" for version, share in shares.items())
        raise SettingError(f"Shares must add up to 1, got {given}, which is {total:g}.")
    largest = max(buckets, key=lambda version: buckets[version])
    buckets[largest] += BUCKETS - sum(buckets.values())
    return buckets


def _size(ranges: list[tuple[int, int]]) -> int:
    return sum(end - first for first, end in ranges)


def _given_up(ranges: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Take the `count` newest buckets out of `ranges`, the newest first."""
    given = []
    while count > 0:
        first, end = ranges.pop()
        kept = max(first, end - count)
        if kept > first:
            ranges.append((first, kept))
        given.append((kept, end))
        count -= end - kept
    return given


def _taken(free: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """Take the first `count` buckets out of `free`."""
    taken = []
    while count > 0:
        first, end = free.pop(0)
        cut = min(end, first + count)
        taken.append((first, cut))
        if cut < end:
            free.insert(0, (cut, end))
        count -= cut - first
    return taken
