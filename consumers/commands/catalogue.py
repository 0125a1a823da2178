"""`freshet catalogue`: what the catalogue says of an item, its categories, and what it refuses."""

from __future__ import annotations

from typing import Any

import msgspec
from cyclopts import App

from consumers.catalogue_file import CatalogueFile
from consumers.catalogue_input import CatalogueInput, Reading, open_catalogue
from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, pairs, table
from streaming.errors import SettingError, UnknownIdError

app = App(name="catalogue", help="Show the catalogue of items, and check it.")


@app.command
def show(item: str, /, *, json: Switch = False) -> None:
    """Show what the catalogue says of an item.

    Parameters
    ----------
    item
        The item's id; put "--" before one that begins with "-".
    json
        Print {item, available, categories, features}.
    """
    source, _ = _read(_opened())
    found = source.catalogue.item(item)
    if found is None:
        raise UnknownIdError(f'The item "{item}" is not in the catalogue. Check the id.')
    emit(found, json, lambda: pairs(msgspec.to_builtins(found)))


@app.command
def categories(*, json: Switch = False) -> None:
    """List the categories, and how many available items each has.

    Parameters
    ----------
    json
        Print a list of {category, available}.
    """
    source, _ = _read(_opened())
    rows = [{"category": name, "available": n} for name, n in sorted(source.catalogue.categories().items())]
    shown = [list(row.values()) for row in rows]
    emit(rows, json, lambda: table(["category", "available"], shown) if rows else "no categories")


@app.command
def check(file: str | None = None, /, *, json: Switch = False) -> int:
    """Read a catalogue and list the records that are refused; the others hold.

    Parameters
    ----------
    file
        A file; without it, the catalogue in the settings.
    json
        Print {records, items, available, refused, shown: [{place, reason}]}.
    """
    source = CatalogueFile(file, current_settings()) if file is not None else _opened()
    source, reading = _read(source)
    catalogue = source.catalogue
    data: dict[str, Any] = {
        "records": reading.records,
        "items": len(catalogue),
        "available": int(catalogue.available.sum()),
        "refused": reading.refused,
        "shown": [refused._asdict() for refused in reading.shown],
    }
    head = f"{len(catalogue):,} items, {data['available']:,} of them available"
    lines = [
        f"{head}; {reading.refused:,} records refused",
        *(f"  {place}: {reason}" for place, reason in reading.shown),
    ]
    if reading.refused > len(reading.shown):
        lines.append(f"  and {reading.refused - len(reading.shown):,} more")
    emit(data, json, "\n".join(lines))
    return 1 if reading.refused else 0


def _opened() -> CatalogueInput:
    source = open_catalogue(current_settings())
    if source is None:
        raise SettingError("There is no catalogue: set items.file or items.topic.")
    return source


def _read(source: CatalogueInput) -> tuple[CatalogueInput, Reading]:
    try:
        return source, source.refresh() or Reading()
    finally:
        source.close()
