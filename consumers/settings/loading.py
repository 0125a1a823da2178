"""The layers enter, the later ones on top; one checked, frozen `Settings` leaves."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from consumers import kafka_settings
from consumers.settings.agreement import agree
from consumers.settings.description import quoted
from consumers.settings.keys import KEYS, PREFIX
from consumers.settings.layers import Given, from_environment, from_file, from_flags
from consumers.settings.sections import DEFAULT_HOME, Settings
from consumers.settings.values import read_value, toml_value
from streaming.errors import SettingError, nearest

CONFIG_NAME = "freshet.toml"


def load_settings(config: Path | None, home: Path | None, overrides: Mapping[str, str]) -> Settings:
    """The settings that hold here and now.

    Args:
        config: the file to read (`--config`). Without it FRESHET_CONFIG, ./freshet.toml and
            <home>/freshet.toml are tried in this order; only a file that was named must exist.
        home: the home directory (`--home`), above FRESHET_HOME and the file.
        overrides: dotted key → value as text, as from `--set`.

    Raises:
        SettingError: an unknown key, a wrong type or an impossible value in any layer.
    """
    home = home.expanduser() if home else None
    environment_home = _environment_path("HOME")
    found_home = home or environment_home
    path, by_home = _config_path(config, found_home or DEFAULT_HOME)
    given = [
        *(from_file(path) if path else ()),
        *from_environment(os.environ),
        *from_flags(overrides),
    ]
    if environment_home is not None:
        given.append(Given("home", str(environment_home), "FRESHET_HOME", "FRESHET_HOME", True))
    if home is not None:
        given.append(Given("home", str(home), "--home", "--home", True))
    settings = _assemble(given, path)
    if by_home and settings.home.resolve() != (found_home or DEFAULT_HOME).resolve():
        raise SettingError(
            f'{path}:home must be the directory that the file was found in, got "{settings.home}". '
            "Leave it out there, or name the file with --config."
        )
    return settings


def _environment_path(name: str) -> Path | None:
    text = os.environ.get(PREFIX + name)
    if text == "":
        raise SettingError(f"{PREFIX}{name} must be a path, got an empty text. Give a path or unset it.")
    return Path(text).expanduser() if text is not None else None


def _config_path(config: Path | None, home: Path) -> tuple[Path | None, bool]:
    """The file to read, None where there is none, and whether only the home directory led to it."""
    for path, flag in ((config, "--config"), (_environment_path("CONFIG"), "FRESHET_CONFIG")):
        if path is not None and not path.is_file():
            raise SettingError(
                f"{flag} must name a TOML file, got {path}, where no file is. Correct the path."
            )
        if path is not None:
            return path, False
    if Path(CONFIG_NAME).is_file():
        return Path(CONFIG_NAME), False
    path = home / CONFIG_NAME
    return (path, True) if path.is_file() else (None, False)


def _assemble(given: list[Given], path: Path | None) -> Settings:
    """Checks each value and puts the layers on each other, later ones on top."""
    tree: dict[str, Any] = {"events": {"weights": {"*": 1.0}}}
    client: dict[str, Any] = {}
    sources: dict[str, str] = {}
    places: dict[str, str] = {}
    for one in given:
        if one.key.startswith("kafka.") and one.key not in KEYS:
            name = one.key.removeprefix("kafka.")
            text = one.value if not one.text or kafka_settings.is_text(name) else toml_value(one.value)
            client[name] = kafka_settings.client_setting(name, text, one.place, quoted(one.key, one.value))
            sources[one.key] = one.source
            continue
        name, below = _resolved(one)
        key = KEYS[name]
        value = read_value(one, key, below)
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        if isinstance(value, dict):
            node[last] |= value
            sources |= {f"{name}.{entry}": one.source for entry in value}
        else:
            node[last] = value
            sources[name] = one.source
        places[name] = one.place
    settings = msgspec.convert(tree, Settings)
    agree(settings, places)
    home = settings.home.expanduser()
    return msgspec.structs.replace(settings, home=home, config=path, sources=sources, kafka_client=client)


def _resolved(one: Given) -> tuple[str, str]:
    """The declared key that a value belongs to, and the entry below it where that is a table."""
    if one.key in KEYS:
        return one.key, ""
    entry = re.fullmatch(r"(events\.weights)\.(.+)", one.key)
    if entry and one.text:
        return entry[1], entry[2]
    if isinstance(one.value, dict):
        near = nearest(one.key, {known.rpartition(".")[0] for known in KEYS} - {""})
    else:
        near = nearest(one.key, KEYS) or _nearest_last(one.key)
    raise SettingError(f"{one.place} is not a setting.{near} `freshet config` lists them all.")


def _nearest_last(key: str) -> str:
    """As `nearest`, for a key given without its section or under a wrong one."""
    by_last = {known.rpartition(".")[2]: known for known in KEYS}
    near = nearest(key.rpartition(".")[2], by_last)
    return re.sub(r'"(.+)"', lambda m: f'"{by_last[m[1]]}"', near)
