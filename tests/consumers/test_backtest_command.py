from __future__ import annotations

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consumers.backtest import compare
from consumers.candidates import candidate
from consumers.cli import main
from consumers.eventlog.files import FilesLog
from consumers.history import History
from consumers.plots import curve_of, sketch
from streaming.rules import EventRules

RATES = {"hr@10", "ndcg@10", "mrr@10", "hr@20", "ndcg@20", "mrr@20"}


@pytest.fixture
def events(bare: Path) -> Path:
    """300 events of 30 users and 20 items; every third has the value 5, the others 3."""
    rng = np.random.default_rng(5)
    users, items = rng.integers(0, 30, 300).tolist(), rng.integers(0, 20, 300).tolist()
    rows = [
        {"user": f"u{u}", "item": f"i{i}", "ts": 1_700_000_000 + 60 * k, "value": 3 if k % 3 else 5}
        for k, (u, i) in enumerate(zip(users, items, strict=True))
    ]
    path = bare / "events.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["backtest", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], words: Sequence[str], code: int = 2) -> str:
    assert main(["backtest", *words]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_json_holds_rates_segments_speed_and_memory_of_each_learner(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(capsys, str(events), "--learner", "popularity:half_life=inf", "--learner", "transitions")
    assert (found["events"], found["protocol"], found["every"]) == (300, "P1", 1)
    assert list(found["learners"]) == ["popularity:half_life=inf", "transitions"]
    for entry in found["learners"].values():
        assert set(entry["overall"]) >= RATES
        assert set(entry["segments"]) == {"new_user", "returning_user", "new_item"}
        assert set(entry["segments"]["new_item"]) >= RATES
        assert entry["events_per_second"] > 0
        assert entry["memory_bytes"] > 0
    assert found["best"] in found["learners"]


def test_rate_of_an_empty_segment_is_null(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bare / "one.jsonl"
    path.write_text('{"user": "a", "item": "x", "ts": 1700000000}\n')
    found = answer(capsys, str(path), "--learner", "popularity")
    assert found["learners"]["popularity"]["segments"]["returning_user"]["hr@10"] is None


def test_where_keeps_the_events_of_that_value_and_limit_the_first_of_these(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learner = ("--learner", "popularity")
    assert answer(capsys, str(events), *learner, "--where", "value=5")["events"] == 100
    assert answer(capsys, str(events), *learner, "--where", "value=5", "--limit", "30")["events"] == 30


def test_field_that_the_first_records_lack_is_told_before_the_rest_is_read(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = '{"user": "u", "item": "i", "ts": 1700000000, "contry": "France"}\n'
    (bare / "a.jsonl").write_text(line + "x" * 2_000_000 + "\n" + line.replace("contry", "country"))
    words = ["backtest", "a.jsonl", "--learner", "popularity", "--where", "country=France", "--json"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert 'none of the first records has a field "country". Did you mean "contry"?' in printed.err
    assert json.loads(printed.out)["events"] == 1


def test_tables_name_every_learner_and_mark_the_best(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backtest", str(events), "--learner", "popularity", "--learner", "transitions"]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("popularity", "transitions", "HR@10", "MRR@20", "new user", "B/item")
    )
    assert (
        sum(line.startswith("★ ") for line in text.splitlines()) == 2
    )  # in the table, and what the mark means


def test_values_predicted_by_a_learner_show_their_error(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backtest", str(events), "--learner", "biased_mf"]) == 0
    assert "RMSE" in capsys.readouterr().out


def test_sweep_shows_quality_memory_speed_and_advice(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(events), "--learner", "biased_mf", "--sweep", "dimension=4,32"]
    assert main(["backtest", *words]) == 0
    text = capsys.readouterr().out
    assert "Take dimension = " in text
    assert "⁴√50 ≈ 3" in text
    found = answer(capsys, *words)
    assert list(found["learners"]) == ["biased_mf:dimension=4", "biased_mf:dimension=32"]
    (report,) = found["sweep"]
    assert report["values"] == ["4", "32"]
    assert report["advised"] in report["values"]
    assert report["rule_of_thumb"]["dimension"] == pytest.approx(50**0.25)


def test_sweep_advises_the_smallest_value_that_is_as_good(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without learning all dimensions rank by the initial vectors' bias alone: equal figures.
    flat = "biased_mf:learning_rate=0,sigma=0"
    (report,) = answer(capsys, str(events), "--learner", flat, "--sweep", "dimension=64,4,16")["sweep"]
    assert report["advised"] == "4"


def test_picture_is_a_png_of_some_size(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = events.parent / "curves.png"
    assert main(["backtest", str(events), "--learner", "popularity", "--plot", str(path)]) == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1000 and height > 500
    assert len(content) > 20_000


def test_long_history_is_evaluated_in_part_and_says_so(
    bare: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bare / "long.parquet"
    n = 200_001
    pq.write_table(pa.table({"user": ["a"] * n, "item": ["x"] * n, "ts": [1_700_000_000] * n}), path)
    assert main(["backtest", str(path), "--learner", "popularity"]) == 0
    captured = capsys.readouterr()
    assert "66,667 of them (one in 3)" in captured.out
    assert "--every 1 does all" in captured.err


def test_sketch_draws_every_curve_under_its_axis(events: Path) -> None:
    history = History(lambda: FilesLog([events], EventRules()))
    text = sketch(
        compare(history, [candidate("popularity"), candidate("transitions")]), width=40, height=8
    ).plain
    lines = text.splitlines()
    assert any(0x2800 < ord(letter) < 0x2900 for letter in text)
    assert lines[1].endswith(" " * 40) or "┤" in lines[1]
    assert {line.split()[-1] for line in lines[-2:]} == {"popularity", "transitions"}


def test_curve_that_is_not_smoothed_holds_the_points_of_the_result(events: Path) -> None:
    history = History(lambda: FilesLog([events], EventRules()))
    result = compare(history, [candidate("popularity")]).best
    raw = curve_of(result, every=1, smooth=1)
    assert raw.rate.tolist() == pytest.approx(result.curve["hr@10"][: len(raw.rate)])
    assert raw.events[0] == result.curve["evaluated_per_point"] / 2
    assert not any(math.isnan(rate) for rate in curve_of(result, every=1).rate)


def test_bad_records_are_reported_and_not_fatal(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events.write_text(events.read_text() + '{"user": "a"}\n')
    assert main(["backtest", str(events), "--learner", "popularity", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["bad_records"] == 1
    assert "item is missing" in captured.err


def test_unordered_files_are_sorted_and_said_to_be(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = events.read_text().splitlines(keepends=True)
    events.write_text("".join(reversed(lines)))
    assert main(["backtest", str(events), "--learner", "popularity", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["time_ordered"] is False
    assert "not in time order" in captured.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--learner", "transition"], 'Did you mean "transitions"?'),
        (["--learner", "popularity:half=3"], 'Did you mean "half_life"?'),
        (["--learner", "popularity", "--learner", "popularity"], "given twice"),
        (["--where", "valu=5"], 'Did you mean "value"?'),
        (["--where", "value=4"], "no event has this"),
        (["--where", "value"], "field=value"),
        (["--lerner", "softmax"], 'Did you mean "--learner"?'),
        (["--every", "0"], "--every must be 1 or more"),
        (["--limit", "0"], "--limit must be 1 or more"),
        (["--seed", "-1"], "--seed must be"),
        (["--seed", "1", "--seed", "1"], "given twice"),
        (["--sweep", "dimension"], "--sweep"),
        (["--learner", "biased_mf", "--sweep", "dimensions=4,8"], 'Did you mean "dimension"?'),
        (["--plot", "curves.jpeg"], ".png"),
        (["--plot", "absent/curves.png"], "no directory"),
    ],
)
def test_wrong_usage_is_refused_with_the_nearest_right_name(
    events: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    named = [] if "--learner" in words else ["--learner", "popularity"]
    assert expected in refusal(capsys, [str(events), *named, *words])


def test_file_without_events_is_an_error(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bare / "none.jsonl").write_text("")
    assert "no events" in refusal(capsys, ["none.jsonl", "--learner", "popularity"], code=1)


def test_standard_input_is_read(
    events: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    named = answer(capsys, str(events), "--learner", "popularity")
    with events.open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        piped = answer(capsys, "-", "--learner", "popularity")
    assert piped["learners"]["popularity"]["overall"] == named["learners"]["popularity"]["overall"]


def test_no_file_is_a_wrong_usage(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no event file" in refusal(capsys, ["--learner", "popularity"])
