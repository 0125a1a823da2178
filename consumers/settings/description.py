"""Effective settings enter; what people and JSON readers are shown of them leaves, secrets as stars."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from consumers.settings.keys import KEYS
from consumers.settings.sections import Settings

_SECRET = re.compile(r"passw|secret|token|credential|api_?key|private_?key|proxy", re.IGNORECASE)


class Described(NamedTuple):
    """One effective setting: secrets already redacted, `value` ready for JSON."""

    key: str
    value: Any
    source: str
    doc: str


def describe(settings: Settings) -> list[Described]:
    """Each effective value in the order of declaration, with its source and its documentation."""
    rows = []
    for name, key in KEYS.items():
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        sources = [s for k, s in settings.sources.items() if k == name or k.startswith(f"{name}.")]
        source = ", ".join(dict.fromkeys(sources)) or "default"
        rows.append(Described(name, shown(name, value, key.form), source, key.doc))
    for name, value in sorted(settings.kafka_client.items()):
        key_name = f"kafka.{name}"
        doc = "As kafka-python's KafkaConsumer has it."
        rows.append(Described(key_name, shown(key_name, value, ""), settings.sources[key_name], doc))
    return rows


def shown(key: str, value: Any, form: str) -> Any:
    """The value in a form that JSON and people can read; a secret as stars."""
    if _SECRET.search(key):
        return "***" if value else value
    if form == "port" and value is None:
        return "none"
    if form == "duration":
        return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"
    return str(value) if isinstance(value, Path) else value


def quoted(key: str, value: Any) -> str:
    """A value for a message; of a secret only that there is one."""
    if _SECRET.search(key):
        return "a secret that is not shown"
    return f'"{value}"' if isinstance(value, str) else str(value)
