"""Server and joiner are killed while lists are served and bought from; what was served is counted, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest

from consumers.eventlog.segments import EVENTS, Segments
from consumers.exposing import EXPOSURES
from consumers.outcomes_store import JOIN
from state.experiments import Experiments
from state.releases import Releases
from tests.consumers.commandline import Freshet
from tests.consumers.served import taught
from tests.consumers.stepping import killed_in_a_step
from tests.consumers.test_outcomes import LATE, arm_of, create, event, exposure, pairs_of, write_logs
from tests.consumers.test_server_process import freshet as process_of
from tests.consumers.test_server_process import server

ENOUGH_S = 120.0


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Freshet:
    monkeypatch.setattr("consumers.commands.experiment.new_salt", lambda: "5a17")
    home = bare / "home"
    for name in ("one", "two"):
        taught(home, name)
    Releases(home).promote("one")
    return Freshet(home, capsys)


class Visitors:
    """Users who come to a server, each once; every third buys what stands first in the list."""

    def __init__(self) -> None:
        self.served: dict[str, dict[str, Any]] = {}  # by the id of the exposure

    @contextmanager
    def coming(self, address: str) -> Iterator[None]:
        """They come until the server has gone."""
        gone = Flag()
        threads = [Thread(target=self._come, args=(address, f"u{k}", gone)) for k in range(3)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            gone.set()
            for thread in threads:
                thread.join(ENOUGH_S)

    def _come(self, address: str, name: str, gone: Flag) -> None:
        try:
            for k in range(1_000_000):
                answer = _asked(f"{address}/v1/users/{name}-{k}/recommendations?k=2")
                self.served[answer["exposure"]] = answer
                if k % 3 == 0:
                    bought = {"user": answer["user"], "item": answer["items"][0]["item"], "type": "purchase",
                              "exposure": answer["exposure"]}  # fmt: skip
                    _asked(f"{address}/v1/events", bought)
        except (OSError, HTTPException):
            assert gone.wait(ENOUGH_S), "the server failed before it was killed"


def _asked(url: str, posted: dict[str, Any] | None = None) -> Any:
    data = json.dumps(posted).encode() if posted is not None else None
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=ENOUGH_S) as answer:
        return json.load(answer)


def records_in(home: Path, log: str) -> list[dict[str, Any]]:
    files = sorted((home / log).glob("*.jsonl"))
    whole = b"".join(path.read_bytes() for path in files).rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def killed(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(ENOUGH_S)


def test_kills_of_server_and_joiner_claim_and_lose_nothing(freshet: Freshet, tmp_path: Path) -> None:
    home, visitors = freshet.home, Visitors()
    freshet("experiment", "create", "exp", "--arm", "one=0.5", "--arm", "two=0.5", "--metric", "purchase",
            "--window", "1m", "--lateness", "10m")  # fmt: skip
    since = Experiments(home).get("exp").phases[0].since_us
    flags = ("--set", "worker.metrics_port=none")
    with (
        process_of(home, *flags, "outcomes") as joiner,
        server(home) as (serving, address),
        visitors.coming(address),
    ):
        until = time.monotonic() + ENOUGH_S
        while len(visitors.served) < 60:
            assert time.monotonic() < until and serving.poll() is None
            time.sleep(0.01)
        killed(joiner)
        killed(serving)
    noted = records_in(home, EXPOSURES)
    for one in noted:
        answer = visitors.served[one["id"]]  # no list is claimed that was not served
        assert (one["user"], one["version"]) == (answer["user"], answer["version"])
        assert one["items"] == [item["item"] for item in answer["items"]]
    ids = {one["id"] for one in noted}
    assert len(ids) == len(noted)
    bought = [one for one in records_in(home, EVENTS) if one["exposure"] in ids]
    Segments(home / EXPOSURES).append([exposure("last", arm_of(home, "last"), since + LATE)])
    Segments(home / EVENTS).append([event("last", since + LATE, type="view")])
    freshet("outcomes", "--until-end")
    found = freshet.json("experiment", "status")
    assert found["users"] == len(noted)
    assert (found["records"]["joined"], found["records"]["repeated"]) == (len(bought), 0)
    assert sum(arm["users_with_outcome"] for arm in found["arms"].values()) == len(bought)
    after = pairs_of(home)
    (home / "outcomes" / "exp").rename(tmp_path / "aside")
    freshet("outcomes", "--until-end")
    assert after == pairs_of(home)


def test_store_is_the_same_to_the_byte_after_a_kill_in_a_step(freshet: Freshet, tmp_path: Path) -> None:
    home, since = freshet.home, create(freshet, "--ramp", "20%,50%", "--ramp-users", "300")
    write_logs(home, since, 3000, {"one": 0.2, "two": 0.25})
    Experiments(home).change("exp", state="stopped")  # so that the ramp changes no phase meanwhile
    killed_in_a_step(home, 20)
    freshet("outcomes", "exp", "--until-end")
    after = pairs_of(home)
    (home / "outcomes" / "exp").rename(tmp_path / "aside")
    freshet("outcomes", "exp", "--until-end")
    again = pairs_of(home)
    assert [key for key, _ in after] == [key for key, _ in again]
    assert [key for key, value in after if value != dict(again)[key]] == []
    assert json.loads(dict(again)[JOIN])["ramp"]["step"] == 1
