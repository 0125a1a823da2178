"""Pages of metrics enter, one reading after the other; what matters of each process leaves.

Rates come from two readings and this process's own steady clock, so that no clock that was set, here or
there, makes a dead worker look alive. A counter that fell belongs to a process that began anew.
"""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 3.0
STUCK_S = 15.0  # without a turn of the loop; it turns ten times a second
CLOCK_S = 15.0
_BEHIND = 10_000  # records; more than these, while it learns, is the past

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, slots=True)
class Reading:
    """One page: what it said and when, by the steady and the wall clock of this process."""

    steady: float
    wall: float
    samples: Samples


@dataclass(slots=True)
class Seen:
    """What is remembered of one address."""

    before: Reading | None = None
    now: Reading | None = None
    error: str = ""
    turned: dict[str, tuple[float, float]] = field(default_factory=dict)  # version → turns, since when


def read(address: str) -> Samples:
    """The samples of one page.

    Raises:
        OSError, HTTPException, ValueError: it does not answer, or answers something else.
    """
    base = address if "://" in address else f"http://{address}"
    url = base if base.rstrip("/").endswith("/metrics") else f"{base.rstrip('/')}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = float(sample.value)
    return found


class Watch:
    """Watches addresses: call `look` again and again, `picture` for what there is to see.

    Attributes:
        addresses: by name of the process; may change between two looks.
    """

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses
        self._seen: dict[str, Seen] = defaultdict(Seen)

    def look(self) -> None:
        """Read every page once."""
        for name, address in self.addresses.items():
            seen = self._seen[name]
            try:
                samples = read(address)
            except urllib.error.HTTPError as error:
                seen.error = f"answers with HTTP {error.code}"
            except (OSError, HTTPException) as error:
                seen.error = f"does not answer ({getattr(error, 'reason', error)})"
            except ValueError:
                seen.error = "answers, but not with metrics"
            else:
                self._take(seen, samples)

    def samples(self, name: str) -> Samples | None:
        """All samples of a process's page; None where it did not answer the last time."""
        seen = self._seen[name]
        return None if seen.error or seen.now is None else seen.now.samples

    def _take(self, seen: Seen, samples: Samples) -> None:
        now = Reading(time.monotonic(), time.time(), samples)
        seen.error, seen.before, seen.now = "", seen.now, now
        for version in _versions(samples):
            turns = _sum(samples, "freshet_loop_turns_total", version)
            if version not in seen.turned or turns != seen.turned[version][0]:
                seen.turned[version] = turns, now.steady

    def picture(self) -> list[dict[str, Any]]:
        """One entry for each version at each address, or for an address without any; plain data."""
        rows: list[dict[str, Any]] = []
        for name, address in self.addresses.items():
            seen = self._seen[name]
            about = {"process": name, "address": address}
            if seen.error or seen.now is None:
                rows.append({**about, "version": None, "state": seen.error or "not read yet"})
                continue
            versions = _versions(seen.now.samples)
            rows += [{**about, **self._row(seen, version)} for version in versions]
            if not versions:
                rows.append({**about, "version": None, "state": "well"})
        return rows

    def _row(self, seen: Seen, version: str) -> dict[str, Any]:
        now = seen.now
        assert now is not None
        samples = now.samples
        lags = _values(samples, "freshet_lag", version)
        hits = _values(
            samples, "freshet_prequential_hit_ratio", version, segment="overall", window="all", k="10"
        )
        rate = self._rate(seen, "freshet_events_total", version)
        return {
            "version": version,
            "state": _state(seen, now, version, sum(lags), rate),
            "events": int(_sum(samples, "freshet_version_events", version)),
            "events_per_second": rate,
            "lag": sum(lags) if lags and not math.isnan(sum(lags)) else None,
            "freshness_p99_seconds": _quantile(samples, version, 0.99),
            "hit_rate_at_10": hits[0] if hits and not math.isnan(hits[0]) else None,
            "dead_letters": int(_sum(samples, "freshet_version_bad_records", version)),
            "steps_skipped": int(_sum(samples, "freshet_steps_skipped_total", version)),
            "drift_alarms": int(_sum(samples, "freshet_drift_alarms_total", version)),
        }

    def _rate(self, seen: Seen, name: str, version: str) -> float | None:
        now, before = seen.now, seen.before
        if now is None or before is None or now.steady <= before.steady:
            return None
        then = _sum(before.samples, name, version)
        gone = _sum(now.samples, name, version)
        # After a restart counters begin at 0: what they hold has happened since then.
        return (gone - then if gone >= then else gone) / (now.steady - before.steady)


def _state(seen: Seen, now: Reading, version: str, lag: float, rate: float | None) -> str:
    since = now.steady - seen.turned[version][1]
    turns = seen.turned[version][0]
    heartbeat = _sum(now.samples, "freshet_heartbeat_timestamp_seconds", version)
    if turns == 0:
        return "starting"
    if since > STUCK_S:
        return f"its numbers stand still for {since:.0f} s"
    # Seen for the first time, only its own clock tells how long ago the loop turned.
    if abs(now.wall - heartbeat) > CLOCK_S:
        return f"loop or clock is {abs(now.wall - heartbeat):.0f} s away from here"
    if math.isnan(lag):
        return "lag is not known: Kafka is out of reach"
    if lag > _BEHIND and (rate is None or rate > 0):
        return "replaying: learns what is past"
    return "well"


def _versions(samples: Samples) -> list[str]:
    return sorted({dict(labels)["version"] for name, labels in samples if name == "freshet_loop_turns_total"})


def _sum(samples: Samples, name: str, version: str, **labels: str) -> float:
    return sum(_values(samples, name, version, **labels))


def _values(samples: Samples, name: str, version: str, **labels: str) -> list[float]:
    wanted = {"version": version, **labels}.items()
    return [v for (n, found), v in samples.items() if n == name and wanted <= dict(found).items()]


def _quantile(samples: Samples, version: str, q: float) -> float | None:
    """The upper bound of the bucket that holds the quantile of durable freshness; None without any."""
    counts: dict[float, float] = defaultdict(float)
    for (name, found), value in samples.items():
        labels = dict(found)
        mine = labels.get("version") == version and labels.get("kind") == "durable"
        if mine and name == "freshet_freshness_seconds_bucket":
            counts[float(labels["le"])] += value
    total = counts.get(math.inf, 0.0)
    if not total:
        return None
    bound = min(le for le, count in counts.items() if count >= q * total)
    return None if math.isinf(bound) else bound
