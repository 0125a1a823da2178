"""Every file format gives the same events; positions mean the same again; damage is said, not swallowed."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from consumers.eventlog.contract import EventLog, Slice
from consumers.eventlog.files import FilesLog
from streaming.errors import InputError, InputFormatError, InputVanishedError, SettingError
from streaming.events import BadRecord
from streaming.rules import EventRules

RULES = EventRules(weights={"view": 0.2, "buy": 1.0})
FIRST_TS = 1_700_000_000
Row = tuple[int, str, str, int, float, float]


def table(n: int = 1000) -> list[dict[str, object]]:
    return [
        {
            "user": f"u{k % 37}" if k % 5 else k,
            "item": ["é, “quoted”", 'a "b"', "two\twords", "plain"][k % 4] if k % 4 < 2 else f"i{k}",
            "ts": FIRST_TS + k,
            "type": ["view", "buy", None][k % 3],
            "value": [1.5, None, -2, 4.1][k % 4],
            "note": f"n{k}",
        }
        for k in range(n)
    ]


def json_lines(rows: list[dict[str, object]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def write_csv(path: Path, rows: list[dict[str, object]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[dict[str, object]], **types: pa.DataType) -> None:
    columns: dict[str, pa.Array] = {}
    for name in rows[0]:
        cells = [row[name] for row in rows]
        if name in ("user", "item"):
            cells = [None if cell is None else str(cell) for cell in cells]
        array = pa.array(cells)
        columns[name] = array.cast(types[name]) if name in types else array
    pq.write_table(pa.table(columns), path, row_group_size=300)


def drained(log: EventLog, most: int = 97) -> tuple[list[Row], list[BadRecord], int]:
    """All events, all bad records, and the position behind the last slice of the last source."""
    rows: list[Row] = []
    bad: list[BadRecord] = []
    position = 0
    last: Slice | None = None
    while not log.ended:
        found = log.poll(most, 0.0)
        if found is None:
            continue
        if last is not None and last.source == found.source:
            assert found.first == last.next_offset
        assert found.next_offset - found.first <= most
        last, position = found, found.next_offset
        bad += found.bad
        rows += rows_of(found)
    log.close()
    return rows, bad, position


def rows_of(found: Slice) -> list[Row]:
    events = found.events
    return [
        (
            int(events.offsets[k]),
            events.users[k],
            events.items[k],
            int(events.ts[k]),
            float(events.values[k]),
            float(events.weights[k]),
        )
        for k in range(len(events))
    ]


def in_all_forms(folder: Path, rows: list[dict[str, object]]) -> dict[str, Path]:
    text = json_lines(rows)
    (folder / "a.jsonl").write_bytes(text)
    (folder / "a.ndjson").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"))
    (folder / "a.json").write_bytes(text[:-1])
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(text[:5000]) + gzip.compress(text[5000:]))
    zstd = zstandard.ZstdCompressor()
    (folder / "a.jsonl.zst").write_bytes(zstd.compress(text[:5000]) + zstd.compress(text[5000:]))
    write_csv(folder / "a.csv", rows)
    write_csv(folder / "a.tsv", rows, "\t")
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + (folder / "a.csv").read_bytes()))
    write_parquet(folder / "a.parquet", rows)
    words = pa.dictionary(pa.int32(), pa.string())
    write_parquet(
        folder / "b.parquet", rows, user=words, item=pa.large_string(), type=words, value=pa.float32()
    )
    write_parquet(folder / "c.parquet", rows, ts=pa.timestamp("s", "UTC"), type=pa.large_string())
    return {path.name: path for path in folder.iterdir()}


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


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "csv.gz", "parquet"])
def test_truncated_file_gives_what_came_before_and_then_an_error(tmp_path: Path, suffix: str) -> None:
    whole = in_all_forms(tmp_path, table(3000))[f"a.{suffix}"]
    everything, _, _ = drained(FilesLog([whole], RULES))
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[:-200])
    log = FilesLog([cut], RULES)
    rows: list[Row] = []
    with pytest.raises(InputFormatError, match=f"{cut}.*cut short.*run the same command again"):
        while (found := log.poll(500, 0.0)) is not None:
            rows += rows_of(found)
    assert rows == everything[: len(rows)]
    assert len(rows) > (0 if suffix == "parquet" else 500) - (suffix == "parquet")
    log.close()


@pytest.mark.parametrize("suffix", ["jsonl.gz", "jsonl.zst", "parquet"])
def test_file_of_another_format_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(json_lines(table(10)))
    log = FilesLog([path], RULES)
    with pytest.raises(InputFormatError, match="damaged"):
        log.poll(10, 0.0)
    log.close()


def _remove(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    os.truncate(path, 1000)


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(
    ("change", "words"), [(_remove, "disappeared"), (_shorten, "fewer"), (_replace, "replaced")]
)
def test_file_that_vanishes_while_it_is_read_is_an_error(
    tmp_path: Path, change: Callable[[Path], None], words: str, follow: bool
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(table(100)))
    log = FilesLog([path], RULES, follow=follow)
    assert log.poll(60, 0.0) is not None
    change(path)
    found = log.poll(60, 0.0)
    assert found is not None
    assert found.next_offset == 100
    with pytest.raises(InputVanishedError, match=words):
        log.poll(60, 0.0)
    log.close()


def test_followed_file_that_is_written_anew_and_longer_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_lines(table(100)))
    log = FilesLog([path], RULES, follow=True)
    assert log.poll(100, 0.0) is not None
    path.write_bytes(path.read_bytes() + json_lines(table(10)))  # the same beginning
    assert log.poll(100, 0.0) is not None
    path.write_bytes(b"\n" + path.read_bytes() + json_lines(table(10)))
    with pytest.raises(InputVanishedError, match="written anew after record 110"):
        log.poll(100, 0.0)
    log.close()


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
    assert rows_of(found)[0][:3] == (2, "late", "i")
    assert log.poll(10, 0.0) is None
    with second.open("ab") as file:
        file.write(b'quote",1\nu,i,1700000000\n')
    found = log.poll(10, 0.0)
    assert found is not None
    assert found.source == str(second)
    assert [record.offset for record in found.bad] == [0]  # a line end is a control character
    assert [row[0] for row in rows_of(found)] == [1]
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
    assert rows_of(found)[0][2] == str(rows[2]["item"])
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
        assert [row[0] for row in rows_of(found)] == [10, 11]
        assert log.lag() == {"-": None}
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


def read_mutated_files(folder: Path, count: int, seed: int) -> int:
    """Damage files of all forms and read each twice; returns how many could be read to their end."""
    chance = random.Random(seed)
    forms = {name: path.read_bytes() for name, path in in_all_forms(folder, table(60)).items()}
    whole = 0
    for _ in range(count):
        name = chance.choice(list(forms))
        data = bytearray(forms[name])
        for _ in range(chance.choice([1, 1, 2, 8])):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    del data[at : at + chance.randrange(1, 20)]
                case 2:
                    data[at:at] = chance.choice(
                        [b'"', b"\n", b"\r", b"\xff", b",", b"\0", b"\t", b"\xed\xa0\x80"]
                    )
                case _:
                    del data[max(1, chance.randrange(len(data))) :]
            data = data or bytearray(b"x")
        path = folder / f"damaged.{name.partition('.')[2]}"
        path.write_bytes(data)
        logs = [FilesLog([path], RULES), FilesLog([path], RULES)]
        try:
            assert drained(logs[0], 50) == drained(logs[1], 7)
            whole += 1
        except InputError as error:
            assert str(path) in str(error)
        finally:
            for log in logs:
                log.close()
    return whole


def test_mutated_files_give_events_or_an_input_error(tmp_path: Path) -> None:
    assert read_mutated_files(tmp_path, 200, seed=3) > 50


def test_real_parquet_data_is_read_whole(data: Path) -> None:
    log = FilesLog([data / "ml-100k" / "events.parquet"], RULES)
    count = 0
    while (found := log.poll(4096, 0.0)) is not None:
        count += len(found.events)
        assert found.bad == []
    assert count == 100_000
