"""A joiner in a process of its own that takes a step whenever it is told to, and is killed in one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from consumers.outcomes import Outcomes
from consumers.outcomes_logs import segment_logs
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store
from consumers.settings import load_settings
from streaming.rules import EventRules

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0


def killed_in_a_step(home: Path, after: int) -> None:
    """Join the experiment `exp`, commit each of so many steps that read something, die in the next one."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.consumers.stepping", str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=home.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        until = time.monotonic() + WAIT_S
        while after:
            print(file=process.stdin, flush=True)
            after -= int(process.stdout.readline()) > 0
            assert time.monotonic() < until
        print(file=process.stdin, flush=True)
        os.kill(process.pid, signal.SIGKILL)


def main(home: Path) -> None:
    """A step for each line of standard input, of a few records each; says how many were read."""
    settings, metrics = load_settings(None, home, {}), OutcomeMetrics(CollectorRegistry())
    logs = partial(segment_logs, home)
    if settings.kafka.bootstrap_servers:
        from consumers import outcomes_topics

        outcomes_topics._EVENTS = 50
        logs = partial(outcomes_topics.topic_logs, settings, until_end=True)
    with opened_store(home, "exp") as store:
        joined = Outcomes(home, "exp", store, EventRules(), metrics, logs, most=2000, commit_s=0)
        for _ in sys.stdin:
            print(joined.step(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
