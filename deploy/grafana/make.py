"""The dashboards as short descriptions enter; their provisioned JSON leaves.

python deploy/grafana/make.py     # writes dashboards/*.json; a test holds them to this file
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
_V = 'version=~"$version"'
_ASKED = 'route!="/feed"'  # the live page's stream, which is one request for as long as it is looked at
_WIDTH, _HEIGHT = 8, 8  # of a panel, in Grafana's grid of 24 columns


class Panel(NamedTuple):
    """One panel: title, what is asked, and how it is shown.

    Attributes:
        queries: legend → PromQL.
        kind: "timeseries" or "stat".
        unit: Grafana's name of it.
        red: value from which a stat is red.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    red: float | None = None
    text: str = ""


_ALIVE = [
    Panel(
        "Processes that do not answer",
        {"": 'sum(up{job="freshet"} == bool 0)'},
        kind="stat",
        red=1,
        text="Killed or stopped ones.",
    ),
    Panel(
        "Loops that stand still",
        {"": f"sum(version:freshet_loop_turns:increase20s{{{_V}}} == bool 0)"},
        kind="stat",
        red=1,
        text="Answering, but not turning: stuck in a commit or in the broker.",
    ),
    Panel(
        "Clock against Prometheus",
        {
            "{{version}}": f"abs(timestamp(freshet_heartbeat_timestamp_seconds{{{_V}}})"
            f" - freshet_heartbeat_timestamp_seconds{{{_V}}})"
        },
        unit="s",
        kind="stat",
        red=15,
        text="Age of the newest turn of the loop, by the worker's own clock; far from 0 one clock is wrong.",
    ),
]

DASHBOARDS: dict[str, list[Panel]] = {
    "Overview": [
        *_ALIVE,
        Panel("Events learned", {"{{version}}": f"version:freshet_events:rate1m{{{_V}}}"}, "eps"),
        Panel(
            "Records to read",
            {"{{version}}": f"version:freshet_lag:sum{{{_V}}}"},
            text="A gap is a lag that is not known: Kafka is out of reach. A large one is a replay.",
        ),
        Panel(
            "Freshness, 99 in 100",
            {"{{version}} {{kind}}": f"version_kind:freshet_freshness_seconds:p99_5m{{{_V}}}"},
            "s",
        ),
        Panel(
            "Hit rate at 10",
            {"{{version}}": f'version_segment:freshet_hit_ratio_10:5m{{{_V}, segment="overall"}}'},
            "percentunit",
        ),
        Panel("Records refused", {"{{version}}": f"version:freshet_bad_share:5m{{{_V}}}"}, "percentunit"),
        Panel(
            "Requests answered",
            {"{{route}}": f"sum by (route) (rate(freshet_http_requests_total{{{_ASKED}}}[1m]))"},
            "reqps",
        ),
        Panel(
            "Seconds of a request, 99 in 100",
            {
                "{{route}}": "histogram_quantile(0.99, sum by (route, le) "
                f"(rate(freshet_http_request_seconds_bucket{{{_ASKED}}}[5m])))"
            },
            "s",
        ),
        Panel(
            "Requests that failed",
            {
                "of the server": 'sum(rate(freshet_http_requests_total{status=~"5.."}[5m])) or vector(0)',
                "of the client": 'sum(rate(freshet_http_requests_total{status=~"4.."}[5m])) or vector(0)',
            },
            "reqps",
            text="Errors of the server (5xx), and requests that it refused (4xx).",
        ),
        Panel(
            "Warnings", {"{{event}}": "sum by (event) (increase(freshet_warnings_total[5m])) or vector(0)"}
        ),
    ],
    "Learning quality": [
        Panel(
            "Hit rate at 10, by segment",
            {"{{version}} {{segment}}": f"version_segment:freshet_hit_ratio_10:5m{{{_V}}}"},
            "percentunit",
        ),
        Panel(
            "Hit rate over the newest points of the curve",
            {"{{version}} at {{k}}": f'freshet_prequential_hit_ratio{{{_V}, window="recent"}}'},
            "percentunit",
        ),
        Panel("Evaluated events", {"{{version}}": f"version:freshet_evaluated_events:increase1h{{{_V}}}"}),
        Panel("Loss, newest 16,000 events", {"{{version}}": f"freshet_prequential_recent_loss{{{_V}}}"}),
        Panel(
            "Drift alarms",
            {
                "{{version}} {{signal}}": "sum by (version, signal) "
                f"(increase(freshet_drift_alarms_total{{{_V}}}[10m]))"
            },
        ),
        Panel("Norms of vectors", {"{{version}} {{kind}} {{quantile}}": f"freshet_row_norm{{{_V}}}"}),
        Panel(
            "Steps shortened and left out",
            {
                "{{version}} shortened": f"sum by (version) (rate(freshet_steps_clipped_total{{{_V}}}[5m]))",
                "{{version}} left out": f"sum by (version) (rate(freshet_steps_skipped_total{{{_V}}}[5m]))",
            },
            "ops",
        ),
        Panel(
            "New ids among events",
            {"{{version}} {{kind}}": f"version_kind:freshet_new_id_share:5m{{{_V}}}"},
            "percentunit",
        ),
    ],
    "Versions and experiments": [
        Panel(
            "Hit rate at 10, versions side by side",
            {"{{version}}": f'version_segment:freshet_hit_ratio_10:5m{{{_V}, segment="overall"}}'},
            "percentunit",
        ),
        Panel("Events in all", {"{{version}}": f"freshet_version_events{{{_V}}}"}),
        Panel("Learners", {"{{version}}: {{learner}}": f"freshet_version_info{{{_V}}}"}, kind="stat"),
        Panel("Rows", {"{{version}} {{kind}}": f"freshet_rows{{{_V}}}"}),
        Panel(
            "Age of the newest event learned, in event time",
            {"{{version}}": f"time() - freshet_watermark_timestamp_seconds{{{_V}}}"},
            "s",
        ),
        Panel(
            "Users of experiments",
            {"{{experiment}} {{arm}}": "sum by (experiment, arm) (freshet_experiment_users)"},
            text="Those whose window has closed.",
        ),
        Panel(
            "Lift over the champion",
            {"{{arm}} {{bound}}": "max by (experiment, arm, bound) (freshet_experiment_lift)"},
            "percentunit",
            text="With the ends of its always-valid interval: it may be looked at any time.",
        ),
        Panel(
            "Guardrails that acted, shares that do not fit",
            {
                "guardrail {{arm}}": "max by (experiment, arm) (freshet_experiment_guardrail_acted)",
                "shares {{experiment}}": "max by (experiment) (freshet_experiment_sample_ratio_mismatch)",
            },
            kind="stat",
            red=1,
        ),
        Panel("Lists served", {"{{arm}}": "sum by (arm) (rate(freshet_exposures_total[5m]))"}, "ops"),
        Panel(
            "Lists served and not noted",
            {"{{reason}}": "sum by (reason) (increase(freshet_exposures_dropped_total[5m])) or vector(0)"},
        ),
        Panel("Releases", {"{{release}}": "count by (release) (freshet_build_info)"}, kind="stat"),
    ],
    "Store and Kafka": [
        Panel("Lag by partition", {"{{version}} {{partition}}": f"freshet_lag{{{_V}}}"}),
        Panel(
            "Time that commits take",
            {"{{version}}": f"version:freshet_commit_share:rate5m{{{_V}}}"},
            "percentunit",
        ),
        Panel(
            "Seconds of a commit, 99 in 100",
            {
                "{{version}}": "histogram_quantile(0.99, sum by (version, le) "
                f"(rate(freshet_commit_seconds_bucket{{{_V}}}[5m])))"
            },
            "s",
        ),
        Panel(
            "Time by step",
            {"{{version}} {{step}}": f"sum by (version, step) (rate(freshet_step_seconds_sum{{{_V}}}[5m]))"},
            "percentunit",
        ),
        Panel("Events not durable yet", {"{{version}}": f"freshet_pending_events{{{_V}}}"}),
        Panel("Size of the store", {"{{version}} {{part}}": f"freshet_store_bytes{{{_V}}}"}, "bytes"),
        Panel(
            "Users found in memory",
            {
                "{{version}}": f"sum by (version) (rate(freshet_user_cache_hits_total{{{_V}}}[5m])) / "
                f"(sum by (version) (rate(freshet_user_cache_hits_total{{{_V}}}[5m])) + "
                f"sum by (version) (rate(freshet_user_cache_misses_total{{{_V}}}[5m])))"
            },
            "percentunit",
        ),
        Panel("Memory", {"{{instance}}": 'process_resident_memory_bytes{job="freshet"}'}, "bytes"),
        Panel(
            "Disk free", {"{{instance}}": "freshet_disk_free_bytes / freshet_disk_size_bytes"}, "percentunit"
        ),
    ],
}


def slug(title: str) -> str:
    """Name of a dashboard's file and its address.

    >>> slug("Store and Kafka")
    'store-and-kafka'
    """
    return title.lower().replace(" ", "-")


def dashboard(title: str) -> dict[str, Any]:
    """A dashboard as Grafana provisions it."""
    version = {
        "name": "version",
        "type": "query",
        "label": "Version",
        "datasource": _source(),
        "query": {"query": "label_values(freshet_version_info, version)", "refId": "versions"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return {
        "uid": f"freshet-{slug(title)}",
        "title": f"Freshet: {title}",
        "tags": ["freshet"],
        "schemaVersion": 38,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [version]},
        "links": [{"type": "dashboards", "tags": ["freshet"], "title": "Freshet", "asDropdown": True}],
        "panels": [_panel(place, one) for place, one in enumerate(DASHBOARDS[title])],
    }


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "prometheus"}


def _panel(place: int, panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red is not None:
        steps.append({"color": "red", "value": panel.red})
    return {
        "id": place + 1,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _source(),
        "gridPos": {
            "x": place % 3 * _WIDTH,
            "y": place // 3 * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "noValue": "no data",
                "thresholds": {"mode": "absolute", "steps": steps},
                # A line over a gap would show a dead worker as a live one.
                "custom": {"spanNulls": False} if panel.kind == "timeseries" else {},
            },
            "overrides": [],
        },
        "targets": [
            {"refId": chr(65 + k), "expr": query, "legendFormat": legend, "datasource": _source()}
            for k, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def files() -> dict[Path, str]:
    """Path → text of every dashboard."""
    made = {title: json.dumps(dashboard(title), indent=1) + "\n" for title in DASHBOARDS}
    return {HERE / "dashboards" / f"{slug(title)}.json": text for title, text in made.items()}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
