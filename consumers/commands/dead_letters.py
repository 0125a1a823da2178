"""`freshet dead-letters`: the records that a version refused leave, each position once."""

from __future__ import annotations

import os
import sys
from typing import Annotated

from cyclopts import App, Parameter

from consumers.commands.context import current_settings
from consumers.commands.output import emit, table
from consumers.dead_letters import DeadLetter, DeadLetters
from state.versions import Registry
from streaming.errors import UsageError, nearest

app = App(name="dead-letters", help="Show the records that a version refused.")


@app.command(name="list")
def list_(version: str, /, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List what was refused: source, offset, line and reason.

    Parameters
    ----------
    version
        The version whose worker refused the records.
    json
        Print a list of {source, offset, reason, raw, line, length}.
    """
    letters = _letters(version)
    rows = [[each.source, each.offset, each.line, each.reason] for each in letters]
    emit(
        letters,
        json,
        lambda: table(["source", "offset", "line", "reason"], rows) if rows else "no dead letters",
    )


@app.command
def show(
    version: str, source: str, offset: int, /, *, json: Annotated[bool, Parameter(negative=())] = False
) -> None:
    """Print one refused record: its first bytes as they came.

    Parameters
    ----------
    version
        The version whose worker refused it.
    source
        The file, or its name where only one has it.
    offset
        Position in the source; the line of a text file is one more.
    json
        Print {source, offset, reason, raw, line, length}.
    """
    letters = _letters(version)
    name = _source(source, list(dict.fromkeys(each.source for each in letters)))
    letter = next((each for each in letters if each.source == name and each.offset == offset), None)
    if letter is None:
        raise UsageError(f'"{version}" refused no record of {name} at offset {offset}.')
    if json:
        emit(letter, True)
        return
    print(_safe(letter.raw))
    print(letter.reason, file=sys.stderr)
    if letter.length is not None:
        print(f"these are the first bytes of {letter.length:,}", file=sys.stderr)


def _letters(version: str) -> list[DeadLetter]:
    return list(DeadLetters(Registry(current_settings().home).get(version).dead_letters_path).read())


def _source(given: str, known: list[str]) -> str:
    """The source that is meant by a name or a path.

    >>> _source("a.jsonl", ["/data/a.jsonl", "/data/b.jsonl"])
    '/data/a.jsonl'
    """
    for meant in (given, os.path.abspath(given)):
        if meant in known:
            return meant
    named = [source for source in known if os.path.basename(source) == given]
    if len(named) == 1:
        return named[0]
    names = ", ".join(known) or "none"
    raise UsageError(f'No records of "{given}" were refused.{nearest(given, known)} Sources: {names}.')


def _safe(raw: str) -> str:
    """A record for the terminal, which must not obey what it holds; a file or pipe gets all as it is."""
    if not sys.stdout.isatty():
        return raw
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in raw)
