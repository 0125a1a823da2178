"""A clickstream whose true preferences are known: options enter, events with their oracle ranks leave."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.errors import SettingError
from streaming.events import EventBatch, Ids
from streaming.kernels import kernel, mix, random_bits, random_normal

TYPES = ("view", "cart", "purchase")
RECENT = 8  # own latest items that draw a user back


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


class _World(NamedTuple):
    """Everything that changes; M live items, U users, S sessions, d dimensions. Ids are numbers from 0."""

    vectors: NDArray[np.float32]  # (d, M), item vectors by dimension, so that scoring runs along items
    popularity: NDArray[np.float32]  # (M,)
    item_id: NDArray[np.int64]  # (M,)
    death: NDArray[np.int64]  # (M,) event number
    taste: NDArray[np.float32]  # (U, d), unit length
    focus: NDArray[np.float32]  # (U, d), of the current session
    last: NDArray[np.float32]  # (U, d), R v of the last item; zero at the session's start
    recent: NDArray[np.int64]  # (U, RECENT) item ids, -1 for none
    recent_slot: NDArray[np.int64]  # (U, RECENT)
    user_id: NDArray[np.int64]  # (U,)
    had: NDArray[np.int64]  # (U,) items that the user put into `recent`
    active: NDArray[np.int64]  # (U,) 1 while in a session
    session_user: NDArray[np.int64]  # (S,)
    centres: NDArray[np.float32]  # (C, d)
    turn: NDArray[np.float32]  # (d, d), R
    activity: NDArray[np.float64]  # (U,) cumulative, ends in 1
    clock: NDArray[np.int64]  # next event, next item id, next user id, sessions begun, ts
    logits: NDArray[np.float32]  # (M,) scratch
    weights: NDArray[np.float32]  # (M,) scratch
    bits: NDArray[np.int32]  # (M,) scratch
    power: NDArray[np.float32]  # (M,) the same memory as bits
    query: NDArray[np.float32]  # (d,) scratch


EVENT, NEXT_ITEM, NEXT_USER, BEGUN, TS = range(5)
TICK = 100  # events from one look at births, deaths and popularity to the next


class _Keys(NamedTuple):
    """A sequence of random numbers for each purpose, counted by event, item, user or session."""

    life: np.uint64
    factor: np.uint64
    popularity: np.uint64
    trend: np.uint64
    taste: np.uint64
    favourite: np.uint64
    session: np.uint64
    turn: np.uint64
    choice: np.uint64
    rating: np.uint64
    type: np.uint64
    feature: np.uint64


class _Rules(NamedTuple):
    """The options, as numbers for the kernels."""

    taste: float
    focus: float
    succession: float
    repeat: float
    popularity: float
    keep: float  # part of a popularity that is kept from one tick to the next
    drift: float
    spread: float
    item_life: float
    end: float  # probability that an event ends its session
    new_user: float
    gap_us: float
    shift_at: int


class _Columns(NamedTuple):
    """Where the kernel writes N events; the fields of SimulatedBatch."""

    user: NDArray[np.int64]  # (N,)
    item: NDArray[np.int64]  # (N,)
    ts: NDArray[np.int64]  # (N,)
    value: NDArray[np.float32]  # (N,)
    type: NDArray[np.int8]  # (N,)
    oracle_rank: NDArray[np.float32]  # (N,)
    probability: NDArray[np.float32]  # (N,)


@kernel
def _uniform(key: np.uint64, counter: int) -> float:
    """Number `counter` of a sequence, in (0, 1)."""
    return (np.float64(random_bits(key, counter) >> np.uint64(11)) + 0.5) * 2.0**-53


@kernel
def _unit(vector: NDArray[np.float32]) -> None:
    """Scale to length 1, in place."""
    total = 0.0
    for k in range(vector.shape[0]):
        total += vector[k] * vector[k]
    scale = np.float32(1.0 / np.sqrt(total + 1e-24))
    for k in range(vector.shape[0]):
        vector[k] *= scale


@kernel
def _make_item(
    centres: NDArray[np.float32], spread: float, keys: _Keys, item: int, vector: NDArray[np.float32]
) -> int:
    """Fill the vector of an item, a function of seed and number only; returns its category."""
    categories, dimension = centres.shape
    category = int(_uniform(keys.life, 2 * item) * categories)
    scale = spread / np.sqrt(dimension)
    for k in range(dimension):
        vector[k] = centres[category, k] + scale * random_normal(keys.factor, item * dimension + k)
    _unit(vector)
    return category


@kernel
def _birth(world: _World, rules: _Rules, keys: _Keys, slot: int) -> None:
    """Put a new item into a slot: vector, popularity, and when it will die."""
    item = world.clock[NEXT_ITEM]
    world.clock[NEXT_ITEM] += 1
    _make_item(world.centres, rules.spread, keys, item, world.query)
    for k in range(world.query.shape[0]):
        world.vectors[k, slot] = world.query[k]
    world.item_id[slot] = item
    world.popularity[slot] = rules.popularity * random_normal(keys.popularity, 2 * item)
    life = -rules.item_life * np.log(_uniform(keys.life, 2 * item + 1))
    world.death[slot] = world.clock[EVENT] + 1 + int(life)


@kernel
def _draw_taste(world: _World, keys: _Keys, slot: int, draw: int) -> None:
    """A taste: three categories with falling weight, and a part of the user's own."""
    categories, dimension = world.centres.shape
    taste = world.taste[slot]
    for k in range(dimension):
        taste[k] = 0.5 * random_normal(keys.taste, draw * dimension + k) / np.sqrt(dimension)
    weight = 1.0
    for place in range(3):
        category = int(_uniform(keys.favourite, 3 * draw + place) * categories)
        for k in range(dimension):
            taste[k] += weight * world.centres[category, k]
        weight *= 0.7
    _unit(taste)


@kernel
def _arrive(world: _World, keys: _Keys, slot: int) -> None:
    """Put a new user into a slot."""
    world.user_id[slot] = world.clock[NEXT_USER]
    world.clock[NEXT_USER] += 1
    for place in range(RECENT):
        world.recent[slot, place] = -1
    world.had[slot] = 0
    _draw_taste(world, keys, slot, 2 * world.user_id[slot])


@kernel
def _find(cumulative: NDArray[np.float64], draw: float) -> int:
    """First place whose cumulative share is at least `draw`."""
    low, high = 0, cumulative.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if cumulative[middle] < draw:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _begin_session(world: _World, rules: _Rules, keys: _Keys, session: int) -> None:
    """Give a session slot to a user who is not active: by activity, or new; the taste turns a little."""
    number = world.clock[BEGUN]
    world.clock[BEGUN] += 1
    users, dimension = world.taste.shape
    counter = number << 32
    new = _uniform(keys.session, counter) < rules.new_user
    while True:
        counter += 1
        draw = _uniform(keys.session, counter)
        slot = int(draw * users) if new else _find(world.activity, draw)
        if world.active[slot] == 0:
            break
    if new:
        _arrive(world, keys, slot)
    taste = world.taste[slot]
    for k in range(dimension):
        taste[k] += rules.drift * random_normal(keys.turn, number * dimension + k) / np.sqrt(dimension)
        world.focus[slot, k] = 0
        world.last[slot, k] = 0
    _unit(taste)
    world.active[slot] = 1
    world.session_user[session] = slot


@kernel
def _tick(world: _World, rules: _Rules, keys: _Keys) -> None:
    """Let popularity wander (an AR(1) process in the logarithm), and replace the items that died."""
    event = world.clock[EVENT]
    items = world.item_id.shape[0]
    fresh = rules.popularity * np.sqrt(1.0 - rules.keep * rules.keep)
    for slot in range(items):
        if world.death[slot] <= event:
            _birth(world, rules, keys, slot)
        else:
            noise = random_normal(keys.trend, event // TICK * items + slot)
            world.popularity[slot] = rules.keep * world.popularity[slot] + fresh * noise


@kernel
def _shift(world: _World, rules: _Rules, keys: _Keys) -> None:
    """The abrupt change: each item's popularity and each user's taste are drawn anew."""
    for slot in range(world.item_id.shape[0]):
        noise = random_normal(keys.popularity, 2 * world.item_id[slot] + 1)
        world.popularity[slot] = rules.popularity * noise
    for slot in range(world.user_id.shape[0]):
        _draw_taste(world, keys, slot, 2 * world.user_id[slot] + 1)


@kernel
def _prefer(world: _World, rules: _Rules, slot: int) -> None:
    """Fill `logits` with the user's true preference for every live item."""
    logits, vectors = world.logits, world.vectors
    for j in range(logits.shape[0]):
        logits[j] = world.popularity[j]
    for k in range(vectors.shape[0]):
        weight = np.float32(
            rules.taste * world.taste[slot, k]
            + rules.focus * world.focus[slot, k]
            + rules.succession * world.last[slot, k]
        )
        for j in range(logits.shape[0]):
            logits[j] += weight * vectors[k, j]
    for place in range(RECENT):
        j = world.recent_slot[slot, place]
        if world.item_id[j] == world.recent[slot, place]:
            logits[j] += np.float32(rules.repeat)


@kernel
def _exponentiate(
    logits: NDArray[np.float32],
    weights: NDArray[np.float32],
    bits: NDArray[np.int32],
    power: NDArray[np.float32],
) -> float:
    """Fill `weights` with exp(logits - largest), to 2e-6 relative; returns their sum.

    2^n from the bits of a float (`power` is `bits` read as floats) and a polynomial
    for the rest (Cephes' expf), so that the compiler can run it in SIMD lanes.
    """
    top = logits[0]
    for j in range(logits.shape[0]):
        if logits[j] > top:
            top = logits[j]
    for j in range(logits.shape[0]):
        x = logits[j] - top
        x = x if x > np.float32(-80.0) else np.float32(-80.0)
        n = np.floor(x * np.float32(1.44269504) + np.float32(0.5))
        r = x - n * np.float32(0.69314718)
        p = np.float32(1.9875691e-4)
        p = p * r + np.float32(1.3981999e-3)
        p = p * r + np.float32(8.3334519e-3)
        p = p * r + np.float32(4.1665796e-2)
        p = p * r + np.float32(1.6666666e-1)
        p = p * r + np.float32(0.5)
        weights[j] = p * r * r + r + np.float32(1.0)
        bits[j] = (np.int32(n) + np.int32(127)) << np.int32(23)
    total = 0.0
    for j in range(logits.shape[0]):
        weights[j] *= power[j]
        total += weights[j]
    return total


@kernel
def _choose(weights: NDArray[np.float32], rest: float) -> int:
    """The item slot at which the cumulative weight passes `rest`."""
    for j in range(weights.shape[0]):
        rest -= weights[j]
        if rest < 0:
            return j
    return int(weights.shape[0] - 1)


@kernel
def _oracle_rank(logits: NDArray[np.float32], chosen: int) -> float:
    """Items with a greater logit, plus half of those with an equal one."""
    value = logits[chosen]
    greater = 0
    equal = 0
    for j in range(logits.shape[0]):
        greater += logits[j] > value
        equal += logits[j] == value
    return greater + 0.5 * (equal - 1)


@kernel
def _remember(world: _World, slot: int, chosen: int) -> None:
    """Move the user's session on to the chosen item."""
    dimension = world.taste.shape[1]
    focus = world.focus[slot]
    for k in range(dimension):
        focus[k] = np.float32(0.6) * focus[k] + np.float32(0.4) * world.vectors[k, chosen]
        turned = np.float32(0)
        for m in range(dimension):
            turned += world.turn[k, m] * world.vectors[m, chosen]
        world.last[slot, k] = turned
    for place in range(RECENT):
        if world.recent[slot, place] == world.item_id[chosen]:
            return
    place = world.had[slot] % RECENT
    world.recent[slot, place] = world.item_id[chosen]
    world.recent_slot[slot, place] = chosen
    world.had[slot] += 1


@kernel
def _judge(keys: _Keys, event: int, affinity: float) -> tuple[float, int]:
    """The rating (1 to 5) and the type of an event on an item that fits the user's taste so well."""
    value = np.floor(2.3 + 2.5 * affinity + 0.8 * random_normal(keys.rating, event))
    value = 5.0 if value > 5.0 else 1.0 if value < 1.0 else value
    draw = _uniform(keys.type, event)
    bought = 0.04 * value / 3.0
    return value, 2 if draw < bought else (1 if draw < 3.0 * bought else 0)


@kernel
def _advance(world: _World, rules: _Rules, keys: _Keys, out: _Columns) -> None:
    """Generate the next events until the columns are full."""
    clock = world.clock
    for n in range(out.user.shape[0]):
        event = clock[EVENT]
        if event % TICK == 0 and event > 0:
            _tick(world, rules, keys)
        if event == rules.shift_at:
            _shift(world, rules, keys)
        session = int(_uniform(keys.choice, 4 * event) * world.session_user.shape[0])
        slot = world.session_user[session]
        _prefer(world, rules, slot)
        total = _exponentiate(world.logits, world.weights, world.bits, world.power)
        chosen = _choose(world.weights, total * _uniform(keys.choice, 4 * event + 1))
        affinity = 0.0
        for k in range(world.taste.shape[1]):
            affinity += world.taste[slot, k] * world.vectors[k, chosen]
        out.user[n] = world.user_id[slot]
        out.item[n] = world.item_id[chosen]
        out.ts[n] = clock[TS]
        out.value[n], out.type[n] = _judge(keys, event, affinity)
        out.oracle_rank[n] = _oracle_rank(world.logits, chosen)
        out.probability[n] = world.weights[chosen] / total
        _remember(world, slot, chosen)
        clock[TS] += 1 + int(-rules.gap_us * np.log(_uniform(keys.choice, 4 * event + 2)))
        clock[EVENT] += 1
        if _uniform(keys.choice, 4 * event + 3) < rules.end:
            world.active[slot] = 0
            _begin_session(world, rules, keys, session)


@kernel
def _populate(world: _World, rules: _Rules, keys: _Keys) -> None:
    """The world before event 0."""
    for slot in range(world.item_id.shape[0]):
        _birth(world, rules, keys, slot)
    for slot in range(world.user_id.shape[0]):
        _arrive(world, keys, slot)
    for session in range(world.session_user.shape[0]):
        _begin_session(world, rules, keys, session)


def _rules(options: SimulatorOptions) -> _Rules:
    """The options as the kernels want them."""
    return _Rules(
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


def _keys(seed: int) -> _Keys:
    """The sequences of random numbers of a seed."""
    start = np.uint64(mix(np.uint64(seed)))
    # Compiled functions return Python integers, whose type in the next call would depend on their size.
    return _Keys(*(np.uint64(random_bits(start, purpose)) for purpose in range(len(_Keys._fields))))


def _succession(centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rotation that best carries each centre to the next one (orthogonal Procrustes, Schönemann 1966)."""
    left, _, right = np.linalg.svd(np.roll(centres, -1, axis=0).T.astype(np.float64) @ centres)
    return np.ascontiguousarray(left @ right, dtype=np.float32)


def _empty_world(options: SimulatorOptions) -> _World:
    """Arrays of the right size, with what is fixed for ever filled in."""
    items, users, dimension = options.items, options.users, options.dimension
    generator = np.random.Generator(np.random.PCG64(options.seed))
    centres = generator.standard_normal((options.categories, dimension))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    activity = np.cumsum(np.arange(1, users + 1, dtype=np.float64) ** -options.activity_skew)
    bits = np.zeros(items, np.int32)
    clock = np.zeros(5, np.int64)
    clock[TS] = options.start_us
    return _World(
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


_WIDTH = 6  # digits of an id, more where they do not suffice


def _text(words: str) -> NDArray[np.uint8]:
    return np.frombuffer(words.encode(), np.uint8)


_USER, _ITEM, _CATEGORY = _text("user-"), _text("item-"), _text("category-")
_LINE_USER, _LINE_ITEM, _LINE_TS = _text('{"user":"user-'), _text('","item":"item-'), _text('","ts":')
_LINE_TYPE, _LINE_VALUE, _LINE_END = _text(',"type":"'), _text('","value":'), _text("}\n")
_TYPE_NAMES = _text("".join(TYPES))
_TYPE_ENDS = np.cumsum([0, *(len(name) for name in TYPES)])
_LINE_MOST = 160  # bytes of the longest line


@kernel
def _put(out: NDArray[np.uint8], at: int, words: NDArray[np.uint8]) -> int:
    """Write text at a position; returns the next position."""
    for k in range(words.shape[0]):
        out[at + k] = words[k]
    return at + int(words.shape[0])


@kernel
def _put_number(out: NDArray[np.uint8], at: int, number: int, width: int) -> int:
    """Write a number ≥ 0 with at least `width` digits; returns the next position."""
    digits = 1
    rest = number // 10
    while rest > 0:
        digits += 1
        rest //= 10
    end = at + max(digits, width)
    rest = number
    for place in range(end - 1, at - 1, -1):
        out[place] = 48 + rest % 10
        rest //= 10
    return end


@kernel
def _put_ids(
    prefix: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    width: int,
    out: NDArray[np.uint8],
    end: NDArray[np.int64],
) -> None:
    """Write "prefix" + number for each number, one after the other, and where each ends."""
    at = 0
    for n in range(numbers.shape[0]):
        at = _put_number(out, _put(out, at, prefix), numbers[n], width)
        end[n] = at


@kernel
def _put_lines(events: _Columns, out: NDArray[np.uint8]) -> int:
    """Write the events as JSON lines; returns the number of bytes."""
    at = 0
    for n in range(events.user.shape[0]):
        at = _put_number(out, _put(out, at, _LINE_USER), events.user[n], _WIDTH)
        at = _put_number(out, _put(out, at, _LINE_ITEM), events.item[n], _WIDTH)
        at = _put_number(out, _put(out, at, _LINE_TS), events.ts[n], 1)
        kind = events.type[n]
        at = _put(out, _put(out, at, _LINE_TYPE), _TYPE_NAMES[_TYPE_ENDS[kind] : _TYPE_ENDS[kind + 1]])
        at = _put_number(out, _put(out, at, _LINE_VALUE), int(events.value[n]), 1)
        at = _put(out, at, _LINE_END)
    return at


@kernel
def _describe(
    centres: NDArray[np.float32],
    spread: float,
    noise: float,
    keys: _Keys,
    first: int,
    vectors: NDArray[np.float32],
    features: NDArray[np.float32],
    category: NDArray[np.int64],
) -> None:
    """Vectors, noisy features and categories of the items from number `first` on."""
    dimension = vectors.shape[1]
    for n in range(category.shape[0]):
        item = first + n
        category[n] = _make_item(centres, spread, keys, item, vectors[n])
        for k in range(dimension):
            features[n, k] = vectors[n, k] + noise * random_normal(keys.feature, item * dimension + k)


def _ids(prefix: NDArray[np.uint8], numbers: NDArray[np.int64], width: int = _WIDTH) -> Ids:
    """Numbers as ids, such as item-000123."""
    out = np.empty(numbers.shape[0] * (prefix.shape[0] + 19), np.uint8)
    end = np.empty(numbers.shape[0], np.int64)
    _put_ids(prefix, numbers, width, out, end)
    start = np.zeros_like(end)
    start[1:] = end[:-1]
    return Ids(out[: end[-1] if end.shape[0] else 0], start, end)


@dataclass(frozen=True, slots=True)
class SimulatedBatch:
    """N events in order, with the truth about each.

    Attributes:
        first: number of the first event, counted from the start of the stream.
        ts: simulated time in microseconds since 1970, strictly ascending.
        value: a rating, 1 to 5, higher where the item fits the user's taste.
        type: index into TYPES.
        oracle_rank: live items with a greater true probability, plus half of those with an equal one.
        probability: true probability of the chosen item at that moment.
    """

    first: int
    user: NDArray[np.int64]  # (N,)
    item: NDArray[np.int64]  # (N,)
    ts: NDArray[np.int64]  # (N,)
    value: NDArray[np.float32]  # (N,)
    type: NDArray[np.int8]  # (N,)
    oracle_rank: NDArray[np.float32]  # (N,)
    probability: NDArray[np.float32]  # (N,)

    def __len__(self) -> int:
        return int(self.user.shape[0])

    def user_ids(self) -> Ids:
        """Ids such as user-000123."""
        return _ids(_USER, self.user)

    def item_ids(self) -> Ids:
        """Ids such as item-000123."""
        return _ids(_ITEM, self.item)

    def type_names(self) -> NDArray[np.str_]:
        """The words for `type`."""
        return np.array(TYPES)[self.type]

    def to_events(self, first_offset: int | None = None) -> EventBatch:
        """The events as a worker gets them, all with weight 1.

        Args:
            first_offset: offset of the first event; its number in the stream when None.
        """
        first = self.first if first_offset is None else first_offset
        offsets = np.arange(first, first + len(self), dtype=np.int64)
        weights = np.ones(len(self), np.float32)
        return EventBatch(self.user_ids(), self.item_ids(), offsets, self.ts, self.value, weights)

    def json_lines(self) -> bytes:
        """The events as JSON lines: user, item, ts (microseconds), type, value."""
        out = np.empty(len(self) * _LINE_MOST, np.uint8)
        length = _put_lines(self._columns(), out)
        return out[:length].tobytes()

    def oracle_hit_rate(self, k: int = 10) -> float:
        """Best possible hit rate at k on these events: that of one who knows all true probabilities."""
        return float(np.mean(self.oracle_rank < k)) if len(self) else float("nan")

    def _columns(self) -> _Columns:
        return _Columns(
            self.user, self.item, self.ts, self.value, self.type, self.oracle_rank, self.probability
        )


@dataclass(frozen=True, slots=True)
class SimulatedItems:
    """N items in order of birth: what a catalogue would say, and the truth.

    Attributes:
        category: number of the category.
        features: content features, the vector hidden by noise.
        vectors: true item vectors, unit length.
    """

    item: NDArray[np.int64]  # (N,)
    category: NDArray[np.int64]  # (N,)
    features: NDArray[np.float32]  # (N, d)
    vectors: NDArray[np.float32]  # (N, d)

    def ids(self) -> Ids:
        """Ids such as item-000123."""
        return _ids(_ITEM, self.item)

    def categories(self) -> Ids:
        """Names such as category-07."""
        return _ids(_CATEGORY, self.category, 2)


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
        self._keys = _keys(self.options.seed)
        _populate(self._world, self._rules, self._keys)

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
        columns = _Columns(
            user=np.empty(n, np.int64),
            item=np.empty(n, np.int64),
            ts=np.empty(n, np.int64),
            value=np.empty(n, np.float32),
            type=np.empty(n, np.int8),
            oracle_rank=np.empty(n, np.float32),
            probability=np.empty(n, np.float32),
        )
        _advance(self._world, self._rules, self._keys, columns)
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
        _describe(self._world.centres, spread, noise, self._keys, first, vectors, features, category)
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
        _prefer(self._world, self._rules, int(slots[0]))
        world = self._world
        total = _exponentiate(world.logits, world.weights, world.bits, world.power)
        return np.asarray(world.weights / total, np.float32)
