"""`freshet forget` reaches every version, running or not, and says where it could not."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from consumers.cli import main
from consumers.commands import forget as module
from consumers.commands import work
from consumers.control import Control
from consumers.control_commands import Holder
from consumers.dead_letters import DeadLetters
from consumers.eventlog.files import FilesLog
from consumers.live import live_arena
from consumers.settings import Settings
from state.arena import Arena
from state.erasure_list import read_erasures
from state.versions import Registry, Version
from streaming.events import BadRecord
from streaming.rules import EventRules
from tests.consumers.worked import append, everything, learn, lines, made, worker_on


def run(capsys: pytest.CaptureFixture[str], home: Path, *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["forget", *words, "--json", "--home", str(home)]) == code, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def holds(directory: Path, word: bytes) -> bool:
    """Whether any file of a store has these bytes."""
    return any(word in path.read_bytes() for path in directory.iterdir() if path.is_file())


@pytest.fixture
def versions(tmp_path: Path) -> list[Version]:
    """Two that learned the same, with uncommon ids, and one that learned nothing."""
    path = append(
        tmp_path / "a.jsonl",
        [
            *lines(100, seed=1),
            '{"user": "ann-uncommon", "item": "tea", "ts": 1700000000}',
            '{"user": "ann-uncommon", "item": 7.5, "ts": 1700000000}',
        ],
    )
    both = [made(tmp_path / "home", name=name) for name in ("one", "two")]
    for version in both:
        learn(version, path)
    return [*both, made(tmp_path / "home", name="void")]


def test_user_is_forgotten_in_all_versions(
    versions: list[Version], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    found = run(capsys, home, "user", "ann-uncommon", "--purge")
    assert found["erasures"] == 1
    assert [(v["version"], v["rows"], v["dead_letters"], v["error"]) for v in found["versions"]] == [
        ("one", 1, 1, None),
        ("two", 1, 1, None),
        ("void", 0, 0, None),
    ]
    for version in versions[:2]:
        assert not holds(version.store_path, b"ann-uncommon")
        assert not holds(version.path, b"ann-uncommon")
        letters = list(DeadLetters(version.dead_letters_path).read())
        assert [letter.raw for letter in letters if letter.reason == "forgotten"] == [""]
        assert len(letters) > 5
    assert not holds(home, b"ann-uncommon")
    assert main(["query", "embedding", "user", "ann-uncommon", "--version", "one", "--home", str(home)]) == 1


def test_worker_forgets_while_it_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = made(tmp_path / "home")
    path = append(tmp_path / "a.jsonl", lines(200, seed=1))
    stop, reached = Flag(), Flag()
    with version.open() as store:
        log = FilesLog([str(path)], EventRules(), follow=True)
        holder_learned: list[Any] = []
        with Control(Holder(version, store, lambda: holder_learned[0])) as control:
            worker = worker_on(
                version,
                store,
                log,
                control=control,
                erasures=partial(read_erasures, version.home),
                observe=lambda totals: reached.set() if totals.events >= 180 else None,
            )
            holder_learned.append(worker.learned)
            thread = Thread(target=worker.run, args=(stop,))
            thread.start()
            assert reached.wait(60)
            try:
                found = run(capsys, tmp_path / "home", "user", "u1")
                worker.totals.events = 0  # first: it counts on meanwhile
                reached.clear()
                append(path, lines(300, seed=1, start=200))  # more of the same user, from before the erasure
                assert reached.wait(60)
            finally:
                stop.set()
                thread.join()
        log.close()
    assert found["versions"][0]["rows"] == 1
    assert b"uu1" not in everything(version.store_path)
    assert main(["versions", "rebuild", "mine", "--home", str(tmp_path / "home")]) == 0


def test_version_that_is_held_fails_and_the_command_alone_ends_it(
    versions: list[Version], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(module, "_WAIT_S", 0.0)
    with versions[1].open():
        found = run(capsys, home, "user", "ann-uncommon", code=1)
    assert [v["error"] is None for v in found["versions"]] == [True, False, True]
    assert b"uann-uncommon" in everything(versions[1].store_path)
    assert main(["query", "recommend", "bob", "--version", "two", "--home", str(home)]) == 1
    assert "`freshet forget` does what is left" in capsys.readouterr().err
    assert [v["rows"] for v in run(capsys, home)["versions"]] == [0, 1, 0]
    assert b"uann-uncommon" not in everything(versions[1].store_path)
    assert main(["query", "recommend", "bob", "--version", "two", "--home", str(home)]) == 0


def test_worker_forgets_before_its_tables_can_be_read(
    versions: list[Version], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    version, published = versions[0], []
    version.live_path.mkdir()  # what a killed worker left
    with version.open():
        monkeypatch.setattr(module, "_WAIT_S", 0.0)
        run(capsys, tmp_path / "home", "user", "ann-uncommon", code=1)

    def arena(version: Version, settings: Settings) -> Arena:
        with version.reading() as store:
            published.append((store.get_many([b"uann-uncommon"]), version.live_path.exists()))
        return live_arena(version, settings)

    monkeypatch.setattr(work, "live_arena", arena)
    monkeypatch.setattr(work, "REGISTRY", CollectorRegistry())  # a process has one worker otherwise
    more = append(tmp_path / "b.jsonl", lines(10, seed=2))
    assert main(["work", "one", "--from", str(more), "--home", str(tmp_path / "home")]) == 0
    assert published == [([None], False)]


def test_snapshots_that_hold_the_row_are_named_and_dropped(
    versions: list[Version], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    with versions[0].open() as store:
        number = versions[0].snapshot(store, 5)
    found = run(capsys, home, "user", "ann-uncommon")
    assert [v["snapshots"] for v in found["versions"]] == [[number], [], []]
    assert versions[0].snapshots() == [number]
    found = run(capsys, home, "user", "ann-uncommon", "--drop-snapshots")
    assert versions[0].snapshots() == found["versions"][0]["snapshots"] == []


def test_beginning_of_a_fork_is_dropped_only_where_that_is_said(
    versions: list[Version], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert main(["versions", "fork", "one", "other", "--home", str(home)]) == 0
    other = Registry(home).get("other")
    (begun,) = other.snapshots()
    learn(other, append(tmp_path / "b.jsonl", lines(20, seed=2)))
    with other.open() as store:
        later = other.snapshot(store, 5)
    words = ["forget", "user", "ann-uncommon", "--home", str(home)]
    assert main([*words, "--drop-snapshots"]) == 0
    assert "--drop-beginnings removes it" in capsys.readouterr().err
    assert other.snapshots() == [begun] != [later]
    assert main(["versions", "rebuild", "other", "--home", str(home)]) == 0
    assert main([*words, "--drop-beginnings"]) == 0
    assert other.snapshots() == []


def test_item_is_forgotten_and_taken_back(
    versions: list[Version], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    assert [v["rows"] for v in run(capsys, home, "item", "tea")["versions"]] == [1, 1, 0]
    more = append(tmp_path / "b.jsonl", ['{"user": "bob", "item": "tea", "ts": 1700000000}'])
    learn(versions[0], more)
    assert b"itea" not in everything(versions[0].store_path)
    run(capsys, home, "item", "tea", "--undo")
    append(more, ['{"user": "bob", "item": "tea", "ts": 1700000000}'])
    learn(versions[0], more)
    assert b"itea" in everything(versions[0].store_path)


@pytest.mark.parametrize(
    "words", [["user"], ["user", "x", "--undo"], ["--undo"], ["user", ""], ["--drop-snapshots"]]
)
def test_wrong_usage_is_refused_and_nothing_written(tmp_path: Path, words: list[str]) -> None:
    Registry(tmp_path)
    assert main(["forget", *words, "--home", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_records_that_cannot_be_read_are_blanked_where_the_id_is_a_word_in_them(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead-letters.jsonl")
    for offset, raw in enumerate([b"ann,tea", b"joann,tea", b'{"user": "ann"', b"tea,ann", b'"u":1']):
        letters.append("a.csv", BadRecord(offset, "expected a time, got none at all.", raw))
    letters.close()
    before = (tmp_path / "dead-letters.jsonl").stat().st_size
    assert letters.blank(lambda letter: "ann" in letter.raw.replace("joann", "")) == 3
    found = list(letters.read())
    assert [letter.raw for letter in found] == ["", "joann,tea", "", "", '"u":1']
    assert (tmp_path / "dead-letters.jsonl").stat().st_size == before
    letters.append("a.csv", BadRecord(9, "more", b"x"))
    letters.close()
    assert len(list(letters.read())) == 6
