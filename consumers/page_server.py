"""The live page over HTTP: its three files, the stream of what it shows, and the map of items."""

from __future__ import annotations

import hashlib
from pathlib import Path as FilePath
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response, StreamingResponse

from consumers.page_feed import PageFeed
from consumers.server_errors import JSON, RequestError
from consumers.serving import Serving

FILES = FilePath(__file__).parent / "page"
# Scripts and styles come from this server alone, so an id that holds markup can run nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARDS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _Page:
    """What the paths of the page do."""

    def __init__(self, serving: Serving, feed: PageFeed) -> None:
        self._serving, self._feed = serving, feed
        self._files = {path.name: path.read_bytes() for path in FILES.iterdir() if path.suffix in _KINDS}
        self._tags = {
            name: f'"{hashlib.sha256(text).hexdigest()[:20]}"' for name, text in self._files.items()
        }

    async def index(self, request: Request) -> Response:
        """The page."""
        return self._file(request, "index.html")

    async def file(self, request: Request, name: str) -> Response:
        """One of its files."""
        return self._file(request, name)

    async def feed(self) -> Response:
        """What the page shows, as server-sent events."""
        self._feed.check_room()
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", **_GUARDS}
        return StreamingResponse(self._feed.frames(), media_type="text/event-stream", headers=headers)

    async def map(self, version: str | None = None) -> Response:
        """Items on a plane, of the version named or the one that answers."""
        placed = self._serving.placed(None, version)
        body = await self._feed.maps.of(placed.version)
        return Response(body, media_type=JSON, headers={"cache-control": "no-store", **_GUARDS})

    def _file(self, request: Request, name: str) -> Response:
        text = self._files.get(name)
        if text is None:
            raise RequestError(404, "There is nothing at this path.")
        # Asked for again at each visit, and sent only where it is another one: a page fits its server.
        headers = {"cache-control": "no-cache", "etag": self._tags[name], **_GUARDS}
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(text, headers={**headers, "content-type": _KINDS[FilePath(name).suffix]})


def add_page(app: FastAPI, serving: Serving) -> None:
    """Add the page to an application; whoever stops it calls `app.state.feed.stop()` before it waits."""
    feed = PageFeed(serving)
    app.state.feed = feed
    page = _Page(serving, feed)
    # Made for the page alone, and changed with it: no part of the described API.
    others: dict[str, Any] = {"include_in_schema": False, "response_model": None}
    app.add_api_route("/", page.index, **others)
    app.add_api_route("/page/{name}", page.file, **others)
    app.add_api_route("/feed", page.feed, **others)
    app.add_api_route("/feed/map", page.map, **others)
