"""Drift of one version: losses, ranks and norms of events enter, alarms leave, a few per drift.

Blocks of events are reduced to one number each, and river's detectors see only these. The monitor
watches and never steers: nothing that is learned depends on it, so it is kept in the worker's memory and
not in the store, and begins anew when a worker starts.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from river.drift import ADWIN, PageHinkley

SIGNALS = ("loss", "hits", "user_norm", "item_norm")
BLOCK = 256  # learned events, or sampled rows, in a block of losses or norms
HIT_BLOCK = 16  # evaluated events in a block of hits: few events are evaluated
QUIET = 64  # blocks after an alarm in which the same signal stays quiet: it is the same drift
_MEMORY = 64  # blocks over which the expected loss is remembered
_FIRST = 16  # blocks before the first expectation
_RECENT = 5  # newest blocks that must be bad themselves, as many as ADWIN's shortest window
_CONFIDENCE = 0.0002  # ADWIN's delta: chance of a false cut at one look
# In standard errors: ADWIN takes its values to lie within about one unit.
_UNIT = 2.0
_WORSE = 1.5  # standard errors by which the newest losses must lie above what was expected
_FEWER = 0.2  # share by which the newest hits must lie below those before
_GROWTH = 1.3  # norms this many times as large as their own trend has them


class Alarm(NamedTuple):
    """A drift that was found.

    Attributes:
        signal: one of SIGNALS.
        expected, found: the signal's mean before, and in the newest blocks.
    """

    signal: str
    expected: float
    found: float


class _Blocks:
    """Cuts a stream of numbers into blocks of equal size, whatever pieces it comes in."""

    def __init__(self, size: int) -> None:
        self._size, self._held, self._count = size, [np.zeros(0, np.float32)], 0

    def add(self, values: NDArray[np.float32]) -> NDArray[np.float64]:  # (blocks that are full, size)
        self._held.append(values)
        self._count += len(values)
        if self._count < self._size:
            return np.zeros((0, self._size))
        joined = np.concatenate(self._held)
        whole = self._count // self._size * self._size
        self._held, self._count = [joined[whole:]], self._count - whole
        return joined[:whole].reshape(-1, self._size).astype(np.float64)


def _adwin() -> Any:
    detector: Any = ADWIN  # river has no types
    return detector(delta=_CONFIDENCE, clock=1, grace_period=10, min_window_length=_RECENT)


class _Losses:
    """ADWIN over how far each block's loss lies from what the blocks before led one to expect.

    z = (mean of the block - exponential mean of earlier blocks) / standard error of a block's mean. A
    loss that falls, as it does while a model learns, is below expectation all the time and never drift;
    neither is its fall becoming slower, since the newest z must themselves be far above 0.
    """

    def __init__(self) -> None:
        self._detector, self._blocks = _adwin(), _Blocks(BLOCK)
        self._mean = self._variance = 0.0
        self._seen = 0
        self._newest: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # (z, mean)

    @property
    def recent(self) -> float | None:
        """Mean loss of the newest blocks, None before the first."""
        return self._mean if self._seen else None

    def add(self, values: NDArray[np.float32]) -> list[tuple[int, float, float]]:
        found = []
        blocks = self._blocks.add(values)
        means, variances = blocks.mean(axis=1), blocks.var(axis=1) / BLOCK
        for k, (mean, variance) in enumerate(zip(means.tolist(), variances.tolist(), strict=True)):
            if self._seen >= _FIRST and self._variance > 0.0:
                z = (mean - self._mean) / self._variance**0.5
                self._newest.append((z, mean))
                self._detector.update(z / _UNIT)
                if self._detector.drift_detected:
                    zs, newest = zip(*self._newest, strict=True)
                    if sum(zs) / len(zs) > _WORSE:
                        found.append((k, self._mean, sum(newest) / len(newest)))
            self._seen += 1
            weight = max(1.0 / self._seen, 1.0 / _MEMORY)
            self._mean += weight * (mean - self._mean)
            self._variance += weight * (variance - self._variance)
        return found


class _Hits:
    """ADWIN over the share of hits, block by block: a slow decline shows here, where losses would hide it."""

    def __init__(self) -> None:
        self._detector, self._blocks = _adwin(), _Blocks(HIT_BLOCK)
        self._newest: deque[float] = deque(maxlen=_RECENT)

    def add(self, values: NDArray[np.float32]) -> list[tuple[int, float, float]]:
        found = []
        for k, share in enumerate(self._blocks.add(values).mean(axis=1).tolist()):
            before = float(self._detector.estimation)
            self._newest.append(share)
            self._detector.update(self._newest[-1])
            now = sum(self._newest) / len(self._newest)
            if self._detector.drift_detected and now < (1.0 - _FEWER) * before:
                found.append((k, before, now))
        return found


class _Norms:
    """Page-Hinkley over the steps of the logarithm of a block's mean norm.

    The sum of the steps above their own mean is how far norms have left their trend, so the threshold is
    a factor: norms may grow steadily, as they do while a model learns, but not run away.
    """

    def __init__(self) -> None:
        self._blocks = _Blocks(BLOCK)
        detector: Any = PageHinkley
        self._detector = detector(
            min_instances=8, delta=0.002, threshold=float(np.log(_GROWTH)), alpha=1.0, mode="up"
        )
        self._newest: deque[float] = deque(maxlen=8)

    def add(self, values: NDArray[np.float32]) -> list[tuple[int, float, float]]:
        found = []
        for k, mean in enumerate((self._blocks.add(values).mean(axis=1) + 1e-12).tolist()):
            if self._newest:
                self._detector.update(float(np.log(mean / self._newest[-1])))
                if self._detector.drift_detected:
                    found.append((k, self._newest[0], mean))
            self._newest.append(mean)
        return found


class DriftMonitor:
    """Finds drift for the worse: losses that rise, hits that fall, norms that run away.

    How events are cut into batches does not matter for losses and hits. Norms are those at the end of a
    batch. By the defaults the simulator's stationary stream raises no alarm in 200,000 events, and a
    sudden change of all tastes raises one within 2,000 (`python -m benchmarks.drift`).

    >>> monitor, rng = DriftMonitor(), np.random.default_rng(1)
    >>> monitor.observe_losses(rng.normal(3.0, 1.0, 30_000).astype(np.float32))
    []
    >>> [alarm.signal for alarm in monitor.observe_losses(rng.normal(4.0, 1.0, 3_000).astype(np.float32))]
    ['loss']
    """

    def __init__(self) -> None:
        self._losses = _Losses()
        self._watched: dict[str, _Losses | _Hits | _Norms] = {
            "loss": self._losses,
            "hits": _Hits(),
            "user_norm": _Norms(),
            "item_norm": _Norms(),
        }
        self._quiet = dict.fromkeys(SIGNALS, 0)  # numbers that are still to pass without an alarm

    @property
    def recent_loss(self) -> float | None:
        """Mean loss over about the last 16,000 learned events, None before the first block."""
        return self._losses.recent

    def observe_losses(self, loss: NDArray[np.float32]) -> list[Alarm]:
        """Losses (n,) of events in order; those that are not finite were not learned and are left out."""
        return self._observe("loss", loss[np.isfinite(loss)], BLOCK)

    def observe_ranks(self, rank: NDArray[np.float32]) -> list[Alarm]:
        """Ranks (n,) of events in order, 0-based; NaN was not evaluated."""
        drawn = rank[~np.isnan(rank)]
        return self._observe("hits", (drawn < 10).astype(np.float32), HIT_BLOCK)

    def observe_norms(self, kind: str, norms: NDArray[np.float32]) -> list[Alarm]:
        """Norms (n,) of the vectors of some rows that events have just changed, of kind "user" or "item"."""
        return self._observe(f"{kind}_norm", norms[np.isfinite(norms)], BLOCK)

    def _observe(self, signal: str, values: NDArray[np.float32], block: int) -> list[Alarm]:
        alarms, quiet = [], self._quiet[signal]
        for k, expected, found in self._watched[signal].add(values):
            if k * block >= quiet:
                alarms.append(Alarm(signal, expected, found))
                quiet = (k + QUIET) * block
        self._quiet[signal] = max(0, quiet - len(values))
        return alarms
