"""A worker with live tables, the transformer's worker beside it, and a server that answers from both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from threading import Event as Flag
from typing import Any, NamedTuple

import numpy as np
import pytest
from starlette.testclient import TestClient

from consumers.eventlog.files import FilesLog
from consumers.pace import Pace
from state.learned import Learned
from state.live import LiveArena
from state.reader import Reader
from state.sequences_directory import sequences_of
from state.store import Store
from tests.consumers.sequenced import SOFTMAX, worker_on
from tests.consumers.served import client
from tests.consumers.worked import RULES, append, learn, lines, made
from tests.state.streams import batch

USER = "u0"


class Scene(NamedTuple):
    learned: Learned
    sequences: Any
    api: TestClient
    arena: LiveArena


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    home = tmp_path_factory.mktemp("served")
    path = append(home / "events.jsonl", lines(300, seed=1))
    version = made(home, "softmax", **SOFTMAX)
    learn(version, path)
    with ExitStack() as held:
        store: Store = held.enter_context(version.open())
        tables = held.enter_context(closing(LiveArena(version.live_path, version.identity)))
        learned = Learned(version.spec, store, arena=tables)
        directory = sequences_of(version)
        beside = held.enter_context(directory.open())
        arena = LiveArena(directory.live_path, directory.identity)
        log = held.enter_context(closing(FilesLog([str(path)], RULES)))
        reader = held.enter_context(closing(Reader(version)))
        worker = worker_on(version, beside, log, reader=reader, arena=arena, pace=Pace(1e9, 1e9))
        worker.run(Flag())
        held.enter_context(closing(arena))
        api = held.enter_context(client(home))
        yield Scene(learned, worker.sequences, api, arena)


def asked(scene: Scene, what: str) -> dict[str, Any]:
    answer: dict[str, Any] = scene.api.get(f"/v1/users/{USER}/{what}").json()
    return answer


def scores(scene: Scene, items: list[str]) -> dict[str, Any]:
    answer: dict[str, Any] = scene.api.post("/v1/scores", json={"user": USER, "items": items}).json()
    return answer


def test_answers_say_sequence_where_the_gate_is_open_and_are_corrected_by_it(scene: Scene) -> None:
    scene.sequences.set_mode("open")
    users, d = scene.sequences.users, scene.sequences.options.dimension
    correction = users.rows.floats[users.ids.slot_of(USER), :d].copy()
    assert np.any(correction)
    found = asked(scene, "recommendations?k=3&include_recent=true")
    assert found["represented_by"] == "sequence"
    assert found["sequence"] == 'open: sessions.gate = "open"'
    items = [one["item"] for one in found["items"]]
    corrected, vector = scores(scene, items), asked(scene, "embedding")
    assert (corrected["represented_by"], vector["represented_by"]) == ("sequence", "sequence")
    scene.sequences.set_mode("shut")
    plain, before = scores(scene, items), asked(scene, "embedding")
    assert (plain["represented_by"], plain["sequence"]) == ("row", 'shut: sessions.gate = "shut"')
    assert before["represented_by"] == "row"
    np.testing.assert_allclose(np.subtract(vector["vector"], before["vector"]), correction, atol=1e-6)
    rows, column = scene.learned.items, scene.learned.layout.column("item", "vector")
    for item, one, other, served in zip(
        items, corrected["scores"], plain["scores"], found["items"], strict=True
    ):
        gain = rows.rows.floats[rows.ids.slot_of(item), column] @ correction
        assert one["score"] - other["score"] == pytest.approx(float(gain), abs=1e-5)
        assert served["score"] == pytest.approx(one["score"], abs=1e-5)


def test_answers_say_why_the_gate_is_shut(scene: Scene) -> None:
    scene.sequences.set_mode("auto")
    found = asked(scene, "recommendations?k=1")
    assert (found["represented_by"], found["sequence"]) == ("row", "shut: 0 of 200 events compared")


def test_who_has_no_sequence_is_answered_as_before(scene: Scene) -> None:
    scene.sequences.set_mode("open")
    found = scene.api.get("/v1/users/nobody/recommendations?k=1").json()
    assert found["represented_by"] == "popularity" and "sequence" not in found


def test_sequence_behind_the_newest_event_is_not_served(scene: Scene) -> None:
    scene.sequences.set_mode("open")
    learned = scene.learned
    now = learned.ledger.watermark + 60
    events = batch([USER], ["i0"], seconds=[now], first=1_000)
    learned.make_room(events)
    learned.learn(learned.resolve(events, 0))
    found = asked(scene, "recommendations?k=1")
    assert found["represented_by"] == "row" and found["sequence"].startswith("not fresh: ")


def test_answers_are_as_before_once_the_worker_has_gone(scene: Scene) -> None:
    scene.arena.close()
    until = time.monotonic() + 60.0
    while "sequence" in asked(scene, "recommendations?k=1"):
        assert time.monotonic() < until
    assert asked(scene, "recommendations?k=1")["represented_by"] == "row"
