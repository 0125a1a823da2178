from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from consumers.eventlog.files import FilesLog
from consumers.history import History, check_where, parsed_where
from streaming.errors import UsageError
from streaming.rules import EventRules

Row = tuple[str, str, int]  # user, item, seconds


def written(path: Path, rows: Sequence[Row]) -> Path:
    lines = [json.dumps({"user": u, "item": i, "ts": 1_700_000_000 + t}) for u, i, t in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def history(*paths: Path, limit: int | None = None) -> History:
    return History(lambda: FilesLog(paths, EventRules()), limit=limit)


def read(found: History, size: int = 2) -> list[Row]:
    rows: list[Row] = []
    for batch in found.batches(size):
        assert batch.offsets.tolist() == list(range(len(rows), len(rows) + len(batch)))
        times = (batch.ts // 1_000_000 - 1_700_000_000).tolist()
        rows += [(batch.users[k], batch.items[k], times[k]) for k in range(len(batch))]
    return rows


def test_file_in_time_order_is_read_slice_by_slice_as_it_stands(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("bb", "y", 1), ("a", "zzz", 5)]
    found = history(written(tmp_path / "a.jsonl", rows))
    assert found.in_order
    assert read(found) == rows


def test_file_out_of_order_is_sorted_and_ties_stay_in_their_order(tmp_path: Path) -> None:
    rows = [("a", "x", 9), ("bb", "y", 3), ("ccc", "zz", 3), ("ä", "y", 1)]
    found = history(written(tmp_path / "a.jsonl", rows))
    assert not found.in_order
    assert read(found) == [rows[3], rows[1], rows[2], rows[0]]


def test_several_files_are_merged_by_time_and_the_first_file_comes_first_in_ties(tmp_path: Path) -> None:
    one = written(tmp_path / "b.jsonl", [("a", "x", 1), ("a", "x2", 4), ("a", "x3", 4)])
    two = written(tmp_path / "a.jsonl", [("b", "y", 2), ("b", "y2", 4)])
    assert [item for _, item, _ in read(history(one, two))] == ["x", "y", "x2", "x3", "y2"]


def test_limit_takes_the_earliest_events_of_an_unordered_file(tmp_path: Path) -> None:
    found = history(written(tmp_path / "a.jsonl", [("a", "x", 9), ("b", "y", 3), ("c", "z", 5)]), limit=2)
    assert (found.events, found.records) == (2, 3)
    assert [item for _, item, _ in read(found, size=1)] == ["y", "z"]


def test_bad_records_are_counted_with_their_reasons_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [("a", "x", 1), ("b", "y", 2)])
    path.write_text(path.read_text() + "not json\n")
    found = history(path)
    assert (found.events, found.bad) == (2, 1)
    assert found.bad_records[0][1].offset == 2
    assert len(read(found)) == 2


def test_empty_file_has_no_events(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").write_text("")
    assert history(tmp_path / "a.jsonl").events == 0
    assert read(history(tmp_path / "a.jsonl", tmp_path / "b.jsonl")) == []


@pytest.mark.parametrize("word", ["value", "=5", "value="])
def test_wrong_where_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="field=value"):
        parsed_where([word])


def test_unknown_where_field_is_refused_at_once_where_the_file_names_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("user,item,ts,country\na,x,1700000000,FR\n")
    with pytest.raises(UsageError, match='Did you mean "country"'):
        check_where([str(path)], EventRules(where=(("contry", "FR"),)))
    check_where([str(path)], EventRules(where=(("country", "FR"), ("value", "1"))))


def test_unknown_where_field_of_json_is_refused_only_once_nothing_has_passed(tmp_path: Path) -> None:
    path = str(written(tmp_path / "a.jsonl", [("a", "x", 1)]))
    rules = EventRules(where=(("itm", "x"),))
    check_where([path], rules)
    with pytest.raises(UsageError, match='Did you mean "item"'):
        check_where([path], rules, none_passed=True)
