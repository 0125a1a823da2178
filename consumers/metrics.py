"""Metrics: what a worker did enters once a batch and once a commit; a Prometheus page leaves.

All names begin with `freshet_`, in base units. Labels are of low cardinality:
a version, a step, a segment, a window; never an id.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from consumers.logs import WARNINGS
from consumers.settings import EventFields, release
from streaming.errors import SettingError

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
        v = ["version"]
        part = [*v, "partition"]
        rank = [*v, "segment", "window", "k"]
        self.registry = registry
        self.events = Counter("freshet_events", "Events learned.", v, registry=registry)
        self.records_bad = Counter(
            "freshet_records_bad", "Records refused, by class of reason.", [*v, "reason"], registry=registry
        )
        self.lag = Gauge(
            "freshet_lag",
            "Records (or bytes, where records are not counted) to read.",
            part,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "freshet_step_seconds",
            "Time of one step of the loop for one batch.",
            [*v, "step"],
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "freshet_commit_seconds", "Time of one commit.", v, buckets=_COMMIT_BUCKETS, registry=registry
        )
        self.commits = Counter("freshet_commits", "Commits made.", v, registry=registry)
        self.freshness_seconds = Histogram(
            "freshet_freshness_seconds",
            "Time from an event's arrival until it is durable, one observation for each slice of the log.",
            [*v, "kind"],
            buckets=_FRESHNESS_BUCKETS,
            registry=registry,
        )
        self.hit_ratio = Gauge(
            "freshet_prequential_hit_ratio",
            "Share of events whose item was among the first k before it was learned.",
            rank,
            registry=registry,
        )
        self.loss = Gauge("freshet_prequential_loss", "Mean loss before learning.", v, registry=registry)
        self.rows = Gauge("freshet_rows", "Rows the version knows.", [*v, "kind"], registry=registry)
        self.cache_hits = Counter("freshet_user_cache_hits", "Users found in memory.", v, registry=registry)
        self.cache_misses = Counter(
            "freshet_user_cache_misses", "Users that had to be read from the store.", v, registry=registry
        )
        self.steps_clipped = Counter(
            "freshet_steps_clipped", "Steps shortened to the limit.", v, registry=registry
        )
        self.steps_skipped = Counter(
            "freshet_steps_skipped", "Steps left out because they were not finite.", v, registry=registry
        )
        self.key_mismatches = Counter(
            "freshet_key_mismatches", "Records whose key is not their event's user.", v, registry=registry
        )
        self.store_bytes = Gauge("freshet_store_bytes", "Size of the store.", [*v, "part"], registry=registry)
        build = Info("freshet_build", "Release that runs here.", registry=registry)
        build.info({"release": release(), "python": platform.python_version()})
        if registry is not REGISTRY:
            registry.register(WARNINGS)

    def of(self, version: str) -> VersionMetrics:
        """The metrics of one version, all of its series without further labels present from the start."""
        return VersionMetrics(self, version)


class VersionMetrics:
    """What one worker reports. Each method is called once a batch or once a commit."""

    def __init__(self, families: WorkerMetrics, version: str) -> None:
        self._families = families
        self._version = version
        self._events = families.events.labels(version)
        self._commit_seconds = families.commit_seconds.labels(version)
        self._commits = families.commits.labels(version)
        self._durable = families.freshness_seconds.labels(version, "durable")
        self._steps = {step: families.step_seconds.labels(version, step) for step in STEPS}
        self._hits = families.cache_hits.labels(version)
        self._misses = families.cache_misses.labels(version)
        self._clipped = families.steps_clipped.labels(version)
        self._skipped = families.steps_skipped.labels(version)
        self._mismatches = families.key_mismatches.labels(version)
        self._mismatches_told = 0

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
        self._events.inc(events)
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

    def observe_key_mismatches(self, found: int) -> None:
        """Records of this run, so far, whose key is not their event's user."""
        self._mismatches.inc(found - self._mismatches_told)
        self._mismatches_told = found

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
        port: 0 takes any free port.

    Returns:
        The port that is listened on.

    Raises:
        SettingError: the port is taken, or may not be used.
    """
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        raise SettingError(
            f"worker.metrics_port {port} must be a free port on {address}, got: {error.strerror}. "
            'Choose another one, 0 for any free port, or "none".'
        ) from error
    return int(server.server_port)
