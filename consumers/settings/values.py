"""One value as it was found enters; it leaves in the type of its key, or a message says what it must be."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from consumers.settings.description import quoted
from consumers.settings.keys import Key
from consumers.settings.layers import Given
from streaming.errors import SettingError, nearest

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*")


def duration(text: str) -> float:
    """Seconds in a text such as "250ms", "30s", "5m", "2h", "1d".

    Raises:
        ValueError: the text has another form.

    >>> duration("250ms"), duration("1.5m")
    (0.25, 90.0)
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return float(match[1]) * _UNITS[match[2]]


def read_value(one: Given, key: Key, below: str) -> Any:
    """The value in its type.

    Args:
        one: the value as it was found.
        key: the setting that it belongs to.
        below: the entry of the table where `one` gives only that, as in `events.weights.view`; else "".

    Raises:
        SettingError: a wrong type or an impossible value.
    """
    value = _from_text(one.value, key.type) if one.text else one.value
    if below:
        value = {below: value}
    try:
        if key.form == "duration" and isinstance(value, str):
            value = duration(value)
        if key.form == "port":
            value = _port(value)
        if key.form == "path":
            value = _path(value)
        return msgspec.convert(value, key.type)
    except (msgspec.ValidationError, ValueError) as error:
        choices = get_args(get_args(key.type)[0] if get_origin(key.type) is Annotated else key.type)
        words = [c for c in choices if isinstance(c, str)]
        near = nearest(value, words) if isinstance(value, str) else ""
        got = quoted(one.key, one.value)
        expected = "a number" if below else key.expected
        raise SettingError(f"{one.place} must be {expected}, got {got}.{near}") from error


def _from_text(text: str, hint: Any) -> Any:
    """A value written as text in the environment or a flag: TOML where it is not text by type."""
    bare = get_args(hint)[0]
    if bare in (str, Path) or get_origin(bare) is Literal:
        return text
    return toml_value(text)


def toml_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        # People write .5, which TOML does not know.
        tree = tomllib.loads("value = " + re.sub(r"^([+-]?)\.", r"\g<1>0.", text.strip()))
    except tomllib.TOMLDecodeError:
        return text
    return tree["value"] if len(tree) == 1 else text


def _port(value: Any) -> int | None:
    if value == "none":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise ValueError(value)
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return Path(value)
