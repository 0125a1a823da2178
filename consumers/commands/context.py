"""The global options of the command line enter; the settings that hold leave, to whichever command runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from consumers.settings import DEFAULT_HOME, Settings, load_settings


class _Options(NamedTuple):
    config: Path | None = None
    home: Path | None = None
    overrides: Mapping[str, str] = {}


_options = _Options()
_settings: Settings | None = None


def use(
    config: Path | None = None, home: Path | None = None, overrides: Mapping[str, str] | None = None
) -> None:
    """Takes the global options; the settings are read when they are first asked for."""
    global _options, _settings
    _options = _Options(config, home, overrides or {})
    _settings = None


def current_settings() -> Settings:
    """The settings of this run, read once.

    Raises:
        SettingError: a setting is wrong.
    """
    global _settings
    if _settings is None:
        _settings = load_settings(_options.config, _options.home, _options.overrides)
    return _settings


def fallback_home() -> Path:
    """The home directory to look at where the settings cannot be read."""
    return _options.home or DEFAULT_HOME
