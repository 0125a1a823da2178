"""Served lists and posted events become verdicts; guardrail, ramp, kills and erasure on the way."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.eventlog.segments import EVENTS, Segments
from consumers.exposing import EXPOSURES, Exposing, ExposureMetrics
from consumers.outcomes import Outcomes
from consumers.outcomes_logs import segment_logs
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store, store_path
from consumers.posting import SegmentPosts
from state.erasure_list import add_erasure
from state.experiments import Experiments
from state.releases import Releases
from streaming.routing import Route, route
from streaming.rules import EventRules
from tests.consumers.commandline import Freshet
from tests.consumers.served import client, taught
from tests.consumers.test_server_faults import eventually
from tests.consumers.test_server_process import ENOUGH_S
from tests.consumers.test_server_process import freshet as process

LATE = 10**9  # microseconds: after every window


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Freshet:
    home = bare / "home"
    # The salt divides users by chance; the same one in every run makes the same arms.
    monkeypatch.setattr("consumers.commands.experiment.new_salt", lambda: "5a17")
    for name in ("one", "two"):
        taught(home, name)
    Releases(home).promote("one")
    return Freshet(home, capsys)


def create(freshet: Freshet, *more: str) -> int:
    """An experiment of two arms with windows of a minute; its beginning in microseconds."""
    freshet("experiment", "create", "exp", "--arm", "one=0.5", "--arm", "two=0.5", "--metric", "purchase",
            "--window", "1m", "--lateness", "1s", *more)  # fmt: skip
    return Experiments(freshet.home).get("exp").phases[0].since_us


def arm_of(home: Path, user: str) -> str:
    trial = Experiments(home).get("exp")
    found = route(user, Route(trial.salt, trial.phases[0].ranges))
    assert found is not None and found.version is not None
    return found.version


def exposure(user: str, arm: str, ts: int) -> bytes:
    record = {"id": f"x-{user}", "user": user, "experiment": "exp", "arm": arm, "version": arm,
              "items": ["tea"], "positions": [0], "scores": [1.0], "ts": ts}  # fmt: skip
    return json.dumps(record).encode()


def event(user: str, ts: int, **more: Any) -> bytes:
    return json.dumps({"user": user, "item": "tea", "type": "purchase", "ts": ts, **more}).encode()


def write_logs(home: Path, since: int, users: int, bought: dict[str, float]) -> None:
    """Users with an exposure each; of every 20 of an arm, so many buy. Then a record after all windows."""
    seen = {"one": 0, "two": 0}
    shown, events = [], []
    for k in range(users):
        user, ts = f"user-{k}", since + 1000 * k
        arm = arm_of(home, user)
        seen[arm] += 1
        shown.append(exposure(user, arm, ts))
        if seen[arm] % 20 < 20 * bought[arm]:
            events.append(event(user, ts + 500))
    Segments(home / EXPOSURES).append([*shown, exposure("last", arm_of(home, "last"), since + LATE)])
    Segments(home / EVENTS).append([*events, event("last", since + LATE, type="view")])


def pairs_of(home: Path) -> list[tuple[bytes, bytes]]:
    with opened_store(home, "exp") as store:
        return list(store.scan(b""))


def test_what_was_served_and_bought_shows_in_status(freshet: Freshet) -> None:
    home = freshet.home
    since, clock = create(freshet), [0.0]
    clock[0] = since / 1e6 + 1
    noting = Exposing(
        SegmentPosts(Segments(home / EXPOSURES)),
        Experiments(home),
        ExposureMetrics(CollectorRegistry()),
        now=lambda: clock[0],
    )
    users = [f"u{k}" for k in range(30)]
    with closing(noting) as exposing, client(home, exposing=exposing) as api:
        answers = {user: api.get(f"/v1/users/{user}/recommendations?k=2").json() for user in users}
        bought = users[:6]
        posts: list[dict[str, Any]] = [
            {"user": user, "item": answers[user]["items"][0]["item"], "type": "purchase",
             "exposure": answers[user]["exposure"], "ts": int(since + 2_000_000)}
            for user in bought
        ]  # fmt: skip
        posts += [posts[0], {**posts[0], "user": "u9", "type": "view"}, {**posts[0], "user": "nobody"}]
        posts.append({"user": "x", "item": "tea", "type": "view", "ts": since + 200_000_000})
        assert api.post("/v1/events", json=posts).status_code == 200
        clock[0] = since / 1e6 + 200
        api.get("/v1/users/late/recommendations")
    done = freshet.json("outcomes", "--until-end")
    assert (done["experiment"], done["users"], done["open_windows"]) == ("exp", 30, 1)
    found = freshet.json("experiment", "status")
    assert sum(arm["users_with_outcome"] for arm in found["arms"].values()) == 6
    for arm in ("one", "two"):
        assert found["arms"][arm]["users"] == sum(answers[user]["version"] == arm for user in users)
    records = found["records"]
    assert (records["exposures"], records["joined"], records["repeated"], records["unexposed"]) == (
        30,
        6,
        1,
        1,
    )
    assert found["challengers"]["two"]["verdict"] == "undecided"
    assert found["challengers"]["two"]["reason"]
    assert "undecided" in freshet("experiment", "status")


def test_guardrail_takes_a_bad_challenger_out_of_the_route(freshet: Freshet) -> None:
    since = create(freshet, "--guardrail", "-3%", "--mean", "0.5")
    write_logs(freshet.home, since, 2000, {"one": 0.5, "two": 0.2})
    freshet("outcomes", "--until-end")
    assert "experiment_guardrail_acted" in freshet.err
    found = freshet.json("experiment", "status")
    assert found["challengers"]["two"]["guardrail"]["state"] == "acted"
    assert found["phases"][-1]["shares"] == {"one": 1.0, "two": 0.0}
    released = Releases(freshet.home).read()
    assert released.route is not None and released.route.versions() == {"one"}
    freshet("outcomes", "--until-end")  # again: nothing more to do
    assert len(freshet.json("experiment", "status")["phases"]) == 2
    ended = freshet.json("experiment", "conclude", "--promote")
    assert (ended["winner"], ended["state"], Releases(freshet.home).read().champion) == (
        "one",
        "concluded",
        "one",
    )
    assert Releases(freshet.home).read().route is None


def test_ramp_goes_on_and_a_winner_is_promoted(freshet: Freshet) -> None:
    since = create(freshet, "--ramp", "20%,50%", "--ramp-users", "100", "--mean", "0.3", "--lift", "0.5")
    assert freshet.json("experiment", "status")["arms"]["two"]["share"] == 0.2
    write_logs(freshet.home, since, 2000, {"one": 0.2, "two": 0.7})
    freshet("outcomes", "--until-end")
    found = freshet.json("experiment", "status")
    assert found["arms"]["two"]["share"] == 0.5
    assert found["challengers"]["two"]["verdict"] == "better"
    assert freshet.json("experiment", "conclude", "--promote")["winner"] == "two"
    assert Releases(freshet.home).read().champion == "two"


def test_a_route_that_is_taken_away_ends_the_experiment(freshet: Freshet) -> None:
    since = create(freshet)
    write_logs(freshet.home, since, 50, {"one": 0.2, "two": 0.2})
    freshet("route", "clear")
    freshet("outcomes", "exp", "--until-end")
    found = freshet.json("experiment", "status")
    assert (found["state"], found["why"]) == ("stopped", "the route was taken away")


def test_a_user_who_is_forgotten_is_in_no_row_and_does_not_come_back(freshet: Freshet) -> None:
    home, since = freshet.home, create(freshet)
    rows = [exposure("ann-uncommon", "one", since + 1), exposure("bob", "two", since + 2)]
    Segments(home / EXPOSURES).append(rows)
    Segments(home / EVENTS).append([event("ann-uncommon", since + 3)])
    freshet("outcomes", "--until-end")
    assert b"uann-uncommon" in dict(pairs_of(home))
    freshet("forget", "user", "ann-uncommon")
    keys = dict(pairs_of(home))
    assert b"uann-uncommon" not in keys and b"ubob" in keys
    Segments(home / EXPOSURES).append([rows[0]])  # the log is read again after a loss
    freshet("outcomes", "--until-end")
    assert b"uann-uncommon" not in dict(pairs_of(home))


def test_logs_that_are_silent_close_windows_by_the_clock(freshet: Freshet) -> None:
    home, since = freshet.home, create(freshet)
    Segments(home / EXPOSURES).append([exposure("ann", arm_of(home, "ann"), since + 1)])
    with opened_store(home, "exp") as store:
        metrics = OutcomeMetrics(CollectorRegistry())
        joined = Outcomes(home, "exp", store, EventRules(), metrics, partial(segment_logs, home))
        assert joined.step(since / 1e6) == 1
        joined.step(since / 1e6 + 60)
        assert joined.verdict()["users"] == 0
        joined.step(since / 1e6 + 62)
        assert joined.verdict()["users"] == 1
    assert add_erasure(home, "user", "ann", int(time.time() * 1e6)) == 1
    freshet("outcomes", "--until-end")
    assert not [key for key, _ in pairs_of(home) if key.startswith((b"u", b"n"))]


def test_what_cannot_be_is_refused(freshet: Freshet) -> None:
    arms = ("--arm", "one=0.5", "--arm", "two=0.5", "--metric", "buy")
    assert "two arms" in freshet("experiment", "create", "x", "--arm", "one=1", "--metric", "buy", code=2)
    assert "no version" in freshet(
        "experiment", "create", "x", "--arm", "one=0.5", "--arm", "no=0.5", "--metric", "buy", code=1
    )
    freshet("experiment", "stop", "x")
    freshet("route", "set", "one=0.5", "two=0.5")
    assert "divides users already" in freshet("experiment", "create", "y", *arms, code=1)
    freshet("route", "clear")
    assert "no experiment" in freshet("experiment", "status", "never", code=1)
    freshet("experiment", "create", "y", *arms)
    assert "runs" in freshet("experiment", "create", "z", *arms, code=1)
    assert freshet.json("experiment", "stop")["state"] == "stopped"
    assert Releases(freshet.home).read().route is None
    Releases(freshet.home).rollback(to_none=True)
    freshet("experiment", "create", "z", *arms)
    freshet("experiment", "stop", "z")  # nothing is promoted, so the first arm gets all
    released = Releases(freshet.home).read()
    assert released.route is not None and released.route.versions() == {"one"}
    freshet("experiment", "create", "again", *arms)
    freshet("experiment", "stop")
    assert "No experiment runs" in freshet("outcomes", code=1)
    found = freshet.json(
        "experiment", "plan", "--arm", "one=0.5", "--arm", "two=0.5", "--users-a-day", "10000"
    )
    assert 60_000 < found["two"]["fixed_horizon"] < 65_000 and 5 < found["two"]["days"] < 20


def test_joiner_waits_for_an_experiment_to_begin_where_it_is_told_to(freshet: Freshet) -> None:
    with process(freshet.home, "outcomes", "--wait") as waiting:
        eventually(lambda: (freshet.home / "targets" / "outcomes.json").exists())
        create(freshet)
        eventually(lambda: (store_path(freshet.home, "exp") / "CURRENT").exists())
        waiting.send_signal(signal.SIGTERM)
        said, _ = waiting.communicate(timeout=ENOUGH_S)
    assert waiting.returncode == 0
    assert "exp" in said


def test_joiner_that_waits_ends_when_it_is_told_to_stop(freshet: Freshet) -> None:
    with process(freshet.home, "outcomes", "--wait") as waiting:
        eventually(lambda: (freshet.home / "targets" / "outcomes.json").exists())
        waiting.send_signal(signal.SIGTERM)
        assert waiting.wait(ENOUGH_S) == 0


def test_log_that_is_seldom_written_is_read_while_the_other_goes_on(freshet: Freshet) -> None:
    home, since = freshet.home, create(freshet)
    shown, events = Segments(home / EXPOSURES), Segments(home / EVENTS)
    with opened_store(home, "exp") as store:
        metrics = OutcomeMetrics(CollectorRegistry())
        joined = Outcomes(home, "exp", store, EventRules(), metrics, partial(segment_logs, home))
        for second in range(10):
            events.append([event("bob", since + second * 1_000_000, type="view")])
            if second % 5 == 4:
                user = f"ann{second}"
                shown.append([exposure(user, arm_of(home, user), since + second * 1_000_000)])
            joined.step(since / 1e6 + second)
        assert joined.joiner.users() == ["ann4", "ann9"]
        joined.step(since / 1e6 + 71)
        assert (joined.verdict()["users"], joined.verdict()["records"]["late_exposures"]) == (2, 0)
