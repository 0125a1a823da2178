"""`freshet versions fork`, `promote`, `rollback`, `retire`, `log`: decisions enter, who serves leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.home import registry, releases
from consumers.commands.output import emit, table
from consumers.commands.version_parts import client_of, given_of
from consumers.control import ask
from consumers.sessions_care import fork_sequences
from consumers.standing import must_be_ready, standings
from state.ledger import Ledger
from state.release_file import Released
from streaming.errors import UsageError


def fork(
    version: str,
    name: str,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    why: str = "",
    json: Switch = False,
) -> None:
    """Make a version that goes on from what another one has learned; a running worker goes on, too.

    Rows, offsets and totals are the same at that point, and both learn the same events from there on.

    Parameters
    ----------
    version
        The version that is forked.
    name
        Name of the new one.
    set_
        One setting as key=value that the fork has otherwise (learning_rate=0.1); may be repeated. Those that
        the rows cannot carry, such as dimension, are refused.
    why
        The reason, for `freshet versions log`.
    json
        Print {version, from, event, changed, paused_s}.
    """
    from state.forks import fork as forked
    from state.forks import forked_spec
    from state.spec import difference_of

    source = registry().get(version)
    spec = forked_spec(source, given_of(set_ or []))
    paused: list[float] = []

    def checkpoint(half: Path) -> None:
        paused.append(ask(source, "fork", name=name, asker=os.getpid())["seconds"])
        fork_sequences(source, half)

    number = forked(registry(), source, name, spec, checkpoint)
    changed = difference_of(source.spec, spec)
    releases().note(
        "fork", name, f'of "{version}" at event {number:,}{"; " if changed else ""}{changed}', why
    )
    data = {"version": name, "from": version, "event": number, "changed": changed, "paused_s": paused[0]}
    told = f"{name}: {version} as it was after event {number:,}{', with ' if changed else ''}{changed}"
    emit(data, json, f"{told}. Teach it: `freshet work {name}`")


def promote(
    name: str,
    /,
    *,
    why: str = "",
    force: Annotated[str, Parameter(negative=())] = "",
    json: Switch = False,
) -> None:
    """Make a version the champion: servers answer all users from it who have no override.

    Arms of a route end.

    Parameters
    ----------
    name
        The version; it must be ready, which `freshet versions show` tells.
    why
        The reason, for `freshet versions log`.
    force
        Promote it although it is not ready, for this reason.
    json
        Print {champion, replaced}.
    """
    version = registry().get(name)
    ledger = Ledger()
    if version.learned_anything:
        with version.reading() as store:
            ledger = Ledger.read(store)
    settings = current_settings()
    if not force:
        stand = standings({name: ledger}, [version], releases().read(), settings, client_of(settings))
        must_be_ready(name, stand[name])
    told = releases().promote(name, "; ".join(filter(None, (why, f"forced: {force}" if force else ""))))
    _tell(told, json)


def rollback(*, to_none: Switch = False, why: str = "", json: Switch = False) -> None:
    """Go back to the champion that was replaced last.

    Parameters
    ----------
    to_none
        Where none was replaced, have no champion at all.
    why
        The reason, for `freshet versions log`.
    json
        Print {champion, replaced}.
    """
    _tell(releases().rollback(why, to_none=to_none), json)


def retire(
    name: str,
    /,
    *,
    undo: Switch = False,
    why: str = "",
) -> None:
    """Take a version out of service: it can be neither promoted nor routed to; what it learned stays.

    Parameters
    ----------
    name
        The version.
    undo
        Let a retired version serve again.
    why
        The reason, for `freshet versions log`.
    """
    releases().retire(name, why, undo=undo)
    print(f"{name} {'may serve again' if undo else 'is retired'}")


def log(
    version: str | None = None,
    /,
    *,
    number: Annotated[int, Parameter(name="-n")] = 0,
    json: Switch = False,
) -> None:
    """Show what was decided: when, what, about which version, why, and by whom.

    Parameters
    ----------
    version
        Only what was about this version.
    number
        Only the newest so many; 0 for all.
    json
        Print a list of {at, what, version, detail, why, who, pid}, the oldest first.
    """
    if number < 0:
        raise UsageError(f"-n must be 0 or more, got {number}.")
    history = [entry for entry in releases().read().history if version in (None, entry.version)][-number:]
    columns = ("when", "what", "version", "detail", "why", "who")
    cells = [(e.at, e.what, e.version, e.detail, e.why or None, e.who) for e in history]
    emit(history, json, lambda: table(columns, cells) if cells else "nothing was decided yet")


def _tell(released: Released, json: bool) -> None:
    before = released.replaced[-1] if released.replaced else None
    back = f"; `freshet versions rollback` goes back to {before}" if before else ""
    data = {"champion": released.champion, "replaced": list(released.replaced)}
    emit(data, json, f"{released.champion} is the champion{back}" if released.champion else "no champion")
