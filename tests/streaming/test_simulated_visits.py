"""Simulated users who are shown lists: what they choose follows their preferences and where things stand."""

from __future__ import annotations

import numpy as np

from streaming.experiments import Design, Experiment
from streaming.simulated_visits import FADE, SALIENCE, VisitedSimulator
from streaming.simulator import Simulator, SimulatorOptions

OPTIONS = SimulatorOptions(seed=3, users=300, items=60, sessions=8, session_events=3.0)


def truth(world: Simulator, user: int) -> dict[int, float]:
    """True probability by item."""
    return dict(zip(world.live_items().tolist(), world.preferences(user).tolist(), strict=True))


def test_without_a_list_users_choose_as_the_simulator_does() -> None:
    plain, visited = Simulator(OPTIONS).events(500), VisitedSimulator(OPTIONS)
    found = [(visited.visitor(), visited.choose([]).item) for _ in range(500)]
    assert found == list(zip(plain.user.tolist(), plain.item.tolist(), strict=True))


def test_a_list_is_chosen_from_as_the_formula_says() -> None:
    world = VisitedSimulator(OPTIONS)
    chances, places = [], []
    for k in range(3000):
        wants = truth(world, world.visitor())
        shown = sorted(wants, key=lambda item: -wants[item])[:10] if k % 2 else [*wants][:10]
        weights = {item: wants[item] * (1 + SALIENCE * FADE**r) for r, item in enumerate(shown)}
        listed = sum(weights.values())
        chosen = world.choose(shown)
        assert np.isclose(
            chosen.chance, listed / (listed + 1 - sum(wants[item] for item in shown)), rtol=1e-3
        )
        chances.append(chosen.chance)
        places.append(chosen.position)
    assert np.isclose(np.mean([place is not None for place in places]), np.mean(chances), atol=0.03)


def test_the_same_item_is_chosen_oftener_at_the_top() -> None:
    chances = {}
    for place in (0, 9):
        world = VisitedSimulator(OPTIONS)
        taken = 0
        for _ in range(2000):
            wants = truth(world, world.visitor())
            best = max(wants, key=wants.__getitem__)
            rest = [item for item in wants if item != best][:9]
            taken += world.choose([*rest[:place], best, *rest[place:]]).position == place
        chances[place] = taken / 2000
    assert chances[0] > chances[9] + 0.1


def test_a_dead_item_in_a_list_is_never_chosen() -> None:
    world = VisitedSimulator(OPTIONS)
    world.visitor()
    assert world.choose([999_999]).chance == 0.0


def test_lists_without_taste_are_taken_out_by_the_guardrail() -> None:
    """Champion: what the user truly wants most. Challenger: the same items for all."""
    world = VisitedSimulator(OPTIONS)
    experiment = Experiment(Design(mean=0.5, guardrail=-0.03), {"champion": 0.5, "challenger": 0.5})
    arms, outcomes = [], []
    for k in range(1500):
        wants = truth(world, world.visitor())
        shown = [*wants][:10] if k % 2 else sorted(wants, key=lambda item: -wants[item])[:10]
        arms.append(k % 2)
        outcomes.append(float(world.choose(shown).position is not None))
    experiment.add(np.array(arms), np.array(outcomes), np.zeros(1500, np.int64))
    assert experiment.guardrails["challenger"].state == "acted"
    assert experiment.decisions["challenger"].verdict == "worse"
