"""What was forgotten is gone from rows and answers, and no run, rebuild or restore brings it back."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumers.control import ask
from consumers.eventlog.files import FilesLog
from consumers.rebuild import rebuild
from state import audit
from state.erasure import check_forgotten
from state.erasure_list import add_erasure, read_erasures
from state.ledger import Ledger
from state.reader import Reader
from state.versions import Version
from streaming.errors import StoreError, UnknownIdError
from streaming.rules import EventRules
from tests.consumers.worked import append, everything, learn, lines, made, worker_on

LATE = 4_000_000_000 * 10**6  # microseconds: after all events of the tests
HISTORIES: dict[str, Any] = {"dimension": 4, "negatives": 8, "recent": 50, "history": 5, "context": 3}
KEPT: dict[str, Any] = {
    "admit_users": 1.5,
    "admit_items": 1.5,
    "users_live_s": 86_400,
    "items_live_s": 86_400,
}


def forget(version: Version, kind: Any, name: str, *, until: int = LATE, undo: bool = False) -> int:
    add_erasure(version.home, kind, name, until, undo=undo)
    rows: int = ask(version, "forget", known=[[kind, name]], purge=False)["rows"]
    return rows


def events(*triples: tuple[str, str, int]) -> list[str]:
    return [json.dumps({"user": u, "item": i, "ts": 1_700_000_000 + s}) for u, i, s in triples]


def sound(version: Version) -> bool:
    with version.reading() as store:
        return not audit.verify(store, version.spec).problems


def keys(version: Version) -> set[bytes]:
    return set(everything(version.store_path))


@pytest.fixture(params=["item_knn", "softmax that expires"])
def version(request: pytest.FixtureRequest, tmp_path: Path) -> Version:
    learner, _, expires = request.param.partition(" ")
    options = HISTORIES if learner == "softmax" else {}
    return made(tmp_path / "home", learner, **options, **(KEPT if expires else {}))


def test_rebuild_equals_when_ids_were_forgotten_between_the_events(version: Version, tmp_path: Path) -> None:
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for start, gone in [(0, [("user", "u0")]), (150, [("item", "i3"), ("user", "u2")]), (300, [])]:
        append(a, lines(150, seed=1, start=start))
        append(b, lines(150, seed=2, start=start))
        learn(version, a, b, commit=40)
        for kind, name in gone:
            assert forget(version, kind, name) == 1
            assert f"{kind[0]}{name}".encode() not in keys(version)
    # u0 and u2 were in later events, too, but all of these were before the erasure's end.
    assert not keys(version) & {b"uu0", b"uu2", b"ii3", b"cuu0", b"cii3"}
    assert sound(version)
    with version.reading() as store:
        assert Ledger.read(store).erasures == [(300, 1), (600, 2), (600, 3)]
    result = rebuild(version)
    assert (result.found, result.differences) == (0, [])


def test_rebuild_equals_from_a_snapshot_between_two_erasures(version: Version, tmp_path: Path) -> None:
    path = append(tmp_path / "a.jsonl", lines(200, seed=1))
    learn(version, path)
    forget(version, "user", "u1")
    with version.open() as store:
        number = version.snapshot(store, 5)
    append(path, lines(100, seed=1, start=200))
    learn(version, path)
    forget(version, "item", "i1")
    assert rebuild(version, from_snapshot=number).found == 0
    assert rebuild(version).found == 0


def test_restored_snapshot_knows_nothing_of_what_was_forgotten_since(
    version: Version, tmp_path: Path
) -> None:
    path = append(tmp_path / "a.jsonl", lines(200, seed=1))
    learn(version, path)
    with version.open() as store:
        number = version.snapshot(store, 5)
    forget(version, "user", "u1")
    forget(version, "item", "i2")
    with version.reading(number) as snapshot:
        assert snapshot.get_many([b"uu1"]) != [None]
    version.restore(number)
    assert not keys(version) & {b"uu1", b"ii2"}
    assert sound(version)
    append(path, lines(100, seed=1, start=200))
    learn(version, path)
    assert not keys(version) & {b"uu1", b"ii2"}
    assert rebuild(version).found == 0


def test_new_version_passes_over_the_events_before_the_erasure(version: Version, tmp_path: Path) -> None:
    path = append(tmp_path / "a.jsonl", events(*[("ann", "tea", k) for k in range(9)], ("bob", "tea", 9)))
    add_erasure(version.home, "user", "ann", (1_700_000_000 + 5) * 10**6)
    append(path, events(*[("bob", "cup", 20 + k) for k in range(9)]))
    learn(version, path)
    with version.reading() as store:
        ledger = Ledger.read(store)
    assert (ledger.number, ledger.records, ledger.erasures) == (13, 19, [(0, 1)])
    assert b"uann" in keys(version)  # of the three events after the erasure
    assert rebuild(version).found == 0


def test_user_who_comes_back_begins_anew(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    path = append(tmp_path / "a.jsonl", events(*[("ann", "tea", k) for k in range(9)]))
    learn(version, path)
    forget(version, "user", "ann", until=(1_700_000_000 + 100) * 10**6)
    append(path, events(("ann", "tea", 90), ("ann", "cup", 101)))  # the first comes late
    learn(version, path)
    with version.reading() as store:
        row = store.get_many([b"uann"])[0]
        assert row is not None and int.from_bytes(row[32:36], "little") == 1
    assert rebuild(version).found == 0


def test_item_stays_away_until_it_is_taken_back(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    path = append(tmp_path / "a.jsonl", events(("ann", "tea", 0), ("ann", "cup", 1), ("bob", "tea", 2)))
    learn(version, path)
    assert forget(version, "item", "tea") == 1
    append(path, events(("bob", "tea", 3), ("bob", "cup", 4)))
    learn(version, path)
    assert b"itea" not in keys(version)
    assert forget(version, "item", "tea", undo=True) == 0
    append(path, events(("bob", "tea", 5)))
    learn(version, path)
    assert b"itea" in keys(version)
    assert sound(version) and rebuild(version).found == 0


def test_erasure_that_was_only_written_down_is_followed_at_the_next_start(
    version: Version, tmp_path: Path
) -> None:
    path = append(tmp_path / "a.jsonl", lines(200, seed=1))
    learn(version, path)
    add_erasure(version.home, "user", "u1", LATE)
    with version.reading() as store:
        assert store.get_many([b"uu1"]) != [None]
        with pytest.raises(StoreError, match="1 erasures are not done"):
            check_forgotten(version.home, Ledger.read(store).erased)
    learn(version, path)  # nothing new is in it
    assert b"uu1" not in keys(version)
    assert rebuild(version).found == 0


def test_user_beyond_the_cache_is_forgotten(tmp_path: Path) -> None:
    version = made(tmp_path / "home", **KEPT)
    path = append(tmp_path / "a.jsonl", lines(300, seed=1))
    learn(version, path)
    assert any(key.startswith(b"d") and key.endswith(b"u1") for key in keys(version))
    with version.open() as store:
        log = FilesLog([str(path)], EventRules())
        learned = worker_on(version, store, log).learned
        assert learned.users.ids.slot_of("u1") == -1
        log.close()
    assert forget(version, "user", "u1") == 1
    assert not any(key.endswith(b"u1") for key in keys(version))
    assert sound(version)


def test_lost_list_is_an_error_and_not_a_return(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    path = append(tmp_path / "a.jsonl", lines(100, seed=1))
    learn(version, path)
    forget(version, "user", "u1")
    (version.home / "erasures.jsonl").unlink()
    with pytest.raises(StoreError, match=r"lost in part\. Put the whole file"):
        learn(version, path)


def test_lost_key_is_an_error(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    add_erasure(version.home, "user", "u1", LATE)
    (version.home / "erasure-salt").unlink()
    with pytest.raises(StoreError, match=r"erasure-salt.*Put it back"):
        learn(version, append(tmp_path / "a.jsonl", lines(100, seed=1)))


def test_list_holds_no_id_and_its_key_is_private(tmp_path: Path) -> None:
    assert add_erasure(tmp_path, "user", "ann@example.org", 5) == 1
    with (tmp_path / "erasures.jsonl").open("ab") as file:
        file.write(b'{"kind":"us')  # torn by a kill
    assert len(read_erasures(tmp_path)) == 1
    assert add_erasure(tmp_path, "item", "ann@example.org", 7) == 2
    user, item = read_erasures(tmp_path).entries
    assert user.id != item.id
    assert b"ann" not in (tmp_path / "erasures.jsonl").read_bytes()
    assert (tmp_path / "erasure-salt").stat().st_mode & 0o777 == 0o600


def test_reader_of_the_store_answers_nothing_until_all_is_forgotten(tmp_path: Path) -> None:
    version = made(tmp_path / "home", "softmax", **HISTORIES)
    learn(version, append(tmp_path / "a.jsonl", lines(100, seed=1)))
    with closing(Reader(version)) as reader:
        assert reader.ask(lambda answers: answers.embedding("user", "u1")).id == "u1"
        add_erasure(version.home, "user", "u1", LATE)
        with pytest.raises(StoreError, match="1 erasures are not done"):
            reader.ask(lambda answers: answers.embedding("user", "u2"))
        ask(version, "forget", known=[], purge=False)
        with pytest.raises(UnknownIdError):
            reader.ask(lambda answers: answers.embedding("user", "u1"))
        assert reader.ask(lambda answers: answers.embedding("user", "u2")).id == "u2"
