"""A worker that is stopped, killed, without its log, with a wrong clock or in the past looks well nowhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from state.releases import Releases
from state.spec import new_spec
from state.versions import Registry
from tests.consumers.test_server_process import ROOT, server
from tests.monitoring import Shown, jobs_of, prometheus, until

# SIGUSR1 sets the clock of the process an hour back, SIGUSR2 to what it was: only root may set the machine's.
# SIGWINCH lets the loop hang for ever, as on a dead disk, while the process still answers.
PROGRAM = """
import signal, time
true, by = time.time, [0.0]
time.time = lambda: true() + by[0]
signal.signal(signal.SIGUSR1, lambda *_: by.__setitem__(0, -3600.0))
signal.signal(signal.SIGUSR2, lambda *_: by.__setitem__(0, 0.0))
signal.signal(signal.SIGWINCH, lambda *_: time.sleep(1e6))
from consumers.cli import main
raise SystemExit(main())
"""
PAST = 200_000  # events, learned one by one: more than can be learned while they are looked at


def lines(count: int) -> str:
    return "".join(
        json.dumps({"user": f"u{k % 97}", "item": f"i{k % 31}", "ts": 1_700_000_000 + k}) + "\n"
        for k in range(count)
    )


class World:
    """A home with one version that serves and one that does not, a file, and what is shown of them."""

    def __init__(self, home: Path, file: Path, shown: Shown) -> None:
        self.home, self.file, self.shown = home, file, shown

    @contextmanager
    def worker(
        self, version: str, *words: str, file: Path | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        settings = ("worker.metrics_port=0", "worker.commit_interval_min=10ms", *words)
        flags = [word for setting in settings for word in ("--set", setting)]
        command = [sys.executable, "-c", PROGRAM, "--home", str(self.home), *flags, "work", version]
        log = self.home / f"{version}.log"
        with (
            log.open("ab") as told,
            subprocess.Popen(
                [*command, "--from", str(file or self.file), "--follow"],
                stdout=subprocess.DEVNULL,
                stderr=told,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            ) as process,
        ):
            try:
                yield process
            except AssertionError as error:
                error.add_note(f"the worker of {version} said: {log.read_text()[-3000:]}")
                raise
            finally:
                process.kill()

    def is_well(self, version: str) -> bool:
        """Whether page and terminal say so."""
        page, terminal = self.shown.on_page(version), self.shown.in_terminal(f"work-{version}")
        return (page.get("state"), terminal.get("state")) == ("well", "well")

    def wait_well(self, version: str) -> None:
        until(lambda: self.is_well(version), f"{version} is well")

    def wait_alarm(self, version: str, alert: str, words: str, state: str = "bad") -> None:
        """Until page, terminal and an alert tell of what is wrong."""

        def told() -> bool:
            page, terminal = self.shown.on_page(version), self.shown.in_terminal(f"work-{version}")
            return (
                page.get("state") == state
                and words in page.get("words", "")
                and words in terminal.get("state", "")
                and alert in self.shown.alerts(version)
            )

        until(told, f"{alert} and “{words}” of {version}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    home, file = tmp_path / "home", tmp_path / "events.jsonl"
    for name in ("mine", "other"):
        Registry(home).create(name, new_spec("popularity", {"evaluation_rate": 0.1}))
    Releases(home).promote("mine")
    file.write_text(lines(300))
    with ExitStack() as held:
        metrics = held.enter_context(prometheus(tmp_path, jobs_of(home)))
        _, address = held.enter_context(server(home))
        yield World(home, file, Shown(home, address, metrics))


@pytest.mark.timeout(900)  # the sum of what it may wait for
def test_no_worker_that_fails_or_learns_the_past_looks_well_anywhere(world: World, tmp_path: Path) -> None:
    past = tmp_path / "past.jsonl"
    past.write_text(lines(PAST))
    with world.worker("mine") as process:
        world.wait_well("mine")
        until(lambda: not world.shown.alerts("mine"), "no alert")
        process.send_signal(signal.SIGSTOP)
        world.wait_alarm("mine", "FreshetDown", "does not answer")
        process.send_signal(signal.SIGCONT)
        world.wait_well("mine")
        process.send_signal(signal.SIGUSR1)
        world.wait_alarm("mine", "FreshetClockWrong", "clock")
        process.send_signal(signal.SIGUSR2)
        world.wait_well("mine")
        until(lambda: "FreshetDown" not in world.shown.alerts("mine"), "no alert of a worker that is back")
        process.send_signal(signal.SIGWINCH)  # it takes 20 s until that shows: time for the other version
        with world.worker("other", "worker.batch_events=1", file=past):
            world.wait_alarm("other", "FreshetReplaying", "replaying", state="busy")
        with world.worker("other") as other:  # serves nobody, and yet its end is one
            world.wait_well("other")
            world.file.write_text("")  # what was learned is there no more
            assert other.wait(60) == 1
            world.wait_alarm("other", "FreshetDown", "does not answer")
        world.wait_alarm("mine", "FreshetWorkerStuck", "still for")
        process.kill()
        world.wait_alarm("mine", "FreshetDown", "does not answer")
