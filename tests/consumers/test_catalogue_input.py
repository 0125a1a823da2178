"""A catalogue is read from every format, bad records are named, and answers follow the file."""

from __future__ import annotations

import csv
import json
import os
from datetime import datetime
from pathlib import Path
from random import Random
from threading import Event as Flag
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumers import catalogue_file
from consumers import catalogue_input as module
from consumers.catalogue_file import CatalogueFile
from consumers.catalogue_input import Reading, follow
from consumers.catalogue_pieces import pieces_of
from consumers.cli import main
from consumers.settings import ItemFields, ItemSettings, Settings
from state.catalogue import CatalogueItem
from streaming.errors import InputError, InputFormatError
from tests.consumers.worked import append, learn, made

TEA = CatalogueItem("tea", True, ("drinks", "warm"), {"price": 2.5, "brand": "é", "stock": 3})
CUP = CatalogueItem("7", False)


def read(path: Path, settings: Settings | None = None) -> tuple[CatalogueFile, Reading]:
    source = CatalogueFile(str(path), settings or Settings())
    reading = source.refresh()
    assert reading is not None
    return source, reading


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "parquet"])
def test_items_are_the_same_from_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"items.{suffix}"
    records: list[dict[str, Any]] = [
        {"item": "tea", "available": False, "categories": ["old"], "price": 1.0, "brand": None, "stock": 0},
        {"item": "7", "available": False, "categories": None, "price": None, "brand": None, "stock": None},
        {"item": "tea", "categories": ["drinks", "warm"], "price": 2.5, "brand": "é", "stock": 3},
    ]
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records).rstrip())
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        sep = "," if suffix == "csv" else "\t"
        rows = ["item available categories price brand stock", "tea no old 1.0 _ 0", "7 0 _ _ _ _"]
        rows += ["tea _ drinks|warm 2.5 é 3"]
        path.write_text("\n".join(sep.join(row.split()).replace("_", "") for row in rows), encoding="utf-8")
    source, reading = read(path)
    assert (reading.records, reading.refused, len(source.catalogue)) == (3, 0, 2)
    assert source.catalogue.item("tea") == TEA
    assert source.catalogue.item("7") == CUP


def test_fields_have_the_names_that_are_set(tmp_path: Path) -> None:
    path = append(tmp_path / "a.jsonl", ['{"id": 5, "kind": "x", "live": true, "v": [1, 2.5]}'])
    fields = ItemFields(item="id", available="live", categories="kind", features="v")
    source, _ = read(path, Settings(items=ItemSettings(fields=fields)))
    assert source.catalogue.item("5") == CatalogueItem("5", True, ("x",), {"v": [1, 2.5]})


BAD = {
    '{"item": "ok"}': None,
    "{": "line 2: expected JSON, got what is none",
    "[1]": "line 3: expected an object with fields, got a list",
    '{"Item": "x"}': 'line 4: the field "item" is missing; Did you mean "Item"?',
    '{"item": ""}': "line 5: item must be text that is not empty, got ''",
    '{"item": 7.5}': "line 6: item must be text that is not empty, got 7.5",
    '{"item": "x", "available": "yes"}': "line 7: available must be true or false, got 'yes'",
    '{"item": "x", "categories": [1]}': "line 8: categories must be a list of texts, got [1]",
    '{"item": "x", "size": {"a": 1}}': 'line 9: the feature "size" must be a finite number',
    '{"item": "' + "x" * 300 + '"}': "line 10: item must be at most 256 bytes long, got 300",
}


def test_bad_records_are_refused_with_their_line_and_the_others_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = append(tmp_path / "items.jsonl", list(BAD))
    source, reading = read(path)
    expected = [reason for reason in BAD.values() if reason is not None]
    found = [f"{place}: {reason}" for place, reason in reading.shown]
    assert len(found) == len(expected)
    assert all(f.startswith(e) for f, e in zip(found, expected, strict=True)), found
    assert source.catalogue.item("ok") == CatalogueItem("ok")
    assert main(["catalogue", "check", str(path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["records"], report["items"], report["available"], report["refused"]) == (10, 1, 1, 9)
    assert report["shown"][0]["place"] == "line 2"


def test_bad_rows_of_csv_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_bytes(b'item,size\na,1,2\n\xff,1\nb,2\n"c" d,3\n')
    source, reading = read(path)
    assert [refused.place for refused in reading.shown] == ["line 2", "line 3", "line 5"]
    assert source.catalogue.item("b") == CatalogueItem("b", features={"size": 2})


def test_file_is_read_again_when_it_changes_and_kept_when_it_is_broken(tmp_path: Path) -> None:
    path = append(tmp_path / "items.jsonl", ['{"item": "a"}'])
    source, _ = read(path)
    assert source.refresh() is None
    append(path, ['{"item": "b"}'])
    assert source.refresh() == Reading(records=2)
    path.write_text("nonsense\n")
    with pytest.raises(InputFormatError, match=r"none of its 1 records is an item; line 1"):
        source.refresh()
    path.unlink()
    with pytest.raises(InputError, match=r"items\.file"):
        source.refresh()
    assert len(source.catalogue) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("few", [3, 1000])
def test_file_that_is_changed_is_as_one_read_for_the_first_time(
    tmp_path: Path, suffix: str, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_file, "_FEW", few)
    random, path = Random(few), tmp_path / f"items.{suffix}"
    records = [record(random) for _ in range(12)]
    written(path, records)
    source, _ = read(path)
    for _ in range(60):
        for _ in range(random.choice((1, 1, 4))):
            edit(records, random)
        written(path, records)
        reading = source.refresh()
        fresh, expected = read(path)
        assert reading in (expected, None)  # None where it is the same file again
        assert len(source.catalogue) == len(fresh.catalogue)
        for name in NAMES:
            assert source.catalogue.item(name) == fresh.catalogue.item(name)


NAMES = [f"i{k}" for k in range(9)]


def record(random: Random) -> dict[str, Any]:
    """Often of an item that others are of; now and then none at all."""
    name = random.choice(NAMES) if random.random() < 0.9 else ""
    categories = random.sample(("a", "b|c", "d"), random.randrange(3)) if random.random() < 0.7 else None
    return {
        "item": name,
        "available": random.choice((True, False, None)),
        "categories": categories,
        "price": random.choice((None, 1.5, 2.5)),
        "brand": random.choice((None, "é", 'x"\ny')),
    }


def edit(records: list[dict[str, Any]], random: Random) -> None:
    """Put a record in, in the place of another, or take one out; or put them in another order."""
    kind, place = random.randrange(5), random.randrange(len(records))
    if kind == 0:
        records.append(record(random))
    elif kind == 1:
        records.insert(place, random.choice(records))
    elif kind == 2:
        records[place] = record(random)
    elif kind == 3 and len(records) > 5:
        del records[place]
    else:
        random.shuffle(records)


def written(path: Path, records: list[dict[str, Any]]) -> None:
    half = path.with_name("half")
    if path.suffix == ".jsonl":
        half.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), half)
    else:
        with half.open("w", newline="") as file:
            rows = csv.DictWriter(file, list(records[0]))
            rows.writeheader()
            rows.writerows({**one, "categories": "|".join(one["categories"] or ())} for one in records)
    os.replace(half, path)


def test_same_cells_under_another_header_are_another_record(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item,size,weight\na,1,2\n")
    source, _ = read(path)
    path.write_text("item,weight,size\na,1,2\n")
    os.utime(path, ns=(1, 1))
    assert source.refresh() == Reading(records=1)
    assert source.catalogue.item("a") == CatalogueItem("a", features={"weight": 1, "size": 2})


def test_values_of_any_type_in_parquet_tell_records_apart(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    columns: dict[str, list[Any]] = {
        "text": ["a", "", None],
        "list": [[1.5], [], None],
        "nested": [{"a": 1, "b": ["x"]}, {"a": None, "b": []}, None],
        "flag": [True, False, None],
        "number": [1, 0, None],
        "float": [-0.5, 0.0, None],
        "moment": [datetime(2026, 1, 1), datetime(2026, 1, 2), None],
        "nothing": [None, None, None],
    }
    rows = [
        {"item": "x", **{name: values[0] for name, values in columns.items()}, changed: values[k]}
        for changed, values in columns.items()
        for k in range(3)
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.set_column(1, "text", table["text"].dictionary_encode()), path)
    (piece,) = pieces_of(str(path), "parquet")
    texts = [repr(row) for row in rows]
    assert len(set(piece.hashes.tolist())) == len(set(texts)) == 15
    assert [record for _, _, record in piece.decoded([3, 5])] == [rows[3], rows[5]]


def test_follower_takes_changes_in_and_outlives_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    path = append(tmp_path / "items.jsonl", ['{"item": "a"}'])
    source, _ = read(path)
    stop, waited = Flag(), Flag()
    thread = Thread(target=follow, args=(source, stop))
    thread.start()
    try:
        path.unlink()
        half = append(tmp_path / "half", ['{"item": "b"}'])
        os.replace(half, path)
        for _ in range(6000):
            if source.catalogue.item("b") is not None:
                break
            waited.wait(0.01)
    finally:
        stop.set()
        thread.join()
    assert source.catalogue.item("a") is None
    assert source.catalogue.item("b") == CatalogueItem("b")


def test_query_serves_only_what_the_catalogue_allows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [
        json.dumps({"user": u, "item": i, "ts": 1_700_000_000 + k})
        for k, (u, i) in enumerate([("ann", i) for i in ("tea", "cup", "pot", "mug")] * 3)
    ]
    learn(made(tmp_path / "home"), append(tmp_path / "events.jsonl", events))
    items = tmp_path / "items.csv"
    items.write_text("item,available,categories\ntea,1,drinks\ncup,1,things\npot,0,things\n")

    def asked(*words: str, code: int = 0) -> Any:
        given = ["--home", str(tmp_path / "home"), "--set", f"items.file={items}", "--json"]
        assert main([*words, *given]) == code, capsys.readouterr().err
        printed = capsys.readouterr()
        return printed.err if code else json.loads(printed.out)

    assert {one["item"] for one in asked("query", "recommend", "bob")["items"]} == {"tea", "cup"}
    found = asked("query", "recommend", "bob", "--category", "things")
    assert [one["item"] for one in found["items"]] == ["cup"]
    assert "Did you mean" in asked("query", "recommend", "bob", "--category", "thing", code=1)
    scored = asked("query", "score", "bob", "tea", "pot", "mug")["scores"]
    assert [one["available"] for one in scored] == [True, False, False]
    unlisted = asked("query", "recommend", "bob", "--set", "items.unlisted=serve")
    assert {one["item"] for one in unlisted["items"]} == {"tea", "cup", "mug"}
    shown = {"item": "pot", "available": False, "categories": ["things"], "features": {}}
    assert asked("catalogue", "show", "pot") == shown
    assert asked("catalogue", "categories") == [
        {"category": "drinks", "available": 1},
        {"category": "things", "available": 1},
    ]
    items.unlink()
    assert "items.file" in asked("query", "recommend", "bob", code=1)


def test_category_needs_a_catalogue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn(made(tmp_path), append(tmp_path / "events.jsonl", ['{"user": "a", "item": "b", "ts": 1700000000}']))
    assert main(["query", "recommend", "bob", "--category", "x", "--home", str(tmp_path)]) == 2
    assert "Without a catalogue" in capsys.readouterr().err
    assert main(["catalogue", "show", "x", "--home", str(tmp_path)]) == 2
