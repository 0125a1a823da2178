"""Versions and their logs enter; where each stands leaves: new, ready, serving, retired."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from consumers.settings import Settings, VersionSettings
from state.ledger import Ledger
from state.release_file import Released
from state.versions import Version
from streaming.errors import BrokerError, VersionError

State = Literal["new", "catching up", "ready", "serving", "retired", "damaged"]

_COUNTED_BYTES = 256 << 20  # longest file whose lines are counted to tell how many wait
_BLOCK = 1 << 20
_KAFKA_MS = 3000  # a Kafka that is away must not hold up a list for long


class Standing(Struct, frozen=True):
    """Where a version stands.

    Attributes:
        behind: records of its log that it has not learned; None where nobody knows.
        behind_s: age of the oldest of them; None where nobody knows.
    """

    state: State
    behind: int | None = None
    behind_s: float | None = None

    @property
    def in_words(self) -> str:
        """How far it is behind."""
        if self.behind is None:
            return "its log does not tell how far it is behind"
        age = f", the oldest {self.behind_s:,.0f} s old" if self.behind_s is not None and self.behind else ""
        return f"{self.behind:,} records behind{age}"


def standings(
    ledgers: Mapping[str, Ledger],
    versions: Iterable[Version],
    released: Released,
    settings: Settings,
    client: Mapping[str, Any] | None,
) -> dict[str, Standing]:
    """Where versions stand.

    Args:
        ledgers: of these versions, by name.
        client: settings of Kafka's client; None where there is no Kafka.
    """
    found = list(versions)
    kafka = _kafka_lag(found, client)
    return {
        v.name: standing_of(v.name, ledgers[v.name], kafka.get(v.name), released, settings.versions)
        for v in found
    }


def standing_of(
    name: str,
    ledger: Ledger,
    kafka: tuple[int, float | None] | None,
    released: Released,
    bounds: VersionSettings,
) -> Standing:
    """Where one version stands.

    Args:
        kafka: (records, seconds) that it is behind its topic, where that is known.
    """
    behind, behind_s = kafka if kafka is not None else (files_behind(ledger), None)
    state: State
    if name in released.retired:
        state = "retired"
    elif released.serves(name):
        state = "serving"
    elif not ledger.records:
        return Standing("new", behind, behind_s)
    else:
        near = behind is None or behind <= bounds.ready_behind
        fresh = behind_s is not None and behind_s <= bounds.ready_behind_time
        state = "ready" if near or fresh else "catching up"
    return Standing(state, behind, behind_s)


def must_be_ready(name: str, standing: Standing) -> None:
    """Refuse a version that should not serve yet.

    Raises:
        VersionError: it is not ready.
    """
    if standing.state == "new":
        raise VersionError(
            f'"{name}" has learned nothing yet. Teach it with `freshet work {name}`, or promote it all the '
            "same with --force REASON."
        )
    if standing.state == "catching up":
        raise VersionError(
            f'"{name}" is still catching up: {standing.in_words}. Wait until `freshet versions show {name}` '
            "says ready, or promote it all the same with --force REASON."
        )


def files_behind(ledger: Ledger) -> int | None:
    """Records at the end of a version's files that it has not learned; None where they cannot be counted."""
    counts = []
    for source in ledger.sources:
        if source.token is not None or not Path(source.name).is_absolute():
            return None
        counts.append(_records_of(Path(source.name)))
    if not counts or any(count is None for count in counts):
        return None
    return sum(
        max(0, count - source.next_offset)
        for count, source in zip(counts, ledger.sources, strict=True)
        if count is not None
    )


def _records_of(path: Path) -> int | None:
    """Records of a file: rows of parquet, lines of JSON; None for others, and for what is too long."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as parquet  # takes longer to load than the rest of the command

            return int(parquet.read_metadata(path).num_rows)
        if path.suffix in (".jsonl", ".ndjson", ".json") and path.stat().st_size <= _COUNTED_BYTES:
            with path.open("rb") as file:
                return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    except (OSError, ValueError) as error:  # pyarrow raises ValueError for what is no parquet
        print(f"warning: {path}: not counted ({error})", file=sys.stderr)
    return None


def _kafka_lag(
    versions: list[Version], client: Mapping[str, Any] | None
) -> dict[str, tuple[int, float | None]]:
    """(records, seconds) behind of the versions that learn from a topic, as far as Kafka tells."""
    if client is None or not versions:
        return {}
    from consumers.lag import read_lag  # versions of files do without Kafka's client

    found: dict[str, tuple[int, float | None]] = {}
    try:
        rows = read_lag(versions, {**client, "bootstrap_timeout_ms": _KAFKA_MS})
    except BrokerError as error:
        print(f"warning: how far versions are behind is not known: {error}", file=sys.stderr)
        return {}
    for row in rows:
        if row.behind is None:
            continue
        records, age = found.get(row.version, (0, 0.0))
        oldest = None if age is None or row.time_behind_s is None else max(age, row.time_behind_s)
        found[row.version] = (records + row.behind, oldest)
    return found
