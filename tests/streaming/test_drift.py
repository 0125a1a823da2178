from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streaming.drift import BLOCK, HIT_BLOCK, QUIET, Alarm, DriftMonitor


def losses(mean: float | NDArray[np.float64], n: int) -> NDArray[np.float32]:
    return np.random.default_rng(n).normal(mean, 1.5, n).astype(np.float32)


def ranks(hit_rate: float, n: int) -> NDArray[np.float32]:
    return np.where(np.random.default_rng(n).random(n) < hit_rate, 3, 50).astype(np.float32)


def signals(alarms: list[Alarm]) -> list[str]:
    return [alarm.signal for alarm in alarms]


def test_falling_loss_is_no_drift_however_its_fall_slows() -> None:
    falling = 2.0 + 3.0 * np.exp(-np.arange(200_000) / 20_000)
    assert DriftMonitor().observe_losses(losses(falling, 200_000)) == []


def test_rising_loss_is_one_alarm_with_both_means() -> None:
    monitor = DriftMonitor()
    assert monitor.observe_losses(losses(3.5, 100_000)) == []
    (alarm,) = monitor.observe_losses(losses(4.5, QUIET * BLOCK))
    assert alarm.signal == "loss"
    assert alarm.found > alarm.expected + 0.4
    assert 3.4 < alarm.expected < 4.0


def test_cut_into_batches_does_not_matter() -> None:
    stream = np.concatenate([losses(3.0, 40_000), losses(4.0, 20_000), losses(6.0, 20_000)])
    stream[::17] = np.nan
    whole = DriftMonitor().observe_losses(stream)
    assert len(whole) >= 2
    for size in (1000, 4096, 7777):
        monitor, pieces = DriftMonitor(), []
        for first in range(0, len(stream), size):
            pieces += monitor.observe_losses(stream[first : first + size])
        assert pieces == whole


def test_hits_that_fall_are_an_alarm_and_hits_that_rise_are_none() -> None:
    monitor = DriftMonitor()
    assert monitor.observe_ranks(ranks(0.2, 4000)) == []
    assert monitor.observe_ranks(ranks(0.4, 4000)) == []
    assert signals(monitor.observe_ranks(ranks(0.1, QUIET * HIT_BLOCK))) == ["hits"]


def test_events_not_evaluated_do_not_count_as_misses() -> None:
    monitor = DriftMonitor()
    monitor.observe_ranks(ranks(0.4, 4000))
    assert monitor.observe_ranks(np.full(100_000, np.nan, np.float32)) == []


@pytest.mark.parametrize("kind", ["user", "item"])
def test_norms_may_grow_steadily_and_not_run_away(kind: str) -> None:
    blocks, monitor = 400, DriftMonitor()
    trend = 1.0 + np.log1p(np.repeat(np.arange(blocks), BLOCK)) / 5
    steady = (trend * np.random.default_rng(7).lognormal(0.0, 0.3, blocks * BLOCK)).astype(np.float32)
    assert monitor.observe_norms(kind, steady) == []
    growth = float(trend[-1]) * 1.05 ** np.repeat(np.arange(20), BLOCK)
    assert f"{kind}_norm" in signals(monitor.observe_norms(kind, growth.astype(np.float32)))


def test_recent_loss_follows() -> None:
    monitor = DriftMonitor()
    assert monitor.recent_loss is None
    monitor.observe_losses(losses(5.0, 20_000))
    monitor.observe_losses(losses(2.0, 150_000))
    assert monitor.recent_loss == pytest.approx(2.0, abs=0.2)
