"""The endpoints of experiments: a name enters; shares, users, verdicts and their reasons leave."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path as Directory
from typing import Annotated

import msgspec
from fastapi import Path
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from consumers.experiment_forms import ExperimentForm, ExperimentListed, ExperimentsForm
from consumers.experiment_status import status_of
from consumers.server_errors import RequestError
from consumers.server_routes import Route, reply
from state.experiments import Experiments, Trial
from streaming.errors import nearest

Name = Annotated[str, Path(min_length=1, description="The experiment's name.")]


class Trials:
    """What these paths do.

    Args:
        home: whose experiments they are.
    """

    def __init__(self, home: Directory) -> None:
        self._home, self._experiments = home, Experiments(home)

    def routes(self) -> list[Route]:
        """Their paths."""
        return [
            Route("/v1/experiments", self.experiments, "Experiments", (503,)),
            Route("/v1/experiments/{name}", self.experiment, "Experiment", (404, 422, 503)),
        ]

    async def experiments(self) -> Response:
        """All experiments, the newest first, and the one that takes users now."""
        return reply(await run_in_threadpool(self._listed))

    async def experiment(self, name: Name) -> Response:
        """Users, outcomes, lifts and verdicts of an experiment, each with its reason."""
        return reply(await run_in_threadpool(self._status, name))

    def _listed(self) -> ExperimentsForm:
        found = [self._experiments.get(name) for name in self._experiments.names()]
        found.sort(key=lambda trial: trial.phases[0].since_us if trial.phases else 0, reverse=True)
        running = next((trial.name for trial in found if trial.state == "running"), None)
        return ExperimentsForm(running, [_listed(trial) for trial in found])

    def _status(self, name: str) -> ExperimentForm:
        names = self._experiments.names()
        if name not in names:
            message = f"There is no experiment of that name.{nearest(name, names)}"
            raise RequestError(404, message, code="unknown_experiment")
        return msgspec.convert(status_of(self._home, name), ExperimentForm)


def _listed(trial: Trial) -> ExperimentListed:
    begun = datetime.fromtimestamp(trial.phases[0].since_us // 1_000_000, UTC) if trial.phases else None
    shares = trial.phases[-1].shares if trial.phases else trial.shares
    return ExperimentListed(trial.name, trial.state, trial.metric, shares, begun, trial.winner)
