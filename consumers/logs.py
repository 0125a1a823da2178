"""Logs: a constant event name with keys enters, a line on standard error leaves, and warnings are counted.

Modules write `log = structlog.get_logger()` and then, for example,
`log.info("batch_committed", partition=3, events=4096)`. A name that varies would
make a new time series of the counter each time, so what varies goes into the keys.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any, Literal

import structlog
from prometheus_client import Counter, disable_created_metrics
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "console", "json"]
Level = Literal["debug", "info", "warning", "error"]

# Of each counter and histogram the client would tell when it began, in as many series again.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client gives it no types
WARNINGS = Counter("freshet_warnings", "Warnings and errors logged, by the name of the log event.", ["event"])
_LEVELS = logging.getLevelNamesMapping()


def configure_logs(format: Format, level: Level) -> None:
    """Sets how every logger of the process writes from now on.

    Args:
        format: "console" for people, "json" for one object a line, "auto" for console on a terminal only.
        level: entries below it are not written; warnings are counted all the same.
    """
    console = format == "console" or (format == "auto" and sys.stderr.isatty())
    least = _LEVELS[level.upper()]
    # Warnings pass the logger's own filter at any level, so that the counter sees them.
    passed = min(least, logging.WARNING)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _count_warning,
            _drop_below(least),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_console() if console else _json()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(passed),
        logger_factory=_stderr_logger,
        cache_logger_on_first_use=False,
    )


def _stderr_logger(*_: Any) -> WrappedLogger:
    """A logger on what is standard error now, not on what it was when logs were set up."""
    return structlog.WriteLogger(sys.stderr)


def _count_warning(_: WrappedLogger, __: str, entry: EventDict) -> EventDict:
    if _LEVELS[entry["level"].upper()] >= logging.WARNING:
        WARNINGS.labels(entry["event"]).inc()
    return entry


def _drop_below(least: int) -> Processor:
    def drop(_: WrappedLogger, __: str, entry: EventDict) -> EventDict:
        if _LEVELS[entry["level"].upper()] < least:
            raise structlog.DropEvent
        return entry

    return drop


def _console() -> list[Processor]:
    # Rich tracebacks print local variables, and with them whatever secret lies there.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dump)]


def _dump(entry: EventDict, **_: Any) -> str:
    return json.dumps(entry, default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Numbers of NumPy as numbers, everything else as text."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    return item() if item is not None else str(value)
