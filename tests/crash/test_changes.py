"""Kill −9 while versions are forked, promoted, routed to, deleted: each change is whole or not there."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event as Flag
from threading import Thread

import pytest

from consumers.control import Control, ask, worker_of
from consumers.control_commands import Holder
from consumers.eventlog.files import FilesLog
from state.audit import verify
from state.forks import fork
from state.ledger import Ledger
from state.releases import Releases
from state.versions import Registry, Version
from streaming.errors import VersionError
from tests.consumers.worked import RULES, append, everything, learn, lines, made, worker_on
from tests.crash.changing import Changer, Job

MOST = 14  # kills of one kind of change


@pytest.fixture(scope="module")
def changer() -> Iterator[Changer]:
    with Changer() as made_one:
        yield made_one


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a version that learned 180 events."""
    home = tmp_path / "home"
    learn(made(home, name="a"), append(home / "a.jsonl", lines(200, seed=1)))
    return home


def moments(count: int) -> list[int]:
    """Moments to be killed at: the last ones, in which the change takes effect, and others before them."""
    last = range(max(1, count - MOST // 2), count + 1)
    return sorted({*last, *range(1, count + 1, max(1, 2 * count // MOST))})


def copies(home: Path) -> Iterator[Path]:
    """Homes that are equal to this one."""
    for number in range(1000):
        copy = home.with_name(f"home-{number}")
        shutil.copytree(home, copy)
        yield copy


def test_fork_that_is_killed_leaves_a_whole_version_or_none(changer: Changer, home: Path) -> None:
    before = everything(Registry(home).get("a").store_path)
    homes = copies(home)
    first = next(homes)
    assert not changer.run("fork", first)
    whole = everything(Registry(first).get("b").store_path)
    found = {True: 0, False: 0}
    for kill_at in moments(int((first / "count").read_text())):
        place = next(homes)
        assert changer.run("fork", place, kill_at)
        registry = Registry(place)
        there = "b" in registry.names()
        found[there] += 1
        if there:
            version = registry.get("b")
            assert everything(version.store_path) == whole
            assert version.snapshots() == [180] and version.identity
            with version.reading() as store:
                assert verify(store, version.spec).found == 0
        assert everything(registry.get("a").store_path) == before
    assert found[True] and found[False]
    # Whoever makes a version next clears up.
    made(place, name="c")
    assert sorted(p.name for p in (place / "versions").iterdir()) == registry.names()


def test_worker_that_is_killed_within_a_fork_leaves_none_and_loses_nothing(
    changer: Changer, home: Path
) -> None:
    registry = Registry(home)
    version = registry.get("a")
    before = everything(version.store_path)
    changer.send(Job("work", str(home)))
    until = time.monotonic() + 60
    while worker_of(version) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(VersionError, match="ended before it answered"):
        fork(
            registry, version, "b", version.spec, lambda _: ask(version, "fork", name="b", asker=os.getpid())
        )
    assert changer.end()
    assert sorted(p.name for p in version.path.parent.iterdir()) == ["a"]
    assert everything(version.store_path) == before
    with version.open() as store:
        assert Ledger.read(store).number == 180


def test_forks_of_a_learning_worker_that_are_killed_hold_rows_and_offsets_of_one_commit(
    changer: Changer, home: Path
) -> None:
    path, registry = home / "a.jsonl", Registry(home)
    version, killed = registry.get("a"), 0
    with learning(version, path):
        assert not changer.run("fork alike", home)
        # Whoever clears up what another left has more to do.
        for number, kill_at in enumerate([*moments(int((home / "count").read_text()) + 12)[::2], 0]):
            if "b" in registry.names():
                (home / "versions" / "b").rename(home / "versions" / f"b{number}")
            append(path, lines(30, seed=1, start=200 + 30 * number))
            killed += changer.run("fork alike", home, kill_at)
    assert killed > 2 and len(registry.names()) > 2
    learn(version, path)
    whole = everything(version.store_path)
    for name in set(registry.names()) - {"a"}:
        other = registry.get(name)
        with other.reading() as store:
            assert verify(store, other.spec).found == 0
        learn(other, path)
        found = everything(other.store_path)
        del found[b"mlineage"]
        assert found == whole


@contextmanager
def learning(version: Version, path: Path) -> Iterator[None]:
    """A worker in this process that follows a file."""
    stop = Flag()
    with (
        version.open() as store,
        closing(FilesLog([str(path)], RULES, follow=True)) as log,
        Control(Holder(version, store, lambda: worker.learned)) as control,
    ):
        worker = worker_on(version, store, log, control=control, commit=1)
        thread = Thread(target=worker.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("what", ["promote", "route", "delete"])
def test_change_of_the_registry_that_is_killed_is_made_or_not(
    changer: Changer, home: Path, what: str
) -> None:
    made(home, name="b")
    Releases(home).promote("a")
    before = Releases(home).read()
    homes = copies(home)
    first = next(homes)
    assert not changer.run(what, first)
    after = Releases(first).read()
    done = 0
    for kill_at in moments(int((first / "count").read_text())):
        place = next(homes)
        assert changer.run(what, place, kill_at)
        state = Releases(place).read()
        changed = len(state.history) == len(after.history)
        done += changed
        expected = after if changed else before
        assert (state.champion, state.replaced, state.route) == (
            expected.champion,
            expected.replaced,
            expected.route,
        )
        assert len(state.history) == len(expected.history)
        if what == "delete":
            assert "b" not in Registry(place).names() or not changed
        Releases(place).note("fork", "a", "the lock is free again")
    assert done < len(moments(int((first / "count").read_text())))
