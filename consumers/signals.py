"""Ctrl-C and SIGTERM enter; a flag that loops look at leaves."""

from __future__ import annotations

import signal
import sys
from threading import Event as Flag
from typing import Any


def stop_on_signals() -> Flag:
    """A flag that Ctrl-C and SIGTERM set, so that the loop commits and leaves; a second Ctrl-C interrupts."""
    stop = Flag()

    def handle(number: int, _: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        print("stopping: committing what was learned", file=sys.stderr)
        stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return stop
