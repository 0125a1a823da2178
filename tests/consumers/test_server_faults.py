"""A server while versions are promoted, and while what it answers from dies, moves, goes or comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from consumers.cli import main
from consumers.eventlog.segments import segments_in
from state.live import sweep
from state.versions import Registry
from tests.consumers.promoting import NAMES, promoted_under_load, two_versions
from tests.consumers.served import taught
from tests.consumers.test_server_process import ENOUGH_S, asked, freshet, server
from tests.state.mounts import disk

EMBEDDING = "/v1/users/ann/embedding"


def eventually(found: Callable[[], Any]) -> Any:
    """What `found` gives once that is true."""
    until = time.monotonic() + ENOUGH_S
    while not (value := found()):
        assert time.monotonic() < until, value
        time.sleep(0.05)
    return value


@contextmanager
def worker(home: Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that follows the posted events of the one version."""
    with freshet(home, "--set", "worker.metrics_port=none", "work", "mine", "--follow") as process:
        yield process


def embedding(address: str) -> dict[str, Any]:
    """Of the one user; never an answer that failed."""
    status, found = asked(address, EMBEDDING)
    assert status == 200, found
    return dict(found)


def test_no_answer_is_wrong_or_of_two_versions_while_versions_are_promoted(tmp_path: Path) -> None:
    two_versions(tmp_path)
    with server(tmp_path) as (_, address):
        seen = promoted_under_load(tmp_path, address, 300, 12)
    assert min(seen[name] for name in NAMES) > 30


def test_server_outlives_a_killed_worker_and_moves_over_to_the_next(tmp_path: Path) -> None:
    assert main(["--home", str(tmp_path), "versions", "create", "mine", "--set", "dimension=4"]) == 0
    with server(tmp_path) as (_, address):
        events = [{"user": "ann", "item": item} for item in ("tea", "cup", "tea")]
        assert asked(address, "/v1/events", events)[0] == 200
        with worker(tmp_path) as first:
            eventually(lambda: asked(address, EMBEDDING)[0] == 200)
            before = eventually(
                lambda: (found := embedding(address))["events"] == 3 and found["worker"] and found
            )
            assert before["origin"] == "live"
            first.send_signal(signal.SIGKILL)
            first.wait()
        left = embedding(address)
        assert (left["origin"], left["worker"], left["vector"]) == ("live", False, before["vector"])
        eventually(lambda: embedding(address)["age_s"] > left["age_s"])
        with worker(tmp_path) as second:
            # What no commit had kept is unknown until the second worker has learned it again.
            eventually(lambda: asked(address, EMBEDDING)[1].get("worker"))
            event = [{"user": "ann", "item": "tea"}]
            assert asked(address, "/v1/events", event)[0] == 200
            eventually(lambda: embedding(address)["events"] > before["events"])
            second.send_signal(signal.SIGTERM)
            assert second.wait(ENOUGH_S) == 0
        assert embedding(address)["events"] > before["events"]
    sweep()


def test_server_follows_versions_that_are_restored_compacted_and_deleted(tmp_path: Path) -> None:
    version = taught(tmp_path, "mine", "softmax")
    taught(tmp_path, "other")
    home = ["--home", str(tmp_path), "versions"]
    assert main([*home, "promote", "mine"]) == 0
    assert main([*home, "snapshot", "mine"]) == 0
    with server(tmp_path) as (_, address):
        before = embedding(address)
        with version.open() as store:
            store._db.compact_range(None, None)
        assert embedding(address)["vector"] == before["vector"]
        assert main([*home, "restore", "mine"]) == 0
        assert embedding(address)["vector"] == before["vector"]
        assert main([*home, "promote", "other"]) == 0
        assert main([*home, "delete", "mine", "--yes"]) == 0
        assert asked(address, f"{EMBEDDING}?version=mine")[0] == 404
        assert asked(address, "/v1/users/ann/recommendations")[1]["version"] == "other"
        assert "mine" not in Registry(tmp_path).names()


def test_full_disk_refuses_events_and_the_server_still_answers(tmp_path: Path) -> None:
    small = tmp_path / "home"
    with disk(small, "4m"):
        taught(small, "mine")
        with server(small) as (_, address):
            event = {"user": "ann", "item": "tea"}
            assert asked(address, "/v1/events", event)[0] == 200
            filler = small / "filler"
            with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 65_536)
            status, refused = asked(address, "/v1/events", [{"user": "ann", "item": "x" * 200}] * 5000)
            assert (status, refused["error"]["code"]) == (507, "no_room")
            assert "none of them was taken" in refused["error"]["message"]
            assert asked(address, "/v1/users/ann/recommendations")[1]["version"] == "mine"
            assert asked(address, "/readyz")[0] == 200
            filler.unlink()
            assert asked(address, "/v1/events", {"user": "bob", "item": "tea"})[0] == 200
        posted = [line for path in segments_in(small / "events") for line in path.read_bytes().splitlines()]
        assert [json.loads(line)["user"] for line in posted] == ["ann", "bob"]
