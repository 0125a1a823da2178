"""What the A/B demonstration looks like in a terminal: its progress enters, renderables leave."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from consumers.ab_progress import Look, Progress, Truth
from consumers.commands.output import pairs, table
from state.experiments import Trial

_ROWS = 12  # looks that are drawn
_WIDTH = 49  # of an interval, in characters
_SPAN = 0.8  # lift at either end of it
_STYLES = {"better": "green", "worse": "red"}


def line(progress: Progress, trial: Trial) -> str:
    """The moment in one line, for logs and pipes."""
    if not progress.looks:
        return f"{progress.visits:>7,} lists served   no user has entered yet"
    now = progress.looks[-1]
    return (
        f"{progress.visits:>7,} lists served   {now.users:>6,} users entered   {trial.arms[1]}: lift "
        f"{_lift(now)}   {now.verdict}   guardrail {now.guardrail}   share {now.share:.0%}"
    )


def screen(
    progress: Progress, trial: Trial, challenger: str, seconds: float, address: str, home: str
) -> RenderableType:
    """The whole picture."""
    speed = progress.visits / seconds if seconds else 0.0
    head = Text(f"{progress.visits:,} lists served, {speed:,.0f} a second   running {seconds:.0f} s\n")
    parts: list[RenderableType] = [head, _arms(progress, trial)]
    if progress.looks:
        parts += [_intervals(progress.looks, trial.arms[1]), _said(progress, trial)]
    hint = f"freshet experiment status {trial.name} --home {home}\n{address or 'the server is starting'}"
    parts += [Text(f"\n{hint}", style="dim")]
    title = f"Freshet · {trial.name}: a challenger that is truly {challenger}"
    return Panel(Group(*parts), title=title, title_align="left", width=100)


def _arms(progress: Progress, trial: Trial) -> RenderableType:
    rows = []
    for arm in trial.arms:
        found = progress.verdict.get("arms", {}).get(arm, {})
        truth = progress.truth.get(arm, Truth())
        rows.append(
            (
                arm,
                f"{trial.phases[-1].shares[arm]:.0%}",
                found.get("users", 0),
                found.get("users_with_outcome", 0),
                _rate(found.get("mean")),
                f"{truth.chance:.3f}" if truth.lists else "–",
            )
        )
    return table(("arm", "share", "users", "who clicked", "rate", "true chance of a list"), rows)


def _intervals(looks: list[Look], arm: str) -> RenderableType:
    """Looks that are spread over all of them, each with its interval, the newest last."""
    step = max(1, (len(looks) - 1) // (_ROWS - 1))
    shown = [*looks[:-1:step][-(_ROWS - 1) :], looks[-1]]
    made = Table.grid(padding=(0, 2))
    made.add_row(
        Text("users", style="bold"), Text(_axis(), style="dim"), Text(f"lift of {arm}", style="bold")
    )
    for one in shown:
        made.add_row(f"{one.users:,}", bar(one), _lift(one))
    return Group(Text(), made)


def _axis() -> str:
    half = _WIDTH // 2
    return f"{-_SPAN:+.0%}".ljust(half) + "0" + f"{_SPAN:+.0%}".rjust(half)


def bar(look: Look) -> Text:
    """An interval as a line; an arrow where it goes on beyond the axis.

    >>> bar(Look(100, -0.4, -0.6, -0.2, 0.5, "worse", "watching")).plain.strip()
    '├─────●─────┤     │'
    """
    cells = [" "] * _WIDTH
    cells[_WIDTH // 2] = "│"
    if look.lift is not None:
        last = _WIDTH - 1
        low = _cell(look.low) if look.low is not None else -1
        high = _cell(look.high) if look.high is not None else _WIDTH
        for k in range(max(low, 0), min(high, last) + 1):
            cells[k] = "─"
        cells[max(low, 0)] = "├" if low >= 0 else "←"
        cells[min(high, last)] = "┤" if high <= last else "→"
        cells[min(max(_cell(look.lift), 0), last)] = "●"
    return Text("".join(cells), style=_STYLES.get(look.verdict, ""))


def _cell(lift: float) -> int:
    """The character at which a lift stands; it may lie outside."""
    return round((lift / _SPAN + 1.0) * (_WIDTH - 1) / 2)


def _said(progress: Progress, trial: Trial) -> RenderableType:
    one = progress.verdict["challengers"][trial.arms[1]]
    said = {
        "verdict": f"{one['verdict']}: {one['reason']}",
        "guardrail": f"{one['guardrail']['state']}: {one['guardrail']['reason']}",
    }
    return Group(Text(), pairs(said))


def _lift(look: Look) -> str:
    if look.lift is None:
        return "not known yet"
    low, high = (f"{end:+.0%}" if end is not None else "no bound" for end in (look.low, look.high))
    return f"{look.lift:+.1%} ({low} … {high})"


def _rate(mean: float | None) -> str:
    return f"{mean:.3f}" if mean is not None else "–"
