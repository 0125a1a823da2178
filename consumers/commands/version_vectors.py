"""`freshet versions export`: a version enters; a parquet file of its vectors leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from consumers.commands.arguments import Switch
from consumers.commands.home import registry
from consumers.commands.output import emit, progress
from streaming.errors import UsageError


def export(name: str, /, *, to: Path, kind: Literal["item", "user"] = "item", json: Switch = False) -> None:
    """Write the vectors of a version's items or users to a parquet file; also while its worker runs.

    A user's vector includes what is pooled from the history: its inner product with an item's vector, plus
    the item's bias, ranks.

    Parameters
    ----------
    name
        The version.
    to
        The file: id, vector, bias (items), events, last_seen.
    kind
        What is written: item or user.
    json
        Print {version, kind, rows, file}.
    """
    from state.vectors import export_vectors  # loads compiled kernels

    if to.suffix != ".parquet":
        raise UsageError(f"--to must name a .parquet file, got {to}.")
    with progress(f"Writing ({kind}s)", None) as advance:
        rows = export_vectors(registry().get(name), kind, to, advance)
    data = {"version": name, "kind": kind, "rows": rows, "file": str(to)}
    emit(data, json, f"{name}: the vectors of {rows:,} {kind}s are in {to}")
