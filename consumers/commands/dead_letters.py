"""`freshet dead-letters`: the records that a version refused leave, each position once, or are sent again."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from cyclopts import App
from kafka import KafkaConsumer

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.home import registry
from consumers.commands.output import emit, progress, stderr, table
from consumers.dead_letter_topic import KafkaDeadLetters
from consumers.dead_letters import DeadLetter, DeadLetters
from consumers.kafka_settings import client_settings
from streaming.errors import UsageError, nearest

app = App(name="dead-letters", help="Show the records that a version refused, and send them again.")
# Rows of parquet are kept as JSON; those of CSV mean nothing without their header.
_JSON_SOURCE = re.compile(r"^-$|\.(jsonl|ndjson|json)(\.gz|\.zst)?$|\.parquet$", re.IGNORECASE)


@app.command(name="list")
def list_(version: str, /, *, json: Switch = False) -> None:
    """List what was refused: source, offset, line and reason.

    Parameters
    ----------
    version
        The version whose worker refused the records.
    json
        Print a list of {source, offset, reason, raw, line, length, retried}.
    """
    letters = list(_letters(version))
    rows = [[each.source, each.offset, each.line, each.retried, each.reason] for each in letters]
    columns = ["source", "offset", "line", "sent again", "reason"]
    emit(letters, json, lambda: table(columns, rows) if rows else "no dead letters")


@app.command
def show(version: str, source: str, offset: int, /, *, json: Switch = False) -> None:
    """Print one refused record: its first bytes as they came.

    Parameters
    ----------
    version
        The version whose worker refused it.
    source
        The file, or its name where only one has it; or topic[partition].
    offset
        Position in the source; the line of a text file is one more.
    json
        Print {source, offset, reason, raw, line, length, retried}.
    """
    letters = list(_letters(version))
    name = _source(source, list(dict.fromkeys(each.source for each in letters)))
    letter = next((each for each in letters if each.source == name and each.offset == offset), None)
    if letter is None:
        raise UsageError(f'"{version}" refused no record of {name} at offset {offset}.')
    if json:
        emit(letter, True)
        return
    print(_safe(letter.raw))
    print(letter.reason, file=sys.stderr)
    if letter.length is not None:
        print(f"these are the first bytes of {letter.length:,}", file=sys.stderr)


@app.command
def retry(
    version: str,
    source: str | None = None,
    offset: int | None = None,
    /,
    *,
    out: Path | None = None,
    json: Switch = False,
) -> None:
    """Send refused records again, each once, after what was wrong with the settings or the code is mended.

    Records of a topic go to their partition of that topic, with the header `freshet-retried`, and the
    worker reads them as new ones. Records of files go to the file of --out, one a line, to be mended where
    they need it and learned with `freshet work VERSION --from FILE`.

    Parameters
    ----------
    version
        The version whose worker refused them.
    source
        Only those of this topic[partition] or file.
    offset
        Only the one at this position.
    out
        File for the records that came from files; it must not exist.
    json
        Print {sent, written, left_out}.
    """
    chosen = registry().get(version)
    topic = _topic(version)
    found = list(topic.letters()) if topic is not None else []
    filed = list(DeadLetters(chosen.dead_letters_path).read())
    if source is not None:
        known = [*(each.letter.source for each in found), *(each.source for each in filed)]
        name = _source(source, list(dict.fromkeys(known)))
        found = [
            each for each in found if each.letter.source == name and offset in (None, each.letter.offset)
        ]
        filed = [each for each in filed if each.source == name and offset in (None, each.offset)]
    waiting = [each for each in found if not each.letter.retried]
    whole = [each for each in waiting if each.letter.length is None]
    written = _write(filed, out) if out is not None else 0
    sent = 0
    if topic is not None and whole:
        with progress("Sending again", len(whole)) as tell:
            sent = topic.retry(whole, tell)
    left_out = len(waiting) - len(whole) + len(filed) - written
    report = {"sent": sent, "written": written, "left_out": left_out}
    emit(report, json)
    if filed and out is None:
        stderr.print(f"{len(filed):,} records came from files; --out FILE writes them there")
    elif left_out:
        stderr.print(
            f"{left_out:,} records are not kept whole, or are no JSON lines: take them from their source"
        )


def _write(letters: list[DeadLetter], out: Path) -> int:
    """Write those records that are kept whole and have a line of their own; returns how many."""
    lines = [
        each.raw
        for each in letters
        if each.length is None and "\n" not in each.raw and _JSON_SOURCE.search(each.source)
    ]
    try:
        with out.open("x", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
    except FileExistsError as error:
        raise UsageError(f"--out: {out} exists already. Name a new file.") from error
    except OSError as error:
        raise UsageError(f"--out: {out} cannot be written: {error.strerror}. Name another file.") from error
    return len(lines)


def _letters(version: str) -> Iterator[DeadLetter]:
    """Those in the version's file, then those in the dead letter topic where Kafka is set."""
    yield from DeadLetters(registry().get(version).dead_letters_path).read()
    topic = _topic(version)
    if topic is not None:
        yield from topic.read()


def _topic(version: str) -> KafkaDeadLetters | None:
    settings = current_settings()
    if not settings.kafka.bootstrap_servers:
        return None
    return KafkaDeadLetters(settings.events.topic, version, client_settings(settings, KafkaConsumer))


def _source(given: str, known: list[str]) -> str:
    """The source that is meant by a name or a path.

    >>> _source("a.jsonl", ["/data/a.jsonl", "/data/b.jsonl"])
    '/data/a.jsonl'
    """
    for meant in (given, os.path.abspath(given)):
        if meant in known:
            return meant
    named = [source for source in known if os.path.basename(source) == given]
    if len(named) == 1:
        return named[0]
    names = ", ".join(known) or "none"
    raise UsageError(f'No records of "{given}" were refused.{nearest(given, known)} Sources: {names}.')


def _safe(raw: str) -> str:
    """A record for the terminal, which must not obey what it holds; a file or pipe gets all as it is."""
    if not sys.stdout.isatty():
        return raw
    return "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in raw)
