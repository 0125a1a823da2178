"""Metrics: what a worker did enters once a batch and once a commit; a Prometheus page leaves.

All names begin with `freshet_`, in base units. Labels are of low cardinality:
a version, a step, a segment, a window; never an id.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from consumers.drift_watch import DriftWatch
from consumers.logs import WARNINGS
from consumers.machine_metrics import build_info
from consumers.settings import EventFields
from streaming.errors import SettingError

if TYPE_CHECKING:
    from state.learned import Learned

logger = structlog.get_logger()

SERIES = 180  # most of one version, beside one for each partition and each part of the store
PORTS = 32  # ports tried one after the other where the first is taken
_STEP_S = 1.0  # of the wall clock against the steady one, within one turn of the loop
STEPS = ("poll", "resolve", "learn", "commit")
_STEP_BUCKETS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_COMMIT_BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
# Fine around 1 s, which is what freshness is held to.
_FRESHNESS_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 30, 60, 300)


def reason_class(reason: str) -> str:
    """The label for a bad record's reason: the field that it begins with, "record" for the record as a whole.

    >>> reason_class("user must be a string, got 7"), reason_class("not JSON: trailing characters")
    ('user', 'record')
    """
    first = reason.split(maxsplit=1)[0].strip("`'\":,") if reason.strip() else ""
    return first if first in EventFields.__struct_fields__ else "record"


class WorkerMetrics:
    """The metric families of the embedding workers in one registry; `of` gives those of one version."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self._declare_progress()
        self._declare_commits()
        self._declare_quality()
        self._declare_state()
        build_info(registry)
        if registry is not REGISTRY:
            registry.register(WARNINGS)

    def of(self, version: str) -> VersionMetrics:
        """The metrics of one version, all of its series without further labels present from the start."""
        return VersionMetrics(self, version)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"freshet_{name}", text, ["version", *labels], registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"freshet_{name}", text, ["version", *labels], registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(
            f"freshet_{name}", text, ["version", *labels], buckets=buckets, registry=self.registry
        )

    def _declare_progress(self) -> None:
        self.events = self._counter("events", "Events learned.")
        self.records_bad = self._counter("records_bad", "Records refused, by class of reason.", "reason")
        self.lag = self._gauge(
            "lag",
            "Records (or bytes, where records are not counted) to read; NaN where it is not known.",
            "partition",
        )
        self.turns = self._counter("loop_turns", "Turns of the worker's loop; it goes on without events.")
        self.heartbeat = self._gauge(
            "heartbeat_timestamp_seconds", "The worker's wall clock at the newest turn of its loop."
        )
        self.clock_steps = self._counter(
            "clock_steps", "Times the wall clock moved by more than 1 s against the steady clock."
        )
        self.learned_at = self._gauge(
            "last_learned_timestamp_seconds", "Wall clock when events were last learned."
        )
        self.watermark = self._gauge(
            "watermark_timestamp_seconds", "Time of the newest event learned, as the event has it."
        )
        self.key_mismatches = self._counter("key_mismatches", "Records whose key is not their event's user.")
        self.strays = self._counter(
            "events_from_another_partition",
            "Events of users whose row came from another partition of the same topic.",
        )
        self.step_seconds = self._histogram(
            "step_seconds", "Time of one step of the loop for one batch.", _STEP_BUCKETS, "step"
        )

    def _declare_commits(self) -> None:
        self.commits = self._counter("commits", "Commits made.")
        self.commit_seconds = self._histogram("commit_seconds", "Time of one commit.", _COMMIT_BUCKETS)
        self.committed_at = self._gauge("last_commit_timestamp_seconds", "Wall clock at the newest commit.")
        self.pending = self._gauge("pending_events", "Events learned and not yet durable.")
        self.freshness_seconds = self._histogram(
            "freshness_seconds",
            "Time from an event's arrival until it is visible and until it is durable, once for each slice.",
            _FRESHNESS_BUCKETS,
            "kind",
        )

    def _declare_quality(self) -> None:
        self.hit_ratio = self._gauge(
            "prequential_hit_ratio",
            "Share of events whose item was among the first k before it was learned.",
            "segment",
            "window",
            "k",
        )
        self.evaluated = self._counter(
            "evaluated_events", "Events ranked before they were learned.", "segment"
        )
        self.hits = self._counter(
            "prequential_hits", "Events ranked among the first k before they were learned.", "segment", "k"
        )
        self.loss = self._gauge("prequential_loss", "Mean loss before learning, over all events.")
        self.recent_loss = self._gauge(
            "prequential_recent_loss", "Mean loss before learning, over about the last 16,000 events."
        )
        self.drift_alarms = self._counter(
            "drift_alarms", "Drift found, by the signal it showed in.", "signal"
        )
        self.norm = self._gauge(
            "row_norm", "Quantile of the norms of a sample of vectors, at commits.", "kind", "quantile"
        )
        self.steps_clipped = self._counter("steps_clipped", "Steps shortened to the limit.")
        self.steps_skipped = self._counter("steps_skipped", "Steps left out because they were not finite.")

    def _declare_state(self) -> None:
        self.info = self._gauge("version_info", "1; the labels say what the version is.", "learner")
        self.version_events = self._gauge(
            "version_events", "Events that the version has learned in all, as its store counts them."
        )
        self.version_bad = self._gauge(
            "version_bad_records", "Records that the version has refused in all, as its store counts them."
        )
        self.new_ids = self._counter("new_ids", "Users and items that were never seen before.", "kind")
        self.rows = self._gauge("rows", "Rows the version knows.", "kind")
        self.cache_hits = self._counter("user_cache_hits", "Users found in memory.")
        self.cache_misses = self._counter(
            "user_cache_misses", "Users that had to be read from the store, or begun."
        )
        self.store_bytes = self._gauge("store_bytes", "Size of the store.", "part")


class VersionMetrics:
    """What one worker reports. Each method is called once a batch or once a commit."""

    def __init__(self, families: WorkerMetrics, version: str) -> None:
        self._families = families
        self._version = version
        self._events = families.events.labels(version)
        self._commit_seconds = families.commit_seconds.labels(version)
        self._commits = families.commits.labels(version)
        self._durable = families.freshness_seconds.labels(version, "durable")
        self._visible = families.freshness_seconds.labels(version, "visible")
        self._steps = {step: families.step_seconds.labels(version, step) for step in STEPS}
        self._hits = families.cache_hits.labels(version)
        self._misses = families.cache_misses.labels(version)
        self._clipped = families.steps_clipped.labels(version)
        self._skipped = families.steps_skipped.labels(version)
        self._mismatches = families.key_mismatches.labels(version)
        self._mismatches_told = self._strays_told = 0
        self._strays = families.strays.labels(version)
        self._turns = families.turns.labels(version)
        self._heartbeat = families.heartbeat.labels(version)
        self._clock_steps = families.clock_steps.labels(version)
        self._learned_at = families.learned_at.labels(version)
        self._committed_at = families.committed_at.labels(version)
        self._clocks: tuple[float, float] | None = None  # wall, steady, at the newest turn
        self._watch: DriftWatch | None = None

    def watching(self, learned: Learned) -> DriftWatch:
        """The watch over what this version learns, for `learn_events`; reports go with the commits."""
        if self._watch is None:
            self._watch = DriftWatch(self._families, self._version, learned)
        return self._watch

    def observe_begin(self, learned: Learned) -> None:
        """A worker begins: gauges show where the version stands before anything more is learned."""
        self.watching(learned).report()

    def observe_turn(self, wall: float | None = None, steady: float | None = None) -> None:
        """The loop went round once: it is alive, whether or not there was anything to learn.

        Args:
            wall, steady: seconds of the wall clock and of the steady one; now, where they are not given.
        """
        wall = time.time() if wall is None else wall
        steady = time.monotonic() if steady is None else steady
        if self._clocks is not None and abs((wall - self._clocks[0]) - (steady - self._clocks[1])) > _STEP_S:
            self._clock_steps.inc()
            logger.warning("clock_stepped", by_s=round(wall - self._clocks[0] - steady + self._clocks[1], 1))
        self._clocks = wall, steady
        self._turns.inc()
        self._heartbeat.set(wall)

    def observe_visible(self, arrived: float, now: float) -> None:
        """A slice is learned whose newest record had arrived at `arrived`; live tables show it at once."""
        if self._watch is not None and self._watch.live:
            self._visible.observe(max(0.0, now - arrived))

    def observe_batch(
        self,
        *,
        events: int,
        steps: Mapping[str, float],
        bad: Mapping[str, int] | None = None,
        cache_hits: int = 0,
        cache_misses: int = 0,
        clipped: int = 0,
        skipped: int = 0,
    ) -> None:
        """One batch went through the loop.

        Args:
            events: events learned.
            steps: seconds by step, of "poll", "resolve" and "learn".
            bad: class of reason (see `reason_class`, never the sentence) → records refused.
            cache_hits, cache_misses: users found in memory, users read from the store.
            clipped, skipped: steps shortened, steps left out.
        """
        if events:
            self._events.inc(events)
            self._learned_at.set(time.time())
        for step, seconds in steps.items():
            self._steps[step].observe(seconds)
        for reason, count in (bad or {}).items():
            self._families.records_bad.labels(self._version, reason).inc(count)
        self._hits.inc(cache_hits)
        self._misses.inc(cache_misses)
        self._clipped.inc(clipped)
        self._skipped.inc(skipped)

    def observe_commit(self, *, seconds: float, arrived: Iterable[float], now: float) -> None:
        """One commit is durable.

        Args:
            seconds: how long it took, the copying of what it holds included.
            arrived: for each slice in it, the wall-clock seconds at which its newest record had arrived.
            now: wall-clock seconds at which the commit was durable.
        """
        self._commits.inc()
        self._commit_seconds.observe(seconds)
        self._steps["commit"].observe(seconds)
        for moment in arrived:
            # The wall clock may be set back between the two readings.
            self._durable.observe(max(0.0, now - moment))
        self._committed_at.set(now)
        if self._watch is not None:
            self._watch.report()

    def observe_key_mismatches(self, found: int) -> None:
        """Records of this run, so far, whose key is not their event's user."""
        self._mismatches.inc(found - self._mismatches_told)
        self._mismatches_told = found

    def observe_strays(self, found: int) -> None:
        """Events of this run, so far, whose user's row came from another partition."""
        self._strays.inc(found - self._strays_told)
        self._strays_told = found

    def observe_lag(self, lag: Mapping[int, int | None]) -> None:
        """Partition number → records still to be read, NaN on the page where it is unknown."""
        for partition, records in lag.items():
            gauge = self._families.lag.labels(self._version, partition)
            gauge.set(float("nan") if records is None else records)

    def observe_prequential(
        self, hit_ratio: Mapping[tuple[str, str, int], float], loss: float | None = None
    ) -> None:
        """(segment, window, k) → hit ratio, and the mean loss where the learner has one."""
        for (segment, window, k), ratio in hit_ratio.items():
            self._families.hit_ratio.labels(self._version, segment, window, k).set(ratio)
        if loss is not None:
            self._families.loss.labels(self._version).set(loss)

    def observe_store(self, *, rows: Mapping[str, int], bytes_by_part: Mapping[str, int]) -> None:
        """Rows by kind ("user", "item") and bytes by part of the store ("sst", "wal", "memtable", …)."""
        for kind, count in rows.items():
            self._families.rows.labels(self._version, kind).set(count)
        for part, size in bytes_by_part.items():
            self._families.store_bytes.labels(self._version, part).set(size)


def serve_metrics(registry: CollectorRegistry, port: int, address: str = "127.0.0.1") -> int:
    """Serves the metrics page from a daemon thread for as long as the process lives.

    Args:
        port: the port wanted; where it is taken, the next free one of those behind it, so that several
            workers on one machine may have the same settings. 0 takes any free port.

    Returns:
        The port that is listened on.

    Raises:
        SettingError: no port may be used, or the address is not this machine's.
    """
    last = min(port + PORTS, 65536) - 1 if port else 0
    for candidate in range(port, last):
        try:
            server, _ = start_http_server(candidate, address, registry)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise _no_port(port, address, error) from error
        else:
            if candidate != port:
                logger.info("metrics_port_taken", wanted=port, served=candidate)
            return int(server.server_port)
    try:
        server, _ = start_http_server(last, address, registry)
    except OSError as error:
        raise _no_port(port, address, error) from error
    return int(server.server_port)


def _no_port(port: int, address: str, error: OSError) -> SettingError:
    return SettingError(
        f"worker.metrics_port {port} must be a port on {address} that is free, or has a free one among the "
        f'{PORTS - 1} behind it, got: {error.strerror}. Choose another one, 0 for any free port, or "none".'
    )
