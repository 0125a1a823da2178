"""The simulated choice: a user's true preferences for the live items enter, the next events leave."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel, random_normal
from streaming.simulated_world import (
    EVENT,
    RECENT,
    TICK,
    TS,
    Keys,
    Rules,
    World,
    begin_session,
    shift,
    tick,
    uniform,
)


class Columns(NamedTuple):
    """Where the kernel writes N events; the fields of SimulatedBatch."""

    user: NDArray[np.int64]  # (N,)
    item: NDArray[np.int64]  # (N,)
    ts: NDArray[np.int64]  # (N,)
    value: NDArray[np.float32]  # (N,)
    type: NDArray[np.int8]  # (N,)
    oracle_rank: NDArray[np.float32]  # (N,)
    probability: NDArray[np.float32]  # (N,)


@kernel
def prefer(world: World, rules: Rules, slot: int) -> None:
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
def exponentiate(
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
def choose(weights: NDArray[np.float32], rest: float) -> int:
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
def remember(world: World, slot: int, chosen: int) -> None:
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
def _judge(keys: Keys, event: int, affinity: float) -> tuple[float, int]:
    """The rating (1 to 5) and the type of an event on an item that fits the user's taste so well."""
    value = np.floor(2.3 + 2.5 * affinity + 0.8 * random_normal(keys.rating, event))
    value = 5.0 if value > 5.0 else 1.0 if value < 1.0 else value
    draw = uniform(keys.type, event)
    bought = 0.04 * value / 3.0
    return value, 2 if draw < bought else (1 if draw < 3.0 * bought else 0)


@kernel
def turn(world: World, rules: Rules, keys: Keys) -> int:
    """Let the world come to the next event; returns the session whose user's turn it is."""
    event = world.clock[EVENT]
    if event % TICK == 0 and event > 0:
        tick(world, rules, keys)
    if event == rules.shift_at:
        shift(world, rules, keys)
    return int(uniform(keys.choice, 4 * event) * world.session_user.shape[0])


@kernel
def finish(world: World, rules: Rules, keys: Keys, session: int, chosen: int) -> None:
    """The user of a session has chosen: remember it, let time pass, and end the session by chance."""
    clock = world.clock
    event = clock[EVENT]
    slot = world.session_user[session]
    remember(world, slot, chosen)
    clock[TS] += 1 + int(-rules.gap_us * np.log(uniform(keys.choice, 4 * event + 2)))
    clock[EVENT] += 1
    if uniform(keys.choice, 4 * event + 3) < rules.end:
        world.active[slot] = 0
        begin_session(world, rules, keys, session)


@kernel
def advance(world: World, rules: Rules, keys: Keys, out: Columns) -> None:
    """Generate the next events until the columns are full."""
    clock = world.clock
    for n in range(out.user.shape[0]):
        event = clock[EVENT]
        session = turn(world, rules, keys)
        slot = world.session_user[session]
        prefer(world, rules, slot)
        total = exponentiate(world.logits, world.weights, world.bits, world.power)
        chosen = choose(world.weights, total * uniform(keys.choice, 4 * event + 1))
        affinity = 0.0
        for k in range(world.taste.shape[1]):
            affinity += world.taste[slot, k] * world.vectors[k, chosen]
        out.user[n] = world.user_id[slot]
        out.item[n] = world.item_id[chosen]
        out.ts[n] = clock[TS]
        out.value[n], out.type[n] = _judge(keys, event, affinity)
        out.oracle_rank[n] = _oracle_rank(world.logits, chosen)
        out.probability[n] = world.weights[chosen] / total
        finish(world, rules, keys, session, chosen)
