"""Learners and a history enter; what each would have done on it, event by event, leaves.

The code is the worker's own: each learner is a version in memory, and every event is first
predicted, then learned (protocol P1). All learners see the same decoded events.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from consumers.candidates import Candidate
from consumers.embeddings import learn_events
from consumers.history import History
from state.draws import Draw
from state.learned import Learned
from state.memory import MemoryStore
from streaming.evaluation import Prequential
from streaming.events import EventBatch
from streaming.learners.loop import Batch, Outcome

if TYPE_CHECKING:
    from streaming.session.lockstep import Lockstep

RATINGS = "biased_mf"  # its loss is half the squared error of the predicted value
FULL_EVENTS = 200_000  # up to here every event is evaluated unless told otherwise
DRAWN_EVENTS = 100_000  # about so many of longer histories
_SAMPLE_EVENTS = 500  # fewest events whose learning alone is timed


def usual_every(events: int) -> int:
    """n, where each n-th event is evaluated unless told otherwise.

    >>> usual_every(100_000), usual_every(406_829)
    (1, 5)
    """
    return 1 if events < FULL_EVENTS else -(-events // DRAWN_EVENTS)


class RatingError:
    """Progressive MAE and RMSE of predicted values (protocol P2)."""

    def __init__(self) -> None:
        self._sums = np.zeros(2)  # of |error|, of error²
        self.events = 0

    def observe(self, _: Batch, outcome: Outcome) -> None:
        """Add events, in order."""
        squared = 2.0 * outcome.loss[np.isfinite(outcome.loss)].astype(np.float64)
        terms = np.concatenate([self._sums[None], np.stack([np.sqrt(squared), squared], axis=1)])
        # A running sum adds one by one, so that a batch boundary changes no bit.
        self._sums = np.cumsum(terms, axis=0)[-1]
        self.events += len(squared)

    def summary(self) -> dict[str, float]:
        """MAE and RMSE over all events learned."""
        mae, mse = self._sums / self.events if self.events else (np.nan, np.nan)
        return {"mae": float(mae), "rmse": float(np.sqrt(mse)), "events": self.events}


class WithSession(Learned):
    """A version in memory with a session transformer that learns in lockstep with it."""

    def __init__(self, candidate: Candidate, seed: int, draw: Draw, exclude_seen: bool) -> None:
        from streaming.session.lockstep import Lockstep  # JAX takes a second to load

        spec = candidate.spec(seed)
        super().__init__(spec, MemoryStore(), user_cache=None, draw=draw, exclude_seen=exclude_seen)
        self.lockstep: Lockstep = Lockstep(self.learner, candidate.session_options(), spec.seed)
        self._loop = self.lockstep


@dataclass(slots=True)
class Trial:
    """One learner with one seed on its way through the history."""

    candidate: Candidate
    learned: Learned
    error: RatingError | None
    seconds: float = 0.0
    sample: EventBatch | None = None  # the longest batch so far, to time learning alone

    def learn(self, events: EventBatch) -> None:
        """Predict and learn events."""
        learned = self.learned
        partition = learned.ledger.partition("history")
        took = learn_events(learned, events, partition, observe=self.error.observe if self.error else None)
        learned.ledger.record(partition, int(events.offsets[0]), int(events.offsets[-1]) + 1)
        self.seconds += took.resolve_s + took.learn_s
        if self.sample is None or len(events) >= len(self.sample):
            self.sample = events


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a learner; rates are means over the seeds.

    Attributes:
        sd: standard deviation of each overall rate over the seeds; empty for a single one.
        row_bytes: bytes in memory of a user's and an item's row, without its id.
        rows: users and items known at the end.
        session: of a session transformer beside the learner: rates of the plain, the corrected and the
            gated ranking, which is also the overall one; steps, and where the gate stands.
        learning_per_second: events learned a second without evaluation; None where the history is too short.
    """

    text: str
    learner: str
    options: dict[str, Any]
    overall: dict[str, float]
    segments: dict[str, dict[str, float]]
    sd: dict[str, float]
    curve: dict[str, Any]
    loss: float | None
    rating_error: dict[str, float] | None
    seconds: float
    events_per_second: float
    learning_per_second: float | None
    row_bytes: dict[str, int]
    rows: dict[str, int]
    clipped: int
    skipped: int
    session: dict[str, Any] | None = None

    @property
    def memory_bytes(self) -> int:
        """Bytes of all rows in memory."""
        return sum(self.row_bytes[kind] * self.rows[kind] for kind in self.rows)

    @property
    def standard_error(self) -> float:
        """Of HR@10, from the number of evaluated events: √(p (1 − p) / n)."""
        p, n = self.overall["hr@10"], self.overall["events"]
        return float(np.sqrt(p * (1.0 - p) / n)) if n else float("nan")


@dataclass(slots=True)
class Comparison:
    """All results over one history."""

    events: int
    every: int
    exclude_seen: bool
    seeds: list[int]
    results: list[Result] = field(default_factory=list)

    @property
    def best(self) -> Result:
        """The learner with the highest HR@10."""
        return max(self.results, key=lambda result: np.nan_to_num(result.overall["hr@10"], nan=-1.0))


def new_trials(
    candidates: Iterable[Candidate], seeds: Sequence[int], draw: Draw, exclude_seen: bool
) -> list[Trial]:
    """Each learner with each seed, over a store in memory that nothing is committed to."""

    def learned(one: Candidate, seed: int) -> Learned:
        if one.session is not None:
            return WithSession(one, seed, draw, exclude_seen)
        return Learned(one.spec(seed), MemoryStore(), user_cache=None, draw=draw, exclude_seen=exclude_seen)

    return [
        Trial(one, learned(one, seed), RatingError() if one.learner == RATINGS else None)
        for one in candidates
        for seed in seeds
    ]


def compare(
    history: History,
    candidates: Sequence[Candidate],
    *,
    every: int = 1,
    exclude_seen: bool = False,
    seeds: Sequence[int] = (1,),
    batch_events: int = 4096,
    observe: Callable[[float], None] | None = None,
) -> Comparison:
    """Let learners predict and learn the same events side by side.

    Args:
        every: n, to evaluate each n-th event by position, from the first on; all are learned.
        exclude_seen: rank without what the user had before.
        batch_events: events at a time; changes the speed, never the figures.
        observe: told how many events are done, counted once for each learner and seed.
    """
    draw = Draw(every=every)
    trials = new_trials(candidates, seeds, draw, exclude_seen)
    done = 0
    compile_kernels(history, candidates)
    for events in history.batches(batch_events):
        for trial in trials:
            trial.learn(events)
            done += len(events)
            if observe is not None:
                observe(done)
    by_candidate = [trials[k : k + len(seeds)] for k in range(0, len(trials), len(seeds))]
    results = [_result(group, history.events) for group in by_candidate]
    return Comparison(history.events, every, exclude_seen, list(seeds), results)


def compile_kernels(history: History, candidates: Sequence[Candidate]) -> None:
    """Let throw-away versions learn one event, so that no compiler runs while learners are timed."""
    one_of_each = {(one.learner, one.session is None): one for one in candidates}
    for trial in new_trials(one_of_each.values(), (1,), Draw(every=1), exclude_seen=False):
        for event in history.batches(1):
            trial.learn(event)
            break
        items = trial.learned.items
        items.make_room(2 * items.capacity, 0)  # tables grow by compiled code, too


def _result(trials: Sequence[Trial], events: int) -> Result:
    """What the trials of one learner, one for each seed, came to."""
    summaries = [trial.learned.prequential.summary() for trial in trials]
    errors = [trial.error.summary() for trial in trials if trial.error is not None]
    losses = [summary["loss"] for summary in summaries if summary["loss"] is not None]
    speeds = [speed for trial in trials if (speed := _learning_speed(trial)) is not None]
    seconds = float(np.mean([trial.seconds for trial in trials]))
    first = trials[0].learned
    overall = [summary["overall"] for summary in summaries]
    curves = np.array([summary["curve"]["hr@10"] for summary in summaries])
    return Result(
        text=trials[0].candidate.text,
        learner=first.spec.learner,
        options=first.options._asdict(),
        overall=_means(overall),
        segments={
            name: _means([s["segments"][name] for s in summaries]) for name in summaries[0]["segments"]
        },
        sd={
            k: float(np.std([o[k] for o in overall], ddof=1))
            for k in overall[0]
            if k != "events" and len(trials) > 1
        },
        curve={**summaries[0]["curve"], "hr@10": curves.mean(axis=0).tolist()},
        loss=float(np.mean(losses)) if losses else None,
        rating_error=_means(errors) if errors else None,
        seconds=seconds,
        events_per_second=events / seconds,
        learning_per_second=float(np.mean(speeds)) if speeds else None,
        row_bytes=_row_bytes(first),
        rows={"user": first.users.held, "item": first.items.count},
        clipped=sum(trial.learned.tally[0] for trial in trials),
        skipped=sum(trial.learned.tally[1] for trial in trials),
        session=_session([t.learned for t in trials if isinstance(t.learned, WithSession)]),
    )


def _session(versions: Sequence[WithSession]) -> dict[str, Any] | None:
    """Rates of both rankings and of the gated one over the seeds; steps and gate of the first seed."""
    if not versions:
        return None
    rankings = {
        "plain": [one.lockstep.plain for one in versions],
        "corrected": [one.lockstep.corrected for one in versions],
        "gated": [one.prequential for one in versions],
    }
    return {
        **versions[0].lockstep.summary(),
        "whole": {name: _means([p.summary()["overall"] for p in each]) for name, each in rankings.items()},
        "last_half": {name: _means([_last_half(p) for p in each]) for name, each in rankings.items()},
    }


def _last_half(prequential: Prequential) -> dict[str, float]:
    points = -(-prequential.evaluated // prequential.span)
    return prequential.window(max(1, points // 2))


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {k: v if k == "events" else float(np.mean([row[k] for row in rows])) for k, v in rows[0].items()}


def _learning_speed(trial: Trial) -> float | None:
    """Events learned a second without evaluation, measured on a batch that is learned again."""
    learned, events = trial.learned, trial.sample
    if events is None or len(events) < _SAMPLE_EVENTS:
        return None
    fastest = float("inf")
    for _ in range(3):  # what else the machine does only ever makes it slower
        part = events.part(0, learned.part(events))
        learned.make_room(part)
        begun = time.perf_counter()
        batch = learned.resolve(part, 0)
        learned.learn(batch._replace(drawn=np.zeros(len(part), np.bool_)))
        fastest = min(fastest, (time.perf_counter() - begun) / len(part))
    return 1.0 / fastest


def _row_bytes(learned: Learned) -> dict[str, int]:
    """Bytes in memory of a user's and an item's row, from the arrays that hold them."""
    users, items = learned.users, learned.items
    of_users: tuple[NDArray[Any], ...] = (*users.rows, *users.history, users.partition, users.stored_seen)
    of_items: tuple[NDArray[Any], ...] = (
        *items.rows, *items.neighbours, items.serial, items.slot, items.recent_count
    )  # fmt: skip
    return {
        "user": round(sum(array.nbytes for array in of_users) / users.capacity),
        "item": round(sum(array.nbytes for array in of_items) / items.capacity),
    }
