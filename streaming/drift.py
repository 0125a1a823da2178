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

from streaming.detectors import ADWIN, PageHinkley

SIGNALS = ("loss", "hits", "user_norm", "item_norm")
BLOCK = 256  # learned events, or sampled rows, in a block of losses or norms
HIT_BLOCK = 16  # evaluated events in a block of hits: few events are evaluated
QUIET = 64  # blocks after an alarm in which the same signal stays quiet: it is the same drift
_MEMORY = 64  # blocks over which the expected loss is remembered
_FIRST = 16  # blocks before the first expectation
_RECENT = 5  # newest blocks that an alarm tells the mean of
# The stationary simulator's loss reaches 7 of these at most, a change of all tastes 33 at least.
_LOSS_THRESHOLD = 15.0
_SLACK, _MOST = 1.0, 8.0  # standard errors that count for nothing, and that one block counts for at most
_CONFIDENCE = 0.0002  # ADWIN's delta: chance of a false cut at one look
_FEWER = 0.2  # share by which the newest hits must lie below those before
# A block's share of hits has a standard error of about an eighth; ADWIN wants about a half.
_HIT_SCALE = 4.0
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


class _Losses:
    """Page-Hinkley over how far each block's loss lies from what the blocks before led one to expect.

    z = (mean of the block - exponential mean of earlier blocks) / standard error of a block's mean, and
    the detector sums what z has above 1 and its own mean. A loss that falls, as it does while a model
    learns, lies below expectation all the time and is never drift; z is cut below so that the end of a
    steep fall does not look like a rise.
    """

    def __init__(self) -> None:
        detector: Any = PageHinkley
        self._detector = detector(
            min_instances=10, delta=_SLACK, threshold=_LOSS_THRESHOLD, alpha=1.0, mode="up"
        )
        self._blocks = _Blocks(BLOCK)
        self._mean = self._variance = 0.0
        self._seen = 0
        self._newest: deque[float] = deque(maxlen=_RECENT)

    @property
    def recent(self) -> float | None:
        """Mean loss of the newest blocks, None before the first."""
        return self._mean if self._seen else None

    def add(self, values: NDArray[np.float32]) -> list[tuple[int, float, float]]:
        found = []
        blocks = self._blocks.add(values)
        means, variances = blocks.mean(axis=1), blocks.var(axis=1) / BLOCK
        for k, (mean, variance) in enumerate(zip(means.tolist(), variances.tolist(), strict=True)):
            self._newest.append(mean)
            if self._seen >= _FIRST and self._variance > 0.0:
                z = (mean - self._mean) / self._variance**0.5
                self._detector.update(min(max(z, -1.0), _MOST))
                if self._detector.drift_detected:
                    found.append((k, self._mean, sum(self._newest) / len(self._newest)))
            self._seen += 1
            weight = max(1.0 / self._seen, 1.0 / _MEMORY)
            self._mean += weight * (mean - self._mean)
            self._variance += weight * (variance - self._variance)
        return found


class _Hits:
    """ADWIN over the share of hits, block by block: a slow decline shows here, where losses would hide it."""

    def __init__(self) -> None:
        detector: Any = ADWIN  # river has no types
        self._detector = detector(delta=_CONFIDENCE, clock=1, grace_period=10, min_window_length=_RECENT)
        self._blocks = _Blocks(HIT_BLOCK)
        self._newest: deque[float] = deque(maxlen=_RECENT)

    def add(self, values: NDArray[np.float32]) -> list[tuple[int, float, float]]:
        found = []
        for k, share in enumerate(self._blocks.add(values).mean(axis=1).tolist()):
            before = float(self._detector.estimation) / _HIT_SCALE
            self._newest.append(share)
            self._detector.update(share * _HIT_SCALE)
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
