"""Settings: one TOML file, the environment and flags enter; one checked, frozen `Settings` leaves.

Later layers win, key by key: defaults, file, environment, flags. A setting is
`section.key` in a file and with `--set`, `FRESHET_SECTION__KEY` in the environment.

`sections` declares every setting, `keys` finds them there by dotted name, `layers` yields what is given,
`values` reads one value, `agreement` looks at them together, `loading` is the whole of it in order, and
`description` shows the result.
"""

from consumers.settings.description import Described, describe
from consumers.settings.keys import KEYS, environment_name
from consumers.settings.loading import load_settings
from consumers.settings.sections import (
    DEFAULT_HOME,
    EventFields,
    EventSettings,
    ItemFields,
    ItemSettings,
    KafkaSettings,
    ServeSettings,
    SessionSettings,
    Settings,
    VersionSettings,
    WorkerSettings,
)
from consumers.settings.values import duration

__all__ = [
    "DEFAULT_HOME",
    "KEYS",
    "Described",
    "EventFields",
    "EventSettings",
    "ItemFields",
    "ItemSettings",
    "KafkaSettings",
    "ServeSettings",
    "SessionSettings",
    "Settings",
    "VersionSettings",
    "WorkerSettings",
    "describe",
    "duration",
    "environment_name",
    "load_settings",
]
