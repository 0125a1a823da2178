"""Learners: one file each, found by name."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

from streaming.errors import SettingError, nearest

if TYPE_CHECKING:
    from streaming.learners.contract import Learner

_NOT_LEARNERS = {
    "blend_parts",
    "contract",
    "decay",
    "loop",
    "model",
    "negatives",
    "neighbours",
    "optimisers",
    "pooling",
    "reductions",
}


def names() -> list[str]:
    """Names of all learners: the files of this folder that hold one."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NOT_LEARNERS)


def load(name: str) -> Learner:
    """The learner of that name.

    Raises:
        SettingError: there is none; the message names the nearest.
    """
    if name not in names():
        raise SettingError(
            f'There is no learner "{name}".{nearest(name, names())} Known: {", ".join(names())}.'
        )
    learner: Learner = import_module(f"{__name__}.{name}").LEARNER
    return learner


def options_of(learner: Learner, given: dict[str, Any]) -> Any:
    """The learner's options with the given ones set; text is converted to the type of the default.

    Raises:
        SettingError: an unknown option, or a value that cannot be.
    """
    defaults = learner.options()
    values: dict[str, Any] = {}
    for key, value in given.items():
        if key not in defaults._fields:
            known = ", ".join(defaults._fields)
            raise SettingError(
                f'The learner "{learner.name}" has no option "{key}".{nearest(key, defaults._fields)} '
                f"Known: {known}."
            )
        values[key] = _convert(learner.name, key, value, type(getattr(defaults, key)))
    options = learner.options(**values)
    if learner.check is not None:
        try:
            learner.check(options)
        except ValueError as error:
            raise SettingError(f"{learner.name}: {error}") from error
    return options


def _convert(learner: str, key: str, value: Any, wanted: type) -> Any:
    """A value, perhaps text, as bool, int or float."""
    text = str(value).strip().lower()
    kind = {bool: "true or false", int: "a whole number"}.get(wanted, "a number")
    try:
        if wanted is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text]
        return wanted(float(text)) if wanted is int and float(text).is_integer() else wanted(text)
    except (KeyError, ValueError, OverflowError) as error:
        raise SettingError(f'{learner}: option "{key}" must be {kind}, got "{value}".') from error
