"""The looks of an A/B demonstration enter; a picture of how the verdict came in leaves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from consumers.ab_progress import Look, Progress
from consumers.plots import COLOURS
from state.experiments import Trial
from streaming.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TOP, _MOST_TOP = 1.0, 3.0  # lift at the upper end of the axis, at least and at most


def save_picture(progress: Progress, trial: Trial, challenger: str, path: Path) -> None:
    """Write a picture: the lift's interval over the users who entered, and the challenger's share below.

    Args:
        challenger: what it truly is.
        path: its ending says the format, one of `plots.PICTURES`.

    Raises:
        UsageError: the path cannot be written.
    """
    # matplotlib takes a second to load; only those wait for it who want a picture.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(10, 5.6), dpi=120, layout=ConstrainedLayoutEngine(rect=(0, 0, 1, 0.9)))
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    looks = [one for one in progress.looks if one.users]
    _plot_lift(above, looks, float(trial.design["guardrail"]))
    _mark(above, progress.verdict["challengers"][trial.arms[1]])
    _plot_share(below, looks)
    figure.text(0.01, 0.95, f"A challenger that is truly {challenger}", fontsize=14, fontweight="bold")
    figure.text(0.01, 0.912, _words(progress, trial), fontsize=10, color="0.35")
    try:
        # No time in the file and no ids by chance: the same run gives the same picture.
        with matplotlib.rc_context({"svg.hashsalt": "freshet"}):
            figure.savefig(path, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise UsageError(f"--plot {path}: the picture cannot be written: {error.strerror}.") from error


def _words(progress: Progress, trial: Trial) -> str:
    truth = progress.truth
    chances = ", ".join(f"{arm} {truth[arm].chance:.1%}" for arm in trial.arms if arm in truth)
    return (
        f"{trial.name}: {progress.visits:,} lists served; true chance that a list is chosen from: {chances}"
    )


def _plot_lift(axes: Axes, looks: list[Look], bound: float) -> None:
    known = [one for one in looks if one.lift is not None]
    users = [one.users for one in known]
    lift = np.array([one.lift for one in known], np.float64)
    low = np.array([np.nan if one.low is None else one.low for one in known], np.float64)
    high = np.array([np.nan if one.high is None else one.high for one in known], np.float64)
    later = high[len(high) // 3 :]  # at first it is too wide to be drawn
    top = min(_MOST_TOP, max(_TOP, 1.1 * float(np.nan_to_num(later).max(initial=0.0))))
    # Without a bound the interval goes on beyond the picture.
    axes.fill_between(
        users,
        np.where(np.isnan(low), -2 * top, low),
        np.where(np.isnan(high), 2 * top, high),
        color=COLOURS[0],
        alpha=0.18,
        linewidth=0,
        label="95 % at any time",
    )
    axes.plot(users, lift, color=COLOURS[0], linewidth=2, label="lift")
    axes.axhline(0.0, color="0.3", linewidth=0.8)
    axes.axhline(bound, color=COLOURS[1], linewidth=1, linestyle="--", label=f"guardrail {bound:+.0%}")
    axes.set_ylim(-min(top, 1.0), top)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
    axes.set_ylabel("lift of the challenger")
    axes.legend(loc="best", frameon=False, fontsize=9)
    _plain(axes)


def _mark(axes: Axes, challenger: dict[str, Any]) -> None:
    """Say when the verdict came, and when the guardrail acted."""
    decided, acted = challenger["decided_at_users"], challenger["guardrail"]["at_users"]
    for at, text, colour, height in (
        (decided, f"verdict: {challenger['verdict']}", COLOURS[2], 0.97),
        (acted, "the guardrail acts", COLOURS[1], 0.83),
    ):
        if at is None:
            continue
        axes.axvline(at, color=colour, linewidth=1.2)
        axes.annotate(
            f"{text}\nat {at:,} users", (at, height), (6, 0), xycoords=("data", "axes fraction"),
            textcoords="offset points", color=colour, va="top", fontsize=9, zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
        )  # fmt: skip


def _plot_share(axes: Axes, looks: list[Look]) -> None:
    axes.step([one.users for one in looks], [one.share for one in looks], where="post", color=COLOURS[0])
    axes.set_ylim(-0.04, 0.6)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_ylabel("its share")
    axes.set_xlabel("users who entered")
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
