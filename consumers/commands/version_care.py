"""`freshet versions verify`, `rebuild`, `snapshot`, `restore`: a version's store is checked or kept."""

from __future__ import annotations

from typing import Any

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.home import registry
from consumers.commands.output import emit, progress
from consumers.commands.version_parts import client_of
from consumers.control import ask
from consumers.sessions_care import bringing_back, keep_sequences
from state.versions import Version
from streaming.errors import UsageError, VersionError

_SHOWN = 20  # problems and differences on a terminal


def verify(name: str, /, *, snapshot: int | None = None, json: Switch = False) -> int:
    """Check every checksum, and that rows, offsets, journal and counts agree; also while a worker runs.

    Parameters
    ----------
    name
        The version.
    snapshot
        Check this snapshot instead of the store in use.
    json
        Print {version, snapshot, events, rows, values, problem_count, problems}.
    """
    from state import audit

    version = registry().get(name)
    with version.reading(snapshot) as store, progress("Checking (keys)", None) as advance:
        found = audit.verify(store, version.spec, advance)
    data = {
        "version": name,
        "snapshot": snapshot,
        "events": found.events,
        "rows": {"users": found.users, "items": found.items},
        "values": found.values,
        "problem_count": found.found,
        "problems": [problem._asdict() for problem in found.problems],
    }
    head = (
        f"{name}: {found.users:,} users, {found.items:,} items and {found.values:,} other values checked, "
        f"{found.found:,} problems"
    )
    advice = "`freshet versions rebuild` compares with the log, and mends with --replace."
    emit(data, json, lambda: _listed(head, found.problems, found.found, advice))
    return 1 if found.found else 0


def rebuild(
    name: str,
    /,
    *,
    from_snapshot: int | None = None,
    replace: Switch = False,
    format: str | None = None,
    json: Switch = False,
) -> int:
    """Learn a version again from its log, and compare every key and value with its store.

    Parameters
    ----------
    name
        The version.
    from_snapshot
        Begin with this snapshot; the log before it is not needed.
    replace
        Where they differ, put the store made again in the place of the old one. No worker may run.
    format
        Format of the files (jsonl, csv, tsv, parquet), where their names do not tell.
    json
        Print {version, from_snapshot, equal, replaced, events, records, keys, different,
        differences, seconds}.
    """
    from consumers.rebuild import rebuild as learn_again

    version, settings = registry().get(name), current_settings()
    with progress("Learning again (records)", None) as advance:
        result = learn_again(
            version,
            from_snapshot=from_snapshot,
            replace=replace,
            format=format,
            client=client_of(settings),
            settings=settings.worker,
            observe=lambda done, _: advance(done),
        )
    data = {
        "version": name,
        "from_snapshot": from_snapshot,
        "equal": not result.found,
        "replaced": result.replaced,
        "events": result.events,
        "records": result.records,
        "keys": result.keys,
        "different": result.found,
        "differences": [difference._asdict() for difference in result.differences],
        "seconds": round(result.seconds, 3),
    }
    verdict = f"{result.found:,} differ" if result.found else "all are equal to the byte"
    head = f"{name}: {result.records:,} records learned again, {result.keys:,} keys compared: {verdict}"
    advice = (
        "the store was replaced" if result.replaced else "--replace puts the store made again in its place."
    )
    emit(data, json, lambda: _listed(head, result.differences, result.found, advice))
    return 0 if result.replaced or not result.found else 1


def snapshot(name: str, /, *, json: Switch = False) -> None:
    """Keep the version as it is now; a running worker commits first, and goes on.

    The oldest snapshots beyond worker.snapshots_kept go.

    Parameters
    ----------
    name
        The version.
    json
        Print {version, snapshot, snapshots}.
    """
    version = registry().get(name)
    if not version.learned_anything:
        raise VersionError(f'"{name}" has learned nothing yet; there is nothing to keep.')
    done = ask(version, "snapshot", keep=current_settings().worker.snapshots_kept)
    keep_sequences(version, done["snapshot"])
    kept = ", ".join(map(str, done["snapshots"]))
    emit({"version": name, **done}, json, f"{name}: snapshot {done['snapshot']} is kept. Snapshots: {kept}")


def restore(name: str, /, *, snapshot: str = "latest") -> None:
    """Go back to a snapshot; the next `freshet work` learns from there on. No worker may run.

    Parameters
    ----------
    name
        The version.
    snapshot
        Number of the snapshot, or "latest".
    """
    version = registry().get(name)
    number = _number_of(version, snapshot)
    with bringing_back(version, number):
        version.restore(number)
    print(f"{name} is as it was after event {number:,}")


def _number_of(version: Version, snapshot: str) -> int:
    if snapshot != "latest":
        try:
            return int(snapshot)
        except ValueError as error:
            raise UsageError(f'--snapshot must be a number or "latest", got "{snapshot}".') from error
    if not version.snapshots():
        raise VersionError(f'version "{version.name}" has no snapshots.')
    return version.snapshots()[-1]


def _listed(head: str, found: list[Any], count: int, advice: str) -> str:
    lines = [head, *(f"  {key or 'the store'}: {what}" for key, what in found[:_SHOWN])]
    if count > _SHOWN:
        lines.append(f"  and {count - _SHOWN:,} more")
    if count:
        lines.append(advice)
    return "\n".join(lines)
