"""`freshet versions`: names and settings enter; versions are made, listed, shown and removed.

The other commands stand in modules of their own, which are loaded when they run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.home import registry, releases
from consumers.commands.output import emit, pairs, table
from consumers.commands.version_parts import client_of, given_of, moment_of
from consumers.control import worker_of
from consumers.sessions_care import sequences_in_words, shown_sequences
from consumers.standing import Standing, standings
from state.directories import VersionDirectory
from state.evaluations import read_prequential
from state.ledger import Ledger
from state.lineage import read_lineage
from state.rocksdb import RocksStore
from state.sequences_directory import holding_sequences
from state.versions import Version
from streaming.errors import FreshetError, UsageError

app = App(name="versions", help="Create, list, check, fork, promote, compare and remove versions.")
_ELSEWHERE = (
    ("version_changes", "fork", "Make a version that goes on from what another one has learned."),
    ("version_changes", "promote", "Make a version the champion."),
    ("version_changes", "rollback", "Go back to the champion that was replaced last."),
    ("version_changes", "retire", "Take a version out of service."),
    ("version_changes", "log", "Show what was decided: when, what, why, by whom."),
    ("version_comparison", "compare", "Compare two versions on the same events."),
    ("version_care", "verify", "Check every checksum, and that all in the store agrees."),
    ("version_care", "rebuild", "Learn a version again from its log, and compare."),
    ("version_care", "snapshot", "Keep the version as it is now."),
    ("version_care", "restore", "Go back to a snapshot."),
    ("version_vectors", "export", "Write the vectors of items or users to a parquet file."),
)
for _module, _name, _help in _ELSEWHERE:
    app.command(f"consumers.commands.{_module}:{_name}", name=_name, help=_help)


@app.command
def create(
    name: str,
    /,
    *,
    learner: str = "softmax",
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    from_vectors: Path | None = None,
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
    from_vectors
        A parquet file with columns id and vector, and perhaps bias, as `freshet versions export` writes: the
        items begin with these.
    """
    from state.spec import new_spec  # asks the learner for its options, so it loads compiled kernels

    spec = new_spec(learner, given_of(set_ or []))
    begins = ""
    if from_vectors is None:
        registry().create(name, spec)
    else:
        from state.vectors import create_from_vectors

        begins = f" that begins with {create_from_vectors(registry(), name, spec, from_vectors):,} items"
    learns = f"a version with the learner {spec.learner}{begins}"
    print(f"{name}: {learns}. Teach it: `freshet work {name} --from …`")


@app.command(name="list")
def list_(*, json: Switch = False) -> None:
    """List all versions.

    Parameters
    ----------
    json
        Print a list of {name, state, worker, learner, events, behind, behind_s, watermark, snapshots,
        bytes}.
    """
    rows = _rows()
    columns = ["name", "state", "worker", "learner", "events", "behind", "watermark", "snapshots", "MB"]
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
def show(name: str, /, *, json: Switch = False) -> None:
    """Show what a version is, where it stands and how well it predicts; also while its worker runs.

    Its state is new (nothing learned yet), catching up, ready (as near to its log's end as
    versions.ready_behind or versions.ready_behind_time say), serving (the champion, or in the route) or
    retired.

    Parameters
    ----------
    name
        The version.
    json
        Print {name, state, behind, behind_s, learner, store, offsets, rows, spec, …}.
    """
    data = _whole(registry().get(name))
    emit(data, json, lambda: pairs(_shown(data)))


@app.command
def delete(name: str, /, *, yes: Switch = False, why: str = "") -> int:
    """Remove a version, all it learned and its snapshots; also one whose files are damaged.

    Parameters
    ----------
    name
        The version.
    yes
        Do not ask.
    why
        The reason, for `freshet versions log`.
    """
    path = registry().path_of(name)
    if not yes and not _agreed(VersionDirectory(name, path)):
        print(f"{name} is kept", file=sys.stderr)
        return 1
    with holding_sequences(VersionDirectory(name, path)), releases().deleting(name, why):
        registry().delete(name)
    print(f"{name} is deleted")
    return 0


def _agreed(version: VersionDirectory) -> bool:
    if not sys.stdin.isatty():
        raise UsageError(f'Deleting "{version.name}" must be confirmed; without a terminal that is --yes.')
    print(
        f"Delete {version.name}, {_bytes(version.path) / 1e6:,.1f} MB, for good? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _ledger(version: Version) -> Ledger:
    if not version.learned_anything:
        return Ledger()
    with version.reading() as store:
        return Ledger.read(store)


def _rows() -> list[dict[str, Any]]:
    """What the list says; versions that cannot be read are in it nevertheless."""
    versions: dict[str, Version] = {}
    ledgers: dict[str, Ledger] = {}
    for name in registry().names():
        try:
            version = registry().get(name)
            ledgers[name] = _ledger(version)
            versions[name] = version
        except (FreshetError, OSError) as error:
            print(f"warning: {name}: {error}", file=sys.stderr)
    stand = _standings(ledgers, versions.values())
    rows = []
    for name in registry().names():
        path, known = registry().path_of(name), versions.get(name)
        ledger, standing = ledgers.get(name, Ledger()), stand.get(name, Standing("damaged"))
        rows.append(
            {
                "name": name,
                "state": standing.state if known else "damaged",
                "worker": worker_of(known) if known else None,
                "learner": known.spec.learner if known else None,
                "events": ledger.number,
                "behind": standing.behind,
                "behind_s": standing.behind_s,
                "watermark": moment_of(ledger.watermark),
                "snapshots": known.snapshots() if known else [],
                "bytes": _bytes(path),
            }
        )
    return rows


def _standings(ledgers: Mapping[str, Ledger], versions: Iterable[Version]) -> dict[str, Standing]:
    settings = current_settings()
    return standings(ledgers, versions, releases().read(), settings, client_of(settings))


def _whole(version: Version) -> dict[str, Any]:
    ledger = _ledger(version)
    standing = _standings({version.name: ledger}, [version])[version.name]
    data = {
        "name": version.name,
        "state": standing.state,
        "behind": standing.behind,
        "behind_s": standing.behind_s,
        "learner": version.spec.learner,
        "store": str(version.store_path.absolute()),
        "offsets": {source.name: source.next_offset for source in ledger.sources},
        "rows": {"users": 0, "items": 0},
        "spec": msgspec.to_builtins(version.spec),
        "events": ledger.number,
        "learned": ledger.learned,
        "dead_letters": ledger.bad,
        "watermark": moment_of(ledger.watermark),
        "worker": worker_of(version),
        "snapshots": version.snapshots(),
        "bytes": {"store": _bytes(version.store_path), "all": _bytes(version.path)},
        "prequential": None,
        "lineage": [],
        "sequences": None,
    }
    if not version.learned_anything:
        return data
    with version.reading() as store:
        return data | _stored(store) | {"sequences": shown_sequences(version)}


def _stored(store: RocksStore) -> dict[str, Any]:
    """What takes a reading of the store."""
    prequential = read_prequential(store)
    return {
        "rows": {"users": store.count(b"u"), "items": store.count(b"i")},
        "prequential": prequential.summary() if prequential is not None else None,
        "lineage": msgspec.to_builtins(read_lineage(store)),
    }


def _shown(data: Mapping[str, Any]) -> dict[str, object]:
    """The data of a version in lines for people."""
    spec, prequential = data["spec"], data["prequential"]
    shown = {key: data[key] for key in ("name", "state", "worker", "learner", "store", "events", "learned")}
    shown["behind"] = Standing(data["state"], data["behind"], data["behind_s"]).in_words
    shown["offsets"] = data["offsets"] or "–"
    shown |= {"users": data["rows"]["users"], "items": data["rows"]["items"]}
    shown |= {"refused records": data["dead_letters"], "newest event": data["watermark"]}
    if prequential is not None and prequential["overall"]["events"]:
        overall = prequential["overall"]
        shown["hit rate at 10"] = (
            f"{overall['hr@10']:.3f} over {overall['events']:,} events, before each was learned"
        )
    for origin in data["lineage"]:
        changed = f"; {origin['detail']}" if origin["detail"] else ""
        shown["began as"] = f"{origin['kind']} of {origin['source']} at event {origin['number']:,}{changed}"
    shown |= sequences_in_words(data["sequences"])
    shown["snapshots"] = ", ".join(map(str, data["snapshots"])) or "none"
    shown["size"] = (
        f"{data['bytes']['store'] / 1e6:,.1f} MB, with snapshots {data['bytes']['all'] / 1e6:,.1f} MB"
    )
    shown["options"] = spec["options"]
    shown["settings"] = {k: v for k, v in spec.items() if k not in ("learner", "options")}
    return shown


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
