"""The newest experiment of a home enters; what the page draws of it leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from consumers.experiment_status import newest
from consumers.experiments import blank
from consumers.outcomes_store import read_verdict
from consumers.page_metrics import MetricsPages
from state.experiments import Experiments, Trial
from streaming.errors import FreshetError, VersionError
from streaming.experiments import summary

_EVERY = 3  # pictures, between two looks at the store of outcomes


class ExperimentPicture:
    """The experiment that runs, else the one that began last; used from one event loop."""

    def __init__(self, home: Path) -> None:
        self._home, self._experiments = home, Experiments(home)
        self._reading: asyncio.Task[None] | None = None
        self._found: dict[str, Any] | None = None

    def read(self, number: int) -> None:
        """Begin to read it, at every few pictures, beside what else is read."""
        if number % _EVERY == 0 and (self._reading is None or self._reading.done()):
            self._reading = asyncio.create_task(self._read())

    def picture(self, pages: MetricsPages) -> dict[str, Any] | None:
        """What there is to draw; None without any experiment.

        Returns:
            `joiner`: how the process is that joins it, None where none has announced itself.
        """
        if self._found is None or "error" in self._found:
            return self._found
        page = pages.joining(self._found["name"])
        return {**self._found, "joiner": page.state if page is not None else None}

    async def _read(self) -> None:
        self._found = await asyncio.to_thread(self._look)

    def _look(self) -> dict[str, Any] | None:
        try:
            name = newest(self._experiments)
        except VersionError:  # there is none
            return None
        except FreshetError as error:
            return {"error": str(error)}
        try:
            return _drawn(self._experiments.get(name), read_verdict(self._home, name))
        except FreshetError as error:
            return {"error": f'The experiment "{name}": {error}'}


def _drawn(trial: Trial, verdict: dict[str, Any] | None) -> dict[str, Any]:
    found = verdict if verdict is not None else summary(blank(trial))
    until = found.get("joined_until_us")
    shares = trial.phases[-1].shares if trial.phases else trial.shares
    return {
        "name": trial.name,
        "state": trial.state,
        "metric": trial.metric,
        "measure": trial.design["metric"],
        "winner": trial.winner,
        "why": trial.why,
        "began": trial.phases[0].since_us / 1e6 if trial.phases else None,
        "joined": until / 1e6 if until else None,
        "users": found["users"],
        "open": found.get("open_windows", 0),
        "arms": {arm: {**one, "share": shares[arm]} for arm, one in found["arms"].items()},
        "challengers": found["challengers"],
        "sample_ratio": found["sample_ratio"],
        "looks": found.get("looks", {}),
    }
