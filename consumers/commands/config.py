"""`freshet config`: the settings enter; each effective value with its source and meaning leaves."""

from __future__ import annotations

from typing import Any

import msgspec

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, table
from consumers.settings import Described, Settings, describe


def config(
    *,
    example: Switch = False,
    json: Switch = False,
) -> None:
    """Show each setting in effect, where it came from and what it means.

    Args:
        example: Print a configuration file with every setting at its default instead.
        json: Print a list of {key, value, source, doc}.
    """
    if example:
        print(example_file(), end="")
        return
    rows = describe(current_settings())
    emit(
        [row._asdict() for row in rows], json, lambda: table(Described._fields, [_shown(row) for row in rows])
    )


def example_file() -> str:
    """A documented configuration file: every setting with its default.

    Tables follow the plain keys of their section, because in TOML they end it.
    """
    sections: dict[str, list[Described]] = {}
    for row in describe(Settings()):
        section = row.key if isinstance(row.value, dict) else row.key.rpartition(".")[0]
        sections.setdefault(section, []).append(row)
    lines = ["# Freshet's settings, each at its default. `freshet config` shows those in effect."]
    order = list(dict.fromkeys(section.partition(".")[0] for section in sections))
    for section in sorted(sections, key=lambda name: (order.index(name.partition(".")[0]), name.count("."))):
        rows = sections[section]
        lines += ["", f"[{section}]"] if section else [""]
        for row in rows:
            lines.append(f"# {row.doc}")
            entries = row.value if isinstance(row.value, dict) else {row.key.rpartition(".")[2]: row.value}
            lines += [f"{_name(name)} = {_toml(value)}" for name, value in entries.items()]
    return "\n".join(lines) + "\n"


def _shown(row: Described) -> Described:
    """Numbers as they are written in a file, without separators."""
    value = row.value if isinstance(row.value, str) else _toml(row.value)
    return row._replace(value=value)


def _name(name: str) -> str:
    return name if name.isidentifier() else _toml(name)


def _toml(value: Any) -> str:
    """A value in TOML; JSON writes text and numbers in the same way."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_name(name)} = {_toml(entry)}" for name, entry in value.items()) + " }"
    return msgspec.json.encode(value).decode()
