"""`freshet outcomes`: joins what was served with what happened, until it is told to stop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import structlog
from cyclopts import Parameter
from prometheus_client import CollectorRegistry

from consumers.commands.context import current_settings
from consumers.commands.output import emit
from consumers.commands.work import event_rules, stop_on_signals
from consumers.machine_metrics import announced
from consumers.metrics import serve_metrics
from consumers.outcomes import OutcomeMetrics, Outcomes, opened_store
from consumers.settings import Settings
from state.experiments import Experiments
from streaming.errors import UsageError, VersionError

logger = structlog.get_logger()

_Flag = Annotated[bool, Parameter(negative=())]
_WAIT_S = 0.2  # between two looks at logs that were read to their ends


def outcomes(
    name: str | None = None,
    /,
    *,
    until_end: _Flag = False,
    json: _Flag = False,
) -> int:
    """Join what was served with what happened since, and let the experiment's route follow.

    Reads the exposures and events that `freshet serve` wrote in the home directory. One process joins an
    experiment; it ends by itself once the experiment has ended and both logs were read.

    Parameters
    ----------
    name
        The experiment; without it, the one that runs.
    until_end
        Stop at the end of both logs. Only records then tell how far time has gone, so the same logs give
        the same store, byte by byte.
    json
        Print {experiment, records, users, open_windows, joined_until_us} at the end.
    """
    settings = current_settings()
    if settings.kafka.bootstrap_servers:
        raise UsageError("`freshet outcomes` reads the logs of the home directory; Kafka's it cannot read.")
    if name is None:
        running = Experiments(settings.home).running()
        if running is None:
            raise VersionError("No experiment runs. Begin one with `freshet experiment create`, or name one.")
        name = running.name
    Experiments(settings.home).get(name)
    stop = stop_on_signals()
    read = 0
    with ExitStack() as held:
        store = held.enter_context(opened_store(settings.home, name))
        registry = CollectorRegistry()
        joined = Outcomes(settings.home, name, store, event_rules(settings), OutcomeMetrics(registry))
        if not until_end:
            held.enter_context(_metrics_page(name, registry, settings))
        logger.info("outcomes_begun", experiment=name)
        while not stop.is_set():
            lines = joined.step(None if until_end else time.time())
            read += lines
            if not lines and (until_end or joined.trial.ended):
                break
            if not lines:
                stop.wait(_WAIT_S)
        verdict = joined.verdict()
    emit(_report(name, read, verdict), json)
    return 0


@contextmanager
def _metrics_page(name: str, registry: CollectorRegistry, settings: Settings) -> Iterator[None]:
    """The metrics page, where the settings want one (worker.metrics_port, or the next free one)."""
    worker = settings.worker
    if worker.metrics_port is None:
        yield
        return
    port = serve_metrics(registry, worker.metrics_port, worker.metrics_host)
    address = f"{'127.0.0.1' if worker.metrics_host == '0.0.0.0' else worker.metrics_host}:{port}"
    logger.info("metrics_served", address=f"http://{address}/metrics")
    with announced(settings.home, f"outcomes-{name}", address):
        yield


def _report(name: str, read: int, verdict: dict[str, Any]) -> dict[str, Any]:
    kept = {key: verdict[key] for key in ("users", "open_windows", "joined_until_us")}
    return {"experiment": name, "records": read, **kept}
