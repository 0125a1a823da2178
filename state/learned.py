"""All that a version has learned: events enter, rows change, and a commit makes them durable together."""

from __future__ import annotations

import json
import timeit
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from state.admission import Admission
from state.arena import DONE, DURABLE, OLDEST, WATERMARK, Arena
from state.draws import Draw, event_keys
from state.evaluations import prequential_puts, read_prequential
from state.expiry import CHECK_EVENTS, Expiry
from state.ids import IdTable
from state.items import ItemTable
from state.ledger import Ledger, as_json, sealed, unsealed
from state.parameters import parameter_puts, read_parameters
from state.recent import RecentRing
from state.rows import seen_in
from state.spec import Spec, difference_of
from state.store import Store
from state.users import UserTable
from streaming import learners
from streaming.errors import SettingError
from streaming.evaluation import Prequential
from streaming.events import EventBatch
from streaming.kernels import compiled_before
from streaming.learners.contract import Event, Model
from streaming.learners.loop import (
    Batch,
    Outcome,
    bound,
    new_outcome,
    rank_of,
    score_all,
    test_then_learn,
)
from streaming.learners.model import new_model, no_seen, room_for_seen

_MICROSECONDS = 1_000_000


class Learned:
    """A version in memory, over its store.

    Args:
        user_cache: most users held in memory, None for all.
        draw: which events are evaluated; by default the spec's rate.
        exclude_seen: rank without what the user had before; remembers all events, so it is for
            backtests only.
        arena: where what other processes may read while this one learns lies.
    """

    def __init__(
        self,
        spec: Spec,
        store: Store,
        *,
        user_cache: int | None = 100_000,
        draw: Draw | None = None,
        exclude_seen: bool = False,
        arena: Arena | None = None,
    ) -> None:
        if exclude_seen and (user_cache is not None or spec.users_live_s or spec.items_live_s):
            raise SettingError(
                "exclude_seen remembers rows by their place, so all users must stay in memory "
                "(user_cache=None) and nothing may expire."
            )
        self.spec, self.store = spec, store
        self.learner = learners.load(spec.learner)
        self.options = learners.options_of(self.learner, spec.options)
        self.layout = self.learner.layout(self.options)
        self._draw = draw or Draw(rate=spec.evaluation_rate)
        self._loop = bound(test_then_learn, self.learner)
        self.ledger = Ledger.read(store)
        self.arena = arena or Arena()
        self.users = UserTable(self.layout, spec.seed, store, user_cache, self.arena)
        self.items = ItemTable(self.layout, spec.seed, self.arena)
        model = new_model(self.learner, self.options, 1, 1)
        params = self.arena.keep("params", model.params)
        self._model = model._replace(params=params, done=self.arena.head[DONE : DONE + 1])
        self.prequential = Prequential()
        self._place = (0, np.zeros(0, np.int64))  # source and offsets of the batch resolved last
        self._admit_users = Admission(b"u", spec.admit_users, spec.admission_half_life)
        self._admit_items = Admission(b"i", spec.admit_items, spec.admission_half_life)
        self._ring = RecentRing(self._model.recent)
        self._expiry = Expiry(spec.users_live_s, spec.items_live_s)
        self._scores = np.zeros(0, np.float32)
        self._exclude_seen = exclude_seen
        self._seen = no_seen()
        self._committed = self.ledger.number  # events up to here are durable
        self._gone: list[bytes] = []  # keys of what is forgotten and not durable yet
        self._moved: list[int] = []  # slots of items that changed without an event
        self._restore()
        self._tell(durable=True)
        self.arena.publish()

    # -- as a view ------------------------------------------------------------------------------

    @property
    def index(self) -> None:
        """All items are scored."""
        return None

    @property
    def copies(self) -> None:
        """Nothing changes while an answer is made."""
        return None

    @property
    def by_rows(self) -> bool:
        """Scores are taken as they are."""
        return False

    @property
    def model(self) -> Model:
        """The model over the tables' present arrays (they are replaced when tables grow)."""
        users, items = self.users, self.items
        return self._model._replace(
            users=users.rows,
            items=items.rows,
            history=users.history,
            recent=self._model.recent._replace(occurrences=items.recent_count),
            neighbours=items.neighbours,
            slot_of=items.slot_of_serial,
            serial_of=items.serial,
        )

    # -- learning -------------------------------------------------------------------------------

    @property
    def compiled(self) -> bool:
        """Whether the learner's kernels were compiled on this machine before."""
        return compiled_before(self._loop)

    @property
    def pending(self) -> int:
        """Events learned since the last commit."""
        return self.ledger.number - self._committed

    @property
    def tally(self) -> tuple[int, int]:
        """(clipped, skipped) steps so far."""
        return int(self._model.tally[0]), int(self._model.tally[1])

    def part(self, events: EventBatch) -> int:
        """How many of the events can be learned at one go.

        Each may be of another user, and all of these are held at once; expiry happens at fixed event numbers.
        """
        most = min(len(events), self.users.limit or len(events))
        if not self._expiry.any and max(self.spec.admit_users, self.spec.admit_items) <= 1.0:
            return most
        return min(most, CHECK_EVENTS - self.ledger.number % CHECK_EVENTS)

    def make_room(self, events: EventBatch) -> bool:
        """Room in memory for the events' users; False where a commit has to come first."""
        return self.users.make_room(events.users, self._committed)

    def resolve(self, events: EventBatch, partition: int) -> Batch:
        """Slots, random keys and the evaluation draw of events; new rows begin. `make_room` comes first."""
        number, n = self.ledger.number, len(events)
        self._place = (partition, events.offsets)
        users = self.users.resolve(events.users, partition, self._admit_users, number)
        asks = np.ones(n, np.bool_)
        if self._admit_items.threshold > 1.0:
            asks = self.items.ids.slots_of(events.items) < 0
        items, known = self.items.resolve(events.items, self._admit_items.admit(events.items, asks, number))
        keys = event_keys(self.spec.seed, partition, events.offsets)
        return Batch(
            user=users,
            item=items,
            known=known,
            # A row cannot be older than what is gone: it would live on in memory, and not in the store.
            time=np.maximum(events.ts // _MICROSECONDS, self._expiry.edge),
            value=events.values,
            weight=events.weights,
            key=keys,
            drawn=self._draw.of(keys, number),
            number=number,
        )

    def learn(self, batch: Batch) -> Outcome:
        """Score and learn resolved events, in order; expiry where its event number is reached."""
        n = len(batch.user)
        if self._scores.shape[0] < self.items.capacity:
            self._scores = np.zeros(self.items.capacity, np.float32)
        if self._exclude_seen:
            self._seen = room_for_seen(self._seen, self.users.capacity, n)
        outcome = new_outcome(n)
        self._loop(self.model, batch, self._seen, self._scores, outcome)
        rank, loss, user_events, item_events = outcome
        self.prequential.observe(rank, loss, user_events, item_events, *self._place)
        ledger = self.ledger
        ledger.number += n
        taken = (batch.user >= 0) & (batch.item >= 0)
        ledger.learned += int(taken.sum())
        ledger.new_users += int((taken & (outcome.user_events == 0)).sum())
        ledger.watermark = max(ledger.watermark, int(batch.time.max(initial=0)))
        if ledger.number % CHECK_EVENTS == 0:
            self._admit_users.sweep(ledger.number)
            self._admit_items.sweep(ledger.number)
            self._expiry.check(self.users, self.items, ledger.watermark, ledger.number)
        self._tell()
        return outcome

    def _tell(self, durable: bool = False) -> None:
        """Keep what readers know of the version as a whole in step."""
        head, ledger = self.arena.head, self.ledger
        head[DONE], head[WATERMARK], head[OLDEST] = ledger.number, ledger.watermark, self.users.oldest
        if durable:
            head[DURABLE] = ledger.number + ledger.erased  # rises where only something was forgotten, too

    def evaluation_cost_s(self) -> float:
        """Seconds that evaluating one event takes now: a score for every item, and its rank."""
        known, number = np.int32(self.items.count), np.int64(self.ledger.number)
        if not known or not self.users.held:
            return 0.0
        one, time = np.float32(1.0), np.int64(self.ledger.watermark)
        event = Event._make((np.int32(0), np.int32(0), known, number, time, one, one, np.uint64(0)))
        score, scores = bound(score_all, self.learner), np.empty(known, np.float32)

        def once() -> None:
            score(self.model, event, scores)
            rank_of(scores, 0)

        once()
        return min(timeit.repeat(once, number=1, repeat=5))

    def counted(self, kind: Literal["user", "item"]) -> IdTable:
        """Ids of a kind that have no row yet and are only counted."""
        return (self._admit_users if kind == "user" else self._admit_items).ids

    def forget(self, users: Sequence[bytes], items: Sequence[bytes], erased: int) -> int:
        """Let go of rows and counts of ids for good, between two events; durable when it returns.

        Args:
            erased: erasures of the home's list that are followed with these.

        Returns:
            Rows that are gone.

        Raises:
            StoreError: nothing of it is durable.
            ValueError: something that was learned is not committed.
        """
        if self.pending:
            raise ValueError(f"{self.pending} events are not committed; ids are forgotten between commits.")
        slots = [self.items.ids.slot_of(name.decode()) for name in items]
        for slot in sorted((slot for slot in slots if slot >= 0), reverse=True):
            self._gone.append(b"i" + self.items.discard(slot, self.ledger.number))
            self._moved.append(slot)
        self._moved = [slot for slot in self._moved if slot < self.items.count]
        stored = self.store.get_many([b"u" + name for name in users])
        for name, row in zip(users, stored, strict=True):
            self.users.discard(name)
            if row is not None:
                self._gone.append(b"u" + name)
                if self.spec.users_live_s:
                    self._gone.append(self._expiry.index_key(seen_in(row), name))
        rows = sum(key[:1] in (b"i", b"u") for key in self._gone)
        self._admit_users.discard(users)
        self._admit_items.discard(items)
        self.ledger.forgot(erased)
        self.commit()
        return rows

    # -- durability -----------------------------------------------------------------------------

    def commit(self) -> int:
        """Make all that was learned durable: rows, parameters, offsets, journal in one batch.

        Returns:
            Rows written.

        Raises:
            StoreError: nothing of it was written.
        """
        users = self.users.changed(self._committed)
        # Before the first event there are the items that the version is to begin with.
        items = self.items.changed(self._committed if self.ledger.number else -1)
        if self._moved:
            items = np.union1d(items, np.array(self._moved, np.int64))
        self.store.write(self._puts(users, items), self._deletes())
        self.users.committed(users)
        self.ledger.committed()
        self._admit_users.committed()
        self._admit_items.committed()
        self._expiry.committed()
        self._ring.committed()
        self.prequential.committed()
        self._gone.clear()
        self._moved.clear()
        self._committed = self.ledger.number
        self._tell(durable=True)
        return len(users) + len(items)

    def _puts(self, users: NDArray[np.int64], items: NDArray[np.int64]) -> Iterator[tuple[bytes, bytes]]:
        yield from self.items.encoded(items)
        yield from self.users.encoded(users)
        yield from self._admit_users.puts(self._committed)
        yield from self._admit_items.puts(self._committed)
        yield from self._expiry.puts(self.users, self._committed)
        yield from self._ring.puts()
        yield from parameter_puts(self._model.params)
        yield from self.ledger.puts()
        yield from prequential_puts(self.prequential)
        yield b"mspec", sealed(as_json(msgspec.to_builtins(self.spec)))
        state = {
            "expired": self._expiry.state(),
            "next_serial": self.items.next_serial,
            "recent_pushed": int(self._model.recent.pushed[0]),
            "tally": self._model.tally.tolist(),
        }
        yield b"mtables", sealed(as_json(state))

    def _deletes(self) -> Iterator[bytes]:
        yield from self._gone
        yield from self._admit_users.deletes()
        yield from self._admit_items.deletes()
        yield from self._expiry.deletes(self.users, self.store, self._committed)

    def _restore(self) -> None:
        state = self.store.get_many([b"mtables", b"mprequential", b"mspec"])
        if state[0] is None or state[1] is None or state[2] is None:
            return
        spec = msgspec.convert(json.loads(unsealed(b"mspec", state[2])), Spec)
        if spec != self.spec:
            raise SettingError(
                f"The store was learned under another spec: {difference_of(spec, self.spec)}. "
                "A version keeps its spec; make another one with `freshet versions create`."
            )
        tables = json.loads(unsealed(b"mtables", state[0]))
        self.items.restore(self.store, tables["next_serial"])
        self.prequential = read_prequential(self.store) or Prequential()
        self._admit_users.restore(self.store)
        self._admit_items.restore(self.store)
        self._expiry.restore(tables["expired"], self.users)
        self._model.tally[:] = tables["tally"]
        read_parameters(self.store, self._model.params)
        self._ring.restore(self.store, tables["recent_pushed"], self.items)
