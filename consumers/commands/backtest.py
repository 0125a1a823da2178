"""`freshet backtest`: learners side by side on the same history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from consumers.backtest import Comparison, compare, compile_kernels, usual_every
from consumers.candidates import Candidate, candidates_of, parsed_sweep, swept
from consumers.commands.arguments import Switch
from consumers.commands.comparison import SweepReport, comparison_tables, summary_of, sweep_report
from consumers.commands.context import current_settings
from consumers.commands.output import emit, progress, stderr, stdout
from consumers.event_rules import event_rules
from consumers.eventlog.files import FilesLog
from consumers.history import History, check_where, doubt_of_where, parsed_where
from consumers.plots import check_picture_path, save_picture, sketch
from streaming.errors import InputError, UsageError, nearest
from streaming.rules import EventRules

_SHOWN_BAD = 3
_OPTIONS = (
    "--learner",
    "--where",
    "--exclude-seen",
    "--every",
    "--limit",
    "--sweep",
    "--seed",
    "--plot",
    "--json",
)
_LARGEST_SEED = 2**63 - 1


def backtest(
    *files: Annotated[str, Parameter(allow_leading_hyphen=True)],
    learner: Annotated[list[str] | None, Parameter(negative=())] = None,
    where: Annotated[list[str] | None, Parameter(negative=())] = None,
    exclude_seen: Switch = False,
    every: int | None = None,
    limit: int | None = None,
    sweep: str | None = None,
    seed: Annotated[list[int] | None, Parameter(negative=())] = None,
    format: str | None = None,
    plot: Path | None = None,
    json: Switch = False,
) -> int:
    """Compare learners over history, side by side on the same events.

    Every event is first predicted, then learned: exact ranks over all items, by the code of the worker.

    Parameters
    ----------
    files
        Event files (JSON lines, CSV, parquet, plain or .gz or .zst); "-" is standard input. Events are
        taken in the order of their times. One file in this order is streamed; otherwise, and with several
        files or standard input, events are held in memory, about 150 bytes each while they are sorted,
        and their ids.
    learner
        A learner to be tried, as name or name:option=value,… (softmax:dimension=32); may be repeated.
        Without it, the usual ones.
    where
        Only events whose field has this value, as field=value; may be repeated, then all must hold.
    exclude_seen
        Rank only items that the user has not had yet.
    every
        Evaluate only each n-th event by position; all are learned. Without it every event, or about
        100,000 of a history of 200,000 or more.
    limit
        Only the first so many events.
    sweep
        Try values of one option, as option=v1,v2,… (dimension=16,32,64,128); of softmax where no learner is
        named.
    seed
        Seed of the randomness; when repeated, each learner runs with each, and means are shown with
        their standard deviation.
    format
        Format of the files (jsonl, csv, tsv, parquet), where their names do not tell.
    plot
        Write the learning curves to this file (.png, .svg or .pdf).
    json
        Print the figures as JSON.
    """
    _check_words(files)
    _check_numbers(every, limit, seed)
    if plot is not None:
        check_picture_path(plot)
    wanted = parsed_sweep(sweep) if sweep else None
    candidates = candidates_of(learner or (["softmax"] if wanted else []))
    groups = [swept(one, wanted) for one in candidates] if wanted else [candidates]
    rules = replace(event_rules(current_settings()), where=parsed_where(where or []))
    history = _history(files, rules, limit, format)
    every = every or _usual_every(history)
    everyone = [one for group in groups for one in group]
    comparison = _compare(history, everyone, every, exclude_seen, seed or [1])
    reports = [sweep_report(wanted.key, group, comparison) for group in groups] if wanted else []
    data = _data(history, comparison, files) | ({"sweep": [r.data for r in reports]} if wanted else {})
    if plot is not None:
        save_picture(comparison, plot, _title(files), summary_of(comparison))
    if json:
        emit(data, as_json=True)
    else:
        _show(comparison, reports)
    return 0


def _check_words(files: Sequence[str]) -> None:
    """Raise for an option that there is not; it is among the files, which "-" may be, too."""
    for word in files:
        if word.startswith("--"):
            near = nearest(word, _OPTIONS)
            raise UsageError(f'"{word}" is not an option of backtest.{near} See `freshet backtest --help`.')


def _check_numbers(every: int | None, limit: int | None, seeds: Sequence[int] | None) -> None:
    for name, number in (("every", every), ("limit", limit)):
        if number is not None and number < 1:
            raise UsageError(f"--{name} must be 1 or more, got {number}.")
    for seed in seeds or ():
        if not 0 <= seed <= _LARGEST_SEED:
            raise UsageError(f"--seed must be from 0 to {_LARGEST_SEED}, got {seed}.")
    if seeds and len(set(seeds)) < len(seeds):
        raise UsageError("--seed: a seed is given twice, which would give the same figures twice.")


def _history(files: Sequence[str], rules: EventRules, limit: int | None, format: str | None) -> History:
    """The events of the files; bad records are reported, and it is an error if no event is left."""

    def open_log() -> FilesLog:
        return FilesLog(files, rules, format=format)

    log = open_log()
    size = log.progress()[1]
    log.close()
    if rules.where:
        check_where(files, rules)
        if doubt := doubt_of_where(files, rules):
            stderr.print(doubt, soft_wrap=True)
    with progress("Looking through the events (bytes)", size or None) as show:
        history = History(open_log, limit=limit, observe=show)
    if history.bad:
        stderr.print(f"{history.bad:,} bad records are left out:")
        for source, bad in history.bad_records[:_SHOWN_BAD]:
            stderr.print(f"  {source}@{bad.offset}: {bad.reason}", soft_wrap=True)
    if not history.events:
        if rules.where:
            check_where(files, rules, none_passed=True)
            shown = ", ".join(f"{field}={value}" for field, value in rules.where)
            raise UsageError(
                f"--where {shown}: no event has this, so there is nothing to compare learners on."
            )
        raise InputError(
            f"{', '.join(files)}: no events ({history.bad:,} bad records); nothing can be compared."
        )
    if not history.in_order:
        stderr.print(f"The files are not in time order: {history.records:,} events were sorted in memory.")
    return history


def _usual_every(history: History) -> int:
    """Which part of the events is evaluated where nobody said; it is told if not all are."""
    every = usual_every(history.events)
    if every > 1:
        stderr.print(
            f"{history.events:,} events: one in {every} is evaluated, which is quick; --every 1 does all.",
            soft_wrap=True,
        )
    return every


def _compare(
    history: History, candidates: Sequence[Candidate], every: int, exclude_seen: bool, seeds: Sequence[int]
) -> Comparison:
    with stderr.status("Loading kernels; those that are new are compiled, once, for about a minute"):
        compile_kernels(history, candidates)
    total = history.events * len(candidates) * len(seeds)
    with progress(f"Predicting and learning ({len(candidates)} learners)", total) as show:
        return compare(
            history,
            candidates,
            every=every,
            exclude_seen=exclude_seen,
            seeds=seeds,
            batch_events=current_settings().worker.batch_events,
            observe=show,
        )


def _show(comparison: Comparison, reports: Sequence[SweepReport]) -> None:
    """The form for people; with the learning curves where there is a terminal."""
    console = stdout()
    for part in comparison_tables(comparison):
        console.print(part)
    for report in reports:
        console.print(report.human)
    if console.is_terminal:
        console.print(sketch(comparison, width=max(20, min(100, console.width - 12))))


def _data(history: History, comparison: Comparison, files: Sequence[str]) -> dict[str, Any]:
    """The JSON form."""
    entries = {}
    for result in comparison.results:
        entry = asdict(result) | {
            "memory_bytes": result.memory_bytes,
            "standard_error": result.standard_error,
        }
        del entry["text"]
        entries[result.text] = entry
    return {
        "events": comparison.events,
        "protocol": "P1",
        "files": list(files),
        "every": comparison.every,
        "exclude_seen": comparison.exclude_seen,
        "seeds": comparison.seeds,
        "bad_records": history.bad,
        "time_ordered": history.in_order,
        "best": comparison.best.text,
        "learners": entries,
    }


def _title(files: Sequence[str]) -> str:
    """The files by name, with the directory, which often tells more."""
    return ", ".join("standard input" if f == "-" else "/".join(Path(f).absolute().parts[-2:]) for f in files)
