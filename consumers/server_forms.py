"""The forms of the server: what a request holds and what an answer holds, and both as OpenAPI documents.

The structs are the one source: the server encodes them, the document's schemas are made from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from consumers.experiment_forms import (
    EXPERIMENT_EXAMPLE,
    EXPERIMENTS_EXAMPLE,
    ExperimentForm,
    ExperimentsForm,
)
from consumers.exposing import Shown
from consumers.server_errors import JSON, ErrorBody, ErrorForm, Problem
from consumers.serving import Arm, Standing
from state.answer_forms import MOST, Embedding, Near, Recommendations, Recommended, Scored, Scores, Similar
from state.reasons import Reason

ID_WORDS = "The id, percent-encoded."
VERSION_WORDS = "The version that answers; else the one that the route gives."
MOST_EVENTS = 10_000  # of one request


class Served(Struct, frozen=True):
    """What stands in every answer: why this version answers, and how fresh it is.

    Attributes:
        arm: champion, share (of a route), override, holdout; "only" where there is no other version,
            "requested" where version= names it.
        origin: the live tables of a worker, or the store.
        age_s: seconds since what was asked was up to date with its worker, or was read from the store.
        worker: whether a worker is learning now.
    """

    arm: Arm
    origin: Literal["live", "store"]
    age_s: float
    worker: bool


class Vector(Struct, frozen=True):
    """What stands beside a vector: how it was made, and the event time of the newest event that is known."""

    represented_by: Literal["row", "sequence", "history"]
    as_of: datetime | None


class ScoresRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Items that are to be scored for a user."""

    user: Annotated[str, Meta(min_length=1)]
    items: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(min_length=1, max_length=MOST)]


class RouteForm(Struct, frozen=True):
    """The version that a user gets."""

    user: str
    version: str
    arm: Arm


class VersionsForm(Struct, frozen=True):
    """All versions, and which of them answers where none is named."""

    champion: str | None
    versions: list[Standing]


class EventsForm(Struct, frozen=True):
    """Events that are durable now, and where."""

    events: int
    log: Literal["segments", "kafka"]


class StatusForm(Struct, frozen=True):
    """That the server lives, or is ready to answer."""

    status: Literal["alive", "ready"]


_EVENT: dict[str, Any] = {
    "type": "object",
    "description": "An event. Its fields may have other names (events.fields); others are kept, too.",
    "required": ["user", "item"],
    "properties": {
        "user": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]},
        "item": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "integer"}]},
        "ts": {
            "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "format": "date-time"}],
            "description": "When it happened; now, where it is missing.",
        },
        "type": {"type": "string"},
        "value": {"type": "number"},
    },
}
_LISTS: Mapping[str, tuple[type, ...]] = {
    "Recommendations": (Recommendations, Served, Shown),
    "Scores": (Scores, Served),
    "Similar": (Similar, Served),
    "Embedding": (Embedding, Vector, Served),
    "Route": (RouteForm,),
    "Versions": (VersionsForm,),
    "Experiments": (ExperimentsForm,),
    "Experiment": (ExperimentForm,),
    "Events": (EventsForm,),
    "Status": (StatusForm,),
}
_MOMENT = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
_WHY = Reason(kind="history", item="cup", part=1.25)
_SEQUENCE = "shut: 120 of 200 events compared"
_SERVED = Served("champion", "live", 0.012, True)
EXAMPLES: Mapping[str, tuple[Struct, ...]] = {
    "Recommendations": (
        Recommendations(
            "ann",
            "mine",
            "row",
            _MOMENT,
            [Recommended("tea", 2.5, [Reason(kind="history", item="cup", part=1.25)])],
            _SEQUENCE,
        ),
        _SERVED,
        Shown(None),
    ),
    "Scores": (
        Scores("ann", "mine", "row", _MOMENT, [Scored("tea", 2.5), Scored("never", None)], _SEQUENCE),
        _SERVED,
    ),
    "Similar": (
        Similar("item", "tea", "mine", "cosine", _MOMENT, [Near("cup", 0.75)]),
        _SERVED,
    ),
    "Embedding": (
        Embedding("user", "ann", "mine", 2, [0.25, -0.5], 12, _MOMENT),
        Vector("row", _MOMENT),
        _SERVED,
    ),
    "Route": (RouteForm("ann", "mine", "champion"),),
    "Versions": (VersionsForm("mine", [Standing("mine", "softmax", "champion", 1.0, True)]),),
    "Experiments": (EXPERIMENTS_EXAMPLE,),
    "Experiment": (EXPERIMENT_EXAMPLE,),
    "Events": (EventsForm(1, "segments"),),
    "Status": (StatusForm("ready"),),
}
_ERROR = ErrorForm(
    ErrorBody("unknown_id", 'The user "bob" was never seen by version "mine", or its row expired.', [])
)
_WORDS = {
    400: "The request cannot be read.",
    401: "The request lacks the token.",
    403: "The request comes from another site.",
    404: "The user, item, category, version or experiment is not there.",
    405: "The path takes other methods.",
    409: "The version's learner cannot answer this.",
    413: "The body is too long.",
    414: "An id is too long.",
    415: "The body is not JSON.",
    422: "A value is impossible.",
    503: "No version can answer just now, or too much is asked.",
    507: "No room is left for events.",
}


def joined(*parts: Struct) -> bytes:
    """One JSON object of several structs."""
    if len(parts) == 1:
        return msgspec.json.encode(parts[0])
    whole: dict[str, Any] = {}
    for part in parts:
        for name in part.__struct_fields__:
            if (value := getattr(part, name)) is not msgspec.UNSET:
                whole[name] = value
    return msgspec.json.encode(whole)


def answers(form: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint, for its OpenAPI entry."""
    example = msgspec.json.decode(joined(*EXAMPLES[form]))
    found: dict[int | str, dict[str, Any]] = {200: _response("Done.", form, example)}
    for status in sorted({400, *errors}):
        found[status] = _response(_WORDS[status], "Error", msgspec.to_builtins(_ERROR))
    return found


def body(schema: Mapping[str, Any], example: Any) -> dict[str, Any]:
    """The request body of an endpoint, for its OpenAPI entry."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema, "example": example}}}}


def parameters(name: str) -> dict[str, Any]:
    """The parameters of an endpoint that reads them itself, for its OpenAPI entry: an id and a version."""
    one = {"type": "string", "minLength": 1}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": one, "description": ID_WORDS},
            {"name": "version", "in": "query", "schema": {"type": "string"}, "description": VERSION_WORDS},
        ]
    }


SCORES_BODY = body({"$ref": "#/components/schemas/ScoresRequest"}, {"user": "ann", "items": ["tea", "never"]})
EVENTS_BODY = body(
    {
        "oneOf": [
            {"$ref": "#/components/schemas/Event"},
            {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Event"},
                "minItems": 1,
                "maxItems": MOST_EVENTS,
            },
        ]
    },
    {"user": "ann", "item": "tea", "type": "view"},
)


def schemas() -> dict[str, Any]:
    """All schemas of the document."""
    structs = list(dict.fromkeys(part for parts in _LISTS.values() for part in parts))
    structs += [ScoresRequest, ErrorForm, Problem]
    _, made = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    parts: dict[str, Any] = {name: _plain(schema) for name, schema in made.items()}
    for form, of in _LISTS.items():
        refs = [{"$ref": f"#/components/schemas/{one.__name__}"} for one in of]
        name = _name(form)
        parts[name] = refs[0] if len(refs) == 1 else {"allOf": refs}
    return {**parts, "Event": _EVENT}


def document_text(document: Mapping[str, Any]) -> str:
    """An OpenAPI document as it stands in a file."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def _name(form: str) -> str:
    return f"{form}Answer" if form != "Error" else "ErrorForm"


def _response(words: str, form: str, example: Any) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{_name(form)}"}
    return {"description": words, "content": {JSON: {"schema": schema, "example": example}}}


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema with the first paragraph of its docstring alone."""
    words = str(schema.get("description", "")).split("\n\n")[0]
    return {**schema, "description": " ".join(words.split())} if words else dict(schema)
