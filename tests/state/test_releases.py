"""The registry's file: decisions are atomic, kept in a history, and read by others without a lock."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Thread

import pytest

from state.release_file import Released
from state.releases import Releases
from state.spec import Spec
from state.versions import Registry
from streaming.errors import StoreError, StoreFormatError, VersionError
from streaming.routing import Route, divided


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    for name in ("a", "b", "c"):
        Registry(home).create(name, Spec("popularity", {}))
    return home


@pytest.fixture
def releases(home: Path) -> Releases:
    return Releases(home)


def test_home_without_a_registry_serves_nobody(tmp_path: Path) -> None:
    assert Releases(tmp_path).read() == Releases(tmp_path).current() == Released()
    assert Released().assign("ann") is None


def test_promoted_version_serves_all_and_rollback_brings_the_one_before_back(releases: Releases) -> None:
    assert releases.promote("a").assign("ann") == ("a", "champion")
    releases.promote("b", "better")
    releases.promote("c")
    assert releases.read().replaced == ("a", "b")
    assert releases.rollback("worse").champion == "b"
    assert releases.rollback().champion == "a"
    with pytest.raises(VersionError, match="none to go back to"):
        releases.rollback()
    assert releases.rollback(to_none=True).champion is None
    with pytest.raises(VersionError, match="none to go back to"):
        releases.rollback(to_none=True)
    told = [(c.what, c.version, c.detail, c.why) for c in releases.read().history]
    assert told == [
        ("promote", "a", "is the champion", ""),
        ("promote", "b", 'replaces "a"', "better"),
        ("promote", "c", 'replaces "b"', ""),
        ("rollback", "b", 'comes back for "c"', "worse"),
        ("rollback", "a", 'comes back for "b"', ""),
        ("rollback", "a", "is the champion no more, and none is", ""),
    ]
    assert releases.read().history[0].pid == os.getpid()


def test_promotion_ends_arms_and_keeps_overrides(releases: Releases) -> None:
    releases.promote("a")
    releases.set_route(Route("s", divided({"a": 0.5, "b": 0.5}), {"ann": "c"}, holdout=9), "a=0.5 b=0.5")
    state = releases.promote("b")
    assert state.assign("ann") == ("c", "override") and state.assign("bob") == ("b", "champion")
    assert "arms end" in state.history[-1].detail


def test_version_that_serves_can_be_neither_retired_nor_deleted(releases: Releases) -> None:
    releases.promote("a")
    releases.set_route(Route("s", divided({"b": 1.0}), {"ann": "c"}), "b=1")
    before = releases.read()
    for name, why in (("a", "is the champion"), ("b", "takes users"), ("c", "takes users")):
        with pytest.raises(VersionError, match=why):
            releases.retire(name)
        with pytest.raises(VersionError, match=why), releases.deleting(name):
            pytest.fail("must not come here")
    assert releases.read() == before


def test_retired_version_is_neither_promoted_nor_routed_to_nor_gone_back_to(releases: Releases) -> None:
    releases.promote("a")
    releases.promote("b")
    assert releases.retire("a").replaced == ()
    with pytest.raises(VersionError, match="retired"):
        releases.promote("a")
    with pytest.raises(VersionError, match="retired"):
        releases.set_route(Route("s", divided({"a": 1.0})), "")
    with pytest.raises(VersionError, match="retired already"):
        releases.retire("a")
    releases.retire("a", undo=True)
    assert releases.promote("a").champion == "a"


def test_deleted_version_is_forgotten_and_its_name_begins_anew(releases: Releases, home: Path) -> None:
    releases.promote("a")
    releases.promote("b")
    releases.retire("c")
    for name in ("a", "c"):
        with releases.deleting(name):
            Registry(home).delete(name)
    state = releases.read()
    assert state.replaced == () and not state.retired
    assert [c.what for c in state.history[-2:]] == ["delete", "delete"]


def test_rollback_passes_over_a_version_that_is_gone(releases: Releases, home: Path) -> None:
    for name in ("a", "b", "c"):
        releases.promote(name)
    Registry(home).delete("b")  # and killed before the registry heard of it
    assert releases.rollback().champion == "a"


def test_change_of_a_version_that_is_not_there_changes_nothing(releases: Releases) -> None:
    for change in (releases.promote, releases.retire):
        with pytest.raises(VersionError, match='no version "d"'):
            change("d")
    with pytest.raises(VersionError, match='no version "d"'):
        releases.set_route(Route("s", overrides={"ann": "d"}), "")
    assert releases.read() == Released()


def test_override_that_is_taken_away_leaves_no_trace_of_the_user(releases: Releases, home: Path) -> None:
    assert not releases.remove_override("ann")
    assert releases.override("ann", "a").assign("ann") == ("a", "override")
    releases.override("bob", "b")
    assert releases.remove_override("ann", "forgotten")
    assert releases.read().assign("ann") is None and releases.read().assign("bob") == ("b", "override")
    assert '"ann"' not in (home / "registry.json").read_text()
    releases.remove_override("bob")
    assert releases.read().route is None


def test_hold_out_without_a_champion_is_refused(releases: Releases) -> None:
    with pytest.raises(VersionError, match="promote a version first"):
        releases.set_route(Route("s", divided({"a": 1.0}), holdout=5), "")


def test_current_reads_the_file_only_when_another_process_changed_it(home: Path) -> None:
    reader, writer = Releases(home), Releases(home)
    assert reader.current().champion is None
    writer.promote("a")
    first = reader.current()
    assert first.champion == "a" and reader.current() is first
    writer.promote("b")
    assert reader.current().champion == "b"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"format": 1, "champion": 7}', b"[]"])
def test_damaged_file_is_named_and_not_written_over(releases: Releases, home: Path, content: bytes) -> None:
    (home / "registry.json").write_bytes(content)
    for attempt in (releases.read, releases.current, lambda: releases.promote("a")):
        with pytest.raises(StoreError, match=r"registry.json: this is not the registry"):
            attempt()
    assert (home / "registry.json").read_bytes() == content


def test_file_of_another_format_is_refused_by_its_number(releases: Releases, home: Path) -> None:
    (home / "registry.json").write_text('{"format": 2, "champions": []}')
    with pytest.raises(StoreFormatError, match="format 2"):
        releases.current()


def test_file_holds_what_the_state_says_in_plain_json(releases: Releases, home: Path) -> None:
    releases.promote("a")
    route = Route("s", divided({"a": 0.9, "b": 0.1}))
    releases.set_route(route, "")
    told = json.loads((home / "registry.json").read_text())
    assert told["champion"] == "a" and told["route"]["arms"][1]["ranges"] == [[9000, 10000]]
    assert Releases(home).read().route == route
    assert not list(home.glob(".*.new"))


def test_changes_of_many_at_once_are_all_kept(home: Path) -> None:
    def change(name: str) -> None:
        for k in range(10):
            Releases(home).note("fork", name, str(k))

    threads = [Thread(target=change, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = Releases(home).read().history
    assert len(history) == 30
    assert [c.detail for c in history if c.version == "b"] == [str(k) for k in range(10)]
