from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import structlog
from prometheus_client import REGISTRY

from consumers.logs import Format, Level, configure_logs

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def counted(event: str) -> float:
    return REGISTRY.get_sample_value("freshet_warnings_total", {"event": event}) or 0.0


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_json_line_holds_event_level_time_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")
    log.info("batch_committed", partition=3, events=np.int64(7), share=np.float32(0.5), source="ä")
    (line,) = written(capsys)
    assert line.pop("timestamp")
    assert line == {
        "event": "batch_committed", "level": "info", "partition": 3, "events": 7, "share": 0.5, "source": "ä"
    }  # fmt: skip


def test_exception_is_written_as_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("json", "info")
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("source_failed")
    (line,) = written(capsys)
    assert "ValueError: broken" in str(line["exception"])


@pytest.mark.parametrize(("form", "terminal", "as_json"), [
    ("auto", False, True), ("auto", True, False), ("json", True, True), ("console", False, False),
])  # fmt: skip
def test_form_follows_setting_and_terminal(
    monkeypatch: pytest.MonkeyPatch, form: Format, terminal: bool, as_json: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logs(form, "info")
    log.info("worker_started", version="a")
    assert stream.getvalue().startswith("{") is as_json
    assert "worker_started" in stream.getvalue()


@pytest.mark.parametrize(("level", "names"), [
    ("debug", ["a", "b", "c", "d"]), ("info", ["b", "c", "d"]), ("warning", ["c", "d"]), ("error", ["d"]),
])  # fmt: skip
def test_entries_below_the_level_are_not_written(
    capsys: pytest.CaptureFixture[str], level: Level, names: list[str]
) -> None:
    configure_logs("json", level)
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in written(capsys)] == names


@pytest.mark.parametrize("level", ["info", "error"])
def test_every_warning_is_counted_by_event_at_any_level(
    capsys: pytest.CaptureFixture[str], level: Level
) -> None:
    configure_logs("json", level)
    before = counted("clock_went_back")
    log.info("clock_went_back")
    log.warning("clock_went_back", by_s=3)
    log.bind(version="a").error("clock_went_back")
    assert counted("clock_went_back") == before + 2
