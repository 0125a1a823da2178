"""Every file format gives the same events; positions mean the same again; damage is said, not swallowed."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumers.eventlog.files import FilesLog
from streaming.errors import InputError, InputFormatError, InputVanishedError, SettingError
from streaming.rules import EventRules
from tests.consumers.event_files import FIRST_TS, RULES, drained, in_all_forms, json_lines, table
from tests.streaming.columns import Row, rows_of


def test_all_formats_give_the_same_events(tmp_path: Path) -> None:
    rows = table()
    expected: list[Row] = [
        (
            k,
            str(row["user"]),
            str(row["item"]),
            (FIRST_TS + k) * 1_000_000,
            float(np.float32(1.0 if row["value"] is None else row["value"])),
            float(np.float32({"view": 0.2, "buy": 1.0, None: 1.0}[row["type"]])),  # type: ignore[index]
        )
        for k, row in enumerate(rows)
    ]
    forms = in_all_forms(tmp_path, rows)
    assert len(forms) == 11
    for name, path in forms.items():
        log = FilesLog([path], RULES)
        found, bad, position = drained(log)
        assert (name, found, bad, position) == (name, expected, [], len(rows))
        assert log.time_units == {str(path): "us" if name == "c.parquet" else "s"}


@pytest.mark.parametrize("most", [1, 10_000])
def test_slices_of_any_size_hold_the_same_events(tmp_path: Path, most: int) -> None:
    for path in in_all_forms(tmp_path, table(120)).values():
        assert drained(FilesLog([path], RULES), most) == drained(FilesLog([path], RULES), 7)


def test_where_selects_the_same_events_in_all_formats(tmp_path: Path) -> None:
    forms = in_all_forms(tmp_path, table(200))
    for where in [
        (("value", "4.1"),),
        (("type", "event"),),
        (("value", 1),),
        (("note", "n7"),),
        (("user", 5),),
    ]:
        found = [drained(FilesLog([path], EventRules(where=where))) for path in forms.values()]
        assert all(other == found[0] for other in found)
        assert 0 < len(found[0][0]) < 200
        assert found[0][2] == 200


def test_seek_equals_skipping(tmp_path: Path) -> None:
    for path in in_all_forms(tmp_path, table(700)).values():
        everything, _, _ = drained(FilesLog([path], RULES))
        for position in (1, 299, 300, 301, 650, 700):
            log = FilesLog([path], RULES, time_units={str(path): "s"})
            log.seek({str(path): position, "/elsewhere": 3})
            assert drained(log)[0] == everything[position:]
        log = FilesLog([path], RULES)
        with pytest.raises(InputVanishedError, match="700 records, fewer than the 701"):
            log.seek({str(path): 701})
        log.close()


def test_bad_rows_are_refused_with_their_line_and_neighbours_kept(tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() for row in table(5)]
    lines[1] = b"\xff\xfe rubbish"
    lines[3] = b'{"user": "", "item": "i", "ts": 1}'
    lines.insert(4, b"")
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\r\n".join(lines))
    rows, bad, position = drained(FilesLog([path], RULES))
    assert [row[0] for row in rows] == [0, 2, 5]
    assert [(record.offset, record.line) for record in bad] == [(1, 2), (3, 4)]
    assert bad[0].raw == lines[1]
    assert position == 6


def test_bad_cells_of_csv_and_parquet_are_refused(tmp_path: Path) -> None:
    text = (
        b'user,item,ts,value\nu,"two\nlines",1,\nu,i,1,5\n,i,1,5\nu,i,x,5\nu,i,1,nan\nu,i,1,5,6\n'
        b'u,"i"x,1,5\n\nu,\xff,1,5\nu,i\nu,i,-1,5\nu,i,1,5\n"u,i,1,5\nu,i,1,5'
    )
    (tmp_path / "a.csv").write_bytes(text)
    rows, bad, position = drained(FilesLog([tmp_path / "a.csv"], RULES), 3)
    assert [row[0] for row in rows] == [1, 11, 13]
    expected = [
        (0, 2, "control"),
        (2, 5, "user is null"),
        (3, 6, "RFC 3339"),
        (4, 7, "value must be"),
        (5, 8, "5 cells"),
        (6, 9, "not CSV"),
        (8, 11, "UTF-8"),
        (9, 12, "ts is missing"),
        (10, 13, "1970"),
        (12, 15, "not CSV"),
    ]
    assert [(record.offset, record.line) for record in bad] == [(k, line) for k, line, _ in expected]
    for record, (_, _, reason) in zip(bad, expected, strict=True):
        assert reason in record.reason
    assert position == 14

    columns = {
        "user": pa.array([b"u", None, b"", b"a\x01", b"\xff", "é".encode(), b"x" * 257, b"u", b"u", b"u"]),
        "item": pa.array([1, 2, 3, 4, 5, 6, 7, None, 9, 10]),
        "ts": pa.array([1.5, 1, 1, 1, 1, 1, 1, 1, float("nan"), -1]),
        "value": pa.array([1, 1, 1, 1, 1, None, 1, 1, 1, 1], pa.float32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    rows, bad, position = drained(FilesLog([tmp_path / "a.parquet"], RULES), 4)
    assert [row[:4] for row in rows] == [(0, "u", "1", 1_500_000), (5, "é", "6", 1_000_000)]
    assert [record.offset for record in bad] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert "ts" in bad[6].reason


def test_line_far_longer_than_allowed_is_one_bad_record(tmp_path: Path) -> None:
    rules = EventRules(max_record_bytes=10_000)
    good = json.dumps(table(2)[1]).encode()
    for ending in (b"\n", b"\r\n"):
        for last in (b"", ending + good + ending):
            path = tmp_path / "long.jsonl"
            path.write_bytes(good + ending + b"x" * 5_000_000 + last)
            rows, bad, position = drained(FilesLog([path], rules))
            assert [row[0] for row in rows] == ([0, 2] if last else [0])
            assert [(b.offset, b.line, b.length, b.raw) for b in bad] == [(1, 2, 5_000_000, b"x" * 1000)]
            assert "5000000 bytes" in bad[0].reason
            assert position == (3 if last else 2)
    path = tmp_path / "long.csv"
    path.write_bytes(b"user,item,ts\nu,i,1\nu,i," + b"1" * 5_000_000 + b"\nu,i,1\n")
    rows, bad, _ = drained(FilesLog([path], rules))
    assert [row[0] for row in rows] == [0, 2]
    assert [(b.offset, b.line, b.length) for b in bad] == [(1, 3, 5_000_004)]


def test_memory_stays_bounded_on_a_long_line(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        for _ in range(50):
            file.write(b"x" * 1_000_000)
    log = FilesLog([path], RULES)
    tracemalloc.start()
    _, bad, _ = drained(log)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert bad[0].length == 50_000_000
    assert peak < 12_000_000


def test_follow_waits_for_whole_lines_and_takes_files_in_turn(tmp_path: Path) -> None:
    first, second, rows = tmp_path / "a.jsonl", tmp_path / "b.csv", table(6)
    first.write_bytes(json_lines(rows[:2]) + b'{"user": "late", "item": "i",')
    second.write_bytes(b"user,item,ts\n")
    log = FilesLog([first, second], RULES, follow=True)
    found = log.poll(10, 0.0)
    assert found is not None
    assert (found.first, found.next_offset) == (0, 2)
    assert log.poll(10, 0.0) is None
    with first.open("ab") as file:
        file.write(b' "ts": 1700000005}\n{"us')
    with second.open("ab") as file:
        file.write(b'u,"open\n')
    found = log.poll(10, 0.0)
    assert found is not None
    assert rows_of(found.events)[0][:3] == (2, "late", "i")
    assert log.poll(10, 0.0) is None
    with second.open("ab") as file:
        file.write(b'quote",1\nu,i,1700000000\n')
    found = log.poll(10, 0.0)
    assert found is not None
    assert found.source == str(second)
    assert [record.offset for record in found.bad] == [0]  # a line end is a control character
    assert [row[0] for row in rows_of(found.events)] == [1]
    assert not log.ended
    assert log.poll(10, 0.02) is None
    log.close()


def test_seek_behind_an_unfinished_line_does_not_shift_what_follows(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.jsonl", table(3)
    path.write_bytes(json_lines(rows[:2])[:-1])
    assert drained(FilesLog([path], RULES))[2] == 2
    log = FilesLog([path], RULES, follow=True)
    log.seek({str(path): 2})
    assert log.poll(10, 0.0) is None
    with path.open("ab") as file:
        file.write(b"\n" + json_lines(rows[2:]))
    found = log.poll(10, 0.0)
    assert found is not None
    assert (found.first, found.next_offset) == (2, 3)
    assert rows_of(found.events)[0][2] == str(rows[2]["item"])
    log.close()


def test_standard_input_is_read_as_it_comes(tmp_path: Path) -> None:
    out, into = os.pipe()
    with os.fdopen(out, "rb") as stream:
        log = FilesLog(["-"], RULES, stdin=stream)
        log.seek({"-": 10})
        assert not log.repeatable
        assert log.poll(10, 0.01) is None
        lines = json_lines(table(3))
        os.write(into, lines[:-10])
        found = log.poll(10, 1.0)
        assert found is not None
        assert (found.first, found.next_offset) == (10, 12)
        assert [row[0] for row in rows_of(found.events)] == [10, 11]
        assert log.lag() == {}  # not "unknown", which tells of a log that is out of reach
        os.write(into, lines[-10:-1])
        os.close(into)
        rows, bad, position = drained(log)
        assert ([row[0] for row in rows], bad, position) == ([12], [], 13)
    with (tmp_path / "data").open("w+b") as stream:
        stream.write(b"user,item,ts\nu,i,1\n")
        stream.seek(0)
        assert drained(FilesLog(["-"], RULES, stdin=stream, format="csv"))[2] == 1


def test_lag_and_progress_end_at_the_end(tmp_path: Path) -> None:
    forms = in_all_forms(tmp_path, table(500))
    log = FilesLog(list(forms.values()), RULES)
    size = sum(path.stat().st_size for path in forms.values())
    assert log.progress() == (0, size)
    assert log.lag()[str(forms["a.jsonl"])] == forms["a.jsonl"].stat().st_size
    assert log.lag()[str(forms["a.parquet"])] == 500
    assert log.sources() == [str(path) for path in forms.values()]
    found = log.poll(10, 0.0)
    assert found is not None
    assert 0 < log.progress()[0] < size
    while not log.ended:
        log.poll(100, 0.0)
    assert set(log.lag().values()) == {0}
    assert log.progress() == (size, size)
    log.close()


def test_wrong_paths_and_names_are_refused_with_a_remedy(tmp_path: Path) -> None:
    good = tmp_path / "a.jsonl"
    good.write_bytes(b"")
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.csv").write_bytes(b"visitor,item,ts\n")
    pq.write_table(pa.table({"usr": ["u"], "item": ["i"], "ts": [1]}), tmp_path / "b.parquet")
    for path, error, words in [
        (tmp_path, InputError, "is a directory; name the files"),
        (tmp_path / "none.jsonl", InputError, "does not exist"),
        (tmp_path / "a.txt", InputFormatError, r"expected \.jsonl, .*\.parquet"),
    ]:
        with pytest.raises(error, match=words):
            FilesLog([path], RULES)
    with pytest.raises(SettingError, match="twice"):
        FilesLog([good, good], RULES)
    with pytest.raises(SettingError, match='"parquet"'):
        FilesLog([good], RULES, format="parket")
    with pytest.raises(SettingError, match="no event file"):
        FilesLog([], RULES)
    for name in ("b.csv", "b.parquet"):
        log = FilesLog([tmp_path / name], RULES)
        with pytest.raises(InputFormatError, match=r"no column 'user'.*events\.fields"):
            log.poll(1, 0.0)
        log.close()
    assert drained(FilesLog([good], RULES)) == ([], [], 0)
    assert drained(FilesLog([tmp_path / "a.txt"], RULES, format="jsonl")) == ([], [], 0)


def test_real_parquet_data_is_read_whole(data: Path) -> None:
    log = FilesLog([data / "ml-100k" / "events.parquet"], RULES)
    count = 0
    while (found := log.poll(4096, 0.0)) is not None:
        count += len(found.events)
        assert found.bad == []
    assert count == 100_000
