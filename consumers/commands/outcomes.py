"""`freshet outcomes`: joins what was served with what happened, until it is told to stop."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from threading import Event
from typing import Any, Literal

import structlog

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit
from consumers.event_rules import event_rules
from consumers.machine_metrics import process_registry
from consumers.metrics_server import metrics_page
from consumers.outcomes import Opened, Outcomes
from consumers.outcomes_logs import segment_logs
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store
from consumers.settings import Settings
from consumers.signals import stop_on_signals
from state.experiments import Experiments
from streaming.errors import VersionError

logger = structlog.get_logger()

_LOOK_S = 1.0  # between two looks for an experiment that has begun


def outcomes(
    name: str | None = None,
    /,
    *,
    until_end: Switch = False,
    wait: Switch = False,
    on_lost_offsets: Literal["earliest", "latest", "stop"] = "stop",
    json: Switch = False,
) -> int:
    """Join what was served with what happened since, and let the experiment's route follow.

    Reads both from Kafka where kafka.bootstrap_servers is set, else what `freshet serve` wrote in the home
    directory. One process joins an experiment; it ends by itself once the experiment has ended and both
    logs were read.

    Parameters
    ----------
    name
        The experiment; without it, the one that runs.
    until_end
        Stop at the end of both logs. Only records then tell how far time has gone, so the same logs give
        the same store, byte by byte.
    wait
        Where no experiment runs, wait until one begins; the metrics page is there all the time.
    on_lost_offsets
        What to do where Kafka no longer has what comes next (retention passed it, the topic was made
        anew, the log lost records): go on at the earliest or the latest record, or stop.
    json
        Print {experiment, records, users, open_windows, joined_until_us} at the end.
    """
    settings, stop, registry = current_settings(), stop_on_signals(), process_registry()
    with ExitStack() as held:
        if wait and not until_end:
            held.enter_context(metrics_page(settings, "outcomes", registry))
        name = name or _running(settings, stop if wait else None)
        if name is None:
            return 0
        Experiments(settings.home).get(name)
        store = held.enter_context(opened_store(settings.home, name))
        logs = _logs(settings, on_lost_offsets, until_end)
        joined = Outcomes(settings.home, name, store, event_rules(settings), OutcomeMetrics(registry), logs)
        held.enter_context(closing(joined))
        if not wait and not until_end:
            held.enter_context(metrics_page(settings, f"outcomes-{name}", registry))
        logger.info("outcomes_begun", experiment=name)
        read = joined.run(stop, until_end=until_end)
        verdict = joined.verdict()
    emit(_report(name, read, verdict), json)
    return 0


def _running(settings: Settings, stop: Event | None) -> str | None:
    """The experiment that runs; where there is none, wait for it, None once told to stop."""
    experiments, waits = Experiments(settings.home), False
    while (running := experiments.running()) is None:
        if stop is None:
            raise VersionError("No experiment runs. Begin one with `freshet experiment create`, or name one.")
        if not waits:
            logger.info("outcomes_waiting")
            waits = True
        if stop.wait(_LOOK_S):
            return None
    return running.name


def _logs(settings: Settings, on_lost: Literal["earliest", "latest", "stop"], until_end: bool) -> Opened:
    """What opens the logs: Kafka's topics where Kafka is set, else those of the home directory."""
    if not settings.kafka.bootstrap_servers:
        return partial(segment_logs, settings.home)
    from consumers.outcomes_topics import topic_logs

    return partial(topic_logs, settings, on_lost=on_lost, until_end=until_end)


def _report(name: str, read: int, verdict: dict[str, Any]) -> dict[str, Any]:
    kept = {key: verdict[key] for key in ("users", "open_windows", "joined_until_us")}
    return {"experiment": name, "records": read, **kept}
