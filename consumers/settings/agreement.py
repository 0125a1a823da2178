"""The settings enter; those that are possible one by one, but not together, are refused."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from consumers.settings.sections import Settings
from streaming.errors import SettingError


def agree(settings: Settings, places: Mapping[str, str]) -> None:
    """Refuses values that are possible one by one, but not together.

    Args:
        settings: as they were put together.
        places: dotted key → where the value that holds was found, for messages.

    Raises:
        SettingError: two of them contradict each other.
    """
    worker = settings.worker
    if worker.commit_interval_max < worker.commit_interval_min:
        place = places.get("worker.commit_interval_max") or places["worker.commit_interval_min"]
        raise SettingError(
            f"{place}: worker.commit_interval_max must be at least worker.commit_interval_min, got "
            f"{worker.commit_interval_max:g} s below {worker.commit_interval_min:g} s. Change one of them."
        )
    _differ("events.fields", settings.events.fields, places)
    _differ("items.fields", settings.items.fields, places)
    if settings.items.file and settings.items.topic:
        raise SettingError(
            f"{places['items.topic']}: the catalogue comes from one place; items.file is "
            f'"{settings.items.file}" and items.topic "{settings.items.topic}". Leave one of them empty.'
        )
    shown = settings.events.exposures_topic
    for name, topic in (("events", settings.events.topic), ("items", settings.items.topic)):
        if topic == shown:
            place = places.get("events.exposures_topic") or places[f"{name}.topic"]
            raise SettingError(
                f'{place}: events.exposures_topic and {name}.topic are both "{shown}". Served lists need a '
                "topic of their own: name another."
            )


def _differ(section: str, fields: Struct, places: Mapping[str, str]) -> None:
    """Refuses one name for two fields."""
    names: dict[str, str] = {}
    for field, name in msgspec.structs.asdict(fields).items():
        if name in names:
            place = places.get(f"{section}.{field}") or places[f"{section}.{names[name]}"]
            raise SettingError(
                f'{place}: {section}.{field} and {section}.{names[name]} must differ, got "{name}" for both.'
            )
        names[name] = field
