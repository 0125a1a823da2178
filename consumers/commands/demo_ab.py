"""`freshet demo --ab`: simulated users are served by two versions; the terminal shows the verdict come."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

from prometheus_client import CollectorRegistry
from rich.live import Live
from rich.text import Text

from consumers.ab import AbDemo
from consumers.ab_picture import save_picture
from consumers.ab_progress import Progress, summary
from consumers.ab_screen import line, screen
from consumers.ab_setting import Challenger
from consumers.commands.output import emit, stderr
from consumers.companion import Companion
from consumers.event_rules import event_rules
from consumers.machine_metrics import announced
from consumers.metrics import serve_metrics
from consumers.plots import check_picture_path
from consumers.settings import Settings
from consumers.signals import stop_on_signals
from state.experiments import Trial

_REDRAW_S = 0.5
_LINE_S = 5.0  # between two lines where there is no terminal


def run_ab(
    settings: Settings,
    *,
    challenger: Challenger,
    events: int | None,
    rate: float,
    seed: int,
    plot: Path | None,
    json: bool,
) -> int:
    """Run the A/B demonstration until it ends, as `freshet demo` describes it."""
    if plot is not None:
        check_picture_path(plot)
    begun, registry, stop = time.monotonic(), CollectorRegistry(), stop_on_signals()
    shown = AbDemo(
        settings, event_rules(settings), registry,
        challenger=challenger, seed=seed, rate=rate or None, more=events,
    )  # fmt: skip
    with ExitStack() as held:
        server = held.enter_context(Companion(settings))
        port = settings.worker.metrics_port
        if port is not None:
            address = f"127.0.0.1:{serve_metrics(registry, port)}"
            held.enter_context(announced(settings.home, "demo", address))
        with Live(console=stderr, auto_refresh=False) as live:
            seen = _Screen(live, shown, server, str(settings.home))
            shown.run(server, stop, seen.look)
            seen.look(final=True)
    if shown.trial is None:
        return 0  # told to stop before it began
    if plot is not None:
        save_picture(shown.progress, shown.trial, challenger, plot)
    if json:
        emit(summary(shown.progress, shown.trial, challenger, time.monotonic() - begun), True)
    stderr.print(_last_words(shown.progress, shown.trial, settings), soft_wrap=True)
    return 0


def _last_words(progress: Progress, trial: Trial, settings: Settings) -> str:
    verdict = progress.looks[-1].verdict if progress.looks else "undecided"
    ended = f"{trial.arms[1]} is {verdict} than {trial.arms[0]}"
    if verdict not in ("better", "worse"):
        ended = f"nothing was shown yet, so {trial.winner} stays"
    return f"Concluded: {ended}. Look again: freshet experiment status {trial.name} --home {settings.home}"


class _Screen:
    """Draws the moment, now and then."""

    def __init__(self, live: Live, demo: AbDemo, server: Companion, home: str) -> None:
        self._live, self._demo, self._server, self._home = live, demo, server, home
        self._begun: float | None = None
        self._last = 0.0
        words = "Both versions learn what users chose before …"
        live.update(Text(words), refresh=True) if stderr.is_terminal else stderr.print(words)

    def look(self, final: bool = False) -> None:
        """Draw, where it is time."""
        now = time.monotonic()
        self._begun = self._begun or now
        demo, is_terminal = self._demo, stderr.is_terminal
        if demo.trial is None or (not final and now - self._last < (_REDRAW_S if is_terminal else _LINE_S)):
            return
        self._last = now
        if not is_terminal:
            stderr.print(line(demo.progress, demo.trial), soft_wrap=True)
            return
        drawn = screen(
            demo.progress, demo.trial, demo.challenger, now - self._begun, self._server.address, self._home
        )
        self._live.update(drawn, refresh=True)
