"""The declarations enter; each dotted key leaves with its type, its form and what it expects, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct

from consumers.settings.sections import Settings

PREFIX = "FRESHET_"


class Key(NamedTuple):
    """One setting as declared: its type without the documentation, limits, form and doc."""

    type: Any
    form: str
    expected: str
    doc: str


def environment_name(key: str) -> str:
    """The environment variable of a dotted key.

    >>> environment_name("worker.batch_events")
    'FRESHET_WORKER__BATCH_EVENTS'
    """
    return PREFIX + key.upper().replace(".", "__")


def _declared(struct: type[Struct], prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Dotted names and declarations of all settings, in the order of declaration."""
    for name, hint in get_type_hints(struct, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, Struct):
            yield from _declared(hint, f"{prefix}{name}.")
        elif get_origin(hint) is Annotated:
            bare, *metas = get_args(hint)
            doc = next(m.description for m in metas if m.description)
            form = next((m.extra["form"] for m in metas if m.extra), "")
            yield prefix + name, Key(hint, form, _expected(bare, metas, form), doc)


def _expected(bare: Any, metas: list[Meta], form: str) -> str:
    """What a value must be, in words."""
    if get_origin(bare) is Literal:
        return " or ".join(f'"{choice}"' for choice in get_args(bare))
    if get_origin(bare) is dict:
        return "a table of event type to number, such as { view = 0.2, purchase = 1 }"
    if form == "port":
        return 'a port from 0 to 65535, or "none"'
    if form == "servers":
        return 'text such as "localhost:9092", or a list of such texts'
    if form == "duration":
        return 'a duration such as "250ms", "30s", "5m", "2h", "1d", or a number of seconds, not below 0'
    if bare is str or bare is Path:
        return "text that is not empty"
    limits = [m for m in metas if m.ge is not None or m.gt is not None]
    low = " and ".join(f"at least {m.ge:,}" if m.ge is not None else f"above {m.gt:,}" for m in limits)
    return f"a {'whole number' if bare is int else 'number'}, {low}, at most {limits[0].le:,}"


KEYS: Mapping[str, Key] = dict(_declared(Settings))
