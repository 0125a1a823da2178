"""Records of the catalogue enter, from lines, rows or a topic; items leave, or why they are none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from consumers.settings import ItemFields
from state.catalogue import CatalogueItem, Feature
from streaming.errors import nearest

_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SEPARATOR = "|"  # between categories in a cell of a table


class NoItemError(ValueError):
    """A record that is no item of the catalogue; the text says what was expected and what came."""


def item_of(
    record: object, fields: ItemFields, max_id_bytes: int, *, cells: bool = False, key: str | None = None
) -> CatalogueItem:
    """The item that a record describes.

    Args:
        record: as JSON or a table gives it.
        cells: whether it is a row of text, in which numbers are text and empty cells stand for nothing.
        key: the item's id, where a topic's key gives it.

    Raises:
        NoItemError: the record is none.
    """
    if not isinstance(record, dict):
        raise NoItemError(f"expected an object with fields, got {_kind(record)}")
    named = record.get(fields.item)
    if key is not None and named not in (None, key):
        raise NoItemError(f"its key is {_shown(key)} and its {fields.item} {_shown(named)}; they must agree")
    categories = record.get(fields.categories)
    return CatalogueItem(
        _id(key if key is not None else named, fields, record, max_id_bytes),
        _available(record.get(fields.available), fields.available, cells),
        _categories(categories, fields.categories, cells),
        _features(record, fields, cells),
    )


def _id(given: object, fields: ItemFields, record: Mapping[str, Any], max_id_bytes: int) -> str:
    if given is None:
        near = nearest(fields.item, list(record))
        raise NoItemError(f'the field "{fields.item}" is missing{"; " + near.strip() if near else ""}')
    if isinstance(given, int) and not isinstance(given, bool):
        given = str(given)
    if not isinstance(given, str) or not given:
        raise NoItemError(f"{fields.item} must be text that is not empty, got {_shown(given)}")
    try:
        length = len(given.encode())
    except UnicodeEncodeError as error:
        raise NoItemError(f"{fields.item} must be UTF-8, got {given[:40]!r}") from error
    if length > max_id_bytes:
        raise NoItemError(f"{fields.item} must be at most {max_id_bytes} bytes long, got {length}")
    return given


def _available(given: object, name: str, cells: bool) -> bool:
    if given is None or (cells and given == ""):
        return True
    found = _WORDS.get(given.strip().lower()) if cells and isinstance(given, str) else None
    if found is None and isinstance(given, int) and given in (0, 1):
        found = bool(given)
    if found is None:
        raise NoItemError(f"{name} must be true or false, got {_shown(given)}")
    return found


def _categories(given: object, name: str, cells: bool) -> tuple[str, ...]:
    if given is None or given == "":
        return ()
    if isinstance(given, str):
        given = [part.strip() for part in given.split(SEPARATOR)] if cells else [given]
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise NoItemError(f"{name} must be a list of texts, got {_shown(given)}")
    return tuple(dict.fromkeys(filter(None, given)))


def _features(record: Mapping[str, Any], fields: ItemFields, cells: bool) -> dict[str, Feature]:
    own = (fields.item, fields.available, fields.categories, fields.features)
    found: dict[str, Feature] = {}
    for name, value in record.items():
        if name not in own:
            _add_feature(found, name, value, cells)
    named = record.get(fields.features)
    if isinstance(named, dict):
        for name, value in named.items():
            _add_feature(found, name, value, cells)
    elif named is not None:
        _add_feature(found, fields.features, named, cells)
    return found


def _add_feature(found: dict[str, Feature], name: str, value: Any, cells: bool) -> None:
    """Take a feature in; nothing stands for no feature.

    Raises:
        NoItemError: its value cannot be one.
    """
    kind = type(value)
    if kind is str and cells:
        if value:
            found[name] = _number(value)
    elif (
        kind is str
        or kind is bool
        or _is_number(value)
        or (kind is list and all(_is_number(each) for each in value))
    ):
        found[name] = value
    elif value is not None:
        raise NoItemError(
            f'the feature "{name}" must be a finite number, a text, true or false, or a list of numbers, '
            f"got {_shown(value)}"
        )


def _is_number(value: Any) -> bool:
    kind = type(value)
    return kind is int or (kind is float and math.isfinite(value))


def _is_list(value: Any) -> bool:
    return type(value) is list and all(map(_is_number, value))


def _number(text: str) -> int | float | str:
    """A number in a cell, else its text."""
    head = text.lstrip()[:1]
    if not head.isdecimal() and head not in ("+", "-", "."):
        return text
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        return found if math.isfinite(found) else text
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _kind(value: object) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}")
