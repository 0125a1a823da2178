"""What the session transformer adds to its learner: protocol P1 on four public streams, the last half.

    python -m benchmarks.sessions

`softmax` and `softmax+session` see the same events in one run of `freshet backtest`'s code, with one
configuration for all streams. "Corrected" ranks every event by h + δ, "gated" only those for which the gate
is open. Sequences by counting stand beside them: `transitions` (what followed what, lags 1 to 3) and
`item_knn`. Data is looked for in FRESHET_DATA, else in ../shared/datasets; a stream that is absent is left
out, and the report says so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.verdict import Report, data_directory, run_benchmark
from consumers.backtest import compare
from consumers.candidates import candidates_of
from consumers.eventlog.files import FilesLog
from consumers.history import History
from streaming.rules import EventRules

SEEDS = (1, 2, 3)
COUNTED = ("transitions", "item_knn")
LOST = 0.003  # HR@10 that the gate may cost at most


class Stream(NamedTuple):
    """Events, and how they are evaluated: each every-th, the first `limit` ones."""

    name: str
    exclude_seen: bool = False
    every: int = 1
    limit: int | None = None


STREAMS = (
    Stream("ml-100k", exclude_seen=True),
    Stream("online-retail", every=8),
    Stream("movietweetings-100k", exclude_seen=True, every=4),
    Stream("yoochoose-ader", every=20, limit=1_000_000),
)


def measured(stream: Stream, quick: bool) -> dict[str, Any]:
    """Rates of all rankings, means over the seeds; those that count draw nothing, and need one."""
    log = data_directory() / stream.name / "events.parquet"
    history = History(lambda: FilesLog([log], EventRules()), limit=2000 if quick else stream.limit)
    every, excluded = stream.every, stream.exclude_seen
    seeds = SEEDS[:1] if quick else SEEDS
    both = candidates_of(["softmax+session"])
    result = compare(history, both, every=every, exclude_seen=excluded, seeds=seeds).results[0]
    counted = compare(history, candidates_of(COUNTED), every=every, exclude_seen=excluded).results
    return {
        "events": history.events,
        "every": every,
        "exclude_seen": excluded,
        "seeds": list(seeds),
        "session": result.session,
        "whole_of_counted": {one.text: one.overall for one in counted},
    }


def measure(quick: bool) -> Report:
    """All streams that are there."""
    report = Report({"protocol": "P1", "configuration": "the defaults, for all streams", "streams": {}})
    for stream in STREAMS:
        if not (data_directory() / stream.name).exists():
            report.at_least(
                f"{stream.name}: gated less plain, HR@10", None, -LOST, "absent; set FRESHET_DATA"
            )
            continue
        found = report.figures["streams"][stream.name] = measured(stream, quick)
        half = {name: rates["hr@10"] for name, rates in found["session"]["last_half"].items()}
        note = ", ".join(f"{name} {rate:.4f}" for name, rate in half.items())
        report.at_least(
            f"{stream.name}: gated less plain, HR@10", round(half["gated"] - half["plain"], 5), -LOST, note
        )
        report.beside(
            f"{stream.name}: corrected less plain, HR@10", round(half["corrected"] - half["plain"], 5)
        )
        for name, rates in found["whole_of_counted"].items():
            note = f"softmax {found['session']['whole']['plain']['hr@10']:.4f}"
            report.beside(f"{stream.name}, whole: {name}, HR@10", round(rates["hr@10"], 5), note)
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("sessions", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
