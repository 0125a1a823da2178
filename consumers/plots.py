"""Results of a backtest enter; pictures leave: a PNG file, and a sketch for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from consumers.backtest import Comparison, Result
from streaming.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people who see few colours can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C6D31", "#7F7F7F")
_TERMINAL = ("bright_blue", "bright_red", "green", "magenta", "cyan", "yellow", "white", "bright_black")
PICTURES = (".png", ".svg", ".pdf")
_SMOOTH = 9  # points of a curve that are averaged to draw it
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, by row and column
SEGMENTS = {"new_user": "new user", "returning_user": "returning user", "new_item": "new item"}


class Curve(NamedTuple):
    """A learning curve: HR@10 of the events around each event number."""

    text: str
    events: NDArray[np.float64]  # (P,)
    rate: NDArray[np.float64]  # (P,)


def curve_of(result: Result, every: int, smooth: int = _SMOOTH) -> Curve:
    """A result's learning curve, averaged over neighbouring points.

    Args:
        every: n, where each n-th event was evaluated.
        smooth: points that are averaged; about half as many at both ends.
    """
    span, rate = result.curve["evaluated_per_point"], np.array(result.curve["hr@10"], np.float64)
    if len(rate) > 1 and result.overall["events"] - span * (len(rate) - 1) < span / 2:
        rate = rate[:-1]  # of too few events to be seen beside the others
    sums = np.concatenate([[0.0], np.cumsum(rate)])
    place = np.arange(len(rate))
    first = np.maximum(place - smooth // 2, 0)
    end = np.minimum(place + smooth // 2 + 1, len(rate))
    mean = (sums[end] - sums[first]) / (end - first)
    return Curve(result.text, (place + 0.5) * span * every, mean)


def sketch(comparison: Comparison, width: int = 72, height: int = 13) -> Text:
    """The learning curves in braille characters, with axes and a legend, best first.

    Args:
        width, height: of the picture without its axes, in characters.
    """
    curves = [curve_of(result, comparison.every) for result in comparison.results]
    top = _top(comparison)
    bits = np.zeros((height, width), np.int32)
    owner = np.full((height, width), -1)
    best_first = sorted(
        range(len(curves)), key=lambda k: -np.nan_to_num(comparison.results[k].overall["hr@10"])
    )
    for k in best_first:  # where lines cross, the better one is seen
        curve = curves[k]
        _draw(curve, comparison.events, top, bits, owner, k)
    text = Text("HR@10 along the stream", style="bold")
    text.append(
        f", a mean over about {_span(comparison):,} events; below, over all events\n", style="not bold"
    )
    for row in range(height):
        share = (height - 1 - row) / (height - 1)
        labelled = row in (0, height // 2, height - 1)
        text.append(f"{top * share:6.3f} ┤" if labelled else "       │", style="dim")
        for column in range(width):
            style = _TERMINAL[owner[row, column] % len(_TERMINAL)] if owner[row, column] >= 0 else ""
            text.append(chr(0x2800 + bits[row, column]) if bits[row, column] else " ", style=style)
        text.append("\n")
    text.append("       └" + "─" * width + "\n", style="dim")
    last = f"{comparison.events:,} events"
    text.append("        0" + last.rjust(width - 1) + "\n", style="dim")
    for k in best_first:
        text.append("        ━━ ", style=_TERMINAL[k % len(_TERMINAL)])
        text.append(f"{comparison.results[k].overall['hr@10']:.3f}  {curves[k].text}\n")
    text.rstrip()
    return text


def _draw(
    curve: Curve, events: int, top: float, bits: NDArray[np.int32], owner: NDArray[np.int64], k: int
) -> None:
    """Set the dots of a curve: 2 across and 4 down in each character; a cell keeps its first colour."""
    if len(curve.rate) == 0:
        return
    height, width = bits.shape
    across = np.arange(2 * width)
    rate = np.interp((across + 0.5) * events / (2 * width), curve.events, curve.rate)
    down = np.clip(np.round((1.0 - rate / top) * (4 * height - 1)), 0, 4 * height - 1).astype(int)
    previous = down[0]
    for x, y in zip(across.tolist(), down.tolist(), strict=True):
        # Steep parts are drawn as a line, not as dots far apart.
        first, last = (
            (y, y) if abs(y - previous) <= 1 else sorted((y, previous + (1 if y > previous else -1)))
        )
        for dot in range(first, last + 1):
            cell = dot // 4, x // 2
            if owner[cell] in (-1, k):
                owner[cell] = k
                bits[cell] |= _DOTS[dot % 4][x % 2]
        previous = y


def _span(comparison: Comparison) -> int:
    """Events, evaluated or not, that one drawn point stands for."""
    return min(
        comparison.events, int(comparison.best.curve["evaluated_per_point"]) * comparison.every * _SMOOTH
    )


def _top(comparison: Comparison) -> float:
    """The end of the axis of the rates."""
    curves = [curve_of(result, comparison.every) for result in comparison.results]
    return _nice_top(max(float(curve.rate.max(initial=0.0)) for curve in curves))


def _nice_top(highest: float) -> float:
    """The end of an axis: a little above the highest value, and a round number.

    >>> _nice_top(0.213), _nice_top(0.0)
    (0.22, 0.01)
    """
    if highest <= 0.0:
        return 0.01
    unit = 10.0 ** np.floor(np.log10(highest)) / 5.0
    return float(round(np.ceil(highest * 1.02 / unit) * unit, 6))


def save_picture(comparison: Comparison, path: Path, title: str, what: str) -> None:
    """Write a picture: learning curves on the left, quality by segment on the right.

    Args:
        path: its ending says the format, one of PICTURES.
        title, what: heading of the whole picture, and what it shows, in a line.

    Raises:
        UsageError: the path cannot be written.
    """
    # matplotlib takes a second to load; only those wait for it who want a picture.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(12, 5.4), dpi=150, layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.87)))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(2.3, 1))
    _plot_curves(left, comparison)
    _plot_segments(right, comparison)
    figure.text(0.01, 0.945, title, fontsize=14, fontweight="bold")
    figure.text(0.01, 0.9, what, fontsize=10, color="0.35")
    try:
        figure.savefig(path)
    except OSError as error:
        raise UsageError(f"--plot {path}: the picture cannot be written: {error.strerror}.") from error


def check_picture_path(path: Path) -> None:
    """Raise before the long work where no picture could be written to a path.

    Raises:
        UsageError: its ending promises no picture, or its directory is not there.
    """
    if path.suffix.lower() not in PICTURES:
        known = ", ".join(PICTURES)
        raise UsageError(f'--plot must name a file that ends in one of {known}, got "{path}".')
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--plot {path}: there is no directory {path.absolute().parent}; make it first.")


def _plot_curves(axes: Axes, comparison: Comparison) -> None:
    """Each learner's curve, its raw points faint behind it, its name at its end."""
    ends: list[tuple[float, int]] = []
    for k, result in enumerate(comparison.results):
        raw, curve = curve_of(result, comparison.every, smooth=1), curve_of(result, comparison.every)
        axes.plot(raw.events, raw.rate, color=_colour(k), linewidth=0.6, alpha=0.22)
        axes.plot(curve.events, curve.rate, color=_colour(k), linewidth=2, linestyle=_line(k))
        if len(curve.rate):
            ends.append((float(curve.rate[-1]), k))
    # The raw points may leave the picture: the room is for what they mean.
    top = _top(comparison) * 1.15
    axes.set_xlim(0, comparison.events)
    axes.set_ylim(0, top)
    for (end, k), place in zip(ends, _spread([end for end, _ in ends], 0.052 * top), strict=True):
        axes.annotate(
            f"{comparison.results[k].text}  {comparison.results[k].overall['hr@10']:.3f}",
            (1.0, end),
            (1.015, place),
            xycoords=("axes fraction", "data"),
            textcoords=("axes fraction", "data"),
            color=_colour(k),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axes.set_xlabel("events learned")
    axes.set_ylabel("HR@10 of the events around")
    axes.set_title(
        f"Learning curves: mean over about {_span(comparison):,} events; at the end, over all events",
        loc="left",
        fontsize=10,
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _plain(axes)
    axes.grid(axis="y", color="0.9", linewidth=0.8)


def _plot_segments(axes: Axes, comparison: Comparison) -> None:
    """HR@10 over the whole history, in all and by segment: a row of dots for each."""
    names = {"overall": "all events", **SEGMENTS}
    for row, name in enumerate(names):
        for k, result in enumerate(comparison.results):
            rates = result.overall if name == "overall" else result.segments[name]
            # Side by side rather than on top of each other where learners agree.
            place = -row + 0.4 * (0.5 - (k + 0.5) / len(comparison.results))
            axes.scatter(rates["hr@10"], place, color=_colour(k), s=46, alpha=0.9, linewidths=0, zorder=3)
    first = comparison.results[0]
    counts = {"overall": first.overall["events"], **{n: first.segments[n]["events"] for n in SEGMENTS}}
    axes.set_yticks(
        [-row for row in range(len(names))], [f"{label}\n{counts[n]:,.0f}" for n, label in names.items()]
    )
    axes.set_ylim(-len(names) + 0.5, 0.5)
    axes.set_xlim(left=0)
    axes.set_xlabel("HR@10")
    axes.set_title("By segment (events evaluated)", loc="left", fontsize=10)
    _plain(axes)
    axes.grid(axis="both", color="0.9", linewidth=0.8)
    axes.tick_params(axis="y", length=0)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _colour(k: int) -> str:
    return COLOURS[k % len(COLOURS)]


def _line(k: int) -> str:
    """Solid for the first learners; those that share a colour with one of them are dashed."""
    return ("-", "--", ":")[min(k // len(COLOURS), 2)]


def _spread(places: Sequence[float], apart: float) -> list[float]:
    """The places of labels moved up, from the lowest on, until they are this far apart.

    >>> _spread([0.5, 0.1, 0.125], 0.25)
    [0.6, 0.1, 0.35]
    """
    moved = list(places)
    below = float("-inf")
    for k in sorted(range(len(places)), key=lambda k: places[k]):
        moved[k] = below = max(places[k], below + apart)
    return moved
