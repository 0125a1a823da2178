"""Lists that an experiment counts are noted once they were sent, under the id that the answer carries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from consumers.eventlog.segments import Segments
from consumers.exposing import EXPOSURES, Exposing, ExposureMetrics, ExposureRecord
from consumers.posting import Posted, SegmentPosts
from state.answer_forms import Recommended
from state.experiments import Experiments, Trial
from state.releases import Releases
from streaming.errors import FreshetError, StoreFullError
from streaming.routing import Route, divided
from tests.consumers.served import USERS, client, taught

NOON = 1_795_521_600.0


def begun(home: Path, shares: dict[str, float]) -> Experiments:
    """An experiment of two versions that are there, and its route."""
    experiments = Experiments(home)
    experiments.create(Trial("exp", shares, "purchase", {}, "salt", 60_000_000, 0))
    ranges = divided(shares)
    Releases(home).set_route(Route("salt", ranges), "experiment exp")
    experiments.begin_phase("exp", 0, shares, ranges, state="running")
    return experiments


@contextmanager
def exposing_client(home: Path, registry: CollectorRegistry) -> Iterator[TestClient]:
    log = SegmentPosts(Segments(home / EXPOSURES))
    noting = Exposing(log, Experiments(home), ExposureMetrics(registry), now=lambda: NOON)
    with closing(noting) as exposing, client(home, exposing=exposing) as api:
        yield api


def noted(home: Path) -> list[ExposureRecord]:
    files = sorted((home / EXPOSURES).glob("*.jsonl"))
    lines = b"".join(path.read_bytes() for path in files).splitlines()
    return [msgspec.json.decode(line, type=ExposureRecord) for line in lines]


def test_served_lists_are_noted_while_an_experiment_runs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        taught(tmp_path, name)
    Releases(tmp_path).promote("one")
    registry = CollectorRegistry()
    answers: dict[str, dict[str, Any]] = {}
    with exposing_client(tmp_path, registry) as api:
        assert api.get("/v1/users/ann/recommendations").json()["exposure"] is None
        experiments = begun(tmp_path, {"one": 0.5, "two": 0.5})
        Releases(tmp_path).override("zoë", "two")
        for user in USERS:
            answers[user] = api.get(f"/v1/users/{user}/recommendations?k=3").json()
        assert api.get("/v1/users/ann/recommendations?version=two").json()["exposure"] is None
        experiments.change("exp", state="stopped")
        assert api.get("/v1/users/ann/recommendations").json()["exposure"] is None
    assert answers["zoë"]["exposure"] is None  # by an override, not by chance
    found = noted(tmp_path)
    assert [one.user for one in found] == USERS[:3]
    for one in found:
        answer = answers[one.user]
        assert (one.id, one.arm, one.version) == (answer["exposure"], answer["version"], answer["version"])
        assert one.items == [item["item"] for item in answer["items"]]
        assert one.scores == [item["score"] for item in answer["items"]]
        assert (one.positions, one.ts, one.experiment) == ([0, 1, 2][: len(one.items)], NOON * 1e6, "exp")
    assert (
        sum(registry.get_sample_value("freshet_exposures_total", {"arm": arm}) or 0 for arm in ("one", "two"))
        == 3
    )


class Stuck:
    """A log that waits until it is let go, and has no room then."""

    name = "stuck"

    def __init__(self) -> None:
        self.begun, self.go = Flag(), Flag()

    def append(self, groups: Sequence[Sequence[Posted]]) -> list[FreshetError | None]:
        self.begun.set()
        self.go.wait(60)
        return [StoreFullError("no room")] * len(groups)

    def close(self) -> None:
        """Nothing is open."""


def test_lists_that_cannot_be_noted_are_counted_and_hold_nobody_up(tmp_path: Path) -> None:
    for name in ("one", "two"):
        taught(tmp_path, name)
    experiments = begun(tmp_path, {"one": 0.5, "two": 0.5})
    registry, log, items = CollectorRegistry(), Stuck(), [Recommended("tea", 1.0, [])]
    with closing(Exposing(log, experiments, ExposureMetrics(registry), waiting=2)) as exposing:
        first = exposing.of("ann", "one", items)
        assert first is not None
        exposing.sent(first)
        assert log.begun.wait(60)
        for _ in range(3):  # two wait, one finds no room
            exposing.sent(first)
        assert exposing.of("ann", "one", items) is None
        assert exposing.of("ann", "three", items) is None  # not in the experiment
        log.go.set()
    dropped = {
        reason: registry.get_sample_value("freshet_exposures_dropped_total", {"reason": reason})
        for reason in ("full", "refused")
    }
    assert dropped == {"full": 2.0, "refused": 3.0}
