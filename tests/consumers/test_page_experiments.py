"""The experiment on the live page: what the feed tells of it, and how it is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.browser import browser_path, browsing
from consumers.experiment_status import status_of
from consumers.experiments import begin
from consumers.machine_metrics import announced
from consumers.outcomes_store import VERDICT, opened_store
from consumers.page_experiments import ExperimentPicture
from consumers.page_metrics import MetricsPages
from state.experiments import Trial
from state.releases import Releases
from streaming.experiments import Design, Experiment, summary
from tests.consumers.served import taught
from tests.consumers.test_server_process import server

HOSTILE = "<img src=x onerror=window.broken=1>"


def began(home: Path) -> Trial:
    """An experiment of two versions that run."""
    for name in ("one", "two"):
        taught(home, name)
    Releases(home).promote("one")
    design = Design(guardrail=-0.03)
    trial = Trial("exp", {"one": 0.5, "two": 0.5}, "purchase", design.state(), "5a17", 10**6, 10**6)
    begin(home, trial)
    return trial


def judged(home: Path, users: int, rates: tuple[float, float]) -> dict[str, Any]:
    """A verdict in the store of outcomes, as `freshet outcomes` keeps it."""
    people = np.arange(users)
    experiment = Experiment(Design(guardrail=-0.03), {"one": 0.5, "two": 0.5})
    bought = (people // 2 % 100) < 100 * np.where(people % 2, rates[1], rates[0])
    experiment.add(people % 2, bought.astype(float), np.zeros(users, np.int64))
    verdict = {**summary(experiment), "best": "one", "open_windows": 3, "joined_until_us": 10**15}
    kept = json.dumps(verdict)
    with opened_store(home, "exp") as store:
        store.write([(VERDICT, kept.encode())], [])
    read: dict[str, Any] = json.loads(kept)
    return read


def found(home: Path) -> dict[str, Any] | None:
    picture = ExperimentPicture(home)
    picture._found = picture._look()
    return picture.picture(MetricsPages(home, lambda *_: None))


def test_nothing_is_told_without_an_experiment_and_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "bad.json").write_text("{")
    told = found(tmp_path)
    assert told is not None and "bad.json" in told["error"]


def test_figures_are_those_of_status_before_and_after_users_entered(tmp_path: Path) -> None:
    began(tmp_path)
    told = found(tmp_path)
    assert told is not None
    assert (told["users"], told["joined"], told["joiner"]) == (0, None, None)
    verdict = judged(tmp_path, 4000, (0.1, 0.2))
    told, status = found(tmp_path), status_of(tmp_path, "exp")
    assert told is not None
    for key in ("users", "arms", "challengers", "sample_ratio", "looks"):
        assert told[key] == status[key] == verdict[key], key
    looks = told["looks"]["two"]
    assert [look[0] for look in looks] == list(range(100, 4001, 100))
    ends = told["challengers"]["two"]["lift_interval"]
    assert looks[-1][2:] == pytest.approx(ends, abs=1e-5)


@pytest.mark.skipif(browser_path() is None, reason="no Chromium is installed here")
def test_intervals_verdict_and_what_is_wrong_are_drawn_in_a_real_browser(tmp_path: Path) -> None:
    began(tmp_path)
    judged(tmp_path, 4000, (0.2, 0.1))
    with server(tmp_path) as (_, address), browsing() as tab:
        tab.size(390, 844, phone=True)
        tab.open(address)
        tab.wait("document.querySelectorAll('#experiment-chart .band').length === 1")
        assert tab.value("document.documentElement.scrollWidth <= innerWidth")
        tab.wait("$('experiment-arms').textContent.includes('worse')")
        for trouble in ("two: worse than", "Nothing joins outcomes"):
            tab.wait(f"$('experiment-trouble').textContent.includes({json.dumps(trouble)})")
        with announced(tmp_path, "outcomes-exp", "127.0.0.1:1"):  # killed: nothing answers there
            tab.wait("$('experiment-trouble').textContent.includes('outcomes” does not answer')")
        # How soon is measured by benchmarks/soak.py.
        tab.wait("performance.getEntriesByName('first-contentful-paint').length === 1")
        tab.value(
            f"state.experiment.name = state.experiment.why = {json.dumps(HOSTILE)};"
            f"state.experiment.arms = {{[{json.dumps(HOSTILE)}]: state.experiment.arms.one}};"
            "state.experiment.challengers = {}; state.experiment.looks = {}; drawExperiment();"
        )
        assert tab.value("document.querySelectorAll('main img').length") == 0
        assert tab.value("typeof window.broken") == "undefined"
        assert not tab.problems
