"""`freshet query`: ids enter; embeddings, recommendations, similar ids and scores leave."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Group, RenderableType

from consumers.catalogue_input import read_catalogue
from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, pairs, table
from consumers.commands.route import of as route_of
from state.answer_forms import Embedding, Kind, Recommendations, Scores, Similar, check_count
from state.answers import answers_of
from state.catalogue_listing import Listing
from state.ranking import Measure
from state.reasons import in_words
from state.releases import Releases
from state.versions import Registry, Version
from streaming.errors import UsageError, VersionError

# Without flags of its own: --version names a version here.
app = App(
    name="query",
    help="Ask a version for embeddings, recommendations, similar ids and scores.",
    version_flags=(),
)

_Count = Annotated[int, Parameter(name="-k")]


@app.command
def embedding(kind: Kind, id_: str, /, *, version: str | None = None, json: Switch = False) -> None:
    """Show the vector of a user or an item.

    Parameters
    ----------
    kind
        What the id names: user or item.
    id_
        The id; put "--" before one that begins with "-".
    version
        The version that is asked; without it the one that serves, or the only one.
    json
        Print {kind, id, version, dimension, vector, events, last_seen}.
    """
    with answers_of(_version(version, id_ if kind == "user" else None)) as answers:
        found = answers.embedding(kind, id_)
    emit(found, json, lambda: _embedding_form(found))


@app.command
def recommend(
    user: str,
    /,
    *,
    k: _Count = 10,
    include_recent: Switch = False,
    category: str | None = None,
    version: str | None = None,
    json: Switch = False,
) -> None:
    """Show the items that score highest for a user, and why; a user never seen gets what is popular.

    Parameters
    ----------
    user
        The user; put "--" before an id that begins with "-".
    k
        How many items, 1 to 10000.
    include_recent
        Recommend items of the user's recent history, too.
    category
        Only items of this category of the catalogue.
    version
        The version that is asked; without it the one that serves, or the only one.
    json
        Print {user, version, represented_by, as_of, items: [{item, score, because}]}.
    """
    check_count(k)
    with answers_of(_version(version, user), _listing()) as answers:
        found = answers.recommend(user, k, include_recent=include_recent, category=category)
    emit(found, json, lambda: _recommendations_form(found))


@app.command
def similar(
    kind: Kind,
    id_: str,
    /,
    *,
    k: _Count = 10,
    by: Measure | None = None,
    category: str | None = None,
    version: str | None = None,
    json: Switch = False,
) -> None:
    """Show the nearest items to an item, or the nearest users to a user.

    Users are compared by the vectors that rank items for them, which takes a reading of all users.

    Parameters
    ----------
    kind
        What the id names: user or item.
    id_
        The id; put "--" before one that begins with "-".
    k
        How many, 1 to 10000.
    by
        How vectors are compared: by cosine unless said otherwise. Learners with lists of neighbours
        instead of vectors have none of these.
    category
        Only items of this category of the catalogue.
    version
        The version that is asked; without it the one that serves, or the only one.
    json
        Print {kind, id, version, by, as_of, similar: [{id, score}]}.
    """
    check_count(k)
    with answers_of(_version(version, id_ if kind == "user" else None), _listing()) as answers:
        found = answers.similar(kind, id_, k, by, category=category)
    emit(found, json, lambda: _similar_form(found))


@app.command
def score(user: str, /, *items: str, version: str | None = None, json: Switch = False) -> None:
    """Show the scores of items for a user.

    Parameters
    ----------
    user
        The user; put "--" before ids that begin with "-".
    items
        The items, in any order.
    version
        The version that is asked; without it the one that serves, or the only one.
    json
        Print {user, version, represented_by, as_of, scores: [{item, score}]}; with a catalogue each score
        says whether the item is available.
    """
    if not items:
        raise UsageError("`freshet query score` needs a user and at least one item, got no item.")
    with answers_of(_version(version, user), _listing()) as answers:
        found = answers.score(user, items)
    emit(found, json, lambda: _scores_form(found))


# The same question as `freshet route of`.
app.command(route_of, name="route")


def _version(name: str | None, user: str | None = None) -> Version:
    """The version named, else the one that the user gets, else the champion, else the only one.

    Raises:
        VersionError: there is none.
        UsageError: there are several, and none is promoted.
    """
    home = current_settings().home
    registry = Registry(home)
    if name is not None:
        return registry.get(name)
    released = Releases(home).read()
    assigned = released.assign(user) if user is not None else None
    serving = assigned.version if assigned is not None else released.champion
    if serving is not None:
        return registry.get(serving)
    names = registry.names()
    if not names:
        raise VersionError("There is no version yet. Make one with `freshet versions create NAME`.")
    if len(names) > 1:
        raise UsageError(
            f"There are several versions: {', '.join(names)}. Name one with --version, or promote one."
        )
    return registry.get(names[0])


def _listing() -> Listing | None:
    """The catalogue beside the version that is asked; None where there is none."""
    catalogue = read_catalogue(current_settings())
    return None if catalogue is None else Listing(catalogue)


def _embedding_form(found: Embedding) -> RenderableType:
    return pairs(
        {
            found.kind: found.id,
            "version": found.version,
            "events": found.events,
            "last seen": f"{found.last_seen:%Y-%m-%d %H:%M:%S} UTC",
            "dimension": found.dimension,
            "vector": found.vector,
        }
    )


def _recommendations_form(found: Recommendations) -> RenderableType:
    rows = [[n, one.item, one.score, in_words(one.because)] for n, one in enumerate(found.items, 1)]
    return Group(_title(found), table(("#", "item", "score", "why"), rows))


def _similar_form(found: Similar) -> RenderableType:
    score = {"euclidean": "distance", "neighbours": "weight"}.get(found.by, found.by)
    rows = [[n, near.id, near.score] for n, near in enumerate(found.similar, 1)]
    return table(("#", found.kind, score), rows)


def _scores_form(found: Scores) -> RenderableType:
    marked = any(one.available is not None for one in found.scores)
    rows = [
        [one.item, "never seen" if one.score is None else one.score, *([one.available] if marked else [])]
        for one in found.scores
    ]
    return Group(_title(found), table(("item", "score", *(["available"] if marked else [])), rows))


def _title(found: Recommendations | Scores) -> str:
    """Who is represented by what, from which version, how fresh."""
    until = f", events up to {found.as_of:%Y-%m-%d %H:%M:%S} UTC" if found.as_of else ""
    return f"{found.user} · {found.version} · by {found.represented_by}{until}"
