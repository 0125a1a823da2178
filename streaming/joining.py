"""Exposures and events enter in any order; each user's outcome leaves once, in event time.

A user's window begins with the first exposure and lasts `window_us`. It closes when no record can come
any more that belongs to it: the *watermark*, the least of what all sources have reached, less the allowed
lateness, has passed its end. Whether a record is late depends on its own source alone, and users leave in
the order of their windows' ends. So the result is the same however sources interleave and wherever a
batch ends, and a joiner that starts again from its state goes on as if it had never stopped.

An event belongs to the exposure that it names; one that names none, to the last exposure of that item to
that user before it. Windows and events in them are held; what lies before the watermark is not, but for
the ids of users who have entered, which may lie in a store.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Mapping, MutableSet, Sequence
from dataclasses import asdict
from heapq import heappop, heappush
from itertools import compress
from math import fsum
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.errors import SettingError
from streaming.exposures import Exposure, Happening, JoinCounts, Outcome

SECOND = 1_000_000


class _Pending(msgspec.Struct, array_like=True, gc=False):
    """A user whose window is open, or whose events came before their exposure; both lists are sorted."""

    exposures: list[Exposure]
    events: list[Happening]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Pending).decode


class Among(NamedTuple):
    """Where records stand among others of their source, which only tell how far time has gone.

    Attributes:
        times: (M,) of them all, in their order.
        places: (N,) of the records among them.
    """

    times: NDArray[np.int64]
    places: NDArray[np.intp] | slice


class Joiner:
    """The join of one experiment.

    Args:
        arms: names of the arms, in the order of their numbers.
        sources: names of all sources; the watermark waits for each of them. More may come.
        window_us: how long after the first exposure a user's events count.
        skew_us: how far an event may be stamped before the exposure that it follows (clocks differ).
        lateness_us: how far a record may lie behind the newest one of its source.
        entered: users who have entered or were left out; kept elsewhere where memory matters.
        moved: (user, first, last) → whether the route sent the user to another arm between these times.
            Where it is given, users who were moved are left out whether they came back or not, so that
            being left out does not depend on how active they are.

    Raises:
        SettingError: no arms or sources, or an impossible time.
    """

    def __init__(
        self,
        arms: Iterable[str],
        sources: Iterable[str],
        *,
        window_us: int,
        skew_us: int = 2 * SECOND,
        lateness_us: int = 60 * SECOND,
        entered: MutableSet[str] | None = None,
        moved: Callable[[str, int, int], bool] | None = None,
    ) -> None:
        self.arms = {arm: number for number, arm in enumerate(arms)}
        self.reached: dict[str, int | None] = dict.fromkeys(sources)
        if not self.arms or not self.reached:
            raise SettingError("joiner: at least one arm and one source are needed.")
        if window_us <= 0 or skew_us < 0 or lateness_us < 0:
            given = f"window {window_us} µs, skew {skew_us} µs, lateness {lateness_us} µs"
            raise SettingError(
                f"joiner: the window must be above 0, skew and lateness not below 0; got {given}."
            )
        self.window_us, self.skew_us, self.lateness_us = window_us, skew_us, lateness_us
        self.entered: MutableSet[str] = set() if entered is None else entered
        self.counts = JoinCounts()
        self.changed: set[str] = set()  # users whose `row` differs since the caller last emptied this
        self._moved = moved
        self._pending: dict[str, _Pending] = {}
        self._closing: list[tuple[int, str]] = []  # heap of (end of the window, user); old ends are skipped
        # Users with events that wait for an exposure, by the grain in which the latest one could lie.
        self._grain = max(1, lateness_us // 64)
        self._waiting: dict[int, list[str]] = {}
        self._grains: list[int] = []  # heap of its keys

    @property
    def watermark(self) -> int | None:
        """No record before this time will be taken; None while a source has not begun."""
        reached = [ts for ts in self.reached.values() if ts is not None]
        return min(reached) - self.lateness_us if len(reached) == len(self.reached) else None

    @property
    def held(self) -> int:
        """Users in memory."""
        return len(self._pending)

    @property
    def waits_for(self) -> str:
        """The source that is furthest behind; windows wait for it."""
        return min(self.reached, key=lambda source: self.reached[source] or 0)

    def holds(self, user: str) -> bool:
        """Whether something is held of a user, who has not entered then."""
        return user in self._pending

    def advance(self, source: str, ts: int) -> None:
        """A source promises that nothing older than `ts` − lateness will come (it is idle, or at its end)."""
        reached = self.reached.get(source)
        self.reached[source] = ts if reached is None else max(reached, ts)

    def expose(
        self, source: str, records: Sequence[tuple[str, Exposure]], among: Among | None = None
    ) -> None:
        """Take (user, exposure) of one source, in its order."""
        on_time = self._arrived(source, records, among)
        self.counts.late_exposures += len(records) - sum(on_time)
        counts, changed, pending = self.counts, self.changed.add, self._pending
        for user, exposure in compress(records, on_time):
            held = pending.get(user)
            if exposure.arm not in self.arms:
                counts.other_exposures += 1
            elif held is None and user in self.entered:
                counts.later_exposures += 1
            else:
                changed(user)
                if held is None:
                    held = pending[user] = _Pending([], [])
                before = held.exposures[0].ts if held.exposures else None
                insort(held.exposures, exposure)
                if before is None or exposure.ts < before:
                    heappush(self._closing, (exposure.ts + self.window_us, user))

    def observe(
        self, source: str, records: Sequence[tuple[str, Happening]], among: Among | None = None
    ) -> None:
        """Take (user, event) of one source, in its order."""
        on_time = self._arrived(source, records, among)
        self.counts.late += len(records) - sum(on_time)
        counts, changed, pending, skew = self.counts, self.changed.add, self._pending, self.skew_us
        for user, event in compress(records, on_time):
            held = pending.get(user)
            if held is None:
                if user in self.entered:
                    counts.after_window += 1
                    continue
                held = pending[user] = _Pending([], [])
            changed(user)
            insort(held.events, event)
            if not held.exposures or event.ts + skew < held.exposures[0].ts:
                self._wait(user, event.ts + skew)

    def _wait(self, user: str, ts: int) -> None:
        """Look at a user's events again once no exposure up to `ts` can come any more."""
        grain = ts // self._grain
        users = self._waiting.get(grain)
        if users is None:
            users = self._waiting[grain] = []
            heappush(self._grains, grain)
        users.append(user)

    def _arrived(
        self, source: str, records: Sequence[tuple[str, Exposure | Happening]], among: Among | None
    ) -> list[bool]:
        """Which of the records are on time; the source has reached the newest of all that came with them."""
        if among is None:
            times = np.fromiter((record.ts for _, record in records), np.int64, len(records))
            among = Among(times, slice(None))
        if not len(among.times):
            return []
        reached = self.reached.get(source)
        if reached is None:
            reached = int(among.times[0])
        newest = np.maximum.accumulate(np.concatenate([[reached], among.times]))
        self.reached[source] = int(newest[-1])
        on_time: list[bool] = (among.times >= newest[:-1] - self.lateness_us)[among.places].tolist()
        return on_time

    def close(self) -> list[Outcome]:
        """Users whose windows have closed by now, in the order of the windows' ends, then of their ids."""
        watermark = self.watermark
        outcomes: list[Outcome] = []
        if watermark is None:
            return []
        while self._closing and self._closing[0][0] < watermark:
            end, user = heappop(self._closing)
            held = self._pending.get(user)
            if held is not None and held.exposures and held.exposures[0].ts + self.window_us == end:
                outcomes.append(self._leave(user, held, end))
        passed = watermark // self._grain
        while self._grains and self._grains[0] < passed:
            for user in self._waiting.pop(heappop(self._grains)):
                self._drop_unexposed(user, passed * self._grain)
        return outcomes

    def forget(self, user: str) -> None:
        """Erase a user: what is held, and that the user has entered. Sums over all users stay."""
        self._pending.pop(user, None)
        self.entered.discard(user)
        self.changed.add(user)

    def _drop_unexposed(self, user: str, passed: int) -> None:
        """Let go of a user's events that no exposure precedes, and none before `passed` can any more."""
        held = self._pending.get(user)
        if held is None:
            return
        if not held.exposures and held.events[-1].ts + self.skew_us < passed:
            self.counts.unexposed += len(held.events)
            self.changed.add(user)
            del self._pending[user]
            return
        # By the first exposure and the watermark alone, so that it is the same whichever came first.
        before = min(passed, held.exposures[0].ts) if held.exposures else passed
        kept = [event for event in held.events if event.ts + self.skew_us >= before]
        if len(kept) == len(held.events):
            return
        self.counts.unexposed += len(held.events) - len(kept)
        held.events = kept
        self.changed.add(user)

    def _leave(self, user: str, held: _Pending, end: int) -> Outcome:
        """The window of a user has closed: count, join, remember that the user has entered."""
        del self._pending[user]
        self.entered.add(user)
        self.changed.add(user)
        inside = [exposure for exposure in held.exposures if exposure.ts <= end]
        self.counts.later_exposures += len(held.exposures) - len(inside)
        unique = _first_of_each_id(inside)
        self.counts.exposures += len(unique)
        self.counts.repeated_exposures += len(inside) - len(unique)
        joined = self._join(unique, held.events, end)
        first = inside[0]
        left_out = self._left_out(user, inside, end)
        if left_out:
            setattr(self.counts, left_out, getattr(self.counts, left_out) + 1)
        else:
            self.counts.users += 1
        value = fsum(event.value for event in joined)
        return Outcome(user, self.arms[first.arm], first.ts, value, len(joined), len(unique), left_out)

    def _left_out(self, user: str, exposures: list[Exposure], end: int) -> str:
        """Why a user does not enter; "" for one who does."""
        if any(exposure.arm != exposures[0].arm for exposure in exposures):
            return "two_arms"
        if self._moved is not None and self._moved(user, exposures[0].ts, end):
            return "moved"
        return ""

    def _join(self, exposures: list[Exposure], events: list[Happening], end: int) -> list[Happening]:
        """The events that belong to an exposure; all of them are counted. Both lists are sorted."""
        by_id: dict[str, int] = {}
        shown: set[str] = set()
        joined: dict[Happening, None] = {}
        counts, next_exposure = self.counts, 0
        for event in events:
            if event.ts > end:
                counts.after_window += 1
                continue
            while next_exposure < len(exposures) and exposures[next_exposure].ts <= event.ts + self.skew_us:
                by_id[exposures[next_exposure].id] = next_exposure
                shown.update(exposures[next_exposure].items)
                next_exposure += 1
            if (event.exposure not in by_id) if event.exposure else (event.item not in shown):
                counts.unexposed += 1
            elif event in joined:
                counts.repeated += 1
            else:
                counts.joined += 1
                joined[event] = None
        return list(joined)

    def row(self, user: str) -> bytes | None:
        """What is held of a user as JSON, the same whatever came first; None for nothing."""
        held = self._pending.get(user)
        return None if held is None else _encode(held)

    def users(self) -> list[str]:
        """Users of whom something is held, sorted."""
        return sorted(self._pending)

    def state(self) -> dict[str, Any]:
        """All but the rows and the entered users, as plain JSON."""
        return {"reached": dict(sorted(self.reached.items())), "counts": asdict(self.counts)}

    def restore(self, state: Mapping[str, Any], rows: Iterable[tuple[str, bytes]]) -> None:
        """Go on from what `state` and the `row`s of all users gave; only before any record."""
        self.reached = {source: state["reached"].get(source) for source in self.reached}
        self.counts = JoinCounts(**state["counts"])
        for user, row in rows:
            held = self._pending[user] = _decode(row)
            if held.exposures:
                heappush(self._closing, (held.exposures[0].ts + self.window_us, user))
            first = held.exposures[0].ts if held.exposures else None
            for event in held.events:
                if first is not None and event.ts + self.skew_us >= first:
                    break
                self._wait(user, event.ts + self.skew_us)


def _first_of_each_id(exposures: list[Exposure]) -> list[Exposure]:
    """Exposures in their order, without those that repeat an id."""
    first: dict[str, Exposure] = {}
    for exposure in exposures:
        first.setdefault(exposure.id, exposure)
    return list(first.values())
