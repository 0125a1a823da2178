"""Sequences of a version: histories move, corrections are refreshed, and a commit keeps all of it together.

The store, a RocksDB of its own (state/sequences_directory.py says where), with one writer:

    u<id>           row of a user: correction δ / τ, the query h / τ it was refreshed beside, last items
    n<number>       id of an item, numbered at first sight (state/sequences_items.py)
    a<number>       dense arrays of the transformer: weights, moments, counts of its steps
    x<block>        examples that are remembered, 64 in each
    r               ring of recent items
    o… j… mledger   sources, offsets, journal, as in a version's own store (state/ledger.py)
    msessions       options, gate, totals
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from state.admission import Admission
from state.arena import DONE, Arena
from state.ids import IdTable
from state.ledger import Ledger, as_json, sealed, unsealed
from state.rows import touched_in
from state.sequences_directory import FACT_DIMENSION, FACT_IDLE, FACT_MODE, MODES, SESSIONS, state_of
from state.sequences_items import ItemRows
from state.spec import Spec
from state.store import Store
from state.users import UserTable
from streaming import learners
from streaming.errors import SettingError, VersionError
from streaming.events import Ids
from streaming.learners.contract import Field, Layout, Learner
from streaming.session.examples import new_examples
from streaming.session.gate import Gate, Record
from streaming.session.options import Options, options_of

BENEATH = "softmax"  # the learner whose query is corrected
_WARM = 4096  # users that are read at one go
_BLOCK = 64  # examples in one value
_ADMIT_ALL = Admission(b"u", 1.0, 1.0)


def layout_of(dimension: int, history: int) -> Layout:
    """Rows of users: δ / τ, and h / τ as it was at the refresh, 0 where the two are not to be compared."""
    return Layout((Field("correction", dimension), Field("plain", dimension)), (), history=history)


@dataclass(slots=True)
class Counts:
    """Totals of a version's sequences, which a commit keeps.

    Attributes:
        due: training steps that the events so far ask for.
        left_out: of these, not taken because refresh came first.
        restored: times the weights went back to the last good commit.
        refreshed: sequence embeddings computed.
        credit: part of a step that is saved up while only a share of them is taken.
        noting: whether the block of events that is under way is trained.
        mean_loss: decaying mean of the losses, 0 before the first.
        known: items numbered by the events so far.
    """

    due: int = 0
    left_out: int = 0
    restored: int = 0
    refreshed: int = 0
    credit: float = 0.0
    noting: bool = True
    mean_loss: float = 0.0
    known: int = 0


class Sequences:
    """All that the transformer of a version keeps.

    Args:
        learner, learner_options: of the version.
        options: of the transformer.
        limit: most users held in memory; the others wait in the store.
        block: events that are taken at one go.
        arena: where what servers read lies.

    Attributes:
        arrays: dense arrays of the transformer, none before the first commit.
        facts: (3,) int64, mode of the gate, idle time in seconds and dimension, for servers.
    """

    def __init__(
        self,
        store: Store,
        learner: Learner,
        learner_options: Any,
        options: Options,
        *,
        limit: int | None = None,
        block: int = 64,
        arena: Arena | None = None,
    ) -> None:
        self.store, self.options, self.arena = store, options, arena or Arena()
        self.ledger, self.counts, self.gate = Ledger.read(store), Counts(), Gate()
        history = max(options.length, learner.layout(learner_options).history)
        layout = layout_of(options.dimension, history)
        self.users = UserTable(layout, 0, store, limit, self.arena)
        self.items = ItemRows(learner, learner_options, block)
        self.examples = new_examples(options)
        self.arrays: list[NDArray[Any]] = []
        self._seen_steps = self._examples_written = 0
        self._gone: list[bytes] = []
        self._committed = self.ledger.number
        self._restore()
        self.gate.record = Record(*self.arena.keep("gate", self.gate.record))
        self.facts: NDArray[np.int64] = self.arena.zeros("facts", (3,), np.int64)
        self.facts[FACT_IDLE], self.facts[FACT_DIMENSION] = options.idle_s, options.dimension
        self.tell()
        self.arena.publish()

    @property
    def committed(self) -> int:
        """Number of the newest event that is durable."""
        return self._committed

    def resolve(self, users: Ids, partition: int) -> NDArray[np.int32]:
        """Slots of users; `users.make_room` comes first."""
        return self.users.resolve(users, partition, _ADMIT_ALL, self.ledger.number)

    def set_mode(self, mode: str) -> None:
        """Tell servers whether the gate decides, or is held open or shut."""
        self.facts[FACT_MODE] = MODES.index(mode)

    def warm(self) -> None:
        """Bring the users who moved last into memory, as many as are held: servers read them there."""
        touched = np.fromiter((touched_in(row) for _, row in self.store.scan(b"u")), np.int64)
        if not len(touched):
            return
        least = 0
        if self.users.limit is not None and len(touched) > self.users.limit:
            least = np.partition(touched, -self.users.limit)[-self.users.limit]
        chosen = (key[1:] for key, row in self.store.scan(b"u") if touched_in(row) >= least)
        while names := list(islice(chosen, _WARM)):
            ids = Ids.of(names)
            if not self.users.make_room(ids, self._committed):
                return
            self.resolve(ids, 0)
        self.tell()

    def tell(self) -> None:
        """All that came so far is refreshed: servers may read the rows of the newest events."""
        self.arena.head[DONE] = self.ledger.number
        self.arena.publish()
        self.arena.beat()

    def counted(self, _: str) -> IdTable:
        """Ids that have no row yet: all get theirs at once."""
        return IdTable(1)

    def forget(self, users: Sequence[bytes], items: Sequence[bytes], erased: int) -> int:
        """Let go of ids for good, between two commits; durable when it returns. Returns rows that are gone.

        What is remembered for replay does not say whose it is, so all of it goes with a user.
        """
        stored = self.store.get_many([b"u" + name for name in users])
        for name, row in zip(users, stored, strict=True):
            self.users.discard(name)
            if row is not None:
                self._gone.append(b"u" + name)
        if users:
            blocks = -(-len(self.examples.target) // _BLOCK)
            self._gone += [b"x%06d" % block for block in range(blocks)]
            for array in self.examples:
                array[...] = 0
            self._examples_written = 0
        self._gone += self.items.forget(items)
        self.ledger.forgot(erased)
        rows = sum(key[:1] in (b"u", b"n") for key in self._gone)
        self.commit()
        return rows

    def commit(self) -> int:
        """Rows, dense arrays, examples, gate and offsets in one batch; returns the rows written.

        Raises:
            StoreError: nothing of it was written.
        """
        users = self.users.changed(self._committed)
        self.store.write(self._puts(users), self._gone)
        self.users.committed(users)
        self.ledger.committed()
        self.items.committed()
        self._gone.clear()
        self._committed = self.ledger.number
        self._examples_written = int(self.examples.pushed[0])
        return len(users)

    def _puts(self, users: NDArray[np.int64]) -> Iterator[tuple[bytes, bytes]]:
        yield from self.users.encoded(users)
        yield from self.items.puts()
        yield from self._example_blocks()
        for number, array in enumerate(self.arrays):
            yield _array_key(number), sealed(array.tobytes())
        yield from self.ledger.puts()
        state = {
            "options": {k: v for k, v in self.options._asdict().items() if k != "idle_s"},
            "gate": self.gate.state(),
            "mode": MODES[int(self.facts[FACT_MODE])],
            "idle_s": self.options.idle_s,
            "counts": asdict(self.counts),
            "items": self.items.count,
            "examples": int(self.examples.pushed[0]),
            "forms": [[array.dtype.str, list(array.shape)] for array in self.arrays],
        }
        yield SESSIONS, sealed(as_json(state))

    def _example_blocks(self) -> Iterator[tuple[bytes, bytes]]:
        pushed, size = int(self.examples.pushed[0]), len(self.examples.target)
        moved = np.arange(max(self._examples_written, pushed - size), pushed) % size
        for block in np.unique(moved // _BLOCK).tolist():
            part = slice(block * _BLOCK, (block + 1) * _BLOCK)
            yield b"x%06d" % block, sealed(b"".join(array[part].tobytes() for array in self.examples[:-1]))

    def _restore(self) -> None:
        found = state_of(self.store)
        if found is None:
            return
        self.counts, self.gate = Counts(**found["counts"]), Gate.restored(found["gate"])
        self.items.restore(self.store, found["items"])
        for number, (kind, shape) in enumerate(found["forms"]):
            key = _array_key(number)
            value = unsealed(key, self.store.get_many([key])[0] or b"")
            self.arrays.append(np.frombuffer(value, np.dtype(kind)).reshape(shape).copy())
        self.examples.pushed[0] = self._examples_written = found["examples"]
        for key, value in self.store.scan(b"x"):
            first, words, at = int(key[1:]) * _BLOCK, unsealed(key, value), 0
            for array in self.examples[:-1]:
                part = array[first : first + _BLOCK]
                part[...] = np.frombuffer(words, part.dtype, part.size, at).reshape(part.shape)
                at += part.nbytes


def _array_key(number: int) -> bytes:
    return b"a%03d" % number


def settled_options(spec: Spec, store: Store, given: Mapping[str, str], idle_s: int | None = None) -> Options:
    """Options of a version's transformer: those that its sequences began with, which hold for good.

    Args:
        given: option → value as text; may only repeat what holds, once there is something.
        idle_s: pause that ends a session, 0 for none; it may be another one at each start, None for the same.

    Raises:
        SettingError: an unknown option, an impossible value, or one that cannot change any more.
        VersionError: the version's learner has no query that could be corrected.
    """
    if spec.learner != BENEATH:
        raise VersionError(
            f'The session transformer corrects versions with the learner {BENEATH}, not "{spec.learner}". '
            f"Make one: `freshet versions create NAME --learner {BENEATH}`."
        )
    learned = learners.options_of(learners.load(spec.learner), spec.options)
    shared = {name: getattr(learned, name) for name in ("dimension", "temperature")}
    found = state_of(store)
    begun = {} if found is None else found["options"]
    if idle_s is None:
        idle_s = 0 if found is None else found["idle_s"]
    options = options_of({**begun, **given, **shared, "idle_s": idle_s})
    changed = [name for name in begun if name not in shared and getattr(options, name) != begun[name]]
    if changed:
        what = ", ".join(f"{name} is {begun[name]}, got {getattr(options, name)}" for name in changed)
        raise SettingError(
            f"The transformer of this version has begun with other options: {what}. Leave them out, or begin "
            "anew: end its worker and remove the directory sequences in that of the version."
        )
    return options


def open_sequences(
    spec: Spec, store: Store, options: Options, *, limit: int | None = None, arena: Arena | None = None
) -> Sequences:
    """The sequences of a version, over their store."""
    learner = learners.load(spec.learner)
    learner_options = learners.options_of(learner, spec.options)
    return Sequences(store, learner, learner_options, options, limit=limit, block=options.every, arena=arena)
