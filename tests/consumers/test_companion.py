"""The server that `freshet demo` starts beside itself."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

from consumers.companion import Companion
from consumers.settings import Settings
from state.spec import new_spec
from state.versions import Registry


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
