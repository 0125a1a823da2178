"""`freshet versions compare`: two versions enter; how they differ on the same events leaves."""

from __future__ import annotations

from typing import Literal

from rich.console import Group, RenderableType

from consumers.commands.arguments import Switch
from consumers.commands.home import registry
from consumers.commands.output import emit, table
from state.comparison import Compared, compare_versions
from streaming.paired import Difference

Measure = Literal["hr@10", "ndcg@10", "mrr@10", "hr@20", "ndcg@20", "mrr@20"]

_WORDS = {
    "overall": "all events",
    "new_user": "of new users",
    "returning_user": "of returning users",
    "new_item": "on new items",
}


def compare(a: str, b: str, /, *, measure: Measure = "hr@10", json: Switch = False) -> None:
    """Compare two versions on the same events, each predicted before it was learned.

    Both versions draw the same events where they have the same seed, as forks do. The difference is b - a
    with its 95 % interval (normal, of the mean of paired differences; events are taken as independent).

    Parameters
    ----------
    a
        One version, such as the champion.
    b
        The other.
    measure
        The figure that is shown: hr, ndcg or mrr, @10 or @20.
    json
        Print {a, b, events, since, segments: {overall: {hr@10: {events, a, b, difference, low, high}}}}.
    """
    compared = compare_versions(registry().get(a), registry().get(b))
    segments = {
        segment: {name: one._asdict() for name, one in measures.items()}
        for segment, measures in compared.segments.items()
    }
    data = {"a": a, "b": b, "events": compared.events, "since": compared.since, "segments": segments}
    emit(data, json, lambda: _form(a, b, measure, compared))


def _form(a: str, b: str, measure: Measure, compared: Compared) -> RenderableType:
    rows = []
    for segment, measures in compared.segments.items():
        one = measures[measure]
        if one.events:
            span = f"{one.low:+.4f} … {one.high:+.4f}"
            rows.append(
                (_WORDS[segment], one.events, f"{one.a:.4f}", f"{one.b:.4f}", f"{one.difference:+.4f}", span)
            )
    columns = (measure.upper(), "events", a, b, "difference", "95 % of it")
    return Group(table(columns, rows), _verdict(a, b, compared.segments["overall"][measure]))


def _verdict(a: str, b: str, overall: Difference) -> str:
    if overall.low > 0.0:
        return f"{b} predicts better than {a}."
    if overall.high < 0.0:
        return f"{a} predicts better than {b}."
    return "Which one predicts better, these events do not tell."
