"""Rules, alerts and their runbooks agree with the metrics there are, and do what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from consumers.metrics_page import sample_names

ROOT = Path(__file__).resolve().parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"


def loaded(name: str) -> Any:
    return yaml.safe_load((PROMETHEUS / name).read_text())


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in loaded(name)["groups"] for rule in group["rules"]]


def used(query: str) -> set[str]:
    """Names of metrics in a query: those of Freshet, of the process, and recorded ones."""
    return set(re.findall(r"(?<![\w:])(?:[a-z_]+:freshet_\w+:\w+|freshet_\w+|process_\w+|up)\b", query))


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; it comes with the package prometheus")
    return found


def test_rules_use_only_metrics_that_processes_report() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    known = sample_names() | recorded
    for rule in rules("rules.yml") + rules("alerts.yml"):
        assert used(rule["expr"]) - known == set(), rule
        assert used(rule["expr"]), rule


def test_every_alert_has_its_runbook_entry_and_both_of_its_tests() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), re.MULTILINE)
    alerts = {rule["alert"]: rule for rule in rules("alerts.yml")}
    assert set(headings) == set(alerts)
    for name, rule in alerts.items():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{name.lower()}"
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
    tests = [
        t["name"] for file in ("alerts.yml", "quick_alerts.yml") for t in loaded(f"tests/{file}")["tests"]
    ]
    assert sorted(tests) == sorted(f"{name} {ends}" for name in alerts for ends in ("fires", "stays quiet"))


def test_dead_stuck_or_unreachable_is_told_within_half_a_minute() -> None:
    scrape = loaded("prometheus.yml")["global"]
    assert scrape["scrape_interval"] == scrape["evaluation_interval"] == "5s"
    waits = {rule["alert"]: rule["for"] for rule in rules("alerts.yml")}
    assert {waits[name] for name in ("FreshetDown", "FreshetLagUnknown")} == {"10s"}
    assert {waits[name] for name in ("FreshetClockWrong", "FreshetReplaying")} == {"0s"}
    assert waits["FreshetWorkerStuck"] == "5s"


def test_promtool_finds_nothing_wrong(promtool: str) -> None:
    files = [str(PROMETHEUS / name) for name in ("rules.yml", "alerts.yml")]
    config = str(PROMETHEUS / "prometheus.yml")
    for command in (["check", "rules", *files], ["check", "config", "--syntax-only", config]):
        done = subprocess.run([promtool, *command], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_only_then(promtool: str) -> None:
    files = [str(path) for path in sorted((PROMETHEUS / "tests").glob("*.yml"))]
    done = subprocess.run([promtool, "test", "rules", *files], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
