"""Kill −9 at each step of the commit and at random moments: the store ends as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.crash.driver import STEPS, Driver
from tests.crash.worlds import FORGETFUL, LEARNERS, World


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as made:
        yield made


@pytest.fixture(scope="module", params=[*LEARNERS, "forgetful softmax"])
def world(request: pytest.FixtureRequest, driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> World:
    kept = FORGETFUL if request.param.startswith("forgetful") else {}
    home: Path = tmp_path_factory.mktemp("world")
    return World(home, driver, request.param.split()[-1], kept=kept)


def test_kills_at_every_step_of_the_commit_leave_no_trace(world: World) -> None:
    first_or_second = [(step, 1 + k % 2) for k, step in enumerate(STEPS)]
    assert world.killed_at(first_or_second) == len(STEPS)


def test_kills_at_random_moments_leave_no_trace(world: World) -> None:
    random = Random(world.learner)
    kills = 0
    while kills < 2:
        kills += world.killed_at_moments(random, 3)


def test_undisturbed_store_holds_what_was_read(world: World) -> None:
    keys = world.expected
    assert {key[:1] for key in keys} >= {b"u", b"i", b"j", b"m", b"o"}
    assert (b"d" in {key[:1] for key in keys}) == bool(world.kept)
