"""The endpoints that read: an id enters; its embedding, recommendations, similar ids, scores or route leave.

They read no tables themselves: `Serving` chooses the version and answers from it.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query, Request
from starlette.responses import Response

from consumers.exposing import Exposing, Shown, background
from consumers.server_errors import RequestError
from consumers.server_forms import (
    ID_WORDS,
    SCORES_BODY,
    VERSION_WORDS,
    RouteForm,
    ScoresRequest,
    Served,
    Vector,
    VersionsForm,
    parameters,
)
from consumers.server_routes import Route, check_id, decoded, reply
from consumers.serving import Placed, Serving, Told
from state.answer_forms import MOST, Embedding, Kind
from state.answers import Answers
from state.ranking import Measure

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


class Reading:
    """What the paths that read do.

    Args:
        longest_id: in bytes.
        exposing: notes served lists; None: nobody does.
    """

    def __init__(self, serving: Serving, longest_id: int, exposing: Exposing | None) -> None:
        self._serving, self._longest_id, self._exposing = serving, longest_id, exposing

    def routes(self) -> list[Route]:
        """Its paths."""
        few = (409, 422, 503)
        errors = (*few, 404, 414)
        user, item = "/v1/users/{user:path}", "/v1/items/{item:path}"
        return [
            Route(f"{user}/embedding", self.user_embedding, "Embedding", errors, extra=parameters("user")),
            Route(f"{user}/recommendations", self.recommendations, "Recommendations", errors),
            Route(f"{user}/similar", self.similar_users, "Similar", errors),
            Route(f"{item}/embedding", self.item_embedding, "Embedding", errors, extra=parameters("item")),
            Route(f"{item}/similar", self.similar_items, "Similar", errors),
            Route("/v1/route/{user:path}", self.route, "Route", (404, 414, 422, 503)),
            Route("/v1/versions", self.versions, "Versions", (503,)),
            Route("/v1/scores", self.scores, "Scores", (*few, 404, 413), "POST", SCORES_BODY),
        ]

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
        answer = reply(told.value, _served(placed, told), Shown(shown.id if shown is not None else None))
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
        wanted = decoded(await request.body(), ScoresRequest)
        for name in (wanted.user, *wanted.items):
            check_id(name, self._longest_id, 422)
        placed = self._placed(wanted.user, version)
        told = await self._serving.ask(
            placed.version, lambda found: found.score(wanted.user, wanted.items), user=wanted.user
        )
        return reply(told.value, _served(placed, told))

    async def route(self, user: Id) -> Response:
        """The version that a user gets, and why."""
        placed = self._placed(user, None)
        return reply(RouteForm(user, placed.version, placed.arm))

    async def versions(self) -> Response:
        """All versions, and how each of them serves."""
        found = await self._serving.standings()
        champion = next((one.version for one in found if one.arm == "champion"), None)
        return reply(VersionsForm(champion, found))

    async def _embedding(self, kind: Kind, name: str, version: str | None) -> Response:
        placed = self._placed(name if kind == "user" else None, version, name)

        def question(found: Answers) -> tuple[Embedding, Vector]:
            embedding = found.embedding(kind, name)
            return embedding, Vector("sequence" if found.represented == "sequence" else "row", found.as_of)

        user = name if kind == "user" else None
        told = await self._serving.ask(placed.version, question, quick=True, user=user)
        embedding, vector = told.value
        return reply(embedding, vector, _served(placed, told))

    async def _similar(
        self, kind: Kind, name: str, k: int, by: Measure | None, category: str | None, version: str | None
    ) -> Response:
        placed = self._placed(name if kind == "user" else None, version, name)
        told = await self._serving.ask(
            placed.version, lambda found: found.similar(kind, name, k, by, category=category)
        )
        return reply(told.value, _served(placed, told))

    def _placed(self, user: str | None, version: str | None, name: str | None = None) -> Placed:
        check_id(name or user or "", self._longest_id, 414)
        return self._serving.placed(user, version)


def _named(request: Request, kind: Kind) -> tuple[str, str | None]:
    """The id in the path, and the version that is asked for.

    Raises:
        RequestError: the id is empty.
    """
    name: str = request.path_params[kind]
    if not name:
        raise RequestError(422, f"The id of the {kind} is empty.", code="invalid")
    return name, request.query_params.get("version") if request.scope["query_string"] else None


def _served(placed: Placed, told: Told[Any]) -> Served:
    kind, age_s, worker = told.origin
    return Served(placed.arm, kind, round(age_s, 3), worker)
