"""A clickstream whose true preferences are known: options enter, events with their oracle ranks leave."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from streaming.errors import SettingError
from streaming.simulated_choice import Columns, advance, exponentiate, prefer
from streaming.simulated_events import TYPES, SimulatedBatch, SimulatedItems
from streaming.simulated_world import (
    EVENT,
    NEXT_ITEM,
    NEXT_USER,
    RECENT,
    TICK,
    TS,
    Rules,
    World,
    describe,
    keys_of,
    populate,
)

__all__ = ["TYPES", "SimulatedBatch", "SimulatedItems", "Simulator", "SimulatorOptions"]


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """What the simulated world is like. The defaults are hard for counters and kind to embeddings.

    A user u with taste p_u, focus c_u (decayed mean of the session's items) and
    last item l chooses live item j with probability softmax over

        taste p_u·v_j + focus c_u·v_j + succession (R v_l)·v_j + popularity_j(t) + repeat [j is recent]

    The vectors v_j lie on the unit sphere near the centre of the item's category;
    R is a fixed rotation that leads each category's centre towards the next one's.

    Attributes:
        seed: the same seed gives the same bytes of events.
        users: users who may come back at any one time; one who leaves is replaced by a new id.
        items: live items at any one time; one that dies is replaced by a new id.
        dimension: of tastes and item vectors.
        categories: clusters of items.
        sessions: users who are active at the same moment.
        session_events: mean length of a session (geometric).
        events_per_second: mean rate in simulated time.
        new_user_share: part of the sessions that belong to a user never seen before.
        activity_skew: exponent of the Zipf law over the users' activity.
        item_life: mean life of an item, in events.
        taste, focus, succession, repeat: strengths in the formula above.
        popularity: standard deviation of an item's popularity (natural logarithm).
        popularity_half_life: events after which half of a popularity is forgotten.
        taste_drift: angle (radians) by which a taste turns from one session to the next.
        spread: size of an item's own part beside its category's centre.
        feature_noise: standard deviation of the noise that hides an item's vector in its features.
        shift_at: event number at which all tastes and popularities change at once; None for never.
        start_us: time of event 0, microseconds since 1970.
    """

    seed: int = 1
    users: int = 5_000
    items: int = 1_500
    dimension: int = 16
    categories: int = 24
    sessions: int = 64
    session_events: float = 8.0
    events_per_second: float = 2.0
    new_user_share: float = 0.02
    activity_skew: float = 0.7
    item_life: int = 150_000
    taste: float = 7.0
    focus: float = 4.0
    succession: float = 3.0
    repeat: float = 0.3
    popularity: float = 1.0
    popularity_half_life: float = 50_000.0
    taste_drift: float = 0.05
    spread: float = 0.85
    feature_noise: float = 0.15
    shift_at: int | None = None
    start_us: int = 1_700_000_000_000_000

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            SettingError: a number is not finite or below its minimum, or a share is above 1.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            least = _MINIMUM.get(field.name, -100)
            if value is not None and not least <= value < 2**63:
                raise SettingError(f"simulator.{field.name}: expected a number from {least}, got {value}.")
        if self.new_user_share > 1:
            raise SettingError(f"simulator.new_user_share: expected 0 to 1, got {self.new_user_share}.")
        if self.sessions * 4 > self.users:
            raise SettingError(
                f"simulator.sessions: expected at most a quarter of users ({self.users // 4}), "
                f"got {self.sessions}. Lower sessions, or raise users."
            )


_MINIMUM: dict[str, float] = {
    "seed": 0, "users": 8, "items": RECENT + 2, "dimension": 2, "categories": 1, "sessions": 1,
    "session_events": 1, "events_per_second": 1e-6, "item_life": 1_000, "popularity_half_life": 1,
    "new_user_share": 0, "activity_skew": 0, "popularity": 0, "taste_drift": 0, "spread": 0,
    "feature_noise": 0, "shift_at": 0, "start_us": 0,
}  # fmt: skip


def _rules(options: SimulatorOptions) -> Rules:
    """The options as the kernels want them."""
    return Rules(
        taste=float(options.taste),
        focus=float(options.focus),
        succession=float(options.succession),
        repeat=float(options.repeat),
        popularity=float(options.popularity),
        keep=float(2.0 ** (-TICK / options.popularity_half_life)),
        drift=float(options.taste_drift),
        spread=float(options.spread),
        item_life=float(options.item_life),
        end=1.0 / options.session_events,
        new_user=float(options.new_user_share),
        gap_us=1e6 / options.events_per_second,
        shift_at=-1 if options.shift_at is None else options.shift_at,
    )


def _succession(centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rotation that best carries each centre to the next one (orthogonal Procrustes, Schönemann 1966)."""
    left, _, right = np.linalg.svd(np.roll(centres, -1, axis=0).T.astype(np.float64) @ centres)
    return np.ascontiguousarray(left @ right, dtype=np.float32)


def _empty_world(options: SimulatorOptions) -> World:
    """Arrays of the right size, with what is fixed for ever filled in."""
    items, users, dimension = options.items, options.users, options.dimension
    generator = np.random.Generator(np.random.PCG64(options.seed))
    centres = generator.standard_normal((options.categories, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    activity = np.cumsum(np.arange(1, users + 1, dtype=np.float64) ** -options.activity_skew)
    bits = np.zeros(items, np.int32)
    clock = np.zeros(5, np.int64)
    clock[TS] = options.start_us
    return World(
        vectors=np.zeros((dimension, items), np.float32),
        popularity=np.zeros(items, np.float32),
        item_id=np.zeros(items, np.int64),
        death=np.zeros(items, np.int64),
        taste=np.zeros((users, dimension), np.float32),
        focus=np.zeros((users, dimension), np.float32),
        last=np.zeros((users, dimension), np.float32),
        recent=np.full((users, RECENT), -1, np.int64),
        recent_slot=np.zeros((users, RECENT), np.int64),
        user_id=np.zeros(users, np.int64),
        had=np.zeros(users, np.int64),
        active=np.zeros(users, np.int64),
        session_user=np.zeros(options.sessions, np.int64),
        centres=centres.astype(np.float32),
        turn=_succession(centres.astype(np.float32)),
        activity=activity / activity[-1],
        clock=clock,
        logits=np.zeros(items, np.float32),
        weights=np.zeros(items, np.float32),
        bits=bits,
        power=bits.view(np.float32),
        query=np.zeros(dimension, np.float32),
    )


class Simulator:
    """An endless stream of events from a world of known preferences.

    The same options give the same bytes on the same type of processor, however
    the stream is cut into batches. One event costs about 8 µs with the default
    options: the exact softmax over all live items.

    >>> simulator = Simulator(SimulatorOptions(seed=7, users=100, items=50, sessions=8))
    >>> batch = simulator.events(1000)
    >>> len(batch), simulator.position, batch.item_ids()[0][:5]
    (1000, 1000, 'item-')
    """

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options = options or SimulatorOptions()
        self._rules = _rules(self.options)
        self._world = _empty_world(self.options)
        self._keys = keys_of(self.options.seed)
        populate(self._world, self._rules, self._keys)

    @property
    def position(self) -> int:
        """Number of the next event."""
        return int(self._world.clock[EVENT])

    @property
    def users_born(self) -> int:
        """User ids given out so far; not all of them have had an event."""
        return int(self._world.clock[NEXT_USER])

    @property
    def items_born(self) -> int:
        """Item ids given out so far, dead ones included."""
        return int(self._world.clock[NEXT_ITEM])

    def events(self, n: int) -> SimulatedBatch:
        """The next n events."""
        first = self.position
        columns = Columns(
            user=np.empty(n, np.int64),
            item=np.empty(n, np.int64),
            ts=np.empty(n, np.int64),
            value=np.empty(n, np.float32),
            type=np.empty(n, np.int8),
            oracle_rank=np.empty(n, np.float32),
            probability=np.empty(n, np.float32),
        )
        advance(self._world, self._rules, self._keys, columns)
        return SimulatedBatch(first, *columns)

    def skip(self, n: int) -> None:
        """Go on by n events without keeping them; takes as long as generating them."""
        end = self.position + n
        while self.position < end:
            self.events(min(10_000, end - self.position))

    def live_items(self) -> NDArray[np.int64]:
        """Numbers of the items that can be chosen now, (M,)."""
        return self._world.item_id.copy()

    def popularity(self) -> NDArray[np.float32]:
        """Popularity (natural logarithm, up to a constant) of the live items, (M,), as in `live_items`."""
        return self._world.popularity.copy()

    def items(self, first: int = 0, last: int | None = None) -> SimulatedItems:
        """Items number first … last - 1; all born so far when last is None."""
        end = self.items_born if last is None else last
        shape = (end - first, self.options.dimension)
        vectors, features = np.empty(shape, np.float32), np.empty(shape, np.float32)
        category = np.empty(shape[0], np.int64)
        spread, noise = float(self.options.spread), float(self.options.feature_noise)
        describe(self._world.centres, spread, noise, self._keys, first, vectors, features, category)
        return SimulatedItems(np.arange(first, end, dtype=np.int64), category, features, vectors)

    def tastes(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Numbers (U,) and true tastes (U, d) of the users who may come back."""
        return self._world.user_id.copy(), self._world.taste.copy()

    def preferences(self, user: int) -> NDArray[np.float32]:
        """True probability of each live item to be the user's next, (M,), ordered as `live_items`.

        Raises:
            LookupError: the user has left, or never came.
        """
        slots = np.flatnonzero(self._world.user_id == user)
        if not slots.size:
            raise LookupError(f"simulator: user {user} is not among the {self.options.users} who may come.")
        prefer(self._world, self._rules, int(slots[0]))
        world = self._world
        total = exponentiate(world.logits, world.weights, world.bits, world.power)
        return np.asarray(world.weights / total, np.float32)
