from __future__ import annotations

from pathlib import Path

import pytest

from tests.consumers.commandline import Freshet
from tests.consumers.sequenced import OPTIONS, softmax
from tests.consumers.worked import append, learn, lines, made

SET = [word for name, value in OPTIONS.items() for word in ("--set", f"{name}={value}")]


def test_sessions_go_on_where_they_stopped_and_keep_their_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, freshet = softmax(tmp_path, tmp_path / "e.jsonl"), Freshet(tmp_path, capsys)
    weights = str(tmp_path / "weights.npz")
    first = freshet.json("sessions", version.name, *SET, "--save", weights)
    assert (first["events"], first["steps"], first["dropped"], first["left_out"]) == (360, 21, 0, 0)
    assert first["offsets"] == {str(tmp_path / "e.jsonl"): 400}
    append(tmp_path / "e.jsonl", lines(100, seed=2))
    second = freshet.json("sessions", version.name)
    assert (second["events"], second["offsets"]) == (90, {str(tmp_path / "e.jsonl"): 500})
    assert second["steps"] > first["steps"]
    said = freshet("sessions", version.name, "--set", "layers=2", code=2)
    assert "has begun with other options: layers is 1, got 2" in said
    said = freshet("sessions", version.name, "--warm-start", weights, code=2)
    assert "--warm-start is for the first start" in said
    freshet("versions", "fork", version.name, "other")
    assert freshet.json("sessions", "other")["events"] == 0


def test_sessions_need_a_version_that_learned_and_whose_query_can_be_corrected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    freshet = Freshet(tmp_path, capsys)
    made(tmp_path, "softmax", name="new")
    assert "Run `freshet work` first" in freshet("sessions", "new", code=1)
    learn(made(tmp_path, "popularity", name="other"), append(tmp_path / "e.jsonl", lines(20, seed=1)))
    assert "corrects versions with the learner softmax" in freshet("sessions", "other", code=1)
