from __future__ import annotations

import json

import numpy as np

from streaming.session.gate import Gate, Rule


def test_gate_opens_where_the_correction_is_better_and_only_for_those_histories() -> None:
    gate, random = Gate(), np.random.default_rng(1)
    for _ in range(1500):
        plain = float(random.integers(0, 40))
        gate.compare(4, plain, max(0.0, plain - 3.0))
        gate.compare(40, plain, plain + 3.0)
    assert gate.serves(4) and gate.serves(3) and not gate.serves(40) and not gate.serves(0)
    open_one, shut_one = gate.standings()[2], gate.standings()[6]
    assert open_one.reason.startswith("open: gain +0.") and open_one.gain > 2 * open_one.error
    assert shut_one.reason.startswith("shut: gain -0.") and shut_one.changes == 0


def test_gate_closes_when_the_correction_becomes_worse() -> None:
    gate = Gate(Rule(half_life=500.0))
    for n in range(6000):
        gate.compare(10, 5.0, 3.0 if n < 2000 else 8.0)
        assert n < 5000 or not gate.serves(10)
    assert gate.standings()[4].changes == 2


def test_gate_does_not_flap_on_noise() -> None:
    changes = []
    for seed in range(20):
        gate, random = Gate(), np.random.default_rng(seed)
        plain, other = random.integers(0, 60, (2, 20_000))
        for a, b in zip(plain.tolist(), other.tolist(), strict=True):
            gate.compare(5, a, b)
        changes.append(gate.standings()[3].changes)
    assert max(changes) <= 8 and np.mean(changes) < 4  # in 20,000 events of no difference at all


def test_gate_needs_events_before_it_opens() -> None:
    gate = Gate()
    for _ in range(199):
        gate.compare(1, 30.0, 0.0)
    assert not gate.serves(1)
    assert "199 of 200 events" in gate.standings()[0].reason
    gate.compare(1, 30.0, 0.0)
    assert gate.serves(1)


def test_restored_gate_goes_on_as_the_one_that_was_kept() -> None:
    gate, random = Gate(), np.random.default_rng(2)
    ranks = random.integers(0, 30, (2000, 2)).astype(float)
    for n, (a, b) in enumerate(ranks):
        gate.compare(n % 50, a, b * 0.8)
    again = Gate.restored(json.loads(json.dumps(gate.state())))
    for one in (gate, again):
        for n, (a, b) in enumerate(ranks):
            one.compare(n % 50, a, b * 0.9)
    assert gate.state() == again.state()


def test_a_miss_counts_as_no_gain_at_all() -> None:
    gate = Gate()
    for _ in range(300):
        gate.compare(2, np.inf, np.inf)
    assert gate.standings()[1].gain == 0.0 and not gate.serves(2)
