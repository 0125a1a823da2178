"""The outermost part of the server: counts and times requests, bounds what they hold, answers what broke.

Metrics are labelled with the template of the route, never with an id.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote_to_bytes

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.requests import ClientDisconnect

from consumers.server_errors import RequestError, response_to

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BUCKETS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2.5, 5, 10)
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
                raise self._too_large()
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
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

    def _check(self, scope: Scope) -> None:
        """Refuse what cannot be read as it was meant, or is announced as too large."""
        for part in (scope.get("raw_path", b""), scope["query_string"]):
            if b"%" in part:
                try:
                    unquote_to_bytes(part).decode()
                except UnicodeDecodeError as error:
                    raise RequestError(400, "The address is not UTF-8; encode ids in UTF-8.") from error
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._most:
                raise self._too_large()

    def _too_large(self) -> RequestError:
        return RequestError(413, f"The body has more than {self._most} bytes (serve.max_body_bytes).")
