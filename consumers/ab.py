"""The A/B demonstration: simulated users are served, choose and are counted; the verdict leaves as it comes.

Nothing stands in for a part of the real way: `freshet serve` in a process of its own answers by the route,
notes what it served and takes events in; two workers learn these events; the joiner judges and steers.
Only the users are simulated (`streaming/simulated_visits.py`), and so it is known which version is better.

One round:  1. visit   users come one after the other: each is served a list and chooses
            2. post    what they chose goes to the server; what came from a list names it
            3. learn   both versions learn what the log holds by now
            4. join    exposures and events are joined, users enter, the route follows
            5. note    the verdict of the moment, for the picture
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from threading import Event as Flag
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from consumers.ab_progress import Progress, Truth, Visit
from consumers.ab_setting import (
    METRIC,
    WARM_UP,
    Challenger,
    arms_of,
    has_events,
    is_ours,
    trial_of,
    users_of,
    versions_of,
)
from consumers.ab_shop import Shop
from consumers.companion import Companion
from consumers.demo_workers import opened_learned, opened_worker
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.files import FilesLog
from consumers.eventlog.segments import EVENTS, Segments
from consumers.experiments import begin, end
from consumers.metrics import VersionMetrics, WorkerMetrics
from consumers.outcomes import Outcomes
from consumers.outcomes_logs import segment_logs
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store
from consumers.settings import Settings
from state.experiments import Experiments, Trial
from state.releases import Releases
from streaming.errors import InputError
from streaming.rules import EventRules

LISTED = 10  # items of a list
_ROUND = 32  # visits
_POSTED = 5_000  # events of one request
_POLLED = 4_096
_PATIENCE_S = 120.0  # for a server to start, and for the last windows to close


class AbDemo:
    """An experiment of two versions on simulated users.

    Args:
        challenger: whether the challenger is truly better or worse than the champion.
        rate: visits a second at most; None for as many as can be served.
        more: visits after which it ends; None for never.

    Raises:
        UsageError: the home is not one for demonstrations.
        VersionError: its versions were taught by another world.
    """

    def __init__(
        self, settings: Settings, rules: EventRules, metrics: CollectorRegistry, *,
        challenger: Challenger, seed: int, rate: float | None, more: int | None,
    ) -> None:  # fmt: skip
        self.challenger, self.progress = challenger, Progress()
        self.trial: Trial | None = None
        self._settings, self._rules = settings, rules
        self._rate, self._more = rate, more
        self._metrics, self._version_metrics = metrics, WorkerMetrics(metrics)
        self._versions, self._users = versions_of(settings, seed), users_of(seed)
        self._open = ExitStack()
        self._workers: list[tuple[EmbeddingWorker, FilesLog, VersionMetrics]] = []

    def run(self, server: Companion, stop: Flag, look: Callable[[], None]) -> None:
        """Serve users until told to stop, or until so many have come.

        Args:
            server: of the same home.
            look: called after each round.
        """
        with self._open:
            address = _address(server, stop)
            if address is not None:
                with Shop(address, self._settings.serve.token) as shop:
                    self._serve(shop, stop, look)

    def _serve(self, shop: Shop, stop: Flag, look: Callable[[], None]) -> None:
        self._warm_up(shop, stop)
        if stop.is_set():
            return
        joined, begun = self._begin(), time.monotonic()
        while not stop.is_set() and self._left() > 0:
            self._round(shop, joined)
            look()
            self._pace(stop, begun)
        self._close_windows(joined, stop, look)
        for worker, _, _ in self._workers:
            worker.commit()
        self._end(joined.trial)

    def _warm_up(self, shop: Shop, stop: Flag) -> None:
        """Both versions learn what users chose before anybody was served."""
        events = self._settings.home / EVENTS
        Segments(events).settle()
        for version in self._versions:
            learned = opened_learned(version, self._settings, self._open)
            log = FilesLog([events], self._rules, follow=True)
            self._open.callback(log.close)
            metrics = self._version_metrics.of(version.name)
            worker = opened_worker(version, learned, log, self._settings, metrics, self._open)
            self._workers.append((worker, log, metrics))
        if has_events(self._settings.home):
            self._users.skip(WARM_UP)
        else:
            for done in range(0, WARM_UP, _POSTED):
                lines = self._users.events(min(_POSTED, WARM_UP - done)).json_lines().splitlines()
                shop.post([msgspec.json.decode(line) for line in lines])
        for worker, _, _ in self._workers:
            worker.begin()
        while self._learn() and not stop.is_set():
            pass

    def _begin(self) -> Outcomes:
        """Begin the experiment and its joiner."""
        home, champion = self._settings.home, arms_of(self.challenger)[0]
        experiments, releases = Experiments(home), Releases(home)
        left = experiments.running()
        if left is not None and is_ours(left):
            end(home, left, "stopped", "the demonstration was cut off")
        if releases.read().champion is None:
            releases.promote(champion, "the demonstration's champion")
        trial = trial_of(self.challenger, experiments.names())
        begin(home, trial, f"the demonstration's challenger is truly {self.challenger}")
        store = self._open.enter_context(opened_store(home, trial.name))
        opened = partial(segment_logs, home)
        joined = Outcomes(home, trial.name, store, self._rules, OutcomeMetrics(self._metrics), opened)
        self._note(joined)
        return joined

    def _round(self, shop: Shop, joined: Outcomes) -> None:
        events = []
        size = _ROUND if self._rate is None else max(1, min(_ROUND, int(self._rate / 10)))
        for _ in range(min(size, self._left())):  # 1
            events.append(self._visit(shop))
        shop.post(events)  # 2
        self._learn()  # 3
        self._join(joined)  # 4, 5

    def _visit(self, shop: Shop) -> dict[str, Any]:
        """A user is served and chooses; the event that comes of it."""
        user = f"user-{self._users.visitor():06d}"
        served = shop.serve(user, LISTED)
        chosen = self._users.choose([int(item.removeprefix("item-")) for item in served.items])
        progress = self.progress
        progress.visits += 1
        progress.noted += served.exposure is not None
        progress.truth.setdefault(served.version, Truth()).add(chosen.chance)
        progress.shown = Visit(user, served.version, chosen.position)
        event = {"user": user, "item": f"item-{chosen.item:06d}", "ts": int(time.time() * 1e6)}
        if chosen.position is None:
            return {**event, "type": "view"}
        return {**event, "type": METRIC, "exposure": served.exposure}

    def _learn(self) -> bool:
        """Let both versions learn what there is by now; whether there was anything."""
        any_found = False
        for worker, log, metrics in self._workers:
            before = time.perf_counter()
            found = log.poll(_POLLED, 0.0)
            metrics.observe_turn()
            if found is not None:
                worker.take(found, time.perf_counter() - before)
                any_found = True
            worker.commit_if_due()
            worker.answer()
            worker.learned.arena.beat()
        return any_found

    def _join(self, joined: Outcomes) -> None:
        while joined.step(time.time()):
            pass
        self._note(joined)

    def _note(self, joined: Outcomes) -> None:
        self.trial = joined.trial
        self.progress.note(joined.verdict(), joined.trial)

    def _close_windows(self, joined: Outcomes, stop: Flag, look: Callable[[], None]) -> None:
        """Wait until the users who were served last have entered, and each noted list is counted."""
        until = time.monotonic() + _PATIENCE_S
        while not stop.is_set() and time.monotonic() < until:
            self._learn()
            self._join(joined)
            look()
            if self.progress.lists_counted >= self.progress.noted:
                return
            stop.wait(0.1)

    def _end(self, trial: Trial) -> None:
        """Conclude with the arm that is best as far as is shown; the route is free again."""
        home = self._settings.home
        if not trial.ended:
            best = self.progress.verdict.get("best", trial.arms[0])
            end(home, trial, "concluded", "the demonstration ended", best)
        self.trial = Experiments(home).get(trial.name)

    def _left(self) -> int:
        return _ROUND if self._more is None else self._more - self.progress.visits

    def _pace(self, stop: Flag, begun: float) -> None:
        if self._rate is not None:
            stop.wait(max(0.0, begun + self.progress.visits / self._rate - time.monotonic()))


def _address(server: Companion, stop: Flag) -> str | None:
    """The server's address, once it answers; None when told to stop before."""
    until = time.monotonic() + _PATIENCE_S
    while not (address := server.address):
        if time.monotonic() > until:
            raise InputError(f"The server has not started within {_PATIENCE_S:g} s. Is the machine busy?")
        if stop.wait(0.05):
            return None
    return address
