"""`freshet dead-letters` lists each refused record once and prints its first bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consumers.cli import main
from tests.consumers.worked import append, learn, made


@pytest.fixture
def home(tmp_path: Path) -> list[str]:
    """A version that refused three records of two files, one of them twice."""
    version = made(tmp_path / "home")
    good = '{"user": "u", "item": "i", "ts": 1700000000}'
    learn(version, append(tmp_path / "a.jsonl", [good, "{broken", good, "x" * 2000]))
    (tmp_path / "deep").mkdir()
    learn(
        version, append(tmp_path / "deep" / "b.jsonl", ['{"user": "\x1b[31m", "item": "i", "ts": 1}', good])
    )
    letters = version.dead_letters_path
    letters.write_bytes(letters.read_bytes() + letters.read_bytes().splitlines(keepends=True)[0])
    return ["--home", str(tmp_path / "home")]


def test_list_has_each_position_once_with_line_and_reason(
    home: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead-letters", "list", "mine", "--json", *home]) == 0
    letters = json.loads(capsys.readouterr().out)
    assert [(Path(each["source"]).name, each["offset"], each["line"]) for each in letters] == [
        ("a.jsonl", 1, 2),
        ("a.jsonl", 3, 4),
        ("b.jsonl", 0, 1),
    ]
    assert all(each["reason"] for each in letters)
    assert main(["dead-letters", "list", "mine", *home]) == 0
    assert letters[0]["reason"] in capsys.readouterr().out


def test_list_of_a_version_that_refused_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path)
    assert main(["dead-letters", "list", "mine", "--home", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no dead letters\n"
    assert main(["dead-letters", "list", "mine", "--json", "--home", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("source", ["a.jsonl", "path"])
def test_show_prints_the_record_as_it_came(
    home: list[str], tmp_path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    named = str(tmp_path / "a.jsonl") if source == "path" else source
    assert main(["dead-letters", "show", "mine", named, "1", *home]) == 0
    shown = capsys.readouterr()
    assert shown.out == "{broken\n"
    assert "not JSON" in shown.err


def test_show_says_how_long_a_cut_record_was(home: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "show", "mine", "a.jsonl", "3", *home]) == 0
    shown = capsys.readouterr()
    assert shown.out == "x" * 1000 + "\n" and "first bytes of 2,000" in shown.err
    assert main(["dead-letters", "show", "mine", "a.jsonl", "3", "--json", *home]) == 0
    assert json.loads(capsys.readouterr().out)["length"] == 2000


@pytest.mark.parametrize(
    ("words", "message"),
    [(["c.jsonl", "1"], 'No records of "c.jsonl"'), (["a.jsonl", "2"], "refused no record of")],
)
def test_record_that_was_not_refused_is_an_error(
    home: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead-letters", "show", "mine", *words, *home]) == 2
    assert message in capsys.readouterr().err


def test_unknown_version_is_an_error(home: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dead-letters", "list", "mime", *home]) == 1
    assert 'Did you mean "mine"?' in capsys.readouterr().err


def test_retry_writes_whole_records_of_files_as_lines_to_be_mended(
    home: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mended.jsonl"
    assert main(["dead-letters", "retry", "mine", "--out", str(out), "--json", *home]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"sent": 0, "written": 2, "left_out": 1}
    assert "1 records are not kept whole" in shown.err
    assert out.read_text().splitlines()[0] == "{broken"
    assert main(["dead-letters", "retry", "mine", "--out", str(out), *home]) == 2
    assert "exists already" in capsys.readouterr().err
