"""A simulated world whose users are shown lists: a list enters, what its user chose leaves.

    P(j) ∝ p_j · (1 + salience · fade^r)   for an item at position r = 0, 1, … of the list, P(j) ∝ p_j else

with p the user's true preferences, those of the simulator: users see what stands in front of them, most of
all at the top, and weigh it by what they want. Without a list they choose as in `Simulator.events`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel
from streaming.simulated_choice import choose, exponentiate, finish, prefer, turn
from streaming.simulated_world import EVENT, Keys, Rules, World, uniform
from streaming.simulator import Simulator

SALIENCE = 4.0  # how much likelier an item at the top of a list is chosen than if it stood in none, less 1
FADE = 0.85  # of that, from one position to the next


class Chosen(NamedTuple):
    """What a user chose.

    Attributes:
        item: its number.
        position: where it stood in the list; None for an item that the user found elsewhere.
        chance: true probability that the user chose from the list: what is seen in `position` is one draw.
    """

    item: int
    position: int | None
    chance: float


class VisitedSimulator(Simulator):
    """A simulator whose users react to what they are shown; the same lists give the same choices.

    >>> from streaming.simulator import SimulatorOptions
    >>> shop = VisitedSimulator(SimulatorOptions(seed=7, users=100, items=50, sessions=8))
    >>> user, chosen = shop.visitor(), shop.choose([3, 1, 4, 15, 9, 2, 6])
    >>> user, chosen.item, chosen.position, round(chosen.chance, 4)
    (56, 28, None, 0.1805)
    """

    def visitor(self) -> int:
        """Number of the user who comes next; then `choose`."""
        session = turn(self._world, self._rules, self._keys)
        return int(self._world.user_id[self._world.session_user[session]])

    def choose(self, shown: list[int]) -> Chosen:
        """What that user chooses who is shown a list of different items, by number; time goes on."""
        numbers = np.array(shown, np.int64)
        item, chance = _react(self._world, self._rules, self._keys, numbers, SALIENCE, FADE)
        return Chosen(int(item), shown.index(item) if item in shown else None, float(chance))


@kernel
def _react(
    world: World, rules: Rules, keys: Keys, shown: NDArray[np.int64], salience: float, fade: float
) -> tuple[int, float]:
    """Let the user whose turn it is choose; returns the item's number, and the list's chance."""
    event = world.clock[EVENT]
    session = int(uniform(keys.choice, 4 * event) * world.session_user.shape[0])
    prefer(world, rules, world.session_user[session])
    total = exponentiate(world.logits, world.weights, world.bits, world.power)
    listed = 0.0
    for place in range(shown.shape[0]):
        for j in range(world.item_id.shape[0]):
            if world.item_id[j] == shown[place]:
                total += salience * world.weights[j]
                listed += (1.0 + salience) * world.weights[j]
                world.weights[j] *= np.float32(1.0 + salience)
        salience *= fade
    chosen = choose(world.weights, total * uniform(keys.choice, 4 * event + 1))
    number = world.item_id[chosen]
    finish(world, rules, keys, session, chosen)
    return int(number), listed / total
