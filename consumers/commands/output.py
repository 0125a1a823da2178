"""Answers enter; JSON or tables leave on standard output, everything that is not data on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

# Ids may hold brackets and colons, so neither markup nor emoji names are read in what is printed.
stderr = Console(stderr=True, markup=False, emoji=False, highlight=False)
_PIPED_WIDTH = 200


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Leaves a reader that has gone to `main`, where rich would end the process with code 1."""
        raise BrokenPipeError


def stdout() -> Console:
    """A console on standard output, wide where no terminal sets the width."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return _Output(markup=False, emoji=False, highlight=False, width=width)


def emit(
    data: object, as_json: bool, human: RenderableType | Callable[[], RenderableType] | None = None
) -> None:
    """Prints an answer.

    Args:
        data: what the JSON form holds; anything that msgspec encodes. NaN becomes null.
        as_json: whether JSON is printed, otherwise the human form.
        human: the human form, or a function that makes it; without it a mapping
            becomes lines of key and value and a list of mappings a table.
    """
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
        return
    form = human if human is not None else _plain_form(data)
    stdout().print(form() if callable(form) else form)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A table in the house form; columns whose cells are all numbers are set to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    cells = [list(row) for row in rows]
    for k, name in enumerate(columns):
        numeric = bool(cells) and all(isinstance(row[k], int | float) for row in cells)
        made.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        made.add_row(*(_cell(value) for value in row))
    return made


def pairs(data: Mapping[str, object]) -> Table:
    """Lines of key and value."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for key, value in data.items():
        made.add_row(key, _cell(value))
    return made


@contextmanager
def progress(doing: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A progress bar on standard error with the time left, nothing where that is no terminal.

    Args:
        doing: what is done, as "Learning events".
        total: how much there is to do, None when that is unknown.

    Yields:
        A function that is told how much is done in all.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda done: bar.update(task, completed=done)


def _plain_form(data: object) -> RenderableType:
    built = msgspec.to_builtins(data)
    if isinstance(built, dict):
        return pairs(built)
    if isinstance(built, list) and built and all(isinstance(row, dict) for row in built):
        columns = list(dict.fromkeys(name for row in built for name in row))
        return table(columns, [[row.get(name) for name in columns] for row in built])
    return str(built)


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_cell(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_cell(entry) for entry in value)
    return str(value)
