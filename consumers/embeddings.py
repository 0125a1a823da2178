"""The embedding worker: events of a log enter, rows of one version leave, durable with their offsets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from threading import Event as Flag
from typing import NamedTuple

import structlog

from consumers.control import Control
from consumers.dead_letters import DeadLetterLog
from consumers.eventlog.contract import EventLog, Slice
from consumers.metrics import VersionMetrics, reason_class
from consumers.pace import CommitTimer, Pace
from consumers.strays import Strays
from state.erasure import Passed, forget, passed_after
from state.erasure_list import Erasures
from state.learned import Learned
from streaming.errors import BadRecordError, InputError, StoreError
from streaming.events import EventBatch
from streaming.learners.loop import Batch, Outcome

logger = structlog.get_logger()

LAG_S = 5.0  # between two reports of the lag, without a commit
POLL_S = 0.1  # longest wait for records; a due commit and a stop wait no longer than this


@dataclass(slots=True)
class Totals:
    """What a run did."""

    events: int = 0
    learned: int = 0
    dead_letters: int = 0
    commits: int = 0
    seconds: float = 0.0
    commit_seconds: float = 0.0
    freshness_s: list[float] = field(default_factory=list)  # event → durable, newest of each slice


class Took(NamedTuple):
    """Seconds that events took."""

    resolve_s: float
    learn_s: float


def learn_events(
    learned: Learned,
    events: EventBatch,
    partition: int,
    commit_before: Callable[[int], None] | None = None,
    observe: Callable[[Batch, Outcome], None] | None = None,
) -> Took:
    """Resolve, score and learn events in order: steps 3, 4 and 5 of every run over a log.

    Args:
        commit_before: makes durable all that comes before an offset, called where only that makes
            room for new users; not needed where all users are held.
        observe: told what came of the events.
    """
    resolving = learning = 0.0
    rest = events
    while len(rest):
        part = rest.part(0, learned.part(rest))
        begun = time.perf_counter()
        if not learned.make_room(part) and commit_before is not None:
            commit_before(int(part.offsets[0]))
            learned.make_room(part)
        batch = learned.resolve(part, partition)
        resolved = time.perf_counter()
        outcome = learned.learn(batch)
        resolving += resolved - begun
        learning += time.perf_counter() - resolved
        if observe is not None:
            observe(batch, outcome)
        rest = rest.part(len(part), len(rest))
    return Took(resolving, learning)


class EmbeddingWorker:
    """Learns a version from an event log until it is told to stop, or the log has ended.

    Args:
        learned: the version; this worker is its store's one writer.
        log: where events come from; it goes on where the store says.
        dead_letters: takes the records that are no events; None stops at the first.
        rules: how records are read, as text, noted beside the events it held for.
        batch_events: most events of one poll; it changes the speed, never the result.
        observe: called after each batch and commit with the totals so far.
        control: where other processes ask for a snapshot and the like.
        confirm: called before each commit; raises where what the log gave must not be kept.
        erasures: reads the list of what is to be forgotten, which is followed before anything is learned.
    """

    def __init__(
        self,
        learned: Learned,
        log: EventLog,
        *,
        dead_letters: DeadLetterLog | None,
        metrics: VersionMetrics,
        rules: str = "",
        pace: Pace | None = None,
        batch_events: int = 4096,
        observe: Callable[[Totals], None] | None = None,
        control: Control | None = None,
        confirm: Callable[[], None] | None = None,
        erasures: Callable[[], Erasures] | None = None,
    ) -> None:
        self.learned, self.log, self.totals = learned, log, Totals()
        self._dead_letters, self._metrics, self._rules = dead_letters, metrics, rules
        self._timer, self._batch_events = CommitTimer(pace or Pace()), batch_events
        self._observe = observe or (lambda totals: None)
        self._control = control
        self._confirm = confirm or (lambda: None)
        self._erasures, self._passed = erasures, Passed(Erasures())
        self._strays = Strays()
        self._arrived: list[float] = []  # of slices that are learned but not durable
        self._lag_due = 0.0

    def run(self, stop: Flag) -> Totals:
        """The loop.

        1. poll     take the next slice of the log, decoded
        2. refuse   set its bad records aside, pass over events of ids that were forgotten
        3. resolve  find or begin the rows of its users and items
        4. score    rank what is drawn for evaluation, before it is learned
        5. learn    change the rows, event by event, in offset order
        6. stage    note the offsets that go with the rows
        7. commit   rows, parameters, offsets, journal in one synced batch
        8. answer   do what other processes asked for, between two commits

        Rows and offsets become durable together, so a kill anywhere loses nothing and learns
        nothing twice: the next run reads the log again from the offsets in the store.
        """
        started = time.monotonic()
        self.begin()
        while not stop.is_set():
            before = time.perf_counter()
            found = self._poll()  # 1
            if found is not None:
                self.take(found, time.perf_counter() - before)  # 2 to 6
            self.commit_if_due()  # 7
            self.answer()  # 8
            self.learned.arena.beat()  # servers say how old their answers are by this
            if time.monotonic() >= self._lag_due:  # where nothing comes, nothing is committed
                self._report_lag()
            self.totals.seconds = time.monotonic() - started
            self._observe(self.totals)
            if found is None and self.log.ended:
                break
        self.commit()
        self.answer()
        self.totals.seconds = time.monotonic() - started
        self._observe(self.totals)
        return self.totals

    def _poll(self) -> Slice | None:
        try:
            return self.log.poll(self._batch_events, POLL_S)
        except InputError:
            self.commit()  # the log may stay broken: what it gave is kept
            raise

    def begin(self) -> None:
        """Go on from the offsets in the store, without what was to be forgotten since."""
        ledger = self.learned.ledger
        if self._erasures is not None:
            forget(self.learned, self._erasures())
        for name in self.log.sources():
            ledger.partition(name)
        here = set(self.log.sources())
        self.log.seek({s.name: s.next_offset for s in ledger.sources if s.name in here})
        if ledger.read_by(self._rules):
            logger.warning("event_rules_changed", event_number=ledger.number)
        if not self.learned.compiled:
            learner = self.learned.spec.learner
            logger.info("kernels_compiling", learner=learner, takes="up to a minute, the first time")
        self._metrics.observe_begin(self.learned)
        self._report_state()
        self._timer.start()

    def take(self, found: Slice, polled_s: float = 0.0) -> None:
        """Steps 2 to 6 for one slice."""
        found = self._without_forgotten(found)  # 2
        self._refuse(found)  # 2
        self._learn(found, polled_s)  # 3, 4, 5
        self._stage(found, found.next_offset)  # 6

    def _without_forgotten(self, found: Slice) -> Slice:
        erased = self.learned.ledger.erased
        if erased and self._erasures is None:
            raise StoreError(f"The version has followed {erased} erasures, and no list of them is given.")
        if self._erasures is not None:
            self._passed = passed_after(self._passed, erased, self._erasures)
        return replace(found, events=self._passed.without(found.events)) if erased else found

    def _refuse(self, found: Slice) -> None:
        if not found.bad:
            return
        if self._dead_letters is None:
            bad = found.bad[0]
            self._learn_before(found, bad.offset)
            line = f", line {bad.line:,}" if bad.line is not None else ""
            raise BadRecordError(
                f"{found.source}@{bad.offset}{line}: {bad.reason.rstrip('.')}. All before it is "
                'learned and committed. Fix the producer, or set events.on_bad_record = "dead_letter".'
            )
        for bad in found.bad:
            self._dead_letters.append(found.source, bad)
        self.totals.dead_letters += len(found.bad)

    def _learn_before(self, found: Slice, offset: int) -> None:
        """Learn and commit the events of a slice that come before an offset."""
        good = int((found.events.offsets < offset).sum())
        part = replace(found, next_offset=offset, events=found.events.part(0, good), bad=[])
        self._learn(part, 0.0)
        self._stage(part, offset)
        self.commit()

    def _learn(self, found: Slice, polled: float) -> None:
        learned, ledger = self.learned, self.learned.ledger
        partition = ledger.partition(found.source)
        learned_before = ledger.learned
        hits, misses, tally = learned.users.hits, learned.users.misses, learned.tally

        def commit_before(offset: int) -> None:
            # Only rows that are not durable could make room. The offsets so far go with them.
            self._stage(found, offset)
            self.commit()

        watch = self._metrics.watching(learned)

        def observe(batch: Batch, outcome: Outcome) -> None:
            self._strays.look(learned.users, batch.user, ledger.sources, found)
            watch(batch, outcome)

        took = learn_events(learned, found.events, partition, commit_before, observe)  # 3, 4, 5
        self._metrics.observe_strays(self._strays.found)
        self._metrics.observe_visible(found.arrived, time.time())
        steps = {"poll": polled, "resolve": took.resolve_s, "learn": took.learn_s}
        self.totals.events += len(found.events)
        self.totals.learned += ledger.learned - learned_before
        clipped, skipped = learned.tally
        self._metrics.observe_batch(
            events=len(found.events),
            steps=steps,
            bad=Counter(reason_class(bad.reason) for bad in found.bad),
            cache_hits=learned.users.hits - hits,
            cache_misses=learned.users.misses - misses,
            clipped=clipped - tally[0],
            skipped=skipped - tally[1],
        )

    def _stage(self, found: Slice, next_offset: int) -> None:
        """Note that a slice is learned up to an offset; the next commit makes that durable with the rows."""
        ledger = self.learned.ledger
        partition = ledger.partition(found.source)
        source = ledger.sources[partition]
        ledger.bad += sum(source.next_offset <= bad.offset < next_offset for bad in found.bad)
        ledger.record(partition, max(source.next_offset, found.first), next_offset)
        source.time_unit = found.time_unit
        source.token = found.token or source.token
        self._arrived.append(found.arrived)

    def commit_if_due(self) -> None:
        """Step 7, where the pace says so."""
        if self._timer.due(self.learned.pending):
            self.commit()

    def answer(self) -> None:
        """Step 8, where something was asked: all that was learned is committed first."""
        if self._control is not None and self._control.waiting():
            self.commit()
            self._control.answer()

    def commit(self) -> None:
        """Make what was learned durable, and say so.

        1. the log is asked whether it gave what it seemed to give, then the dead letters are synced, so
           that no offset passes a record that is kept nowhere
        2. rows, parameters, offsets and journal in one synced batch
        3. the log is told the offsets, for lag tools only
        """
        if not self._arrived:
            return
        ledger, begun = self.learned.ledger, time.monotonic()
        self._confirm()  # 1
        if self._dead_letters is not None:
            self._dead_letters.sync()  # 1
        rows = self.learned.commit()  # 2
        self.log.committed({s.name: s.next_offset for s in ledger.sources})  # 3
        cost, now = time.monotonic() - begun, time.time()
        self._timer.committed(cost)
        self.totals.commits += 1
        self.totals.commit_seconds += cost
        self.totals.freshness_s = [now - moment for moment in self._arrived]
        self._report(cost, now, rows)
        self._arrived.clear()

    def _report_lag(self) -> None:
        self._lag_due = time.monotonic() + LAG_S
        ledger = self.learned.ledger
        self._metrics.observe_lag({ledger.partition(source): left for source, left in self.log.lag().items()})

    def _report(self, cost: float, now: float, rows: int) -> None:
        self._metrics.observe_commit(seconds=cost, arrived=self._arrived, now=now)
        self._report_lag()
        self._report_state()
        events = self.learned.ledger.number
        logger.debug("batch_committed", events=events, rows=rows, duration_s=round(cost, 4))

    def _report_state(self) -> None:
        """Where the version stands: at the start, so that a restart shows no zeros, and after commits."""
        learned, metrics = self.learned, self._metrics
        summary = learned.prequential.summary()
        recent = learned.prequential.window()
        ratios = {("overall", "all", k): summary["overall"][f"hr@{k}"] for k in (10, 20)}
        ratios |= {("overall", "recent", k): recent[f"hr@{k}"] for k in (10, 20)}
        ratios |= {(s, "all", 10): rates["hr@10"] for s, rates in summary["segments"].items()}
        metrics.observe_prequential(ratios, summary["loss"])
        metrics.observe_store(
            rows={"user_in_memory": learned.users.held, "item": learned.items.count},
            bytes_by_part=learned.store.sizes(),
        )
