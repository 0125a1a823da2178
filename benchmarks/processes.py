"""`freshet` in processes of its own, for measurements: commands enter, what they logged leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from streaming.errors import FreshetError

WAIT_S = 300.0
LOGGED = {"worker.log_format": "json", "worker.log_level": "debug"}  # as `commits` reads it
_ROOT = Path(__file__).resolve().parent.parent
_FRESHET = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]


class Kafka(NamedTuple):
    """A home directory and the topic that its versions learn.

    Attributes:
        settings: further settings, by section.key.
    """

    home: Path
    bootstrap: str
    topic: str
    settings: dict[str, str]

    def command(self, *words: str) -> list[str]:
        """A command line of `freshet`."""
        given = {"kafka.bootstrap_servers": self.bootstrap, "events.topic": self.topic, **self.settings}
        sets = [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
        return [*_FRESHET, *words, "--home", str(self.home), *sets]

    def run(self, *words: str) -> dict[str, Any]:
        """Run a command to its end and return what it printed as JSON.

        Raises:
            FreshetError: it failed.
        """
        done = subprocess.run(
            self.command(*words, "--json"), capture_output=True, text=True, cwd=_ROOT, check=False
        )
        if done.returncode:
            raise FreshetError(f"freshet {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    @contextmanager
    def worker(self, version: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """`freshet work`, its log in a file; killed with SIGKILL at the end."""
        command = self.command("work", version)
        with (
            log.open("ab") as told,
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=told, cwd=_ROOT) as process,
        ):
            try:
                yield process
            finally:
                process.send_signal(signal.SIGKILL)


class Commit(NamedTuple):
    """A commit as a worker logged it: wall-clock seconds, and how many events are durable."""

    at_s: float
    events: int


def commits(log: Path) -> list[Commit]:
    """The commits in a worker's log, which is JSON at level debug."""
    found = []
    for line in log.read_bytes().split(b"\n")[:-1]:  # the last one may be half written
        if b'"batch_committed"' in line:
            entry = json.loads(line)
            moment = datetime.fromisoformat(entry["timestamp"]).timestamp()
            found.append(Commit(moment, entry["events"]))
    return found


def committed(log: Path) -> int:
    """Events that are durable, by a worker's log."""
    found = commits(log) if log.exists() else []
    return found[-1].events if found else 0


def wait_for(true: Callable[[], object], process: subprocess.Popen[bytes], log: Path, nap_s: float) -> None:
    """Wait until something is true.

    Raises:
        FreshetError: the process ended, or it took longer than `WAIT_S`.
    """
    until = time.monotonic() + WAIT_S
    while not true():
        if process.poll() is not None or time.monotonic() > until:
            raise FreshetError(f"the worker did not get there; it said: {log.read_text()[-2000:]}")
        time.sleep(nap_s)


def write_lines(path: Path, users: Sequence[str], items: Sequence[str], ts_ms: Sequence[int]) -> Path:
    """A file of JSON lines."""
    with path.open("w") as file:
        file.writelines(
            f'{{"user":"{u}","item":"{i}","ts":{t},"type":"click","value":1.0}}\n'
            for u, i, t in zip(users, items, ts_ms, strict=True)
        )
    return path


def without_settings() -> None:
    """Let no FRESHET_ variable of the person who measures reach the processes."""
    for name in [name for name in os.environ if name.startswith("FRESHET_")]:
        if name != "FRESHET_DATA":
            del os.environ[name]
