"""A process that forks a child for each job, and says how it ended: what both ends of it share.

It loads and compiles everything once. Jobs enter as lines of JSON, how each ended leaves as another.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import msgspec
import structlog


def log_errors_only() -> None:
    """Let the children's log say what went wrong alone, on standard error."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def live(work: Callable[[], object]) -> NoReturn:
    """In a child: do the work, and end at once with 0, or with 1 where it failed."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class Forking:
    """The process, as a context.

    Attributes:
        module: what it runs.
    """

    module: str

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )

    def send(self, job: msgspec.Struct) -> None:
        """Have a child begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(job) + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """How it ended; None where the process itself is gone."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or b"null")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
