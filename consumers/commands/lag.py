"""`freshet lag`: how far versions are behind their topics, by partition."""

from __future__ import annotations

from kafka import KafkaConsumer

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, table
from consumers.kafka_settings import client_settings
from consumers.lag import Lag, read_lag
from state.versions import Registry


def lag(version: str | None = None, /, *, json: Switch = False) -> int:
    """Show how far versions are behind their topics, by partition; also while their workers run.

    Positions are those of the last commits. The time behind is the age of the oldest record that waits, by
    its timestamp; of history that was replayed that is the age of the event.

    Parameters
    ----------
    version
        Only this version.
    json
        Print a list of {version, source, position, first, end, behind, time_behind_s, lost}.
    """
    settings = current_settings()
    registry = Registry(settings.home)
    versions = [registry.get(version)] if version is not None else list(registry.readable())
    client = client_settings(settings, KafkaConsumer) if settings.kafka.bootstrap_servers else None
    found = read_lag(versions, client)
    columns = ["version", "source", "position", "end", "behind", "time behind", "lost"]
    emit(found, json, lambda: table(columns, map(_row, found)) if found else "nothing was learned yet")
    return 0


def _row(row: Lag) -> list[object]:
    return [
        row.version, row.source, row.position, row.end, row.behind, duration_of(row.time_behind_s), row.lost
    ]  # fmt: skip


def duration_of(seconds: float | None) -> str | None:
    """A duration for people.

    >>> [duration_of(s) for s in (None, 0.0, 3.21, 75, 7_300, 200_000)]
    [None, '0 s', '3.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h']
    """
    if seconds is None:
        return None
    if seconds < 60:
        return f"{seconds:.2g} s"
    whole = int(seconds)
    for large, small, size, unit in ((" d", " h", 86_400, 3_600), (" h", " min", 3_600, 60)):
        if whole >= size:
            return f"{whole // size}{large} {whole % size // unit}{small}"
    return f"{whole // 60} min {whole % 60} s"
