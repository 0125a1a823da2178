"""The query API: requests enter; embeddings, recommendations, scores, routes leave, and events go to the log.

What each path does stands in `server_reading.py`, `server_events.py`, `server_experiments.py` and
`server_health.py`; here they become one application. Answers are encoded from structs; FastAPI reads the
parameters and writes the OpenAPI document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consumers.exposing import Exposing
from consumers.page_server import add_page
from consumers.posting import Intake
from consumers.release import release
from consumers.server_access import Access
from consumers.server_edge import Edge, ServerMetrics
from consumers.server_errors import JSON, RequestError, response_to
from consumers.server_events import Writing
from consumers.server_experiments import Trials
from consumers.server_forms import schemas
from consumers.server_health import Health
from consumers.server_reading import Reading
from consumers.server_routes import add
from consumers.serving import Serving
from streaming.errors import FreshetError
from streaming.rules import EventRules


def build(
    serving: Serving,
    intake: Intake,
    rules: EventRules,
    *,
    access: Access | None = None,
    max_body_bytes: int = 2_097_152,
    registry: CollectorRegistry | None = None,
    exposing: Exposing | None = None,
) -> FastAPI:
    """The application.

    Args:
        rules: what makes a posted record an event, and how long ids may be.
        exposing: notes served lists while an experiment runs; closed by who made it, too.
        serving, intake: closed by who made them, after the last request.
        registry: of the metrics page.
    """
    metrics = ServerMetrics(registry or CollectorRegistry())
    app = FastAPI(
        title="Freshet",
        version=release(),
        description="Embeddings, recommendations and scores as of a moment ago.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=partial(_opened_early, serving),
    )
    app.add_middleware(Edge, metrics=metrics, most_bytes=max_body_bytes)
    for kind in (RequestError, FreshetError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answered)
    parts = (
        Reading(serving, rules.max_id_bytes, exposing),
        Writing(intake, rules, access or Access(), metrics.events),
        Trials(serving.home),
        Health(serving, metrics),
    )
    for part in parts:
        add(app, part.routes())
    add_page(app, serving)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas of our structs."""
    if app.openapi_schema is None:
        made = FastAPI.openapi(app)
        parts = made.setdefault("components", {})
        parts["schemas"] = schemas()
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path in made["paths"].values():
            for entry in path.values():
                # FastAPI's own form of a refused parameter is not ours.
                refused = entry["responses"].get("422", {}).get("content", {}).get(JSON, {})
                if "HTTPValidationError" in str(refused.get("schema")):
                    del entry["responses"]["422"]
        app.openapi_schema = made
    return app.openapi_schema


@asynccontextmanager
async def _opened_early(serving: Serving, app: FastAPI) -> AsyncIterator[None]:
    """Open the version that most will ask for before somebody does."""

    async def open_one() -> None:
        try:
            placed = serving.placed(None)
            await serving.ask(placed.version, lambda found: found.as_of)
        except FreshetError:
            return  # who asks is told

    opening = asyncio.create_task(open_one())
    yield
    opening.cancel()
    app.state.feed.stop()


async def _answered(_: Request, error: Exception) -> Response:
    return response_to(error)
