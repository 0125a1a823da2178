"""`freshet versions`: names and settings enter; versions are made, listed, checked, kept, removed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from consumers.commands.context import current_settings
from consumers.commands.output import emit, pairs, progress, table
from consumers.control import ask, worker_of
from consumers.kafka_settings import client_settings
from consumers.settings import Settings, duration
from state.ledger import Ledger, unsealed
from state.store import Store
from state.versions import Registry, Version
from streaming.errors import FreshetError, UsageError, VersionError

app = App(name="versions", help="Create, list, check, copy and remove versions.")
Json = Annotated[bool, Parameter(negative=())]
_SHOWN = 20  # problems and differences on a terminal


@app.command
def create(
    name: str,
    /,
    *,
    learner: str = "softmax",
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
) -> None:
    """Make a version that has learned nothing yet.

    Parameters
    ----------
    name
        Its name: letters, digits, '.', '_' and '-'.
    learner
        What learns.
    set_
        One setting as key=value: an option of the learner (dimension=32), or seed, evaluation_rate,
        admit_users, admit_items, admission_half_life, users_live_s, items_live_s (users_live_s=30d);
        may be repeated. They hold for good.
    """
    from state.spec import new_spec  # asks the learner for its options, so it loads compiled kernels

    spec = new_spec(learner, _given(set_ or []))
    _registry().create(name, spec)
    print(f"{name}: a version with the learner {spec.learner}. Teach it: `freshet work {name} --from …`")


@app.command(name="list")
def list_(*, json: Json = False) -> None:
    """List all versions.

    Parameters
    ----------
    json
        Print a list of {name, state, learner, events, watermark, snapshots, bytes}.
    """
    rows = [_brief(version) for version in map(_registry().get, _registry().names())]
    columns = ["name", "state", "learner", "events", "watermark", "snapshots", "MB"]
    emit(
        rows,
        json,
        lambda: (
            table(
                columns,
                [
                    [*(row[c] for c in columns[:-2]), len(row["snapshots"]), row["bytes"] / 1e6]
                    for row in rows
                ],
            )
            if rows
            else "no versions yet; make one with `freshet versions create NAME`"
        ),
    )


@app.command
def show(name: str, /, *, json: Json = False) -> None:
    """Show what a version is, where it stands and how well it predicts; also while its worker runs.

    Parameters
    ----------
    name
        The version.
    json
        Print {name, state, learner, store, offsets, rows, spec, …}.
    """
    data = _whole(_registry().get(name))
    emit(data, json, lambda: pairs(_shown(data)))


@app.command
def delete(name: str, /, *, yes: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Remove a version, all it learned and its snapshots.

    Parameters
    ----------
    name
        The version.
    yes
        Do not ask.
    """
    version = _registry().get(name)
    if not yes and not _agreed(version):
        print(f"{name} is kept", file=sys.stderr)
        return 1
    _registry().delete(name)
    print(f"{name} is deleted")
    return 0


@app.command
def verify(name: str, /, *, snapshot: int | None = None, json: Json = False) -> int:
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

    version = _registry().get(name)
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


@app.command
def rebuild(
    name: str,
    /,
    *,
    from_snapshot: int | None = None,
    replace: Annotated[bool, Parameter(negative=())] = False,
    format: str | None = None,
    json: Json = False,
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

    version, settings = _registry().get(name), current_settings()
    with progress("Learning again (records)", None) as advance:
        result = learn_again(
            version,
            from_snapshot=from_snapshot,
            replace=replace,
            format=format,
            client=_client(settings),
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


@app.command
def snapshot(name: str, /, *, json: Json = False) -> None:
    """Keep the version as it is now; a running worker commits first, and goes on.

    The oldest snapshots beyond worker.snapshots_kept go.

    Parameters
    ----------
    name
        The version.
    json
        Print {version, snapshot, snapshots}.
    """
    version = _registry().get(name)
    if not version.learned_anything:
        raise VersionError(f'"{name}" has learned nothing yet; there is nothing to keep.')
    done = ask(version, "snapshot", keep=current_settings().worker.snapshots_kept)
    kept = ", ".join(map(str, done["snapshots"]))
    emit({"version": name, **done}, json, f"{name}: snapshot {done['snapshot']} is kept. Snapshots: {kept}")


@app.command
def restore(name: str, /, *, snapshot: str = "latest") -> None:
    """Go back to a snapshot; the next `freshet work` learns from there on. No worker may run.

    Parameters
    ----------
    name
        The version.
    snapshot
        Number of the snapshot, or "latest".
    """
    version = _registry().get(name)
    number = _number(version, snapshot)
    version.restore(number)
    print(f"{name} is as it was after event {number:,}")


def _registry() -> Registry:
    return Registry(current_settings().home)


def _given(pairs_given: list[str]) -> dict[str, Any]:
    """key → value as text, from key=value; times as seconds.

    >>> _given(["dimension=32", "users_live_s=2h"])
    {'dimension': '32', 'users_live_s': '7200'}
    """
    given: dict[str, Any] = {}
    for each in pairs_given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise UsageError(f'--set must be followed by key=value, got "{each}".')
        given[key.strip()] = _seconds(value) if key.strip().endswith("_s") else value
    return given


def _seconds(text: str) -> str:
    try:
        return f"{duration(text):.0f}"
    except ValueError:
        return text  # a number of seconds, or what the spec refuses by name


def _number(version: Version, snapshot: str) -> int:
    if snapshot != "latest":
        try:
            return int(snapshot)
        except ValueError as error:
            raise UsageError(f'--snapshot must be a number or "latest", got "{snapshot}".') from error
    if not version.snapshots():
        raise VersionError(f'version "{version.name}" has no snapshots.')
    return version.snapshots()[-1]


def _agreed(version: Version) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f'Deleting "{version.name}" must be confirmed; without a terminal that is --yes.')
    print(
        f"Delete {version.name}, {_bytes(version.path) / 1e6:,.1f} MB, for good? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _state(version: Version, ledger: Ledger) -> str:
    if worker_of(version) is not None:
        return "learning"
    return "idle" if ledger.records else "new"


def _ledger(version: Version) -> Ledger:
    if not version.learned_anything:
        return Ledger()
    with version.reading() as store:
        return Ledger.read(store)


def _brief(version: Version) -> dict[str, Any]:
    """What the list says of a version; one that cannot be read is in it nevertheless."""
    try:
        ledger = _ledger(version)
        state = _state(version, ledger)
    except FreshetError as error:
        print(f"warning: {version.name}: {error}", file=sys.stderr)
        ledger, state = Ledger(), "damaged"
    return {
        "name": version.name,
        "state": state,
        "learner": version.spec.learner,
        "events": ledger.number,
        "watermark": _moment(ledger.watermark),
        "snapshots": version.snapshots(),
        "bytes": _bytes(version.path),
    }


def _whole(version: Version) -> dict[str, Any]:
    data = {
        "name": version.name,
        "state": "new",
        "learner": version.spec.learner,
        "store": str(version.store_path.absolute()),
        "offsets": {},
        "rows": {"users": 0, "items": 0},
        "spec": msgspec.to_builtins(version.spec),
        "events": 0,
        "learned": 0,
        "dead_letters": 0,
        "watermark": None,
        "worker": worker_of(version),
        "snapshots": version.snapshots(),
        "bytes": {"store": _bytes(version.store_path), "all": _bytes(version.path)},
        "prequential": None,
    }
    if not version.learned_anything:
        return data
    with version.reading() as store:
        ledger = Ledger.read(store)
        return data | {
            "state": _state(version, ledger),
            "offsets": {source.name: source.next_offset for source in ledger.sources},
            "rows": {"users": store.count(b"u"), "items": store.count(b"i")},
            "events": ledger.number,
            "learned": ledger.learned,
            "dead_letters": ledger.bad,
            "watermark": _moment(ledger.watermark),
            "prequential": _prequential(store),
        }


def _prequential(store: Store) -> dict[str, Any] | None:
    from streaming.evaluation import Prequential

    value = store.get_many([b"mprequential"])[0]
    if value is None:
        return None
    return Prequential.restored(msgspec.json.decode(unsealed(b"mprequential", value))).summary()


def _shown(data: Mapping[str, Any]) -> dict[str, object]:
    """The data of a version in lines for people."""
    spec, prequential = data["spec"], data["prequential"]
    shown = {key: data[key] for key in ("name", "state", "learner", "store", "events", "learned")}
    shown["offsets"] = data["offsets"] or "–"
    shown |= {"users": data["rows"]["users"], "items": data["rows"]["items"]}
    shown |= {"refused records": data["dead_letters"], "newest event": data["watermark"]}
    if prequential is not None and prequential["overall"]["events"]:
        overall = prequential["overall"]
        shown["hit rate at 10"] = (
            f"{overall['hr@10']:.3f} over {overall['events']:,} events, before each was learned"
        )
    shown["snapshots"] = ", ".join(map(str, data["snapshots"])) or "none"
    shown["size"] = (
        f"{data['bytes']['store'] / 1e6:,.1f} MB, with snapshots {data['bytes']['all'] / 1e6:,.1f} MB"
    )
    shown["options"] = spec["options"]
    shown["settings"] = {k: v for k, v in spec.items() if k not in ("learner", "options")}
    return shown


def _client(settings: Settings) -> dict[str, Any] | None:
    """Settings of Kafka's client, where a Kafka is named."""
    if not settings.kafka.bootstrap_servers:
        return None
    from kafka import KafkaConsumer  # versions of files do without

    return client_settings(settings, KafkaConsumer)


def _listed(head: str, found: list[Any], count: int, advice: str) -> str:
    lines = [head, *(f"  {key or 'the store'}: {what}" for key, what in found[:_SHOWN])]
    if count > _SHOWN:
        lines.append(f"  and {count - _SHOWN:,} more")
    if count:
        lines.append(advice)
    return "\n".join(lines)


def _moment(seconds: int) -> str | None:
    """RFC 3339.

    >>> _moment(1_700_000_000)
    '2023-11-14T22:13:20Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def _bytes(path: Path) -> int:
    """Bytes of all files below a directory; a file that goes meanwhile does not count."""
    total, seen = 0, set()
    for each in path.rglob("*"):
        try:
            status = each.stat()
        except FileNotFoundError:
            continue
        # Snapshots are hard links of the store's files.
        if each.is_file() and status.st_ino not in seen:
            seen.add(status.st_ino)
            total += status.st_size
    return total
