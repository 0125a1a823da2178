"""The results of a backtest enter; tables and advice to read leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consumers.backtest import Comparison, Result
from consumers.candidates import Candidate
from consumers.plots import SEGMENTS

_RATES = ("hr@10", "ndcg@10", "mrr@10", "hr@20", "ndcg@20", "mrr@20")
_BEST = "bold green"


def comparison_tables(comparison: Comparison) -> Iterator[RenderableType]:
    """What was compared, quality and cost of each learner, quality by segment, and how to read them."""
    yield Text(summary_of(comparison) + "\n")
    yield _quality(comparison)
    yield Text()
    yield _segments(comparison)
    yield Text()
    yield _costs(comparison)
    errors = [result for result in comparison.results if result.rating_error is not None]
    if errors:
        yield Text()
        yield _rating_errors(errors)
    yield Text(_reading(comparison), style="dim")


def summary_of(comparison: Comparison) -> str:
    """What was measured, in a line."""
    evaluated = int(comparison.best.overall["events"])
    drawn = f"{evaluated:,} of them (one in {comparison.every})" if comparison.every > 1 else "each"
    seen = "; without what the user had" if comparison.exclude_seen else ""
    how = f"ranked among all items before being learned (protocol P1{seen})"
    return f"{comparison.events:,} events, {drawn} {how}"


def _new_table(first: str, columns: Sequence[str]) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column(first, overflow="fold")
    for name in columns:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def _quality(comparison: Comparison) -> Table:
    made = _new_table("learner", [name.upper() for name in _RATES])
    best = {name: max(_rounded(result.overall[name]) for result in comparison.results) for name in _RATES}
    for result in comparison.results:
        first = result is comparison.best
        made.add_row(
            Text(f"{'★' if first else ' '} {result.text}", style=_BEST if first else ""),
            *(_rate(result.overall[name], best[name]) for name in _RATES),
        )
        if result.sd:
            made.add_row(
                *(Text(t, style="dim") for t in ["  ± sd", *(f"{result.sd[n]:.4f}" for n in _RATES)])
            )
    return made


def _costs(comparison: Comparison) -> Table:
    made = _new_table("cost", ["events/s", "learned/s", "B/user", "B/item", "rows", "memory"])
    for result in comparison.results:
        made.add_row(
            f"  {result.text}",
            f"{result.events_per_second:,.0f}",
            "–" if result.learning_per_second is None else f"{result.learning_per_second:,.0f}",
            f"{result.row_bytes['user']:,}",
            f"{result.row_bytes['item']:,}",
            f"{sum(result.rows.values()):,}",
            _size(result.memory_bytes),
        )
    return made


def _segments(comparison: Comparison) -> Table:
    first = comparison.results[0]
    shares = [first.segments[name]["events"] / max(1.0, first.overall["events"]) for name in SEGMENTS]
    made = _new_table(
        "HR@10 by segment",
        [f"{label} ({share:.1%})" for label, share in zip(SEGMENTS.values(), shares, strict=True)],
    )
    best = {n: max(_rounded(r.segments[n]["hr@10"]) for r in comparison.results) for n in SEGMENTS}
    for result in comparison.results:
        made.add_row(f"  {result.text}", *(_rate(result.segments[n]["hr@10"], best[n]) for n in SEGMENTS))
    return made


def _rating_errors(results: Sequence[Result]) -> Table:
    made = _new_table("predicted value (protocol P2)", ["MAE", "RMSE"])
    for result in results:
        error = result.rating_error or {}
        made.add_row(f"  {result.text}", f"{error['mae']:.4f}", f"{error['rmse']:.4f}")
    return made


def _reading(comparison: Comparison) -> str:
    return (
        f"\n★ highest HR@10; chance alone moves it by about ±{comparison.best.standard_error:.4f}\n"
        "new item: had by fewer than 5 events before\n"
        "events/s: with evaluation; learned/s: without; B/user, B/item: bytes of a row in memory\n"
    )


def _rounded(rate: float) -> float:
    """A rate as it is shown, so that equal figures are marked alike; a missing one is below all."""
    return round(rate, 4) if rate == rate else -1.0


def _rate(rate: float, best: float) -> Text:
    if rate != rate:
        return Text("–")
    return Text(f"{rate:.4f}", style=_BEST if _rounded(rate) >= best > 0.0 else "")


def _size(size: float) -> str:
    """Bytes in the unit that fits.

    >>> _size(532), _size(5_320_000)
    ('532 B', '5.3 MB')
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


class SweepReport(NamedTuple):
    """What a sweep showed: as data, and to be read."""

    data: dict[str, Any]
    human: RenderableType


def sweep_report(key: str, group: Sequence[Candidate], comparison: Comparison) -> SweepReport:
    """Quality against memory and speed for each value of an option, and what to take.

    The advice: of the values whose HR@10 is within one standard error of the best, the one that takes
    least memory (Breiman et al. 1984, the one-standard-error rule).
    """
    texts = [one.text for one in group]
    results = [result for result in comparison.results if result.text in texts]
    values = [one.options[key] for one in group]
    best = max(range(len(results)), key=lambda k: results[k].overall["hr@10"])
    near = results[best].overall["hr@10"] - results[best].standard_error
    good = [k for k in range(len(results)) if results[k].overall["hr@10"] >= near]
    take = min(good, key=lambda k: (results[k].memory_bytes, -results[k].overall["hr@10"]))
    ids = sum(results[0].rows.values())
    thumb = ids**0.25 if key == "dimension" else None
    data = {
        "learner": group[0].learner,
        "option": key,
        "values": values,
        "best": values[best],
        "advised": values[take],
        "rule_of_thumb": None if thumb is None else {"ids": ids, "dimension": thumb},
    }
    advice = _advice(key, values, results, best, take)
    if thumb is not None:
        advice += f"\nRule of thumb, d ≈ ⁴√(number of ids): ⁴√{ids:,} ≈ {thumb:.0f}. "
        advice += _against_thumb(values[take], thumb)
    return SweepReport(
        data, Group(_sweep_table(key, values, results, best, take), Text("\n" + advice + "\n"))
    )


def _sweep_table(key: str, values: Sequence[str], results: Sequence[Result], best: int, take: int) -> Table:
    made = _new_table(
        f"{results[0].learner}: {key}", ["HR@10", "of best", "memory", "of most", "learned/s", ""]
    )
    most = max(result.memory_bytes for result in results)
    top = results[best].overall["hr@10"]
    for k, (value, result) in enumerate(zip(values, results, strict=True)):
        speed = result.learning_per_second or result.events_per_second
        made.add_row(
            Text(f"  {value}", style=_BEST if k == take else ""),
            f"{result.overall['hr@10']:.4f}",
            f"{result.overall['hr@10'] / top:.1%}" if top else "–",
            _size(result.memory_bytes),
            f"{result.memory_bytes / most:.0%}",
            f"{speed:,.0f}",
            " ".join(word for word, holds in (("★ best", k == best), ("← take this", k == take)) if holds),
        )
    return made


def _advice(key: str, values: Sequence[str], results: Sequence[Result], best: int, take: int) -> str:
    """One sentence on which value to take, one more where the best lies at an end of those tried."""
    chosen, top = results[take], results[best]
    error = top.standard_error
    if take == best:
        words = f"Take {key} = {values[best]}: it is the best, and "
        words += f"nothing smaller comes within one standard error (±{error:.4f}) of it."
    else:
        speed = (chosen.learning_per_second or 1.0) / (top.learning_per_second or 1.0)
        share = chosen.memory_bytes / top.memory_bytes
        words = f"Take {key} = {values[take]}: within one standard error (±{error:.4f}) of the best, "
        words += f"{values[best]}, with {share:.0%} of its memory and {speed:.1f} times its speed."
    order = sorted(range(len(values)), key=lambda k: _number(values[k], k))
    if len(values) > 1 and take in (order[0], order[-1]):
        edge = "lowest" if take == order[0] else "highest"
        words += f" It is the {edge} value tried; one beyond it may be better still."
    return words


def _against_thumb(value: str, thumb: float) -> str:
    ratio = float(value) / thumb
    if ratio > 1.5:
        return f"Measured on this history, {ratio:.0f} times as much pays."
    return "What was measured agrees." if ratio > 0.67 else "Measured on this history, less is enough."


def _number(value: str, place: int) -> float:
    """A value as a number; the place of one that is none."""
    try:
        return float(value)
    except ValueError:
        return float(place)
