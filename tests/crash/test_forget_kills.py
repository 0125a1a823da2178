"""Kill −9 while a user is forgotten: all of it is done, or nothing, and the next start does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from state.spec import new_spec
from state.versions import Registry, Version
from tests.crash.driver import Driver, Job
from tests.crash.worlds import FORGETFUL, LEARNERS, difference, plain, write_events

STEPS = ("after_list", "batch_half_built", "batch_built", "after_write")


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with Driver() as made:
        yield made


def test_kill_at_each_step_of_forgetting_leaves_all_or_nothing(driver: Driver, tmp_path: Path) -> None:
    files = [str(write_events(tmp_path / "events.jsonl", 400, 1))]

    def learned(name: str, *, warm: bool = False) -> Version:
        options = {"evaluation_rate": 0.3, **LEARNERS["softmax"], **FORGETFUL}
        version = Registry(tmp_path / name).create("v", new_spec("softmax", options))
        driver.run(Job(str(version.path), files, warm=warm))
        return version

    undisturbed = learned("undisturbed", warm=True)
    before = plain(undisturbed)
    user = next(key[1:].decode() for key in before if key.startswith(b"u"))
    driver.run(Job(str(undisturbed.path), files, forget=user))
    after = plain(undisturbed)
    gone = [key for key in difference(before, after) if key not in after]
    assert {key[:1] for key in gone} == {b"u", b"d"}

    for step in STEPS:
        version = learned(step)
        assert driver.run(Job(str(version.path), files, forget=user, step=step)).killed
        assert plain(version) == (after if step == "after_write" else before)
        driver.run(Job(str(version.path), files))
        assert plain(version) == after
