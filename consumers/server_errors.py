"""Errors of the server: whatever was raised enters, a status and the one JSON form leave.

{"error": {"code": "unknown_version", "message": "…", "problems": [{"at": "events[3]", "reason": "…"}]}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consumers.serving import NoVersionError, UnknownVersionError
from streaming.errors import FreshetError, StoreFullError, UnknownIdError, UsageError, VersionError

logger = structlog.get_logger()

JSON = "application/json"
_BY_KIND: tuple[tuple[type[FreshetError], int, str], ...] = (
    (UnknownVersionError, 404, "unknown_version"),
    (UnknownIdError, 404, "unknown_id"),
    (NoVersionError, 503, "no_version"),
    (VersionError, 409, "not_possible"),
    (UsageError, 422, "invalid"),
    (StoreFullError, 507, "no_room"),
    (FreshetError, 503, "unavailable"),
)
CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 408: "too_slow", 413: "too_large",
         414: "id_too_long", 415: "not_json", 431: "headers_too_long", 500: "internal"}  # fmt: skip


class Problem(msgspec.Struct, frozen=True):
    """One of the things that are wrong with a request, and where."""

    at: str
    reason: str


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is wrong: a code for programs, a message for people."""

    code: str
    message: str
    problems: list[Problem] = []


class ErrorForm(msgspec.Struct, frozen=True):
    """The form of every error."""

    error: ErrorBody


class RequestError(Exception):
    """A request that cannot be answered, and why not."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})
        self.body = ErrorBody(code or CODES[status], message, list(problems))


def error_bytes(body: ErrorBody) -> bytes:
    """The form as JSON."""
    return msgspec.json.encode(ErrorForm(body))


def response_to(error: Exception) -> Response:
    """The answer to a request that raised this."""
    status, body, headers = _judged(error)
    if status == 503:
        headers = {"retry-after": "1", **headers}
    return Response(error_bytes(body), status, headers, JSON)


def _judged(error: Exception) -> tuple[int, ErrorBody, dict[str, str]]:
    if isinstance(error, RequestError):
        return error.status, error.body, error.headers
    if isinstance(error, RequestValidationError):
        problems = [
            Problem(".".join(map(str, one["loc"])), f"{one['msg']}, got {_shown(one.get('input'))}")
            for one in error.errors()
        ]
        first = f"{problems[0].at}: {problems[0].reason}." if problems else "The request is invalid."
        return 422, ErrorBody("invalid", first, problems), {}
    if isinstance(error, HTTPException):
        status = error.status_code
        allowed = (error.headers or {}).get("allow", "other methods")
        message = {404: "There is nothing at this path.", 405: f"This path takes {allowed}."}.get(status)
        code = CODES.get(status, f"http_{status}")
        return status, ErrorBody(code, message or str(error.detail)), dict(error.headers or {})
    if isinstance(error, FreshetError):
        status, code = next((s, c) for kind, s, c in _BY_KIND if isinstance(error, kind))
        if status >= 500:
            logger.warning("request_failed", status=status, reason=str(error))
        return status, ErrorBody(code, _without_path(str(error))), {}
    logger.error("request_broke", exc_info=error)
    return 500, ErrorBody("internal", f"{HTTPStatus(500).phrase}; the server's log says more."), {}


def _shown(given: object) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _without_path(message: str) -> str:
    """A message without the path that it begins with, which is nobody's business but the server's."""
    return re.sub(r"^/\S*: ", "", message)
