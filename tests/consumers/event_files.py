"""The same events as files of all forms, and what a log gives of them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from consumers.eventlog.contract import EventLog, Slice
from streaming.events import BadRecord
from streaming.rules import EventRules
from tests.streaming.columns import Row, rows_of

RULES = EventRules(weights={"view": 0.2, "buy": 1.0})
FIRST_TS = 1_700_000_000


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
        rows += rows_of(found.events)
    log.close()
    return rows, bad, position


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
