"""`freshet experiment`: what is refused, shares that follow outcomes, and what stands beside the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from state.experiments import Experiments
from state.learned import Learned
from state.releases import Releases
from state.spec import new_spec
from state.versions import Registry
from tests.consumers.commandline import Freshet
from tests.consumers.served import taught
from tests.consumers.test_outcomes import create, write_logs
from tests.state.streams import batch, teach


@pytest.fixture
def freshet(bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Freshet:
    home = bare / "home"
    # The salt divides users by chance; the same one in every run makes the same arms.
    monkeypatch.setattr("consumers.commands.experiment.new_salt", lambda: "5a17")
    for name in ("one", "two"):
        taught(home, name)
    Releases(home).promote("one")
    return Freshet(home, capsys)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--bandit", "ucb", "--ramp", "5%,50%"], "--ramp and --bandit both decide"),
        (["--bandit", "thompson", "--floor", "60%"], "the smallest share of --arm, 0.5, got 0.6"),
        (["--bandit", "ucb", "--measure", "value", "--deviation", "2"], "--bandit is for conversions"),
        (["--window", "0s"], "--window: expected a time above 0"),
        (["--guardrail", "x%"], "Expected a share such as 5%"),
    ],
)
def test_create_refuses_what_cannot_be(freshet: Freshet, more: list[str], said: str) -> None:
    arms = ["--arm", "one=0.5", "--arm", "two=0.5"]
    assert said in freshet("experiment", "create", "exp", *arms, "--metric", "purchase", *more, code=2)
    assert Experiments(freshet.home).names() == [] and Releases(freshet.home).read().route is None


@pytest.mark.parametrize("policy", ["thompson", "ucb"])
def test_bandit_sends_users_to_the_better_arm_and_keeps_the_floor(freshet: Freshet, policy: str) -> None:
    since = create(freshet, "--bandit", policy, "--floor", "10%", "--mean", "0.3")
    write_logs(freshet.home, since, 1200, {"one": 0.2, "two": 0.7})
    freshet("outcomes", "--until-end")
    found = freshet.json("experiment", "status")
    assert found["phases"][-1]["shares"] == {"one": 0.1, "two": 0.9}
    assert (found["bandit"]["policy"], found["bandit"]["floor"]) == (policy, 0.1)
    assert "not proven" in freshet("experiment", "status").replace("\n", " ")
    route = Releases(freshet.home).read().route
    assert route is not None and [round(arm.share, 3) for arm in route.arms] == [0.1, 0.9]
    freshet("outcomes", "--until-end")  # again: no new users, so nothing is decided anew
    assert freshet.json("experiment", "status")["phases"] == found["phases"]


def test_status_shows_the_paired_difference_named_as_early_evidence(freshet: Freshet) -> None:
    events = batch([f"u{k % 7}" for k in range(300)], [f"i{k * k % 11}" for k in range(300)])
    for name, learner in (("a", "popularity"), ("b", "transitions")):
        version = Registry(freshet.home).create(name, new_spec(learner, {"evaluation_rate": 1.0}))
        with version.open() as store:
            teach(Learned(version.spec, store), events, commit=100)
    freshet("experiment", "create", "exp", "--arm", "a=0.5", "--arm", "b=0.5", "--metric", "purchase")
    evidence = freshet.json("experiment", "status")["early_evidence"]
    early = evidence["challengers"]["b"]
    assert "says nothing of what users do" in evidence["what"]
    assert early["events"] > 100 and early["low"] <= early["difference"] <= early["high"]
    assert early["difference"] == pytest.approx(early["b"] - early["a"])
    assert f"{early['difference']:+.4f}" in freshet("experiment", "status")


def test_status_of_an_experiment_whose_version_is_gone_says_so(freshet: Freshet) -> None:
    create(freshet)
    freshet("experiment", "stop")
    freshet("versions", "delete", "two", "--yes")
    early = freshet.json("experiment", "status")["early_evidence"]["challengers"]["two"]
    assert 'no version "two"' in early["reason"]
