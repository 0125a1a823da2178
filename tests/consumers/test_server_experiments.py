"""`/v1/experiments`: what `freshet experiment status` shows, over HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers.experiment_forms import ExperimentForm
from consumers.experiment_status import status_of
from tests.consumers.commandline import Freshet
from tests.consumers.served import client
from tests.consumers.test_experiment_command import freshet
from tests.consumers.test_outcomes import create, write_logs

__all__ = ["freshet"]


def test_the_answer_is_that_of_the_command_and_loses_no_field(freshet: Freshet) -> None:
    since = create(freshet, "--guardrail", "-3%", "--mean", "0.5", "--bandit", "ucb")
    write_logs(freshet.home, since, 600, {"one": 0.5, "two": 0.2})
    with client(freshet.home) as api:
        before = api.get("/v1/experiments/exp").json()
        freshet("outcomes", "--until-end")
        after = api.get("/v1/experiments/exp").json()
        shown = freshet.json("experiment", "status")
    assert (before["joined"], before["users"], before["records"]) == (False, 0, {})
    assert set(status_of(freshet.home, "exp")) <= set(ExperimentForm.__struct_fields__)
    assert after == {**dict.fromkeys(set(after) - set(shown)), **shown}
    assert after["joined"] and after["users"] > 0 and after["records"]["joined"] > 0


def test_experiments_are_listed_the_newest_first(freshet: Freshet) -> None:
    with client(freshet.home) as api:
        assert api.get("/v1/experiments").json() == {"running": None, "experiments": []}
        create(freshet)
        freshet("experiment", "stop")
        freshet("experiment", "create", "next", "--arm", "one=0.9", "--arm", "two=0.1", "--metric", "buy")
        found = api.get("/v1/experiments").json()
    assert found["running"] == "next"
    listed = [(one["name"], one["state"], one["shares"]["two"]) for one in found["experiments"]]
    assert sorted(listed) == [("exp", "stopped", 0.0), ("next", "running", 0.1)]


@pytest.mark.parametrize("name", ["exq", "..%2F..%2Fetc"])
def test_an_experiment_that_is_not_there_is_a_404(freshet: Freshet, name: str) -> None:
    create(freshet)
    with client(freshet.home) as api:
        answer = api.get(f"/v1/experiments/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in ("unknown_experiment", "not_found")


def test_a_file_that_is_no_experiment_is_said_without_its_path(freshet: Freshet, tmp_path: Path) -> None:
    create(freshet)
    (freshet.home / "experiments" / "exp.json").write_text("{")
    with client(freshet.home) as api:
        answer = api.get("/v1/experiments/exp")
    assert answer.status_code == 503
    assert str(freshet.home) not in answer.text and "this is not an experiment" in answer.text
