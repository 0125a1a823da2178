"""Files that are damaged, cut short, replaced or gone: what came before is read, the rest is said."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers.eventlog.files import FilesLog
from streaming.errors import InputError, InputFormatError, InputVanishedError
from tests.consumers.event_files import RULES, drained, in_all_forms, json_lines, table
from tests.streaming.columns import Row, rows_of


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
            rows += rows_of(found.events)
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
