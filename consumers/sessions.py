"""The transformer's worker: events of a log enter, sequence embeddings of a version leave.

It learns nothing into the version: item rows are read from the tables of the embedding worker, or from
the store where none runs. What it keeps lies in a store of its own, with positions of its own, so it may
lag, end and start again without the embedding worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event as Flag

import numpy as np
import structlog
from numpy.typing import NDArray

from consumers.control import Control
from consumers.embeddings import LAG_S, POLL_S
from consumers.eventlog.contract import EventLog, Slice
from consumers.pace import CommitTimer, Pace
from consumers.sessions_events import Block, Watch, new_scratch, observe
from consumers.sessions_metrics import Progress, SessionMetrics
from consumers.sessions_refresh import SequenceRefresh
from consumers.sessions_rows import VersionRows
from consumers.sessions_training import Training
from state.arena import DONE
from state.erasure import Passed, forget, passed_after
from state.erasure_list import Erasures
from state.reader import Reader
from state.sequences import Sequences
from streaming.events import EventBatch
from streaming.learners.contract import Learner
from streaming.learners.loop import bound

logger = structlog.get_logger()

_LEAST_SHARE = 1.0 / 64.0  # of the training steps, however far behind the worker is
_SECOND = 1_000_000


@dataclass(slots=True)
class SessionTotals:
    """What a run did."""

    events: int = 0
    refreshed: int = 0
    commits: int = 0
    seconds: float = 0.0


class SessionWorker:
    """Follows an event log until it is told to stop, or the log has ended.

    Args:
        sequences: this worker is their store's one writer.
        reader: of the version.
        learner, seed: of the version.
        behind_s: age of a slice from which on training is scaled down; None: never.
        compared: share of the events by which the gate compares.
        confirm: called before each commit; raises where what the log gave must not be kept.
        erasures: reads the list of what is to be forgotten.
    """

    def __init__(
        self,
        sequences: Sequences,
        log: EventLog,
        reader: Reader,
        *,
        metrics: SessionMetrics,
        learner: Learner,
        seed: int,
        training: Training | None = None,
        pace: Pace | None = None,
        batch_events: int = 4096,
        behind_s: float | None = None,
        compared: float = 0.05,
        rules: str = "",
        control: Control | None = None,
        confirm: Callable[[], None] = lambda: None,
        erasures: Callable[[], Erasures] = Erasures,
        observed: Callable[[SessionTotals], None] = lambda totals: None,
    ) -> None:
        self.sequences, self.log, self.totals = sequences, log, SessionTotals()
        options = sequences.options
        self.training = training or Training(options, learner, seed, sequences.counts, sequences.arrays)
        self._metrics = metrics
        self._timer, self._batch_events = CommitTimer(pace or Pace()), batch_events
        self._behind_s, self._rules = behind_s, rules
        self._control, self._confirm, self._observed = control, confirm, observed
        self._erasures, self._passed = erasures, Passed(Erasures())
        self._observe_events = bound(observe, learner)
        self._rows = VersionRows(reader, sequences.items)
        self._refresh = SequenceRefresh(sequences, self._rows, learner, seed, compared)
        self._scratch = new_scratch(options, sequences.items.capacity)
        self._share = 1.0
        self._pending = False  # whether something is learned that is not durable
        self._lag_due = 0.0
        # Counters of a process begin at 0; the totals go on.
        self._before = self._progress()

    def run(self, stop: Flag) -> SessionTotals:
        """The loop.

        1. poll     take the next slice of the log, decoded
        2. pass     over events of ids that were forgotten
        3. observe  compare, remember for training, move the users' histories
        4. train    after every so many events, one step over new and earlier examples
        5. read     the version's item rows, as far as they changed
        6. refresh  the sequence embeddings of all users who moved; servers see them now
        7. commit   rows, weights, examples, gate and offsets in one synced batch
        8. answer   do what other processes asked for, between two commits
        """
        started = time.monotonic()
        self.begin()
        while not stop.is_set():
            found = self.log.poll(self._batch_events, POLL_S)  # 1
            if found is not None:
                self.take(found)  # 2 to 6
            if self._pending and self._timer.due():
                self.commit()  # 7
            self._answer()  # 8
            self.sequences.arena.beat()
            self.totals.seconds = time.monotonic() - started
            self._report()
            if found is None and self.log.ended:
                break
        self.commit()
        self._answer()
        self.totals.seconds = time.monotonic() - started
        self._report()
        return self.totals

    def begin(self) -> None:
        """Go on from the offsets in the store, without what was to be forgotten since.

        Raises:
            StoreError: the version has learned nothing yet, so there are no rows to read.
        """
        sequences = self.sequences
        self._rows.begin()
        forget(sequences, self._erasures())
        ledger = sequences.ledger
        for name in self.log.sources():
            ledger.partition(name)
        here = set(self.log.sources())
        self.log.seek({s.name: s.next_offset for s in ledger.sources if s.name in here})
        if ledger.read_by(self._rules):
            logger.warning("event_rules_changed", event_number=ledger.number)
        self._timer.start()

    def take(self, found: Slice) -> None:
        """Steps 2 to 6 for one slice."""
        sequences, ledger = self.sequences, self.sequences.ledger
        events = self._without_forgotten(found.events)  # 2
        numbers = sequences.items.numbers_of(events.items)
        if numbers.max(initial=-1) >= sequences.counts.known:
            self._rows.read()  # 5, sooner: items that are new have no rows yet
        if self._scratch.scores.shape[1] < sequences.items.capacity:
            self._scratch = new_scratch(sequences.options, sequences.items.capacity)
        partition, first = ledger.partition(found.source), 0
        while first < len(events):
            last = min(len(events), first + self._room(len(events)))
            part = events.part(first, last)
            if not sequences.users.make_room(part.users, sequences.committed):
                # Only rows that are not durable could make room. The offsets so far go with them.
                self.refresh()
                self._stage(found, int(part.offsets[0]))
                self.commit()
                sequences.users.make_room(part.users, sequences.committed)
            self._observe(part, numbers[first:last], partition)  # 3
            if ledger.number % sequences.options.every == 0:
                self._train()  # 4
            first = last
        # Not before: rows that know the events would make what is to be predicted look easy in training.
        self._rows.read()  # 5
        self.refresh()  # 6
        self._stage(found, found.next_offset)
        self.totals.events += len(events)
        age_s = time.time() - found.arrived
        self._metrics.observe_visible(age_s)
        self._scale(len(events) >= self._batch_events, age_s)

    def _room(self, events: int) -> int:
        """Events until the next step, as far as their users are held at once."""
        every = self.sequences.options.every
        return min(every - self.sequences.ledger.number % every, self.sequences.users.limit or events)

    def _without_forgotten(self, events: EventBatch) -> EventBatch:
        erased = self.sequences.ledger.erased
        self._passed = passed_after(self._passed, erased, self._erasures)
        return self._passed.without(events) if erased else events

    def _observe(self, part: EventBatch, numbers: NDArray[np.int32], partition: int) -> None:
        """Step 3 for events between two training steps."""
        sequences, counts, n = self.sequences, self.sequences.counts, len(part)
        options, ledger, users = sequences.options, sequences.ledger, sequences.users
        if ledger.number % options.every == 0:
            credit = min(1.0, counts.credit + self._share)
            counts.noting = credit >= 1.0
            counts.credit = credit - counts.noting
        seconds = part.ts // _SECOND
        known = np.maximum(np.maximum.accumulate(numbers) + 1, counts.known).astype(np.int32)
        block = Block(
            user=sequences.resolve(part.users, partition),
            item=numbers,
            known=known,
            time=seconds,
            weight=part.weights,
            first=ledger.number + 1,
            at=sequences.items.number,
            # Without their users' rows, events teach nothing.
            noted=counts.noting and self._rows.load([part.users[k] for k in range(n)]),
        )
        gate, done = sequences.gate, int(sequences.arena.head[DONE])
        watch = Watch(sequences.examples, gate.record, gate.rule, options.idle_s, options.negatives, done)
        self._observe_events(sequences.items.model, users.rows, users.history, block, self._scratch, watch)
        counts.known = int(known[-1])
        ledger.number += n
        ledger.learned += n
        ledger.watermark = max(ledger.watermark, int(seconds.max()))

    def _train(self) -> None:
        """Step 4."""
        sequences, counts = self.sequences, self.sequences.counts
        items, number = sequences.items, sequences.ledger.number
        if not self.training.due(sequences.examples, items.model, counts.known):
            return
        counts.due += 1
        if counts.noting:
            self.training.train(sequences.examples, items.model, counts.known, number, items.number)
        else:
            counts.left_out += 1

    def _scale(self, full: bool, age_s: float) -> None:
        """Train less where refresh falls behind, and more where it does not."""
        if self._behind_s is None:
            return
        if full or age_s > self._behind_s:
            self._share = max(_LEAST_SHARE, self._share / 2.0)
        else:
            self._share = min(1.0, self._share * 2.0)

    def refresh(self) -> None:
        """Step 6: sequence embeddings of all users who moved since the last time; servers see them now."""
        refreshed = self._refresh(self.training.params)
        self.sequences.counts.refreshed += refreshed
        self.totals.refreshed += refreshed
        self.sequences.tell()

    def _stage(self, found: Slice, next_offset: int) -> None:
        """Note that a slice was taken up to an offset; the next commit makes that durable with the rest."""
        ledger = self.sequences.ledger
        partition = ledger.partition(found.source)
        source = ledger.sources[partition]
        ledger.record(partition, max(source.next_offset, found.first), next_offset)
        source.time_unit = found.time_unit
        source.token = found.token or source.token
        self._pending = True

    def commit(self) -> None:
        """Make all that came durable, and say so.

        1. the log is asked whether it gave what it seemed to give
        2. rows, weights, examples, gate and offsets in one synced batch
        3. the weights are good to go back to, and the log is told the offsets, for lag tools only
        """
        if not self._pending:
            return
        sequences, begun = self.sequences, time.monotonic()
        self._confirm()  # 1
        sequences.arrays = self.training.arrays()
        rows = sequences.commit()  # 2
        self.training.committed()  # 3
        self.log.committed({s.name: s.next_offset for s in sequences.ledger.sources})  # 3
        cost, self._pending = time.monotonic() - begun, False
        self._timer.committed(cost)
        self.totals.commits += 1
        self._metrics.observe_commit(cost, time.time(), sequences.gate.standings())
        self._lag_due = 0.0
        logger.debug("sequences_committed", events=sequences.ledger.number, rows=rows, seconds=round(cost, 4))

    def _answer(self) -> None:
        """Step 8, where something was asked: all that came is committed first."""
        if self._control is not None and self._control.waiting():
            self.commit()
            self._control.answer()

    def _progress(self) -> Progress:
        counts, training = self.sequences.counts, self.training
        return Progress(
            events=self.totals.events,
            refreshed=self.totals.refreshed,
            trained=training.steps - training.dropped,
            left_out=counts.left_out,
            dropped=training.dropped,
            restored=counts.restored,
            compilations=training.step.compilations + self._refresh.compilations,
        )

    def _report(self) -> None:
        sequences, counts, now = self.sequences, self.sequences.counts, self._progress()
        self._metrics.observe(Progress(*(new - old for new, old in zip(now, self._before, strict=True))))
        self._metrics.observe_state(
            share=self._share,
            loss=counts.mean_loss,
            users=sequences.users.held,
            masked=sequences.items.count - sequences.items.present,
            now=time.time(),
        )
        if time.monotonic() >= self._lag_due:
            self._lag_due = time.monotonic() + LAG_S
            lag, ledger = self.log.lag(), sequences.ledger
            self._metrics.observe_lag({ledger.partition(source): left for source, left in lag.items()})
        self._observed(self.totals)
