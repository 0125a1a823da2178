"""The outermost part of the server: counts and times requests, bounds what they hold, answers what broke.

Metrics are labelled with the template of the route, never with an id.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import ClientDisconnect

from consumers.server_errors import RequestError, response_to

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2.5, 5, 10)
_READ_ON = 16 << 20  # most bytes of a body too large that are read and forgotten
UNMATCHED = "unmatched"


class ServerMetrics:
    """What the server reports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "freshet_http_requests",
            "Requests answered, by the template of their route.",
            ["route", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "freshet_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self.events = Counter(
            "freshet_events_posted", "Posted events that became durable.", registry=registry
        )
        self.recall = Gauge(
            "freshet_index_recall_at_10",
            "Share of the 10 best items that the index found, as sampled; no series while all are scored.",
            ["version"],
            registry=registry,
        )
        self._children: dict[tuple[str, int], tuple[Any, Any]] = {}

    def observe(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        children = self._children.get((route, status))
        if children is None:
            children = self.requests.labels(route, str(status)), self.seconds.labels(route)
            self._children[route, status] = children
        children[0].inc()
        children[1].observe(seconds)


class Edge:
    """ASGI middleware around all endpoints.

    Args:
        most_bytes: longest body of a request, whether its length was announced or not.
    """

    def __init__(self, app: App, metrics: ServerMetrics, most_bytes: int) -> None:
        self._app, self._metrics, self._most = app, metrics, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0
        left = self._most

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise await self._too_large(scope, receive, message.get("more_body", False))
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._check(scope, receive)
            await self._app(scope, bounded, noted)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            if status:
                raise  # the answer has begun, so it can only be broken off
            await response_to(error)(scope, receive, noted)
        finally:
            route = getattr(scope.get("route"), "path_format", UNMATCHED)
            self._metrics.observe(route, status, time.perf_counter() - begun)

    async def _check(self, scope: Scope, receive: Receive) -> None:
        """Refuse what cannot be read as it was meant, or is announced as too large."""
        for part in (scope.get("raw_path", b""), scope["query_string"]):
            if b"%" in part:
                try:
                    unquote_to_bytes(part).decode()
                except UnicodeDecodeError as error:
                    raise RequestError(400, "The address is not UTF-8; encode ids in UTF-8.") from error
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._most:
                raise await self._too_large(scope, receive, True)

    async def _too_large(self, scope: Scope, receive: Receive, more: bool) -> RequestError:
        """The refusal, once some of what the client still sends was taken.

        Else it may find the connection closed under its hands, and no answer.
        """
        waits = any(name == b"expect" for name, _ in scope["headers"])  # for a word before it sends
        left = 0 if waits else _READ_ON
        while more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message.get("more_body", False)
        return RequestError(413, f"The body has more than {self._most} bytes (serve.max_body_bytes).")
