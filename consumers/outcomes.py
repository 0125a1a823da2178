"""Exposures and events enter; each user's outcome, verdicts and shares leave.

HOME/outcomes/NAME holds a RocksDB of the experiment, with one writer (`consumers.outcomes_store`).

One step:  1. erase    forget users who are on the list of erasures
           2. read     lines of the log that is further behind in event time, and of the other one at its end
           3. join     exposures and events, by user
           4. count    users whose windows have closed, in the phase of their first exposure
           5. commit   rows, positions, sums and verdict in one batch, at once or a little later
           6. steer    the route follows guardrail, ramp and bandit as committed; what a kill left undone is
                       done at the next step
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import compress
from pathlib import Path
from threading import Event as Flag
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.exposing import EXPOSURES
from consumers.outcomes_judgement import Judgement
from consumers.outcomes_logs import OutcomeLog
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_notes import notes
from consumers.outcomes_records import EventReader, Lines, read_exposures
from consumers.outcomes_route import is_steered, steered, taken_away
from consumers.outcomes_store import ENTERED, JOIN, VERDICT, WINDOW, Entered
from state.erasure import Passed
from state.erasure_list import Erasures, read_erasures
from state.experiments import Experiments, Trial
from state.releases import Releases
from state.rocksdb import RocksStore
from streaming.errors import VersionError
from streaming.events import Ids
from streaming.experiments import summary, winner
from streaming.joining import SECOND, Among, Joiner
from streaming.rules import EventRules

logger = structlog.get_logger()

READ_BYTES = 1 << 20  # of a log, in one step
COMMIT_S = 0.5  # between two commits while there is more to read
_WAIT_S = 0.2  # between two looks at logs that were read to their ends
_COLLECT = 100_000  # objects that are made until the collector of cycles looks
_AHEAD_US = 60 * SECOND  # a source that is further ahead of others than this and the lateness waits for them

Opened = Callable[[Trial, Mapping[str, Any]], Sequence[OutcomeLog]]


class Outcomes:
    """The join of one experiment, and what follows from it.

    Args:
        store: the experiment's own; closed by who opened it.
        opened: the experiment and the positions kept in the store → both logs, closed with this;
            None: nothing is read.
        most: bytes that a step reads of each log, at least, where there are so many.
        commit_s: seconds between two commits while there is more to read; changes nothing but the speed.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        store: RocksStore,
        rules: EventRules,
        metrics: OutcomeMetrics,
        opened: Opened | None = None,
        *,
        most: int = READ_BYTES,
        commit_s: float = COMMIT_S,
    ) -> None:
        self._home, self._name, self._store = home, name, store
        self._metrics, self._most, self._commit_s = metrics, most, commit_s
        self._experiments, self._releases = Experiments(home), Releases(home)
        self.trial = self._experiments.get(name)
        if not self.trial.phases:
            raise VersionError(f'The experiment "{name}" was not begun. Create it again.')
        kept = store.get_many([JOIN])[0]
        saved: dict[str, Any] = msgspec.json.decode(kept) if kept is not None else {}
        self._positions: dict[str, Any] = saved.get("positions", {})
        self._logs = list(opened(self.trial, self._positions)) if opened is not None else []
        self._entered = Entered(store)
        reached = saved["joiner"]["reached"] if saved else {}
        self.joiner = Joiner(
            self.trial.arms,
            [source for log in self._logs for source in log.sources] or list(reached) or [EXPOSURES],
            window_us=self.trial.window_us,
            lateness_us=self.trial.lateness_us,
            entered=self._entered,
            moved=lambda user, first, end: self.trial.moved(user, first, end),
        )
        begin_us = self.trial.phases[0].since_us - self.joiner.skew_us
        self._events = EventReader(
            rules, self.trial.metric, begin_us, self.trial.lateness_us, saved.get("units", {})
        )
        self._erased = int(saved.get("erased", 0))
        self._passed_over: dict[str, int] = {"bad": 0, "ahead": 0, **saved.get("passed_over", {})}
        self._passed: Passed | None = None
        self._changed, self._drained, self._committed_at = False, False, time.monotonic()
        self.judgement = Judgement(self.trial, saved)
        if saved:
            rows = ((key[1:].decode(), value) for key, value in store.scan(WINDOW))
            self.joiner.restore(saved["joiner"], rows)
        metrics.show(name, self.judgement.experiment)

    def close(self) -> None:
        """Close the logs; what was not committed is read again by the next who opens them."""
        for log in self._logs:
            log.close()

    @property
    def at_end(self) -> bool:
        """Whether both logs were read to their ends."""
        return all(log.ended for log in self._logs)

    def step(self, now_s: float | None = None) -> int:
        """Read some of the logs, as the module says; returns the lines read.

        Args:
            now_s: the time now, not later than this call. A source that was read to its end since brings
                nothing older than this less the lateness. None where only records tell how far time has gone.
        """
        self.trial = self._experiments.get(self._name)
        self._changed |= self._erase()  # 1
        read = self._read()  # 2, 3
        silent = [source for log in self._logs for source in log.silent()] if now_s is not None else []
        if now_s is not None and not self.trial.ended:
            for source in silent:
                self.joiner.advance(source, int(now_s * SECOND))
        self._changed |= self._count()  # 4
        if self._changed and (self._drained or time.monotonic() - self._committed_at >= self._commit_s):
            self.commit()  # 5
        if not self._changed:
            self.steer()  # 6
        return read

    def run(self, stop: Flag, *, until_end: bool = False) -> int:
        """Join until the experiment has ended, or the logs with `until_end`, or `stop` is set.

        Returns:
            Lines that were read.
        """
        read, thresholds = 0, gc.get_threshold()
        # What is held has no cycles, and looking through it again and again takes a third of the time.
        gc.set_threshold(_COLLECT, *thresholds[1:])
        try:
            while not stop.is_set():
                read += self.step(None if until_end else time.time())
                if self._drained and self.at_end and (until_end or self.trial.ended):
                    break
                if self._drained:
                    stop.wait(_WAIT_S)
            self.finish(to_end=until_end and self.at_end)
        finally:
            gc.set_threshold(*thresholds)
        return read

    def finish(self, *, to_end: bool = False) -> None:
        """Commit what was read, and steer.

        Args:
            to_end: both logs were read to their ends, where only records tell how far time has gone: each
                source of a log is as far as the furthest of them.
        """
        for log in self._logs if to_end else ():
            reached = [ts for s in log.sources if (ts := self.joiner.reached.get(s)) is not None]
            for source in log.sources if reached else ():
                self._changed |= self.joiner.reached.get(source) != max(reached)
                self.joiner.advance(source, max(reached))
        self._changed |= self._count()
        if self._changed:
            self.commit()
        self.steer()

    def _read(self) -> int:
        """Read the log that is further behind, and the other one only once that has nothing more."""
        self._hold()
        read, self._drained = 0, True
        for log in sorted(self._logs, key=self._behind):
            taken = 0
            while taken < self._most and (lines := log.read(self._most)) is not None:
                taken += len(lines.data)
                read += len(lines)
                self._take(log, lines)
            if taken >= self._most:
                self._drained = False
                break
        return read

    def _behind(self, log: OutcomeLog) -> int:
        """The event time up to which all sources of a log have come; 0 where one has not begun."""
        return min(self.joiner.reached.get(source) or 0 for source in log.sources)

    def _take(self, log: OutcomeLog, lines: Lines) -> None:
        self._changed = True
        self.joiner.reached.setdefault(lines.source, None)  # a topic may get more partitions
        self._metrics.records.labels(log.name).inc(len(lines))
        if len(lines):
            (self._expose if log.name == EXPOSURES else self._observe)(lines)

    def _hold(self) -> None:
        """Let sources that are far ahead wait, so that no more users are held than windows ask for."""
        reached = self.joiner.reached
        behind = [ts for log in self._logs for s in log.behind() if (ts := reached.get(s)) is not None]
        most = min(behind) + self.joiner.lateness_us + _AHEAD_US if behind else None
        for log in self._logs:
            log.hold([s for s in log.sources if most is not None and (reached.get(s) or 0) > most])

    def _expose(self, lines: Lines) -> None:
        found, bad = read_exposures(lines, self._name)
        self._note_bad(bad)
        times = np.array([one.ts for _, one in found], np.int64)
        here = ~self._gone(Ids.of([user.encode() for user, _ in found]), times)
        records = list(compress(found, here.tolist()))
        self._entered.prefetch(user for user, _ in records if not self.joiner.holds(user))
        self.joiner.expose(lines.source, records, Among(times, np.flatnonzero(here)))

    def _observe(self, lines: Lines) -> None:
        found = self._events.read(lines)
        self._note_bad(found.bad)
        self._passed_over["ahead"] += found.ahead
        here = ~self._gone(found.users, found.ts)[found.places]
        records = list(compress(found.records, here.tolist()))
        self._entered.prefetch(user for user, _ in records if not self.joiner.holds(user))
        self.joiner.observe(lines.source, records, Among(found.ts, found.places[here]))

    def _note_bad(self, bad: int) -> None:
        self._passed_over["bad"] += bad
        self._metrics.records.labels("bad").inc(bad)

    def _gone(self, users: Ids, ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which records are of users who were forgotten after them."""
        if self._passed is None or not len(ts):
            return np.zeros(len(ts), np.bool_)
        return self._passed.users(users, ts)

    def _erase(self) -> bool:
        erasures = read_erasures(self._home)
        if self._passed is None or self._passed.count != len(erasures):
            self._passed = Passed(erasures) if len(erasures) else None
        if len(erasures) <= self._erased:
            return False
        for user in _named(erasures, self._erased, [*self.joiner.users(), *self._entered]):
            self.joiner.forget(user)
        self._erased = len(erasures)
        return True

    def erase(self) -> None:
        """Forget users who are on the list, and commit that."""
        if self._erase():
            self.commit()

    def _count(self) -> bool:
        """Users whose windows have closed enter; whether there were any."""
        outcomes = self.joiner.close()
        self.judgement.count(outcomes, self.trial)
        return bool(outcomes)

    def commit(self) -> None:
        """Everything since the last commit in one batch."""
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for user in sorted(self.joiner.changed):
            row, key = self.joiner.row(user), WINDOW + user.encode()
            puts.append((key, row)) if row is not None else deletes.append(key)
        for user, there in sorted(self._entered.changes.items()):
            key = ENTERED + user.encode()
            puts.append((key, b"")) if there else deletes.append(key)
        for log in self._logs:
            log.confirm()
            self._positions[log.name] = log.position
        state = {
            "positions": self._positions,
            "units": dict(sorted(self._events.units.items())),
            "joiner": self.joiner.state(),
            **self.judgement.state(),
            "erased": self._erased,
            "passed_over": self._passed_over,
        }
        puts += [(JOIN, msgspec.json.encode(state)), (VERDICT, msgspec.json.encode(self.verdict()))]
        self._store.write(puts, deletes)
        self.joiner.changed.clear()
        self._entered.committed()
        self._changed, self._committed_at = False, time.monotonic()
        self._metrics.show(self._name, self.judgement.experiment)

    def verdict(self) -> dict[str, Any]:
        """What `freshet experiment status` shows."""
        records = {**asdict(self.joiner.counts), **self._passed_over}
        found = summary(self.judgement.experiment)
        return {
            **found,
            "best": winner(self.judgement.experiment),
            "open_windows": self.joiner.held,
            "joined_until_us": self.joiner.watermark,
            "waits_for": self.joiner.waits_for,
            "records": records,
            "notes": notes(self.joiner, self.trial, {**records, "strays": found["strays"]}),
        }

    def steer(self) -> None:
        """Bring the route to the shares that guardrail, ramp and bandit ask for."""
        trial = self.trial
        if trial.state != "running":
            return
        if not is_steered(self._releases.current(), trial):
            released = self._releases.read()
            taken_away(self._experiments, released, trial)
            logger.warning("experiment_route_taken_away", experiment=trial.name)
            self.trial = self._experiments.get(self._name)
            return
        last = trial.phases[-1].shares
        shares = self.judgement.wanted(trial)
        if all(abs(share - last[arm]) < 1e-9 for arm, share in shares.items()):
            return
        out = [arm for arm in self.judgement.taken_out() if last[arm] > 0.0]
        if not steered(self._experiments, self._releases, trial, shares):
            logger.warning("experiment_route_taken_away", experiment=trial.name)
        for arm in out:
            at_users = self.judgement.experiment.guardrails[arm].at_users
            logger.warning("experiment_guardrail_acted", experiment=trial.name, arm=arm, at_users=at_users)
        self.trial = self._experiments.get(self._name)


def _named(erasures: Erasures, done: int, users: Sequence[str]) -> list[str]:
    """Those of the users whom the list names behind its first `done` lines."""
    wanted = np.array([int(one.id, 16) for one in erasures.entries[done:] if one.kind == "user"], np.uint64)
    if not len(wanted) or not users:
        return []
    hashes = erasures.hashes("user", Ids.of([user.encode() for user in users]))
    return [users[k] for k in np.flatnonzero(np.isin(hashes, wanted)).tolist()]
