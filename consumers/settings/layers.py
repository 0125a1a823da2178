"""A file, the environment and flags enter; the values that each of them gives leave, with their places."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from consumers.settings.description import quoted
from consumers.settings.keys import KEYS, PREFIX, environment_name
from streaming.errors import SettingError, nearest

# Variables that begin like settings and are none.
_FOREIGN = re.compile(r"FRESHET_(HOME|CONFIG|DATA|TEST_.*|CRASH_.*)")


class Given(NamedTuple):
    """One value as found: where it was found, and whether it is text that is still to be read."""

    key: str
    value: Any
    place: str
    source: str
    text: bool


def from_file(path: Path) -> Iterator[Given]:
    """The values of a TOML file, in its order.

    Raises:
        SettingError: the file cannot be read, is no TOML, or has a value where a section is due.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} must be TOML in UTF-8: {error}. Correct the file.") from error
    except OSError as error:
        raise SettingError(f"{path} cannot be read: {error.strerror}. Correct its permissions.") from error
    for key, value in _leaves(tree, str(path), ""):
        yield Given(key, value, f"{path}:{key}", str(path), False)


def _leaves(tree: Mapping[str, Any], place: str, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; tables are entered as far as sections are declared."""
    for name, value in tree.items():
        key = prefix + name
        if not any(known.startswith(f"{key}.") for known in KEYS):
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(value, place, f"{key}.")
        else:
            raise SettingError(f"{place}:{key} must be a section, as in [{key}], got {quoted(key, value)}.")


def from_environment(environment: Mapping[str, str]) -> Iterator[Given]:
    """The values of all variables that begin with FRESHET_, save those that are no settings.

    Raises:
        SettingError: a variable names no setting.
    """
    for variable, text in sorted(environment.items()):
        if variable.startswith(PREFIX) and not _FOREIGN.fullmatch(variable):
            key = variable.removeprefix(PREFIX).lower().replace("__", ".")
            if key not in KEYS and not key.startswith("kafka."):
                near = nearest(variable, [environment_name(known) for known in KEYS])
                raise SettingError(f"{variable} is not a setting.{near} `freshet config` lists them all.")
            yield Given(key, text, variable, variable, True)


def from_flags(overrides: Mapping[str, str]) -> Iterator[Given]:
    """The values of `--set`, dotted key → text."""
    for key, text in overrides.items():
        yield Given(key, text, f"--set {key}", "--set", True)
