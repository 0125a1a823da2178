"""A learning process that writes down what it knew when, and whether what readers were told agrees with it.

`main` is a process of its own (arguments: HOME VERSION USER_CACHE SEED DIRECTORY). It learns lively streams
event by event in live tables until DIRECTORY/stop is there; then it writes DIRECTORY/known. Times are those
of the machine's steady clock, the same for all processes.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from state import expiry, learned
from state.answer_forms import Embedding, Recommendations, Similar
from state.live import SHARED_MEMORY, LiveArena
from state.versions import Registry
from tests.state.streams import lively

Kind = Literal["user", "item"]
FOR_EVER = 2**63 - 1
_CHECK_EVENTS = 128  # events between two looks at what has expired
_COMMIT = 37
_NEVER = -1


class Value(NamedTuple):
    """A row as a reader is told of it, and from when to when it may have been told."""

    since: int
    until: int
    events: int
    seen: int
    vector: bytes


Known = dict[tuple[Kind, str], list[Value]]


class Told(NamedTuple):
    """An answer, and between which moments it was made."""

    begun: int
    ended: int
    answer: Embedding | Recommendations | Similar


class Witness:
    """A version that learns, and every row that it had."""

    def __init__(self, home: Path, name: str, user_cache: int) -> None:
        version = Registry(home).get(name)
        self.arena = LiveArena(version.live_path, version.identity, SHARED_MEMORY)
        self.store = version.open()
        self.learned = learned.Learned(version.spec, self.store, user_cache=user_cache, arena=self.arena)
        self.known: Known = {}
        self._number = _NEVER
        self._begun = 0  # of the event that is being learned
        # What an event makes of a row that expires with it is there for a moment, and may be told.
        check = self.learned._expiry.check

        def noted(*given: Any) -> int:
            self._note_changed(time.monotonic_ns())
            return check(*given)

        self.learned._expiry.check = noted  # type: ignore[method-assign]

    def learn(self, n: int, seed: int, first: int) -> None:
        """Events one by one, each with ids of its own time."""
        events = lively(n, seed=seed, users=80, items=60)
        # Each stream goes on in time after the one before, and brings ids of its own.
        events.ts[:] += first * 7 * 86_400 * 1_000_000
        model = self.learned
        for k in range(n):
            self._begun = time.monotonic_ns()
            one = events.part(k, k + 1)
            if not model.make_room(one):
                model.commit()
                assert model.make_room(one)
            model.learn(model.resolve(one, 0))
            if model.pending >= _COMMIT:
                model.commit()
            ended = time.monotonic_ns()
            self._note_changed(ended)
            if self._number % _CHECK_EVENTS == 0:
                self._note_gone(ended)

    def _note_changed(self, ended: int) -> None:
        model, number, begun = self.learned, self._number, self._begun
        self._number = model.ledger.number
        column = model.layout.column("item", "vector")
        for slot in model.items.changed(number).tolist():
            rows = model.items.rows
            name = model.items.ids.id_of(slot).decode()
            vector = rows.floats[slot, column].tobytes()
            self._have("item", name, begun, ended, int(rows.events[slot]), int(rows.seen[slot]), vector)
        for slot in model.users.changed(number).tolist():
            rows, name = model.users.rows, model.users.ids.id_of(slot).decode()
            self._have("user", name, begun, ended, int(rows.events[slot]), int(rows.seen[slot]), b"")

    def _have(
        self, kind: Kind, name: str, begun: int, ended: int, events: int, seen: int, vector: bytes
    ) -> None:
        values = self.known.setdefault((kind, name), [])
        if values and values[-1].until == FOR_EVER:
            values[-1] = values[-1]._replace(until=ended)
        values.append(Value(begun, FOR_EVER, events, seen, vector))

    def _note_gone(self, ended: int) -> None:
        model = self.learned
        for (kind, name), values in self.known.items():
            if values[-1].until < FOR_EVER:
                continue
            here = (
                model.items.ids.slot_of(name) >= 0
                if kind == "item"
                else values[-1].seen >= model.users.oldest
            )
            if not here:
                values[-1] = values[-1]._replace(until=ended)


def wrong(known: Known, told: Told) -> Iterator[str]:
    """What of an answer was true at no moment around the question."""
    answer = told.answer
    if isinstance(answer, Embedding):
        yield from _wrong_embedding(known, told, answer)
        return
    if isinstance(answer, Recommendations):
        names, scores = [one.item for one in answer.items], [one.score for one in answer.items]
        kind: Kind = "item"
    else:
        names, scores = [one.id for one in answer.similar], [one.score for one in answer.similar]
        kind = answer.kind
    if len(set(names)) < len(names):
        yield f"{kind}s twice: {names}"
    if not np.isfinite(scores).all() or scores != sorted(scores, reverse=True):
        yield f"scores: {scores}"
    for name in names:
        if not any(_around(value, told) for value in known.get((kind, name), [])):
            yield f"{type(answer).__name__}: the {kind} {name!r} was not there"


def _wrong_embedding(known: Known, told: Told, answer: Embedding) -> Iterator[str]:
    vector = np.array(answer.vector, np.float32)
    if not np.isfinite(vector).all():
        yield f"{answer.kind} {answer.id!r}: {vector}"
    if not answer.events:
        return  # it began in this moment, and its first event is not learned
    for value in known.get((answer.kind, answer.id), []):
        same = (value.events, value.seen) == (answer.events, int(answer.last_seen.timestamp()))
        if same and _around(value, told) and value.vector in (b"", vector.tobytes()):
            return
    yield f"{answer.kind} {answer.id!r}: no such row of {answer.events} events around the question"


def _around(value: Value, told: Told) -> bool:
    return value.since <= told.ended and told.begun <= value.until


def main() -> None:
    """Learn until told to stop."""
    home, name, user_cache, seed, directory = sys.argv[1:]
    # Often enough to be met in seconds.
    expiry.CHECK_EVENTS = learned.CHECK_EVENTS = _CHECK_EVENTS  # type: ignore[attr-defined]
    witness, part = Witness(Path(home), name, int(user_cache)), 0
    while not Path(directory, "stop").exists():
        witness.learn(256, int(seed) + part, part)
        part += 1
        Path(directory, "events").write_text(str(witness.learned.ledger.number))
    Path(directory, "known").write_bytes(pickle.dumps(witness.known))
    witness.learned.commit()
    witness.store.close()
    witness.arena.close()
