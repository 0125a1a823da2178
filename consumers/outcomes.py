"""Exposures and events of the home directory enter; each user's outcome, verdicts and shares leave.

HOME/outcomes/NAME holds a RocksDB of the experiment, with one writer:

    u<user>     an open window: exposures and events      n<user>   the user has entered, or was left out
    mjoin       positions in both logs, sums by arm       mverdict  what `freshet experiment status` shows

One step:  1. erase    forget users who are on the list of erasures
           2. read     lines of the log that is further behind in event time
           3. join     exposures and events, by user
           4. count    users whose windows have closed, in the phase of their first exposure
           5. commit   rows, positions, sums and verdict in one batch
           6. steer    the route follows guardrail and ramp; what a kill left undone is done at the next step
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, MutableSet, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge

from consumers.eventlog.segments import EVENTS, Segments, read_mark, segments_in
from consumers.exposing import EXPOSURES, ExposureRecord
from state.erasure import Erasures, Passed, read_erasures
from state.experiments import Experiments, Trial
from state.releases import Released, Releases
from state.rocksdb import RocksStore
from streaming.errors import FreshetError, InputVanishedError, StoreLockedError, VersionError
from streaming.events import Ids
from streaming.experiments import Bandit, Design, Experiment, Ramp, summary, winner, with_challengers, without
from streaming.exposures import Exposure, Happening, Outcome
from streaming.joining import SECOND, Joiner
from streaming.routing import Route, divided
from streaming.rules import EventRules, event_from_mapping

logger = structlog.get_logger()

OUTCOMES = "outcomes"  # the directory in a home directory
READ_BYTES = 1 << 20  # of a log, in one step
_JOIN, _VERDICT = b"mjoin", b"mverdict"
_CACHE_BYTES = 16 << 20
_ROUTING = ("route", "promote", "rollback")  # changes that may end the arms of a route


class LineReader:
    """Whole durable lines of a directory of segments; `position` is (segment, byte) of the next one."""

    def __init__(self, directory: Path, position: tuple[int, int] = (0, 0)) -> None:
        self._directory, self.position = directory, position
        Segments(directory).settle()

    def read(self, most: int = READ_BYTES) -> list[bytes]:
        """The next lines, about `most` bytes of them; none where all that is durable was read.

        Raises:
            InputVanishedError: a segment is gone that was not read to its end.
        """
        mark = read_mark(self._directory)
        while mark is not None:
            segment, start = self.position
            path = self._directory / f"{segment:020d}.jsonl"
            if not path.exists() and start:
                raise InputVanishedError(f"{path}: the segment is gone before it was read. Put it back.")
            size = path.stat().st_size if path.exists() else 0
            end = mark.length if segment == mark.segment else size
            if start < end:
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read(min(most, end - start))
                    data += file.readline() if not data.endswith(b"\n") else b""
                self.position = (segment, start + len(data))
                return data.removesuffix(b"\n").split(b"\n")
            later = [int(one.stem) for one in segments_in(self._directory) if int(one.stem) > segment]
            if segment >= mark.segment or not later:
                return []
            self.position = (later[0], 0)
        return []


class _Entered(MutableSet[str]):
    """Users who have entered, in the store; changes stay here until they are committed."""

    def __init__(self, store: RocksStore) -> None:
        self._store = store
        self.changes: dict[str, bool] = {}
        self._known: dict[str, bool] = {}

    def prefetch(self, users: Iterable[str]) -> None:
        """Look up the users of a batch at one go."""
        names = list(dict.fromkeys(users))
        found = self._store.get_many([b"n" + name.encode() for name in names])
        self._known = {name: value is not None for name, value in zip(names, found, strict=True)}

    def __contains__(self, user: object) -> bool:
        name = str(user)
        known = self.changes.get(name, self._known.get(name))
        if known is None:
            known = self._known[name] = self._store.get_many([b"n" + name.encode()])[0] is not None
        return known

    def __iter__(self) -> Iterator[str]:
        stored = {key[1:].decode() for key, _ in self._store.scan(b"n")}
        stored |= {name for name, there in self.changes.items() if there}
        return iter(sorted(stored - {name for name, there in self.changes.items() if not there}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def add(self, value: str) -> None:
        self.changes[value] = True

    def discard(self, value: str) -> None:
        self.changes[value] = False

    def committed(self) -> None:
        """The changes are in the store."""
        self.changes, self._known = {}, {}


class OutcomeMetrics:
    """What `freshet outcomes` reports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["experiment", "arm"]
        self.users = Gauge(
            "freshet_experiment_users", "Users who have entered, by arm.", labels, registry=registry
        )
        self.acted = Gauge(
            "freshet_experiment_guardrail_acted",
            "Whether a guardrail has taken the arm out of the route.",
            labels,
            registry=registry,
        )
        self.records = Counter(
            "freshet_outcome_records",
            "Lines read, by log: exposures, events, or bad where a line is neither.",
            ["log"],
            registry=registry,
        )


class Outcomes:
    """The join of one experiment, and what follows from it.

    Args:
        store: the experiment's own; closed by who opened it.
        most: bytes that a step reads.
    """

    def __init__(
        self,
        home: Path,
        name: str,
        store: RocksStore,
        rules: EventRules,
        metrics: OutcomeMetrics,
        most: int = READ_BYTES,
    ) -> None:
        self._home, self._name, self._store, self._rules = home, name, store, rules
        self._metrics, self._most = metrics, most
        self._experiments, self._releases = Experiments(home), Releases(home)
        self.trial = self._experiments.get(name)
        if not self.trial.phases:
            raise VersionError(f'The experiment "{name}" was not begun. Create it again.')
        kept = store.get_many([_JOIN])[0]
        saved: dict[str, Any] = msgspec.json.decode(kept) if kept is not None else {}
        positions = saved.get("positions", {})
        self._logs = {
            log: LineReader(home / log, tuple(positions.get(log, (0, 0)))) for log in (EXPOSURES, EVENTS)
        }
        self._entered = _Entered(store)
        self.joiner = Joiner(
            self.trial.arms,
            self._logs,
            window_us=self.trial.window_us,
            lateness_us=self.trial.lateness_us,
            entered=self._entered,
            moved=lambda user, first, end: self.trial.moved(user, first, end),
        )
        self._erased, self._bad = int(saved.get("erased", 0)), int(saved.get("bad", 0))
        self._passed: Passed | None = None
        self._begin(saved)

    def _begin(self, saved: dict[str, Any]) -> None:
        first = self.trial.phases[0]
        self.experiment = (
            Experiment.restored(saved["experiment"])
            if saved
            else Experiment(Design(**self.trial.design), first.shares, first.since_us)
        )
        ramp = saved.get("ramp")
        if ramp is not None:
            self.ramp: Ramp | None = Ramp(**{**ramp, "steps": tuple(ramp["steps"])})
        elif self.trial.ramp:
            trial = self.trial
            self.ramp = Ramp(trial.ramp, trial.ramp_users, trial.ramp_seconds, since_s=first.since_us / 1e6)
        else:
            self.ramp = None
        if saved:
            rows = ((key[1:].decode(), value) for key, value in self._store.scan(b"u"))
            self.joiner.restore(saved["joiner"], rows)

    def step(self, now_s: float | None = None) -> int:
        """Read some of one log, as the module says; returns the lines read.

        Args:
            now_s: where both logs were read to their ends, nothing older than this less the lateness will
                come; None where only records tell how far time has gone.
        """
        self.trial = self._experiments.get(self._name)
        erased = self._erase()  # 1
        read = self._read()  # 2, 3
        if not read and now_s is not None and not self.trial.ended:
            for log in self._logs:
                self.joiner.advance(log, int(now_s * SECOND))
        closed = self._count()  # 4
        if read or closed or erased:
            self.commit()  # 5
        self.steer()  # 6
        return read

    def _read(self) -> int:
        reached = self.joiner.reached
        for log in sorted(self._logs, key=lambda name: reached[name] or 0):
            lines = self._logs[log].read(self._most)
            if lines:
                self._metrics.records.labels(log).inc(len(lines))
                (self._expose if log == EXPOSURES else self._observe)(lines)
                return len(lines)
        return 0

    def _expose(self, lines: Sequence[bytes]) -> None:
        found: list[tuple[str, Exposure]] = []
        for line in lines:
            try:
                one = msgspec.json.decode(line, type=ExposureRecord)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._note_bad()
                continue
            if one.experiment == self._name:
                found.append((one.user, Exposure(one.ts, one.id, one.arm, tuple(one.items))))
        kept = [pair for pair, gone in zip(found, self._gone(found), strict=True) if not gone]
        self._entered.prefetch(user for user, _ in kept)
        self.joiner.expose(EXPOSURES, kept)

    def _observe(self, lines: Sequence[bytes]) -> None:
        """Events of the metric are joined; those of other types say how far time has gone."""
        found: list[tuple[str, Happening]] = []
        counts: list[bool] = []
        type_name, begin = self._rules.name("type"), self.trial.phases[0].since_us - self.joiner.skew_us
        for line in lines:
            try:
                record = msgspec.json.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                record = None
            event = event_from_mapping(record, self._rules, self._rules.given_unit) if isinstance(
                record, dict) else ""  # fmt: skip
            if event is None:
                continue
            if isinstance(event, str):
                self._note_bad()
                continue
            if event.ts < begin:
                continue  # before the experiment
            named = record.get("exposure")
            exposure = named if isinstance(named, str) else ""
            user, item = event.user.decode(), event.item.decode()
            found.append((user, Happening(event.ts, item, event.value, exposure)))
            counts.append(record.get(type_name, "event") == self.trial.metric)
        run: list[tuple[str, Happening]] = []
        gone = self._gone(found)
        self._entered.prefetch(user for (user, _), of_metric in zip(found, counts, strict=True) if of_metric)
        for pair, of_metric, is_gone in zip(found, counts, gone, strict=True):
            if of_metric and not is_gone:
                run.append(pair)
            else:  # in the order of the log, so that lateness does not depend on where a step ends
                self.joiner.observe(EVENTS, run)
                self.joiner.advance(EVENTS, pair[1].ts)
                run = []
        self.joiner.observe(EVENTS, run)

    def _note_bad(self) -> None:
        self._bad += 1
        self._metrics.records.labels("bad").inc()

    def _gone(self, pairs: Sequence[tuple[str, Exposure | Happening]]) -> NDArray[np.bool_]:
        """Which records are of users who were forgotten after them."""
        if self._passed is None or not pairs:
            return np.zeros(len(pairs), np.bool_)
        users = Ids.of([user.encode() for user, _ in pairs])
        return self._passed.users(users, np.array([one.ts for _, one in pairs], np.int64))

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
        for phase in self.trial.phases[len(self.experiment.phases) :]:
            self.experiment.begin_phase(phase.shares, phase.since_us)
        outcomes: list[Outcome] = self.joiner.close()
        if outcomes:
            self.experiment.add(
                np.array([one.arm for one in outcomes], np.int64),
                np.array([one.value for one in outcomes], np.float64),
                self.experiment.phase_at(np.array([one.first_us for one in outcomes], np.int64)),
                np.array([bool(one.left_out) for one in outcomes], np.bool_),
            )
        if self.ramp is not None and self.joiner.watermark is not None and not self.trial.ended:
            halted = self.experiment.mismatch_at is not None or bool(self._taken_out())
            self.ramp = self.ramp.advance(self.joiner.watermark / SECOND, self._challengers(), halted)
        return bool(outcomes)

    def _challengers(self) -> int:
        return sum(tally.users for phase in self.experiment.phases for tally in phase.tallies[1:])

    def _taken_out(self) -> list[str]:
        return [arm for arm, one in self.experiment.guardrails.items() if one.state == "acted"]

    def commit(self) -> None:
        """Everything since the last commit in one batch."""
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        for user in sorted(self.joiner.changed):
            row, key = self.joiner.row(user), b"u" + user.encode()
            puts.append((key, row)) if row is not None else deletes.append(key)
        for user, there in sorted(self._entered.changes.items()):
            key = b"n" + user.encode()
            puts.append((key, b"")) if there else deletes.append(key)
        state = {
            "positions": {log: reader.position for log, reader in self._logs.items()},
            "joiner": self.joiner.state(),
            "experiment": self.experiment.state(),
            "ramp": asdict(self.ramp) if self.ramp is not None else None,
            "erased": self._erased,
            "bad": self._bad,
        }
        puts += [(_JOIN, msgspec.json.encode(state)), (_VERDICT, msgspec.json.encode(self.verdict()))]
        self._store.write(puts, deletes)
        self.joiner.changed.clear()
        self._entered.committed()
        for arm, figures in summary(self.experiment)["arms"].items():
            self._metrics.users.labels(self._name, arm).set(figures["users"])
        for arm in self.trial.arms[1:]:
            self._metrics.acted.labels(self._name, arm).set(arm in self._taken_out())

    def _decided(self, last: dict[str, float]) -> dict[str, float] | None:
        """What the bandit wants, the shares that hold until it decides anew; None without a bandit."""
        if self.trial.bandit is None:
            return None
        found = Bandit(self.trial.bandit, self.trial.floor).shares(self.experiment, self._taken_out())
        return last if found is None else found

    def verdict(self) -> dict[str, Any]:
        """What `freshet experiment status` shows."""
        return {
            **summary(self.experiment),
            "best": winner(self.experiment),
            "open_windows": self.joiner.held,
            "joined_until_us": self.joiner.watermark,
            "records": {**asdict(self.joiner.counts), "bad": self._bad},
        }

    def steer(self) -> None:
        """Bring the route to the shares that guardrail and ramp ask for."""
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
        shares = wanted_shares(trial, self.ramp, self._taken_out(), self._decided(last))
        if all(abs(share - last[arm]) < 1e-9 for arm, share in shares.items()):
            return
        out = [arm for arm in self._taken_out() if last[arm] > 0.0]
        if not steered(self._experiments, self._releases, trial, shares):
            logger.warning("experiment_route_taken_away", experiment=trial.name)
        for arm in out:
            at_users = self.experiment.guardrails[arm].at_users
            logger.warning("experiment_guardrail_acted", experiment=trial.name, arm=arm, at_users=at_users)
        self.trial = self._experiments.get(self._name)


def wanted_shares(
    trial: Trial, ramp: Ramp | None, taken_out: Iterable[str], decided: dict[str, float] | None = None
) -> dict[str, float]:
    """Shares after the ramp's step, or the bandit's decision, and the guardrails.

    >>> trial = Trial("x", {"a": 0.9, "b": 0.1}, "buy", {}, "s", 1, 0)
    >>> wanted_shares(trial, Ramp((0.25, 0.5)), []), wanted_shares(trial, None, ["b"])
    ({'a': 0.75, 'b': 0.25}, {'a': 1.0, 'b': 0.0})
    """
    shares = dict(trial.shares if decided is None else decided)
    if ramp is not None:
        shares = with_challengers(shares, ramp.share)
    for arm in taken_out:
        shares = without(shares, arm)
    return shares


def steered(
    experiments: Experiments, releases: Releases, trial: Trial, shares: dict[str, float], **fields: Any
) -> bool:
    """Set the route to these shares and begin a phase; whether the route is the experiment's still.

    Route first, phase after: where a kill comes between, the phase begins when the route was changed.
    """

    def made(state: Released) -> Route:
        before = state.route
        if before is None or not is_steered(state, trial):
            raise _TakenAwayError
        arms = divided({arm: share for arm, share in shares.items() if share > 0.0}, before.arms)
        return msgspec.structs.replace(before, arms=arms)

    released = releases.read()
    try:
        if released.route is None or made(released) != released.route:
            detail = " ".join(f"{arm}={share:g}" for arm, share in shares.items())
            released = releases.change_route(made, f"experiment {trial.name}: {detail}")
    except _TakenAwayError:
        taken_away(experiments, releases.read(), trial)
        return False
    assert released.route is not None, "it was set just now"
    experiments.begin_phase(trial.name, route_changed_us(released), shares, released.route.arms, **fields)
    return True


def is_steered(released: Released, trial: Trial) -> bool:
    """Whether the route is the experiment's."""
    return released.route is not None and released.route.salt == trial.salt and bool(released.route.arms)


def taken_away(experiments: Experiments, released: Released, trial: Trial) -> None:
    """Somebody took the route: the experiment ends, and users whose windows were open then are left out."""
    shares = {arm: float(arm == trial.arms[0]) for arm in trial.arms}
    at, why = route_changed_us(released), "the route was taken away"
    experiments.begin_phase(trial.name, at, shares, (), state="stopped", why=why)


def route_changed_us(released: Released) -> int:
    """When the route was changed last."""
    at = next((one.at for one in reversed(released.history) if one.what in _ROUTING), None)
    return int(datetime.fromisoformat(at).timestamp() * 1e6) if at is not None else int(time.time() * 1e6)


def store_path(home: Path, name: str) -> Path:
    """Where the outcomes of an experiment lie."""
    return home / OUTCOMES / name


def opened_store(home: Path, name: str) -> RocksStore:
    """The store of an experiment, to write.

    Raises:
        StoreLockedError: another process joins it.
    """
    return RocksStore(store_path(home, name), cache_bytes=_CACHE_BYTES)


def forget_in_all(home: Path, rules: EventRules) -> list[str]:
    """Follow the list of erasures in every experiment; a process that joins one does so itself.

    Returns:
        Experiments that were followed here.
    """
    done = []
    for name in Experiments(home).names():
        if not (store_path(home, name) / "CURRENT").exists():
            continue
        try:
            store = opened_store(home, name)
        except StoreLockedError:
            continue
        with store:
            Outcomes(home, name, store, rules, OutcomeMetrics(CollectorRegistry())).erase()
            store.purge()
        done.append(name)
    return done


def read_verdict(home: Path, name: str) -> dict[str, Any] | None:
    """The newest verdict, whether a process joins or not; None before the first commit."""
    path = store_path(home, name)
    if not (path / "CURRENT").exists():
        return None
    with RocksStore(path, read_only=True, cache_bytes=_CACHE_BYTES) as store:
        kept = store.get_many([_VERDICT])[0]
    found: dict[str, Any] | None = msgspec.json.decode(kept) if kept is not None else None
    return found


def _named(erasures: Erasures, done: int, users: Sequence[str]) -> list[str]:
    """Those of the users whom the list names behind its first `done` lines."""
    wanted = np.array([int(one.id, 16) for one in erasures.entries[done:] if one.kind == "user"], np.uint64)
    if not len(wanted) or not users:
        return []
    hashes = erasures.hashes("user", Ids.of([user.encode() for user in users]))
    return [users[k] for k in np.flatnonzero(np.isin(hashes, wanted)).tolist()]


class _TakenAwayError(FreshetError):
    """The route is not the experiment's any more."""
