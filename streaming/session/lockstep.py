"""Learner and transformer side by side over the same events, without a worker: what a backtest compares.

Every event is ranked twice before it is learned, by the plain query h and by h + δ with δ fresh for the
user's last items; the gate says which of the two counts. Then the learner learns the event. After every
`every` events the transformer takes one step. All hangs on event numbers, so that how events are handed
over changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from streaming.evaluation import Prequential
from streaming.kernels import kernel, mix
from streaming.learners.contract import Event, Learner, Model
from streaming.learners.loop import (
    Batch,
    Outcome,
    Seen,
    bound,
    decay,
    exclude,
    learn,
    notice,
    rank_of,
    remember,
    score,
)
from streaming.learners.reductions import dot
from streaming.session import gate as gates
from streaming.session.cutting import last_items
from streaming.session.examples import Examples, draw_negatives, fill, new_examples, note, pick
from streaming.session.forward import Weights, Workspace, forward, new_workspace, weights_of
from streaming.session.loss import new_batch
from streaming.session.options import Options
from streaming.session.step import session_step

_LOW_64 = 0xFFFF_FFFF_FFFF_FFFF


class Session(NamedTuple):
    """What the loop knows of the transformer."""

    weights: Weights
    space: Workspace
    examples: Examples
    record: gates.Record
    rule: gates.Rule
    slots: NDArray[np.int32]  # (L,)
    gaps: NDArray[np.uint8]  # (L,)
    delta: NDArray[np.float32]  # (D,)
    idle_s: int
    negatives: int


class Ranks(NamedTuple):
    """Ranks of each event, as in `Outcome`."""

    plain: NDArray[np.float32]  # (n,)
    corrected: NDArray[np.float32]  # (n,)


def test_then_learn_twice(
    model: Model,
    batch: Batch,
    seen: Seen,
    scores: NDArray[np.float32],
    outcome: Outcome,
    session: Session,
    ranks: Ranks,
    part: tuple[int, int],
) -> None:
    """As `loop.test_then_learn`, for the events from part[0] to below part[1], with both rankings."""
    excludes = seen.head.shape[0] > 0
    for i in range(part[0], part[1]):
        user, item, known = batch.user[i], batch.item[i], batch.known[i]
        outcome.rank[i] = np.inf if batch.drawn[i] else np.nan
        ranks.plain[i] = ranks.corrected[i] = outcome.rank[i]
        outcome.loss[i] = np.nan
        outcome.user_events[i] = model.users.events[user] if user >= 0 else 0
        outcome.item_events[i] = model.items.events[item] if item >= 0 else 0
        decay(model, known, batch.number + i + 1)
        number, time = batch.number + i + 1, batch.time[i]
        if user >= 0:
            notice(model.users, user, number, time)
        if item >= 0:
            notice(model.items, item, number, time)
        if user < 0 or item < 0:
            continue
        event = Event(user, item, known, number, time, batch.value[i], batch.weight[i], batch.key[i])
        filled = last_items(model, user, time, session.idle_s, session.slots, session.gaps)
        if batch.drawn[i] and item < known:
            score(model, event, scores[:known])
            if not (excludes and exclude(seen, user, item, scores[:known])):
                ranks.plain[i] = rank_of(scores[:known], item)
                correct(model, session, scores[:known])
                ranks.corrected[i] = rank_of(scores[:known], item)
                bucket = gates.bucket_of(int(model.history.pushed[user])) if filled > 0 else -1
                served = bucket >= 0 and session.record.open[bucket]
                outcome.rank[i] = ranks.corrected[i] if served else ranks.plain[i]
                if bucket >= 0:
                    gates.compare(session.record, session.rule, bucket, ranks.plain[i], ranks.corrected[i])
        # An item's first event teaches nothing: its vector is random until then.
        if event.weight > 0.0 and filled > 0 and item < known and known >= model.options.start:
            note(session.examples, model, event, session.slots, session.gaps, session.negatives)
        if event.weight != 0.0:
            outcome.loss[i] = learn(model, event)
        remember(model, event)
        if excludes:
            entry = seen.used[0]
            seen.link[entry] = seen.head[user]
            seen.slot[entry] = item
            seen.head[user] = entry
            seen.used[0] = entry + 1


@kernel
def correct(model: Model, session: Session, scores: NDArray[np.float32]) -> None:
    """scores += δ·V / τ."""
    rows = model.items.floats
    forward(session.weights, rows, session.slots, session.gaps, session.space, session.delta)
    inverse = np.float32(1.0 / model.options.temperature)
    for j in range(scores.shape[0]):
        scores[j] += dot(rows, j, session.delta) * inverse


class Lockstep:
    """Stands in the place of a learner's loop, and trains a transformer beside it.

    Attributes:
        plain, corrected: figures of the two rankings; those of the gated one are the version's own.
        gate: which of the two counted.
    """

    def __init__(self, learner: Learner, options: Options, seed: int) -> None:
        self.options, self.seed = options, seed
        self.plain, self.corrected, self.gate = Prequential(), Prequential(), gates.Gate()
        self._loop: Callable[..., None] = bound(test_then_learn_twice, learner)
        self.step, self.state = session_step(options, seed)
        self._batch, self._picks = new_batch(options), np.zeros(options.batch, np.int64)
        self._drawn = False  # whether the batch has negatives of before the events to come
        self.session = Session(
            weights=weights_of(self.state.params, options),
            space=new_workspace(options),
            examples=new_examples(options),
            record=self.gate.record,
            rule=self.gate.rule,
            slots=np.zeros(options.length, np.int32),
            gaps=np.zeros(options.length, np.uint8),
            delta=np.zeros(options.dimension, np.float32),
            idle_s=options.idle_s,
            negatives=options.negatives,
        )

    def __call__(
        self, model: Model, batch: Batch, seen: Seen, scores: NDArray[np.float32], outcome: Outcome
    ) -> None:
        """Events in order, and a step after each event whose number `every` divides."""
        n = len(batch.user)
        ranks = Ranks(np.empty(n, np.float32), np.empty(n, np.float32))
        first = 0
        while first < n:
            last = min(n, first + self.options.every - (batch.number + first) % self.options.every)
            if (batch.number + first) % self.options.every == 0:
                self._begin(model, int(batch.known[first]), batch.number + first)
            self._loop(model, batch, seen, scores, outcome, self.session, ranks, (first, last))
            if (batch.number + last) % self.options.every == 0:
                self._train(model, batch.number + last)
            first = last
        numbers = batch.number + np.arange(n)
        for totals, rank in ((self.plain, ranks.plain), (self.corrected, ranks.corrected)):
            totals.observe(rank, outcome.loss, outcome.user_events, outcome.item_events, 0, numbers)

    def _begin(self, model: Model, known: int, number: int) -> None:
        self._drawn = known >= model.options.start
        if self._drawn:
            draw_negatives(self._batch, model, known, number, self._key(number))

    def _key(self, number: int) -> np.uint64:
        return np.uint64(mix(np.uint64((int(mix(np.uint64(self.seed))) + number) & _LOW_64)))

    def _train(self, model: Model, number: int) -> None:
        examples, options = self.session.examples, self.options
        pushed = int(examples.pushed[0])
        if pushed < options.batch or not self._drawn:
            return
        new = options.batch - options.replayed
        pick(pushed, options.remembered, new, self._key(number), self._picks)
        fill(self._batch, examples, self._picks, model)
        self.state, _ = self.step(self.state, self._batch)
        # This waits for the step: JAX may compute from the batch itself, which the next one overwrites.
        self.session = self.session._replace(weights=weights_of(self.state.params, options))

    def summary(self) -> dict[str, Any]:
        """Steps, dropped steps, compilations, and where the gate stands."""
        state = jax.device_get(self.state)
        return {
            "steps": int(state.steps),
            "dropped": int(state.dropped),
            "compilations": self.step.compilations,
            "gate": [standing.reason for standing in self.gate.standings()],
        }
