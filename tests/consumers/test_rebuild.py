"""A store made again from journal and log is equal to the byte; what is not equal is named, and mended."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from threading import Event as Flag

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumers.cli import main
from consumers.embeddings import Totals
from consumers.event_rules import rules_text
from consumers.eventlog.files import FilesLog
from consumers.rebuild import rebuild, rules_of
from state.ledger import Ledger, journal_of
from state.versions import Version
from streaming.errors import InputError, StoreError, StoreLockedError, VersionError
from streaming.rules import EventRules
from tests.consumers.worked import append, everything, learn, lines, made, spoil, spoil_file, worker_on

SMALL = {"popularity": {}, "softmax": {"dimension": 4, "negatives": 8, "recent": 50}}


@pytest.fixture
def taught(tmp_path: Path) -> Version:
    """A version that learned two files in two runs, so that they interleave."""
    version = made(tmp_path / "home")
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for start in (0, 200):
        append(a, lines(200, seed=1, start=start))
        append(b, lines(200, seed=2, start=start))
        learn(version, a, b)
    return version


@pytest.mark.parametrize("learner", SMALL)
def test_rebuild_equals_when_two_files_were_followed_in_turn(tmp_path: Path, learner: str) -> None:
    version = made(tmp_path / "home", learner, **SMALL[learner])
    a = append(tmp_path / "a.jsonl", lines(100, seed=1))
    b = append(tmp_path / "b.jsonl", lines(100, seed=2))
    stop, sizes = Flag(), iter([(300, a), (100, b), (70, b), (70, a), (130, b)])

    def grow(totals: Totals) -> None:
        """Let a file grow whenever all that there is was learned."""
        if sum(log.lag().values()) == 0:
            size, path = next(sizes, (0, a))
            append(path, lines(size, seed=3, start=totals.events))
            stop.set() if not size else None

    with version.open() as store:
        log = FilesLog([str(a), str(b)], EventRules(), follow=True)
        worker_on(version, store, log, observe=grow, commit=70, batch=33).run(stop)
        assert len(list(journal_of(store))) >= 5
        log.close()
    result = rebuild(version)
    assert (result.found, result.differences, result.replaced) == (0, [], False)
    assert (result.records, result.keys) == (870, len(everything(version.store_path)))
    assert not list(version.path.glob(".rebuild*"))


def test_rebuild_equals_when_the_rules_changed_between_runs(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    path = tmp_path / "a.jsonl"
    # The last line before the change is bad by the old rules only.
    other = '{"user": "uuuuuuuuuuuuuuuuuuuuuuuuuuuuu", "item": "i1", "ts": 1700000000}'
    append(path, [*lines(95, seed=1), other])
    learn(version, path, rules=EventRules(max_id_bytes=16))
    append(path, [other, *lines(95, seed=1, start=100)])
    learn(version, path, rules=EventRules(weights={"view": 0.25}))
    with version.reading() as store:
        assert [first for first, _ in Ledger.read(store).rules] == [0, 96]
    assert rebuild(version).found == 0


def test_rebuild_equals_for_csv_parquet_and_gzip(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    events = [json.loads(line) for line in lines(400, seed=4) if len(line) > 60]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, events[0])
        rows.writeheader()
        rows.writerows(events)
    pq.write_table(pa.Table.from_pylist(events), tmp_path / "b.parquet")
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)
    learn(version, *(tmp_path / name for name in ("a.csv", "b.parquet", "c.jsonl.gz")), commit=100)
    result = rebuild(version)
    assert (result.found, result.records) == (0, 3 * len(events))


def test_rules_are_the_same_when_read_from_their_text() -> None:
    rules = EventRules(weights={"view": 0.2}, time_unit="ms", where=(("value", 5), ("type", "buy")))
    assert rules_of(rules_text(rules)) == rules


def test_rebuild_beside_the_writer_compares_what_was_committed(taught: Version, tmp_path: Path) -> None:
    append(tmp_path / "a.jsonl", lines(100, seed=5, start=400))
    with taught.open() as store:
        log = FilesLog([str(tmp_path / "a.jsonl")], EventRules())
        worker = worker_on(taught, store, log)
        worker.begin()
        found = log.poll(50, 0.0)
        assert found is not None
        worker.take(found, 0.0)  # learned, and not durable
        assert rebuild(taught).found == 0
        with pytest.raises(StoreLockedError):
            rebuild(taught, replace=True)
        log.close()


@pytest.mark.parametrize("prefix", [b"u", b"i", b"mprequential"])
def test_flipped_bit_is_found_by_verify_and_mended_by_rebuild(
    taught: Version, tmp_path: Path, prefix: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    home = ["--home", str(tmp_path / "home")]
    whole, identity = everything(taught.store_path), taught.identity
    key = spoil(taught.store_path, prefix)
    assert main(["versions", "verify", "mine", "--json", *home]) == 1
    report = json.loads(capsys.readouterr().out)
    assert key.decode() in [problem["key"] for problem in report["problems"]]
    assert main(["versions", "rebuild", "mine", "--json", *home]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [each["key"] for each in report["differences"]] == [key.decode()]
    assert not report["equal"] and not report["replaced"]
    assert main(["versions", "rebuild", "mine", "--replace", *home]) == 0
    assert "1 differ" in capsys.readouterr().out
    assert everything(taught.store_path) == whole
    assert taught.store_path.name == "store-000002" and taught.identity != identity
    assert [path.name for path in taught.path.glob("store-*")] == ["store-000002"]
    assert main(["versions", "verify", "mine", *home]) == 0


def test_damaged_file_of_the_store_is_named_and_mended(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    users = [f'{{"user": "user{k}", "item": "i{k % 7}", "ts": 1700000000}}' for k in range(3000)]
    path = append(tmp_path / "a.jsonl", users)
    learn(version, path, batch=4096)
    whole = everything(version.store_path)
    spoil_file(version.store_path, b"user2")
    with version.reading() as store, pytest.raises(StoreError, match="rebuild --replace"):
        list(store.scan(b"u"))
    found = rebuild(version)
    assert 0 < found.found <= 3001 and not found.replaced
    assert any("read in part only" in each.what for each in found.differences)
    assert rebuild(version, replace=True).replaced
    assert everything(version.store_path) == whole


def test_changed_log_is_a_difference(taught: Version, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(path.read_text().replace('"item": "i0"', '"item": "changed"', 1))
    keys = {each.key for each in rebuild(taught).differences}
    assert {"ichanged", "ii0"} <= keys


def test_vanished_log_is_an_error_that_names_the_snapshot_to_begin_with(
    taught: Version, tmp_path: Path
) -> None:
    with taught.open() as store:
        number = taught.snapshot(store, 5)
    later = append(tmp_path / "c.jsonl", lines(150, seed=7))
    learn(taught, later)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(InputError, match=f"a.jsonl.*--from-snapshot {number}"):
        rebuild(taught)
    result = rebuild(taught, from_snapshot=number)
    assert (result.found, result.records) == (0, 150)
    later.write_text("".join(later.read_text().splitlines(keepends=True)[:100]))
    with pytest.raises(InputError, match="100 records, fewer than the 150"):
        rebuild(taught, from_snapshot=number)
    assert not list(taught.path.glob(".rebuild*"))


def test_snapshot_left_behind_by_a_restore_is_no_beginning(taught: Version, tmp_path: Path) -> None:
    with taught.open() as store:
        early = taught.snapshot(store, 5)
    learn(taught, append(tmp_path / "c.jsonl", lines(150, seed=7)))
    with taught.open() as store:
        late = taught.snapshot(store, 5)
    taught.restore(early)
    learn(taught, append(tmp_path / "d.jsonl", lines(300, seed=8)))
    with pytest.raises(VersionError, match="left behind by a restore"):
        rebuild(taught, from_snapshot=late)
    assert rebuild(taught, from_snapshot=early).found == 0


def test_standard_input_cannot_be_rebuilt(tmp_path: Path) -> None:
    version = made(tmp_path / "home")
    path = append(tmp_path / "a.jsonl", lines(50, seed=1))
    with version.open() as store, path.open("rb") as piped:
        log = FilesLog(["-"], EventRules(), format="jsonl", stdin=piped)
        worker_on(version, store, log).run(Flag())
        log.close()
    with pytest.raises(VersionError, match="standard input, which cannot be read again"):
        rebuild(version)


def test_version_without_events_has_nothing_to_rebuild(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here yet"):
        rebuild(made(tmp_path / "home"))


def test_half_made_store_of_a_killed_rebuild_is_removed(taught: Version) -> None:
    left = taught.path / ".rebuild-99999999"
    left.mkdir()
    (left / "store").mkdir()
    assert rebuild(taught).found == 0
    assert not left.exists()
