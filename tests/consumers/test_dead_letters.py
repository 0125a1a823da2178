"""Dead letters are kept at least once, listed once, and survive a kill."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from consumers.dead_letters import DeadLetter, DeadLetters
from streaming.errors import InputFormatError, StoreFullError, StoreReadOnlyError
from streaming.events import BadRecord


def bad(offset: int, raw: bytes = b"x") -> BadRecord:
    return BadRecord(offset, "the record is not JSON.", raw, line=offset + 1)


def test_record_comes_back_as_it_was_refused(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead.jsonl")
    assert list(letters.read()) == []
    letters.append("/a", BadRecord(3, "too long: “é”", b'\xff\x00"\n', 5_000, 4))
    letters.append("t[0]", BadRecord(3, "r", b"plain"))
    letters.sync()
    assert list(letters.read()) == [
        DeadLetter("/a", 3, "too long: “é”", '\\xff\x00"\n', 4, 5_000),
        DeadLetter("t[0]", 3, "r", "plain"),
    ]
    letters.close()


def test_record_written_twice_is_listed_once(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    for _ in range(2):
        letters = DeadLetters(path)
        for offset in (1, 2):
            letters.append("/a", bad(offset))
        letters.close()
    assert len(path.read_bytes().splitlines()) == 4
    assert [letter.offset for letter in DeadLetters(path).read()] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"source":"/a","offs', b"x" * 200_000])
def test_torn_last_line_is_left_out_and_cut_off_by_the_next_writer(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    letters.append("/a", bad(1))
    letters.close()
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [letter.offset for letter in DeadLetters(path).read()] == [1]
    letters = DeadLetters(path)
    letters.append("/a", bad(2))
    letters.close()
    assert path.read_bytes().startswith(whole + b'{"source"')
    assert [letter.offset for letter in DeadLetters(path).read()] == [1, 2]


def test_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.write_bytes(b"rubbish\n")
    with pytest.raises(InputFormatError, match=r"dead\.jsonl are damaged at line 1"):
        list(DeadLetters(path).read())


def test_many_records_reach_the_file_before_the_sync(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    letters = DeadLetters(path)
    for offset in range(1000):
        letters.append("/a", bad(offset, b"y" * 1000))
    assert path.stat().st_size > 500_000
    letters.close()
    assert len(list(letters.read())) == 1000


def test_full_disk_is_an_error_that_may_be_retried(tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    path.symlink_to("/dev/full")
    letters = DeadLetters(path)
    letters.append("/a", bad(1))
    with pytest.raises(StoreFullError, match="Make room") as caught:
        letters.close()
    assert caught.value.retriable


def test_write_cut_short_leaves_no_torn_line_when_it_is_tried_again(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead.jsonl")
    letters.append("/a", bad(1))
    letters.sync()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    letters.append("/a", bad(2, b"z" * 10_000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (letters.path.stat().st_size + 50, hard))
    try:
        with pytest.raises(StoreFullError):
            letters.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    letters.close()
    assert [letter.offset for letter in letters.read()] == [1, 2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    letters = DeadLetters(tmp_path / "dead.jsonl")
    letters.append("/a", bad(1))
    with pytest.raises(StoreReadOnlyError, match="Make the file writable"):
        letters.sync()
    tmp_path.chmod(0o700)
