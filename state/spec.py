"""What a version is: all that decides, together with the log, the bytes of its store."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from streaming import learners
from streaming.errors import SettingError, nearest


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version's spec.

    Attributes:
        learner: name of the learner.
        options: its options, all of them, with the values they were created with.
        seed: of all randomness: initial vectors, negatives, which events are evaluated.
        evaluation_rate: share of events that are ranked before they are learned.
        admit_users, admit_items: decayed number of occurrences at which an id gets a row.
        admission_half_life: events after which an occurrence counts half for admission.
        users_live_s, items_live_s: seconds of event time without an event after which a row is gone,
            0 for never.
    """

    learner: str
    options: dict[str, Any]
    seed: int = 1
    evaluation_rate: float = 0.01
    admit_users: float = 1.0
    admit_items: float = 1.0
    admission_half_life: float = 100_000.0
    users_live_s: int = 0
    items_live_s: int = 0

    def __post_init__(self) -> None:
        checks = {
            "seed": 0 <= self.seed < 2**63,
            "evaluation_rate": 0.0 <= self.evaluation_rate <= 1.0,
            "admit_users": 1.0 <= self.admit_users < 1e6,
            "admit_items": 1.0 <= self.admit_items < 1e6,
            "admission_half_life": self.admission_half_life > 0.0,
            "users_live_s": self.users_live_s >= 0,
            "items_live_s": self.items_live_s >= 0,
        }
        for name, fine in checks.items():
            if not fine:
                raise SettingError(f"version setting {name}: the value {getattr(self, name)} cannot be.")


OWN_KEYS = tuple(f for f in Spec.__struct_fields__ if f not in ("learner", "options"))


def new_spec(learner: str, given: Mapping[str, Any]) -> Spec:
    """A spec from a learner's name and settings, which are either options of the learner or the spec's own.

    Raises:
        SettingError: an unknown key, or a value that cannot be.
    """
    loaded = learners.load(learner)
    known = {**loaded.options()._asdict(), **dict.fromkeys(OWN_KEYS)}
    for key in given:
        if key not in known:
            raise SettingError(
                f'A version with the learner "{learner}" has no setting "{key}".{nearest(key, known)} '
                f"Known: {', '.join(known)}."
            )
    own = {k: _number(k, v) for k, v in given.items() if k in OWN_KEYS}
    options = learners.options_of(loaded, {k: v for k, v in given.items() if k not in OWN_KEYS})
    return Spec(learner, dict(options._asdict()), **own)


def difference_of(old: Spec, new: Spec) -> str:
    """The settings in which two specs differ, in words; empty where none.

    >>> difference_of(Spec("x", {"a": 1}), Spec("x", {"a": 2}, seed=3))
    'a 1 → 2, seed 1 → 3'
    """
    before, after = settings_of(old), settings_of(new)
    return ", ".join(f"{k} {v} → {after.get(k)}" for k, v in before.items() if v != after.get(k))


def settings_of(spec: Spec) -> dict[str, Any]:
    """The learner and every setting of a spec by name, whether an option of the learner or the spec's own."""
    return {"learner": spec.learner, **spec.options, **{key: getattr(spec, key) for key in OWN_KEYS}}


def _number(key: str, value: Any) -> Any:
    wanted: type = {f.name: f.type for f in msgspec.structs.fields(Spec)}[key]
    try:
        number = float(value)
        if wanted is int and not number.is_integer():
            raise ValueError(value)
        return (
            wanted(number) if wanted is float else int(str(value)) if isinstance(value, str) else int(value)
        )
    except ValueError as error:
        raise SettingError(
            f"version setting {key} must be a number ({wanted.__name__}), got {value!r}."
        ) from error


def read_spec(path: Path) -> Spec:
    """A spec from a file.

    Raises:
        SettingError: it is not one.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), Spec)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingError(
            f"{path}: this is not the spec of a version: {error}. "
            "Put the file back as it was, or move its directory away."
        ) from error


def write_spec(path: Path, spec: Spec) -> None:
    """Write a spec as TOML."""
    own = msgspec.to_builtins(spec)
    options = own.pop("options")
    lines = [f"{key} = {_toml(value)}" for key, value in own.items()]
    lines += ["", "[options]", *(f"{key} = {_toml(value)}" for key, value in options.items())]
    path.write_text("\n".join(lines) + "\n")


def _toml(value: str | bool | int | float) -> str:
    """A plain value; Python's numbers, infinity among them, are TOML's."""
    return json.dumps(value) if isinstance(value, str | bool) else repr(value)
