"""Figures of one version in time: counts and metrics enter; rates, quantiles, marks, a verdict leave."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import Any, Literal

from consumers.watch import STUCK_S, Samples

_RATE_S = 5.0  # over which a rate is told
_LEAST_S = 1.5  # from shorter spans no rate is told
_FRESH_S = 30.0  # over which freshness is told
HISTORY = 300  # pictures
MARKS = 50

State = Literal["well", "busy", "idle", "bad"]


class Figures:
    """What changed in a version lately.

    Attributes:
        history: (wall clock, events per second, lag, seconds until visible) of the newest pictures.
        marks: drift found while somebody looked.
    """

    def __init__(self) -> None:
        self.history: deque[tuple[float, float | None, float | None, float | None]] = deque(maxlen=HISTORY)
        self.marks: deque[dict[str, Any]] = deque(maxlen=MARKS)
        self._numbers: deque[tuple[float, int]] = deque(maxlen=64)
        self._fresh: dict[str, deque[tuple[float, dict[float, float]]]] = {}
        self._alarms: dict[str, float] = {}
        self.drift_alarms: int | None = None

    def count(self, now: float, number: int) -> None:
        """The version had learned `number` events at this moment of the steady clock."""
        if self._numbers and number < self._numbers[-1][1]:
            self._numbers.clear()  # restored
        self._numbers.append((now, number))
        while len(self._numbers) > 2 and now - self._numbers[1][0] >= _RATE_S:
            self._numbers.popleft()

    def rate(self, now: float) -> float | None:
        """Events a second over the last seconds; None before there is a second reading."""
        if len(self._numbers) < 2:
            return None
        (begun, first), (read, last) = self._numbers[0], self._numbers[-1]
        if read - begun < _LEAST_S:
            return None
        # Where no reading comes any more, the time goes on all the same.
        until = now if now - read > _RATE_S else read
        return (last - first) / (until - begun) if now - read <= STUCK_S else None

    def take(self, now: float, version: str, samples: Samples, number: int) -> None:
        """A metrics page was read."""
        alarms: dict[str, float] = {}
        buckets: dict[str, dict[float, float]] = {}
        for (name, labels), value in samples.items():
            if name not in ("freshet_drift_alarms_total", "freshet_freshness_seconds_bucket"):
                continue
            of = dict(labels)
            if of.get("version") != version:
                continue
            if name == "freshet_drift_alarms_total":
                alarms[of["signal"]] = value
            else:
                buckets.setdefault(of["kind"], {})[float(of["le"])] = value
        for signal, value in alarms.items():
            if value > self._alarms.get(signal, value):
                self.marks.append({"at": number, "time": time.time(), "signal": signal})
        self._alarms, self.drift_alarms = alarms, int(sum(alarms.values()))
        for kind, counts in buckets.items():
            kept = self._fresh.setdefault(kind, deque(maxlen=64))
            if kept and counts[math.inf] < kept[-1][1][math.inf]:
                kept.clear()  # a worker that began anew
            kept.append((now, counts))
            while len(kept) > 2 and now - kept[1][0] >= _FRESH_S:
                kept.popleft()

    def remember(self, wall: float, picture: dict[str, Any]) -> None:
        """A picture was drawn."""
        fresh = picture["visible_p99_s"]
        self.history.append(
            (
                round(wall, 1),
                picture["events_per_second"],
                picture["lag"],
                fresh if fresh is not None else picture["durable_p99_s"],
            )
        )

    def picture(self, now: float) -> dict[str, Any]:
        """Freshness and drift as plain data; None where they are not known."""
        found: dict[str, Any] = {"drift_alarms": self.drift_alarms}
        for kind in ("visible", "durable"):
            for q in (50, 99):
                found[f"{kind}_p{q}_s"] = self._quantile(kind, q / 100.0, now)
        return found

    def _quantile(self, kind: str, q: float, now: float) -> float | None:
        """By linear interpolation within the bucket, as Prometheus does."""
        kept = self._fresh.get(kind)
        if not kept or len(kept) < 2 or now - kept[-1][0] > _FRESH_S:
            return None
        first, last = kept[0][1], kept[-1][1]
        counts = sorted((le, last[le] - first.get(le, 0.0)) for le in last)
        wanted, below, lower = q * counts[-1][1], 0.0, 0.0
        if not counts[-1][1]:
            return None
        for le, count in counts:
            if count >= wanted:
                within = (wanted - below) / (count - below) if count > below else 0.0
                return lower if math.isinf(le) else lower + (le - lower) * within
            below, lower = count, le
        return lower


def worst(
    *,
    error: str,
    opened: bool,
    worker: bool,
    age_s: float,
    serves: bool,
    page_state: str | None,
    rate: float | None,
) -> tuple[State, str]:
    """How a version is, and in words: the worst that is known of it.

    Args:
        error: why it cannot be read.
        opened: whether it was read at all.
        worker: whether one has its tables in memory; a worker may also keep them to itself.
        age_s: since its worker said that it had learned what there was.
        page_state: what the worker's metrics page says; None where it has announced none.
    """
    if error:
        return "bad", error
    if not opened:
        return "busy", "being opened"
    if not worker and page_state is None:
        return ("bad" if serves else "idle"), "no worker is learning it"
    if worker and age_s > STUCK_S and not rate:
        return "bad", f"its worker stands still for {age_s:.0f} s"
    if page_state is None:
        return "well", "learning; it has announced no metrics page"
    if page_state in ("starting", "not read yet") or page_state.startswith("replaying"):
        return "busy", page_state
    if page_state != "well":
        return "bad", page_state
    return "well", "learning" if worker else "learning; answers come from its commits"
