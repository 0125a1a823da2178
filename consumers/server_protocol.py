"""HTTP/1.1 as uvicorn speaks it, with clients that are slow, too many or no HTTP clients told so in our form.

Bytes of a connection enter; requests go to the application. A request must have come whole, and an
answer must be taken, within a time; connections are bounded in number.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from consumers.server_errors import CODES, JSON, ErrorBody, error_bytes

HEAD_BYTES = 16_384  # of a request's line and headers
MOST_CONNECTIONS = 1024
WRITE_S = 30.0  # longest time that a client may leave an answer lying
_LINGER_S = 1.0  # time to read the refusal in, before what the client still sends cuts it off
_MESSAGES = {
    400: "This is no HTTP request.",
    408: "The request did not come whole in time.",
    414: "The path is too long; ids are no longer than events.max_id_bytes.",
    431: "The headers are too long.",
}


class GuardedProtocol(H11Protocol):
    """One connection.

    Attributes:
        request_s: longest time for a request to come whole.
    """

    request_s = 10.0

    def __init__(self, *args: Any, **others: Any) -> None:
        super().__init__(*args, **others)
        self._late = _Timer(self.loop, self.request_s, self._too_slow)
        self._stuck = _Timer(self.loop, WRITE_S, self._not_taken)
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(503, "Too many connections are open. Come again later.", "overloaded")
            return
        self._late.start()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._late.stop()
        self._stuck.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come; those behind a refusal are not looked at."""
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        """Take what has come whole; a request that has only begun must come whole in time."""
        super().handle_events()
        if self._refused:
            return
        begun = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not begun and self.conn.their_state is not h11.SEND_BODY:
            self._late.stop()
        else:
            self._late.start()

    def send_400_response(self, msg: str) -> None:
        """What has come is no request, or its head is too long."""
        error = sys.exc_info()[1]
        status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
        if status == 431 and b"\n" not in self.conn.trailing_data[0]:
            status = 414
        status = status if status in _MESSAGES else 400
        self._refuse(status, _MESSAGES[status], CODES[status])

    def pause_writing(self) -> None:
        """The client takes the answer more slowly than it is made."""
        super().pause_writing()
        self._stuck.start()

    def resume_writing(self) -> None:
        """The client goes on taking the answer."""
        self._stuck.stop()
        super().resume_writing()

    def _too_slow(self) -> None:
        cycle = self._current()
        if cycle is not None and cycle.response_started and not cycle.response_complete:
            self.transport.close()
        elif self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(408, _MESSAGES[408], CODES[408])
        else:
            self.transport.close()

    def _not_taken(self) -> None:
        self.transport.abort()

    def _current(self) -> RequestResponseCycle | None:
        """The request that is answered, or was answered last; none has come at first."""
        return self.cycle

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer, whatever the client still sends, and close in a moment."""
        self._refused = True
        self._late.stop()
        cycle = self._current()
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        data = error_bytes(ErrorBody(code, message))
        head = (
            f"HTTP/1.1 {status} \r\ncontent-type: {JSON}\r\ncontent-length: {len(data)}\r\n"
            "connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + data)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER_S, self.transport.close)


class _Timer:
    """Calls once, some time after it was started, unless it is stopped; started twice it goes on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
        self._loop, self._seconds, self._call = loop, seconds, call
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        self._call()
