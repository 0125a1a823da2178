"""`freshet route`: shares enter; which version answers which users leaves."""

from __future__ import annotations

import uuid
from typing import Any

from cyclopts import App
from rich.console import Group, RenderableType

from consumers.commands.arguments import Switch
from consumers.commands.home import releases
from consumers.commands.output import emit, pairs, table
from state.release_file import Assigned, Released
from streaming.errors import UsageError, VersionError
from streaming.routing import BUCKETS, HOLDOUT_SALT, Route, bucket_of, divided, in_buckets

app = App(name="route", help="Divide users between versions.")


@app.command(name="set")
def set_(
    *shares: str,
    holdout: float | None = None,
    holdout_version: str | None = None,
    salt: str | None = None,
    why: str = "",
    json: Switch = False,
) -> None:
    """Give versions shares of the users; users move only from arms that shrink to arms that grow.

    Parameters
    ----------
    shares
        version=share, several of them: champion=0.9 challenger=0.1. They add up to 1; where they do not, and
        the promoted version is not among them, it gets the rest.
    holdout
        Share of the users who take no part, whatever the experiment.
    holdout_version
        What these users get, instead of the promoted version.
    salt
        Divide the users anew. Without it an experiment that runs keeps its own, and a new one gets one by
        chance.
    why
        The reason, for `freshet versions log`.
    json
        Print the route, as `freshet route show --json`.
    """
    given = _shares(shares)

    def made(state: Released) -> Route:
        before = state.route or Route("")
        left = 1.0 - sum(given.values())
        filled = dict(given)
        if left > 0.5 / BUCKETS and state.champion is not None and state.champion not in filled:
            filled = {state.champion: left, **filled}
        same = salt is None or salt == before.salt
        return Route(
            salt=before.salt if same and before.arms else salt or uuid.uuid4().hex[:8],
            arms=divided(filled, before.arms if same else ()),
            overrides=before.overrides,
            holdout=before.holdout if holdout is None else in_buckets("the hold-out", holdout),
            holdout_version=holdout_version if holdout_version is not None else before.holdout_version,
        )

    held = f", hold-out {holdout:g}" if holdout is not None else ""
    detail = " ".join(f"{name}={share:g}" for name, share in given.items()) + held
    state = releases().change_route(made, detail, why)
    emit(_data(state), json, lambda: _form(state))


@app.command
def override(
    user: str,
    version: str | None = None,
    /,
    *,
    remove: Switch = False,
    why: str = "",
) -> None:
    """Give a user one version, whatever the shares.

    Parameters
    ----------
    user
        The user; put "--" before an id that begins with "-".
    version
        The version.
    remove
        Take the user's override away.
    why
        The reason, for `freshet versions log`.
    """
    if (version is None) != remove:
        raise UsageError("`freshet route override` needs a version, or --remove, and not both.")
    if version is None:
        if not releases().remove_override(user, why):
            raise VersionError(f'The user "{user}" has no override.')
        print(f"{user} goes where the shares say")
        return
    releases().override(user, version, why)
    print(f"{user} gets {version}")


@app.command
def clear(*, why: str = "") -> None:
    """Take the route away, overrides and hold-out too: all users get the promoted version.

    Parameters
    ----------
    why
        The reason, for `freshet versions log`.
    """
    state = releases().set_route(None, "cleared", why)
    print(
        f"all users get {state.champion}" if state.champion else "no version is promoted, none is routed to"
    )


@app.command
def show(*, json: Switch = False) -> None:
    """Show who gets which version.

    Parameters
    ----------
    json
        Print {champion, salt, arms: [{version, share, ranges}], overrides, holdout: {share, version}}.
    """
    state = releases().read()
    emit(_data(state), json, lambda: _form(state))


@app.command(name="of")
def of(user: str, /, *, json: Switch = False) -> None:
    """Show which version a user gets, and why.

    Parameters
    ----------
    user
        The user; put "--" before an id that begins with "-".
    json
        Print {user, version, by, bucket}; by is champion, share, holdout or override.
    """
    state = releases().read()
    assigned = state.assign(user)
    if assigned is None:
        raise VersionError(
            "No version is promoted, and there is no route. `freshet versions promote NAME` lets one serve."
        )
    bucket = bucket_of(state.route.salt, user) if state.route is not None and state.route.arms else None
    data = {"user": user, "version": assigned.version, "by": assigned.by, "bucket": bucket}
    emit(data, json, f"{user} · {assigned.version} · {_reason(assigned, bucket)}")


def _shares(given: tuple[str, ...]) -> dict[str, float]:
    """version → share, from version=share.

    >>> _shares(("champion=0.9", "challenger=10%"))
    {'champion': 0.9, 'challenger': 0.1}
    """
    shares: dict[str, float] = {}
    for each in given:
        name, equals, text = each.partition("=")
        try:
            share = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            equals = ""
        if not equals or not name or name in shares:
            raise UsageError(f'Shares are given as version=share, each version once, got "{each}".')
        shares[name] = share
    if not shares:
        raise UsageError("`freshet route set` needs shares, such as champion=0.9 challenger=0.1.")
    return shares


def _data(state: Released) -> dict[str, Any]:
    route = state.route or Route("")
    return {
        "champion": state.champion,
        "salt": route.salt if route.arms else None,
        "arms": [{"version": a.version, "share": a.share, "ranges": a.ranges} for a in route.arms],
        "overrides": route.overrides,
        "holdout": {"share": route.holdout / BUCKETS, "version": route.holdout_version, "salt": HOLDOUT_SALT},
    }


def _form(state: Released) -> RenderableType:
    route = state.route or Route("")
    holdout = f"{route.holdout / BUCKETS:.2%} get {route.holdout_version or 'the promoted version'}"
    shown: dict[str, object] = {"promoted": state.champion}
    if route.arms:
        shown["salt"] = route.salt
    if route.holdout:
        shown["hold-out"] = holdout
    if route.overrides:
        shown["overrides"] = route.overrides
    if not route.arms:
        return pairs(shown)
    return Group(
        pairs(shown), table(("version", "share"), [(a.version, f"{a.share:.2%}") for a in route.arms])
    )


def _reason(assigned: Assigned, bucket: int | None) -> str:
    return {
        "champion": "it is promoted",
        "share": f"bucket {bucket} is in its share",
        "holdout": "the user is held out",
        "override": "by an override",
    }[assigned.by]
