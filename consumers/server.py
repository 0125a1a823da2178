"""The query API: requests enter; embeddings, recommendations, scores, routes leave, and events go to the log.

Endpoints read no tables themselves: `Serving` chooses the version and answers from it. Answers are
encoded from structs; FastAPI reads the parameters and writes the OpenAPI document.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from consumers.exposing import Exposing, Shown, background
from consumers.page_server import add_page
from consumers.posting import BusyError, Intake, Posted, posted
from consumers.server_edge import Edge, ServerMetrics
from consumers.server_errors import JSON, Problem, RequestError, response_to
from consumers.server_forms import (
    EVENTS_BODY,
    ID_WORDS,
    MOST_EVENTS,
    SCORES_BODY,
    VERSION_WORDS,
    EventsForm,
    RouteForm,
    ScoresRequest,
    Served,
    StatusForm,
    Vector,
    VersionsForm,
    answers,
    joined,
    parameters,
    schemas,
)
from consumers.serving import Placed, Serving, Told
from consumers.settings import release
from state.answers import MOST, Answers, Embedding, Kind
from state.ranking import Measure
from streaming.errors import FreshetError
from streaming.rules import EventRules

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_WRITE_S = 15.0  # longest wait for events to be durable
_LARGE = 32_768  # bytes of a body that is decoded beside the event loop

# The id may hold slashes, encoded or not.
Id = Annotated[str, Path(min_length=1, description=ID_WORDS)]
Version = Annotated[str | None, Query(description=VERSION_WORDS)]
Count = Annotated[int, Query(ge=1, le=MOST, description="How many.")]
By = Annotated[
    Measure | None, Query(description="How vectors are compared; by cosine unless said otherwise.")
]
Category = Annotated[
    str | None, Query(min_length=1, description="Only items of this category of the catalogue.")
]
Recent = Annotated[bool, Query(description="Recommend items of the user's recent history, too.")]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may write.

    Attributes:
        token: what a writing request carries as a bearer token; empty: it must come from this machine,
            and from no other site's page.
        host: the address that the server listens on.
    """

    token: str = ""
    host: str = "127.0.0.1"

    def check(self, request: Request) -> None:
        """Refuse a writing request.

        Raises:
            RequestError: 401 without the token, 403 from another site, 415 where the body is not JSON.
        """
        headers = request.headers
        if self.token:
            given = headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self.token}".encode()):
                raise RequestError(
                    401,
                    "Writing needs the header `authorization: Bearer …` with the token that is serve.token.",
                    code="unauthorized",
                    headers={"www-authenticate": "Bearer"},
                )
        else:
            # A page of another site may reach this machine through its visitor's browser.
            origin, host = headers.get("origin"), headers.get("host", "")
            if request.url.hostname not in _LOCAL | {self.host} or origin not in (
                None,
                f"http://{host}",
                f"https://{host}",
            ):
                raise RequestError(403, "Events are taken from this machine and its own pages alone.",
                                   code="forbidden")  # fmt: skip
        if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
            raise RequestError(415, f"The body must be JSON: send the header `content-type: {JSON}`.")


class Endpoints:
    """What the paths do.

    Args:
        rules: what makes a posted record an event, and how long ids may be.
    """

    def __init__(
        self,
        serving: Serving,
        intake: Intake,
        rules: EventRules,
        access: Access,
        metrics: ServerMetrics,
        exposing: Exposing | None,
    ) -> None:
        self._serving, self._intake, self._rules = serving, intake, rules
        self._access, self._metrics, self._exposing = access, metrics, exposing

    # Asked most often: these read their parameters themselves, which takes FastAPI a tenth of a millisecond.
    async def user_embedding(self, request: Request) -> Response:
        """The vector of a user: its inner product with items' vectors ranks them."""
        return await self._embedding("user", *_named(request, "user"))

    async def item_embedding(self, request: Request) -> Response:
        """The vector of an item."""
        return await self._embedding("item", *_named(request, "item"))

    async def recommendations(
        self,
        user: Id,
        k: Count = 10,
        category: Category = None,
        include_recent: Recent = False,
        version: Version = None,
    ) -> Response:
        """The items that score highest for a user, and why; what is popular for a user never seen."""
        placed = self._placed(user, version)
        told = await self._serving.ask(
            placed.version,
            lambda found: found.recommend(user, k, include_recent=include_recent, category=category),
            user=user,
        )
        shown = None
        if self._exposing is not None and placed.arm == "share":
            shown = self._exposing.of(user, placed.version, told.value.items)
        answer = _reply(told.value, _served(placed, told), Shown(shown.id if shown is not None else None))
        if self._exposing is not None and shown is not None:
            answer.background = background(self._exposing, shown)
        return answer

    async def similar_users(
        self, user: Id, k: Count = 10, by: By = None, version: Version = None
    ) -> Response:
        """The users nearest to a user, by the vectors that rank items for them; all users are read."""
        return await self._similar("user", user, k, by, None, version)

    async def similar_items(
        self, item: Id, k: Count = 10, by: By = None, category: Category = None, version: Version = None
    ) -> Response:
        """The items nearest to an item."""
        return await self._similar("item", item, k, by, category, version)

    async def scores(self, request: Request, version: Version = None) -> Response:
        """The scores of items for a user; null for an item never seen."""
        wanted = _decoded(await request.body(), ScoresRequest)
        for name in (wanted.user, *wanted.items):
            self._check_id(name, 422)
        placed = self._placed(wanted.user, version)
        told = await self._serving.ask(
            placed.version, lambda found: found.score(wanted.user, wanted.items), user=wanted.user
        )
        return _reply(told.value, _served(placed, told))

    async def route(self, user: Id) -> Response:
        """The version that a user gets, and why."""
        placed = self._placed(user, None)
        return _reply(RouteForm(user, placed.version, placed.arm))

    async def versions(self) -> Response:
        """All versions, and how each of them serves."""
        found = await self._serving.standings()
        champion = next((one.version for one in found if one.arm == "champion"), None)
        return _reply(VersionsForm(champion, found))

    async def events(self, request: Request) -> Response:
        """Append one event or a list of them to the event log, all or none; answered once durable."""
        self._access.check(request)
        body = await request.body()
        read = partial(self._events_of, body)
        events = await run_in_threadpool(read) if len(body) > _LARGE else read()
        await _durable(self._intake.post(events))
        self._metrics.events.inc(len(events))
        log: Any = self._intake.log.name
        return _reply(EventsForm(len(events), log))

    async def live(self) -> Response:
        """That the server answers at all."""
        return _reply(StatusForm("alive"))

    async def ready(self) -> Response:
        """That a version answers: the champion, or the only one."""
        placed = self._serving.placed(None)
        await self._serving.ask(placed.version, lambda found: found.as_of)
        return _reply(StatusForm("ready"))

    async def metrics(self) -> Response:
        """The metrics of this process, as Prometheus reads them."""
        for version, recall in self._serving.recalls().items():
            self._metrics.recall.labels(version).set(recall)
        text = generate_latest(self._metrics.registry)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    async def _embedding(self, kind: Kind, name: str, version: str | None) -> Response:
        placed = self._placed(name if kind == "user" else None, version, name)

        def question(found: Answers) -> tuple[Embedding, Any]:
            return found.embedding(kind, name), found.as_of

        user = name if kind == "user" else None
        told = await self._serving.ask(placed.version, question, quick=True, user=user)
        embedding, as_of = told.value
        return _reply(embedding, Vector("row", as_of), _served(placed, told))

    async def _similar(
        self, kind: Kind, name: str, k: int, by: Measure | None, category: str | None, version: str | None
    ) -> Response:
        placed = self._placed(name if kind == "user" else None, version, name)
        told = await self._serving.ask(
            placed.version, lambda found: found.similar(kind, name, k, by, category=category)
        )
        return _reply(told.value, _served(placed, told))

    def _placed(self, user: str | None, version: str | None, name: str | None = None) -> Placed:
        self._check_id(name or user or "", 414)
        return self._serving.placed(user, version)

    def _check_id(self, name: str, status: int) -> None:
        length, most = len(name.encode("utf-8", "surrogatepass")), self._rules.max_id_bytes
        if length > most:
            raise RequestError(
                status,
                f"An id has {length} bytes; expected at most {most} (events.max_id_bytes).",
                code="id_too_long",
            )

    def _events_of(self, body: bytes) -> list[Posted]:
        """The events of a body.

        Raises:
            RequestError: one of them is none; the reason of each that is not.
        """
        found = _decoded(body, Any)
        alone = not isinstance(found, list)
        records = [found] if alone else found
        if not 1 <= len(records) <= MOST_EVENTS:
            raise RequestError(
                422, f"Expected 1 to {MOST_EVENTS} events, got {len(records)}.", code="invalid"
            )
        now, own_log = time.time(), self._intake.log.name == "segments"
        events: list[Posted] = []
        problems: list[Problem] = []
        for number, record in enumerate(records):
            event: Posted | str = "an event must be an object."
            if isinstance(record, dict):
                event = posted(record, self._rules, now, own_log=own_log)
            if isinstance(event, str):
                problems.append(Problem("event" if alone else f"events[{number}]", event))
            else:
                events.append(event)
        if problems:
            first = f"{problems[0].at}: {problems[0].reason}"
            message = (
                f"{len(problems)} of {len(records)} are no events, so none was taken; the first: {first}"
            )
            raise RequestError(422, message, code="bad_event", problems=problems)
        return events


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
    _add(app, Endpoints(serving, intake, rules, access or Access(), metrics, exposing))
    add_page(app, serving)
    app.openapi = partial(_document, app)  # type: ignore[method-assign]
    return app


def _add(app: FastAPI, ends: Endpoints) -> None:
    """Each path, what it does, the form of its answer, and the errors that it may give."""
    asks, unknown = (409, 422, 503), 404
    id_errors = (*asks, unknown, 414)
    paths: tuple[tuple[str, Callable[..., Any], str, tuple[int, ...]], ...] = (
        ("/v1/users/{user:path}/embedding", ends.user_embedding, "Embedding", id_errors),
        ("/v1/users/{user:path}/recommendations", ends.recommendations, "Recommendations", id_errors),
        ("/v1/users/{user:path}/similar", ends.similar_users, "Similar", id_errors),
        ("/v1/items/{item:path}/embedding", ends.item_embedding, "Embedding", id_errors),
        ("/v1/items/{item:path}/similar", ends.similar_items, "Similar", id_errors),
        ("/v1/route/{user:path}", ends.route, "Route", (404, 414, 422, 503)),
        ("/v1/versions", ends.versions, "Versions", (503,)),
        ("/livez", ends.live, "Status", ()),
        ("/readyz", ends.ready, "Status", (503,)),
    )
    others: dict[str, Any] = {"response_class": Response, "response_model": None}
    for path, call, form, errors in paths:
        extra = parameters(path) if form == "Embedding" else None
        app.add_api_route(path, call, responses=answers(form, *errors), openapi_extra=extra, **others)
    app.add_api_route(
        "/v1/scores",
        ends.scores,
        methods=["POST"],
        responses=answers("Scores", *asks, unknown, 413),
        openapi_extra=SCORES_BODY,
        **others,
    )
    app.add_api_route(
        "/v1/events",
        ends.events,
        methods=["POST"],
        responses=answers("Events", 401, 403, 413, 415, 422, 503, 507),
        openapi_extra={**EVENTS_BODY, "security": [{"token": []}, {}]},
        **others,
    )
    text: dict[int | str, dict[str, Any]] = {200: {"description": "Done.", "content": {"text/plain": {}}}}
    app.add_api_route("/metrics", ends.metrics, responses=text, **others)


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


async def _durable(written: Future[None]) -> None:
    """Wait until events are durable, but not for ever.

    Raises:
        BusyError: the log has not taken them in time.
        FreshetError: it refused them.
    """
    try:
        await asyncio.wait_for(asyncio.wrap_future(written), _WRITE_S)
    except TimeoutError as error:
        raise BusyError(
            f"The events were not durable after {_WRITE_S:g} s; they may become so yet. Send them again, if "
            "they may be learned twice."
        ) from error


def _named(request: Request, kind: Kind) -> tuple[str, str | None]:
    """The id in the path, and the version that is asked for.

    Raises:
        RequestError: the id is empty.
    """
    name: str = request.path_params[kind]
    if not name:
        raise RequestError(422, f"The id of the {kind} is empty.", code="invalid")
    return name, request.query_params.get("version") if request.scope["query_string"] else None


def _reply(*parts: msgspec.Struct) -> Response:
    return Response(joined(*parts), media_type=JSON)


def _served(placed: Placed, told: Told[Any]) -> Served:
    kind, age_s, worker = told.origin
    return Served(placed.arm, kind, round(age_s, 3), worker)


def _decoded(body: bytes, kind: Any) -> Any:
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
