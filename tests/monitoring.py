"""A real Prometheus with the project's own rules, and all that a home's processes show, side by side."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from consumers.broker import _free_ports
from consumers.machine_metrics import announced_addresses
from consumers.watch import Watch

PROMETHEUS = Path(__file__).resolve().parent.parent / "deploy" / "prometheus"
LIMIT_S = 120.0  # most that a loaded machine may need


@contextmanager
def prometheus(directory: Path, jobs: list[dict[str, Any]], every: str = "1s") -> Iterator[str]:
    """A Prometheus with the rules and alerts of `deploy/`; yields where it answers.

    Args:
        directory: its configuration and data go there.
        jobs: what it scrapes.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed; the package of that name has it")
    address = f"127.0.0.1:{_free_ports(1)[0]}"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": "1s"},
        "rule_files": [str(PROMETHEUS / "rules.yml"), str(PROMETHEUS / "alerts.yml")],
        "scrape_configs": jobs,
    }
    path = directory / "prometheus.yml"
    path.write_text(json.dumps(config))
    options = [f"--config.file={path}", f"--storage.tsdb.path={directory / 'data'}"]
    options += [f"--web.listen-address={address}", "--log.level=error"]
    with subprocess.Popen([program, *options], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


def jobs_of(home: Path) -> list[dict[str, Any]]:
    """The jobs of `deploy/prometheus/prometheus.yml`, for the processes of one home."""
    jobs: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        for found in job["file_sd_configs"]:
            found |= {"files": [str(home / "targets" / "*.json")], "refresh_interval": "1s"}
    return jobs


def answer(base: str, query: str) -> list[Any]:
    """What Prometheus finds now; nothing while it is still starting."""
    address = f"{base}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(address, timeout=LIMIT_S) as reply:
            result: list[Any] = json.load(reply)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return []
    except OSError:
        return []
    return result


class Shown:
    """What page, terminal and Prometheus show of the versions of a home.

    Args:
        page: address of a server of the home.
        metrics: where Prometheus answers.
    """

    def __init__(self, home: Path, page: str, metrics: str) -> None:
        self.home, self._page, self._metrics = home, page, metrics
        self._watch = Watch({})

    def on_page(self, version: str) -> dict[str, Any]:
        """The version's card on the page, its curve under "curve"; empty where it is not shown yet."""
        found = fed(self._page)
        cards = [one for one in found.get("picture", {}).get("versions", []) if one["version"] == version]
        return {**cards[0], "curve": found.get("curves", {}).get(version)} if cards else {}

    def in_terminal(self, process: str) -> dict[str, Any]:
        """The process's row in `freshet watch`."""
        self._watch.addresses = announced_addresses(self.home)
        self._watch.look()
        rows = [row for row in self._watch.picture() if row["process"] == process]
        return rows[0] if rows else {}

    def value(self, query: str) -> float | None:
        """The one number that Prometheus finds; None without one, or with a former process's, too."""
        found = answer(self._metrics, query)
        return float(found[0]["value"][1]) if len(found) == 1 else None

    def alerts(self, version: str) -> set[str]:
        """Alerts of a version whose expressions hold now, whether they have waited out their `for` or not."""
        found = [one["metric"] for one in answer(self._metrics, "ALERTS")]
        mine = {("version", version), ("process", f"work-{version}")}
        return {labels["alertname"] for labels in found if mine & labels.items()}


def fed(page: str) -> dict[str, Any]:
    """The newest of each event that a new viewer of the page is sent, up to the first picture."""
    connection = http.client.HTTPConnection(urlsplit(page).netloc, timeout=LIMIT_S)
    try:
        connection.request("GET", "/feed")
        reply = connection.getresponse()
        found: dict[str, Any] = {}
        name = ""
        while "picture" not in found:
            line = reply.readline().decode()
            assert line, f"the feed of {page} ended after {sorted(found)}"
            field, _, value = line.rstrip("\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                found[name] = json.loads(value)
        return found
    finally:
        connection.close()


def until(true: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    """Wait for a condition; what it returned.

    Raises:
        AssertionError: it is not true after all this time.
    """
    end = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < end, f"{what}: not after {limit_s:g} s; last {found!r}"
        time.sleep(0.5)  # between two looks at what is awaited
    return found
