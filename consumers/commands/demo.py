"""`freshet demo`: a simulated stream is learned live, and the terminal shows how well it goes."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.live import Live

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, stderr
from consumers.settings import Settings
from streaming.errors import UsageError

if TYPE_CHECKING:
    from consumers.companion import Companion
    from consumers.demo import Demo

_REDRAW_S = 0.5
_LINE_S = 5.0  # between two lines where there is no terminal


def demo(
    *,
    events: int | None = None,
    rate: float = 5000.0,
    seed: int = 1,
    server: bool = True,
    ab: Switch = False,
    challenger: Literal["better", "worse"] = "worse",
    plot: Path | None = None,
    json: Switch = False,
) -> int:
    """Learn a simulated stream live: the default learner beside popularity and beside the best possible.

    A shop's clickstream is made up as it goes, and two versions learn it, each event predicted before
    it is learned. The simulator knows its users' true preferences, so it is known how good the best
    prediction can be. Started again, it goes on where it was.

    With --ab, simulated users are served by two versions, choose by their true preferences from what they
    see, and are counted: watch the verdict come in, and the guardrail take a bad challenger out of the route.

    Parameters
    ----------
    events
        End after so many more events (with --ab: lists served) with a summary; without it, Ctrl-C ends.
    rate
        Events a second; 0 for as many as can be learned.
    seed
        Of the simulated world.
    server
        Answer queries over HTTP meanwhile, from a process of its own; --no-server leaves it out.
    ab
        Show an experiment of two versions, in a home that holds no other events.
    challenger
        With --ab, what the challenger truly is.
    plot
        With --ab, write a picture of how the verdict came in: a file that ends in .png, .svg or .pdf.
    json
        Print the summary as JSON.
    """
    _check_numbers(events, rate)
    _check_ab(ab, server, plot)
    stderr.print("Starting …")
    # Imported after the first words, because compiled code takes a moment to load.
    if ab:
        from consumers.commands.demo_ab import run_ab

        return run_ab(
            current_settings(), challenger=challenger, events=events, rate=rate, seed=seed, plot=plot,
            json=json,
        )  # fmt: skip
    return _run(current_settings(), events=events, rate=rate, seed=seed, server=server, json=json)


def _run(settings: Settings, *, events: int | None, rate: float, seed: int, server: bool, json: bool) -> int:
    """Run the demonstration without an experiment until it ends, as `freshet demo` describes it."""
    started = time.monotonic()
    from prometheus_client import REGISTRY

    from consumers.companion import Companion
    from consumers.demo import Demo, summary
    from consumers.machine_metrics import announced
    from consumers.metrics import WorkerMetrics, serve_metrics
    from consumers.signals import stop_on_signals
    from streaming.kernels import cache_home

    if not cache_home().is_dir():
        stderr.print("Compiling kernels for this machine, once; about a minute.")
    with ExitStack() as held:
        beside = held.enter_context(Companion(settings)) if server else None
        shown = Demo(settings, WorkerMetrics(REGISTRY), seed=seed, rate=rate or None, more=events)
        held.callback(shown.close)
        port, where = settings.worker.metrics_port, "off"
        if port is not None:
            address = f"127.0.0.1:{serve_metrics(REGISTRY, port)}"
            held.enter_context(announced(settings.home, "demo", address))
            where = f"http://{address}/metrics"
        with Live(console=stderr, auto_refresh=False) as live:
            seen = _Screen(live, shown, beside, where, str(settings.home))
            shown.run(stop_on_signals(), seen.look)
            seen.look(final=True)
        picture = shown.picture()
    if json:
        emit(summary(picture, time.monotonic() - started), True)
    ask = f"{sys.argv[0]} query recommend {picture.user} --version demo --home {settings.home}"
    stderr.print(f"Kept in {settings.home}. Ask it: {ask}", soft_wrap=True)
    return 0


class _Screen:
    """Draws the picture of the moment, now and then."""

    def __init__(self, live: Live, demo: Demo, server: Companion | None, metrics: str, home: str) -> None:
        self._live, self._demo, self._server = live, demo, server
        self._metrics, self._home = metrics, home
        self._started = time.monotonic()
        # The first picture of a pipe comes after a while: at once there is nothing to see.
        self._last = 0.0 if stderr.is_terminal else self._started
        self._told = False

    def look(self, final: bool = False) -> None:
        """Draw, where it is time."""
        from consumers.screen import line, screen, try_it

        now = time.monotonic()
        if not final and now - self._last < (_REDRAW_S if stderr.is_terminal else _LINE_S):
            return
        self._last = now
        picture = self._demo.picture()
        address = self._server.address if self._server is not None else ""
        if stderr.is_terminal:
            drawn = screen(picture, now - self._started, self._metrics, self._home, address)
            self._live.update(drawn, refresh=True)
            return
        if address and not self._told:
            stderr.print(try_it(address, picture.user), soft_wrap=True)
            self._told = True
        stderr.print(line(picture), soft_wrap=True)


def _check_ab(ab: bool, server: bool, plot: Path | None) -> None:
    """Raises UsageError for options that do not go together."""
    if ab and not server:
        raise UsageError("--ab serves its users from the server beside it; leave --no-server out.")
    if plot is not None and not ab:
        raise UsageError("--plot belongs to --ab; give both.")


def _check_numbers(events: int | None, rate: float) -> None:
    """Raises UsageError for numbers that make no sense."""
    if events is not None and events < 1:
        raise UsageError(f"--events must be at least 1, got {events}.")
    if not 0 <= rate < float("inf"):
        raise UsageError(
            f"--rate must be 0 (as fast as possible) or a number of events a second, got {rate}."
        )
