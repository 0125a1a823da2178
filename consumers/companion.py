"""A server beside a process that learns: a home enters, a process of `freshet serve` leaves.

It ends with the process that began it, also where that is killed: its standard input is a pipe, of which
the other end is then closed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from threading import Thread
from types import TracebackType

from consumers.settings import Settings
from streaming.errors import InputError

_STOP_S = 30.0  # more than a server takes at most for what it is answering


class Companion:
    """A server of the home in a process of its own, as anyone would start it.

    Args:
        settings: it listens on serve.port, or on any free port where that is taken.
    """

    def __init__(self, settings: Settings) -> None:
        port = settings.serve.port if _is_free(settings.serve.port) else 0
        words = ["--home", str(settings.home), "serve", "--host", "127.0.0.1", "--port", str(port)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from consumers.companion import run; raise SystemExit(run())", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the process that learns, which then ends this one
        )
        self._address = ""

    @property
    def address(self) -> str:
        """Where it answers; "" while it is starting.

        Raises:
            InputError: it has ended.
        """
        output = self._process.stdout
        assert output is not None  # a pipe
        if not self._address and select.select([output], [], [], 0)[0]:
            self._address = output.readline().strip()
            if not self._address:
                raise InputError(
                    "The server beside the demonstration ended. Run `freshet serve` on the same home to see "
                    "why, or leave it out with --no-server."
                )
        return self._address

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Companion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run() -> int:
    """The command line, told to stop as by SIGTERM where standard input ends."""
    Thread(target=_stop_after_input, name="beside", daemon=True).start()
    from consumers.cli import main  # after the thread has begun, as this takes a moment

    return main()


def _stop_after_input() -> None:
    while os.read(0, 4096):
        pass  # nothing is expected there
    os.kill(os.getpid(), signal.SIGTERM)


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
