"""The server that `freshet demo` starts beside itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from consumers.companion import Companion
from consumers.settings import Settings
from state.spec import new_spec
from state.versions import Registry

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from consumers.companion import Companion
from consumers.settings import Settings

with Companion(Settings(home=Path(sys.argv[1]))) as server:
    while not server.address:
        time.sleep(0.05)
    print(server.address, flush=True)
    time.sleep(600)
"""


def test_companion_serves_the_home_until_it_is_closed(tmp_path: Path) -> None:
    Registry(tmp_path).create("mine", new_spec("popularity", {}))
    with Companion(Settings(home=tmp_path)) as server:
        until = time.monotonic() + 60
        while not server.address:
            assert time.monotonic() < until, "the server says no address"
            time.sleep(0.05)
        with urllib.request.urlopen(f"{server.address}/v1/versions", timeout=60) as answer:
            versions = json.load(answer)["versions"]
    assert [one["version"] for one in versions] == ["mine"]
    assert server._process.returncode == 0


def test_companion_ends_when_the_process_that_began_it_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as holder:
        assert holder.stdout is not None
        address = holder.stdout.readline().strip()
        holder.kill()
    assert address, "the server says no address"
    until = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/livez", timeout=60).close()
        except URLError:
            return  # nobody listens
        except ConnectionError:
            continue  # it ended while it was asked
        if time.monotonic() > until:
            pytest.fail("the server goes on")
        time.sleep(0.05)
