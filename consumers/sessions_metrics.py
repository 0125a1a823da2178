"""Metrics of the transformer's worker: what it did enters; series of a Prometheus page leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from streaming.session.gate import EDGES, Standing

_FRESHNESS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)
_COMMIT_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)


class Progress(NamedTuple):
    """Totals of a worker so far; counters show their growth.

    Attributes:
        compilations: of the training step and the refresh; more than one each means that shapes changed.
        trained, left_out, dropped: steps that moved the weights, that refresh came before, that changed
            nothing because loss or gradient was not finite or exploded.
    """

    events: int = 0
    refreshed: int = 0
    trained: int = 0
    left_out: int = 0
    dropped: int = 0
    restored: int = 0
    compilations: int = 0


class SessionMetrics:
    """Families of the transformer's worker in one registry, and the series of one version."""

    def __init__(self, registry: CollectorRegistry = REGISTRY, version: str = "") -> None:
        self._registry, self._version, self._told = registry, version, Progress()
        self._events = self._counter("events", "Events whose users' sequences moved.")
        self._refreshed = self._counter("refreshed", "Sequence embeddings computed.")
        self._steps = self._counter(
            "steps",
            "Training steps, by outcome: trained, left_out (behind: refresh came first) or dropped (loss or "
            "gradient not finite, or exploded).",
            "outcome",
        )
        self._restored = self._counter("weights_restored", "Times the weights went back after bad steps.")
        self._compilations = self._counter(
            "compilations", "Programs compiled; once for training and once for refresh is right."
        )
        self._commits = self._counter("commits", "Commits of the sequences.")
        self._share = self._gauge("trained_share", "Share of the due training steps that is taken now.")
        self._loss = self._gauge("loss", "Decaying mean of the training loss.")
        self._users = self._gauge("users", "Users whose sequence embeddings are in memory.")
        self._masked = self._gauge("items_masked", "Items of the log that have no row in the version.")
        self._lag = self._gauge("lag", "Records (or bytes) to read; NaN where it is not known.", "partition")
        self._committed_at = self._gauge("last_commit_timestamp_seconds", "Wall clock at the newest commit.")
        self._heartbeat = self._gauge("heartbeat_timestamp_seconds", "Wall clock at the loop's newest turn.")
        self._open = self._gauge(
            "gate_open", "Whether sequence embeddings are served, by the shortest history.", "history"
        )
        self._gain = self._gauge(
            "gate_gain", "Mean gain of the corrected ranking in 1 / log2(rank + 2).", "history"
        )
        self._error = self._gauge("gate_gain_error", "Standard error of that gain.", "history")
        self._compared = self._gauge("gate_events", "Events that the gate has compared.", "history")
        self._fresh = self._histogram(
            "freshness_seconds",
            "Time from an event's arrival until its user's sequence embedding is seen, once for each slice.",
            _FRESHNESS_BUCKETS,
        )
        self._commit_seconds = self._histogram("commit_seconds", "Time of one commit.", _COMMIT_BUCKETS)

    def observe(self, now: Progress) -> None:
        """Totals so far."""
        before, self._told = self._told, now
        grown = Progress(*(new - old for new, old in zip(now, before, strict=True)))
        for counter, by in (
            (self._events, grown.events),
            (self._refreshed, grown.refreshed),
            (self._restored, grown.restored),
            (self._compilations, grown.compilations),
        ):
            counter.labels(self._version).inc(by)
        for outcome in ("trained", "left_out", "dropped"):
            self._steps.labels(self._version, outcome).inc(max(0, getattr(grown, outcome)))

    def observe_state(self, *, share: float, loss: float, users: int, masked: int, now: float) -> None:
        """Where the worker stands after a turn of its loop."""
        for gauge, value in (
            (self._share, share),
            (self._loss, loss),
            (self._users, users),
            (self._masked, masked),
            (self._heartbeat, now),
        ):
            gauge.labels(self._version).set(value)

    def observe_visible(self, seconds: float) -> None:
        """A slice is refreshed that had arrived so long ago."""
        self._fresh.labels(self._version).observe(max(0.0, seconds))

    def observe_commit(self, seconds: float, now: float, standings: list[Standing]) -> None:
        """A commit is durable."""
        self._commits.labels(self._version).inc()
        self._commit_seconds.labels(self._version).observe(seconds)
        self._committed_at.labels(self._version).set(now)
        for edge, standing in zip(EDGES, standings, strict=True):
            self._open.labels(self._version, edge).set(standing.open)
            self._gain.labels(self._version, edge).set(standing.gain)
            self._error.labels(self._version, edge).set(standing.error)
            self._compared.labels(self._version, edge).set(standing.events)

    def observe_lag(self, lag: Mapping[int, int | None]) -> None:
        """Partition number → records still to be read."""
        for partition, records in lag.items():
            value = float("nan") if records is None else records
            self._lag.labels(self._version, partition).set(value)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"freshet_sessions_{name}", text, ["version", *labels], registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"freshet_sessions_{name}", text, ["version", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(
            f"freshet_sessions_{name}", text, ["version"], buckets=buckets, registry=self._registry
        )
