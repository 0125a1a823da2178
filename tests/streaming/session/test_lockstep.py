from __future__ import annotations

import numpy as np

from streaming.session.cutting import cut
from streaming.session.examples import fill, pick
from streaming.session.lockstep import Lockstep
from streaming.session.loss import new_batch
from streaming.session.options import Options
from tests.streaming.learners.harness import Harness
from tests.streaming.session.samples import SMALL

CYCLE = SMALL._replace(
    learning_rate=0.02, temperature=1.0, batch=16, replayed=8, remembered=256, negatives=16
)


def run(
    options: Options, sizes: tuple[int, ...], events: int = 1200, alone: bool = False
) -> tuple[Harness, Lockstep]:
    """Users who walk on one circle of items and seldom turn round; `alone`: no transformer is run."""
    random = np.random.default_rng(1)
    harness = Harness("softmax", 20, 12, dimension=options.dimension, negatives=10, start=3)
    lockstep = Lockstep(harness.learner, options, seed=1)
    if not alone:
        harness.loop = lockstep
    user = random.integers(0, 20, events).astype(np.int32)
    item = np.empty(events, np.int32)
    place, way = random.integers(0, 12, 20), random.choice([-1, 1], 20)
    for n, u in enumerate(user):
        way[u] *= -1 if random.random() < 0.1 else 1
        place[u] = (place[u] + way[u]) % 12
        item[n] = place[u]
    order: dict[int, int] = {}
    item = np.array([order.setdefault(j, len(order)) for j in item.tolist()], np.int32)
    time = np.arange(events, dtype=np.int64) * 10
    first = 0
    while first < events:
        for size in sizes:
            last = min(events, first + size)
            if last > first:
                harness.run(user[first:last], item[first:last], time[first:last])
            first = last
    return harness, lockstep


def test_steps_and_ranks_do_not_hang_on_how_events_are_handed_over() -> None:
    (one, a), (other, b) = run(CYCLE, (1200,)), run(CYCLE, (7, 64, 131))
    assert np.array_equal(one.model.items.floats, other.model.items.floats)
    assert a.summary() == b.summary()
    assert np.array_equal(a.corrected.curve, b.corrected.curve)
    assert np.array_equal(a.plain.curve, b.plain.curve)
    assert a.summary()["compilations"] == 1 and a.summary()["dropped"] == 0


def test_the_learner_learns_as_without_a_transformer() -> None:
    (beside, lockstep), (alone, _) = run(CYCLE, (1200,)), run(CYCLE, (1200,), alone=True)
    assert np.array_equal(beside.model.items.floats, alone.model.items.floats)
    assert np.array_equal(beside.model.users.floats, alone.model.users.floats)
    assert lockstep.summary()["steps"] > 100


def test_a_pause_ends_a_session_unless_idle_is_nothing() -> None:
    times = np.array([0, 10, 100, 2000, 2001])
    assert cut(times, 500) == [slice(0, 3), slice(3, 5)]
    assert cut(times, 0) == [slice(0, 5)]
    assert cut(np.empty(0, np.int64), 500) == []


def test_picked_examples_are_the_newest_then_earlier_ones_that_are_still_held() -> None:
    picks = np.zeros(8, np.int64)
    pick(100, 16, 4, np.uint64(1), picks)
    assert picks[:4].tolist() == [99, 98, 97, 96]
    assert ((picks[4:] >= 84) & (picks[4:] < 100)).all()


def test_an_example_whose_items_are_gone_is_masked() -> None:
    harness, lockstep = run(CYCLE, (1200,))
    examples, batch = lockstep.session.examples, new_batch(CYCLE)
    picks = int(examples.pushed[0]) - 1 - np.arange(CYCLE.batch)
    gone = int(examples.serial[picks[0] % CYCLE.remembered, 1])
    harness.model.slot_of[gone] = -1
    fill(batch, examples, picks, harness.model)
    rows = picks % CYCLE.remembered
    assert np.array_equal(batch.mask, (examples.serial[rows] >= 0) & (examples.serial[rows] != gone))
    assert np.array_equal(batch.weight, (examples.target[rows] != gone).astype(np.float32))
    assert not batch.rows[~batch.mask].any()


def test_no_example_is_kept_of_a_user_without_history() -> None:
    _, lockstep = run(CYCLE, (1200,))
    examples = lockstep.session.examples
    assert 1100 < int(examples.pushed[0]) <= 1200 - 20
    assert (examples.serial[:, 0] >= 0).all()
