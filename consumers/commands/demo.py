"""`freshet demo`: a simulated stream is learned live, and the terminal shows how well it goes."""

from __future__ import annotations

import sys
import time
from typing import Annotated

from cyclopts import Parameter
from rich.live import Live

from consumers.commands.context import current_settings
from consumers.commands.output import emit, stderr
from streaming.errors import UsageError

_REDRAW_S = 0.5
_LINE_S = 5.0  # between two lines where there is no terminal


def demo(
    *,
    events: int | None = None,
    rate: float = 5000.0,
    seed: int = 1,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Learn a simulated stream live: the default learner beside popularity and beside the best possible.

    A shop's clickstream is made up as it goes, and two versions learn it, each event predicted before
    it is learned. The simulator knows its users' true preferences, so it is known how good the best
    prediction can be. Started again, it goes on where it was.

    Parameters
    ----------
    events
        End after so many more events with a summary; without it, Ctrl-C ends.
    rate
        Events a second; 0 for as many as can be learned.
    seed
        Of the simulated world.
    json
        Print the summary as JSON.
    """
    _check_numbers(events, rate)
    started = time.monotonic()
    stderr.print("Starting …")
    # Imported after the first words, because compiled code takes a moment to load.
    from prometheus_client import REGISTRY

    from consumers.commands.work import stop_on_signals
    from consumers.demo import Demo, summary
    from consumers.metrics import WorkerMetrics, serve_metrics
    from consumers.screen import line, screen
    from streaming.kernels import cache_home

    settings = current_settings()
    if not cache_home().is_dir():
        stderr.print("Compiling kernels for this machine, once; about a minute.")
    shown = Demo(settings, WorkerMetrics(REGISTRY), seed=seed, rate=rate or None, more=events)
    port, where = settings.worker.metrics_port, "off"
    if port is not None:
        where = f"http://127.0.0.1:{serve_metrics(REGISTRY, port)}/metrics"
    # The first picture of a pipe comes after a while: at once there is nothing to see.
    last = 0.0 if stderr.is_terminal else time.monotonic()
    with Live(console=stderr, auto_refresh=False) as live:

        def look(final: bool = False) -> None:
            nonlocal last
            now = time.monotonic()
            if final or now - last >= (_REDRAW_S if stderr.is_terminal else _LINE_S):
                last = now
                picture = shown.picture()
                if stderr.is_terminal:
                    live.update(screen(picture, now - started, where, str(settings.home)), refresh=True)
                else:
                    stderr.print(line(picture), soft_wrap=True)

        try:
            shown.run(stop_on_signals(), look)
            look(final=True)
            picture = shown.picture()
        finally:
            shown.close()
    if json:
        emit(summary(picture, time.monotonic() - started), True)
    ask = f"{sys.argv[0]} query recommend {picture.user} --version demo --home {settings.home}"
    stderr.print(f"Kept in {settings.home}. Ask it: {ask}", soft_wrap=True)
    return 0


def _check_numbers(events: int | None, rate: float) -> None:
    """Raises UsageError for numbers that make no sense."""
    if events is not None and events < 1:
        raise UsageError(f"--events must be at least 1, got {events}.")
    if not 0 <= rate < float("inf"):
        raise UsageError(
            f"--rate must be 0 (as fast as possible) or a number of events a second, got {rate}."
        )
