"""What the endpoints of the server share: a route enters its application; bodies are read, answers written.

A module of endpoints (`server_reading.py`, `server_events.py`, `server_health.py`) returns its routes;
`server.build` adds them all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from fastapi import FastAPI
from starlette.responses import Response

from consumers.server_errors import JSON, RequestError
from consumers.server_forms import answers, joined


@dataclass(frozen=True, slots=True)
class Route:
    """A path and what stands of it in the OpenAPI document.

    Attributes:
        call: what answers; FastAPI reads its parameters, and its docstring is the path's description.
        form: the answer's name among `server_forms.EXAMPLES`; empty: plain text.
        errors: the statuses of the errors that it may give, besides 400.
        extra: what else stands in its entry.
    """

    path: str
    call: Callable[..., Awaitable[Response]]
    form: str
    errors: tuple[int, ...] = ()
    method: Literal["GET", "POST"] = "GET"
    extra: Mapping[str, Any] = field(default_factory=dict)


def add(app: FastAPI, routes: Iterable[Route]) -> None:
    """Let an application answer these paths."""
    text: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": {"text/plain": {}}}}
    for route in routes:
        app.add_api_route(
            route.path,
            route.call,
            methods=[route.method],
            responses=answers(route.form, *route.errors) if route.form else text,
            openapi_extra=dict(route.extra) or None,
            response_class=Response,
            response_model=None,
        )


def reply(*parts: msgspec.Struct) -> Response:
    """One JSON object of several structs."""
    return Response(joined(*parts), media_type=JSON)


def decoded(body: bytes, kind: Any) -> Any:
    """A body as JSON.

    Raises:
        RequestError: 400 where it is no JSON, 422 where it is JSON of another form.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RequestError(422, f"{error}.", code="invalid") from error
    except RecursionError as error:
        raise RequestError(400, "The JSON is nested too deeply.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from error


def check_id(name: str, most: int, status: int) -> None:
    """Refuse an id that is too long.

    Args:
        most: bytes.
        status: of the refusal.

    Raises:
        RequestError: it is.
    """
    length = len(name.encode("utf-8", "surrogatepass"))
    if length > most:
        raise RequestError(
            status,
            f"An id has {length} bytes; expected at most {most} (events.max_id_bytes).",
            code="id_too_long",
        )
