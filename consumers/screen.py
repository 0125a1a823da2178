"""What the demonstration looks like in a terminal: pictures of the moment enter, renderables leave."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from consumers.commands.output import table

if TYPE_CHECKING:
    from consumers.demo import Picture

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
_POINTS = 60  # of the learning curve


def line(picture: Picture) -> str:
    """The picture in one line, for logs and pipes."""
    rates = picture.hit_rate
    return (
        f"{picture.events:>9,} events {picture.events_per_second:>7,.0f}/s   hit rate at 10: "
        f"{rates['softmax']['recent']:.3f} learned, {rates['popularity']['recent']:.3f} popularity, "
        f"{picture.best:.3f} best possible   durable after {1000 * picture.freshness_p99_s:.0f} ms (p99)"
    )


def try_it(address: str, user: str) -> str:
    """Three requests to the server at an address."""
    paths = [f"/v1/users/{user}/recommendations?k=5", f"/v1/users/{user}/embedding", "/v1/versions"]
    return "\n".join(f"curl '{address}{path}'" for path in paths)


def screen(picture: Picture, seconds: float, metrics: str, home: str, address: str = "") -> RenderableType:
    """The whole picture."""
    parts = [_figures(picture, seconds), _rates(picture), _curve(picture), _recommendations(picture)]
    if address:
        title = Text("\nAsk the server", style="bold") + Text("  it sees each event at once", style="dim")
        parts += [title, Text(try_it(address, picture.user or "u1"))]
    foot = Text(f"metrics {metrics} · home {home} · Ctrl-C commits and ends", style="dim")
    return Panel(Group(*parts, foot), title="Freshet", title_align="left", width=96)


def _figures(picture: Picture, seconds: float) -> Group:
    fresh = f"{1000 * picture.freshness_p50_s:.0f} ms (p99 {1000 * picture.freshness_p99_s:.0f})"
    first = _figure(f"{picture.events:,}", "events"), _figure(f"{picture.events_per_second:,.0f}", "a second")
    second = _figure(f"{picture.items:,}", "items"), _figure(f"{picture.new_users:,}", "new users")
    newcomers = _figure(_share(picture.new_user_hit_rate), "hit rate at their first event")
    gap = Text("   ")
    return Group(
        gap.join(
            [*first, Text("durable after ") + Text(fresh, style="bold"), Text(f"running {seconds:.0f} s")]
        ),
        gap.join([*second, newcomers]),
    )


def _figure(number: str, unit: str) -> Text:
    return Text(number, style="bold") + Text(f" {unit}", style="default")


def _rates(picture: Picture) -> Group:
    """Hit rates as bars beside the best possible."""
    made = Table.grid(padding=(0, 2))
    rows = [
        ("softmax (default)", picture.hit_rate["softmax"]["recent"], "green"),
        ("popularity", picture.hit_rate["popularity"]["recent"], "yellow"),
        ("best possible", picture.best, "blue"),
    ]
    most = max([rate for _, rate, _ in rows if not math.isnan(rate)] or [1.0]) or 1.0
    for name, rate, colour in rows:
        filled = 0 if math.isnan(rate) else round(_WIDTH * rate / most)
        bar = Text("█" * filled, style=colour) + Text("·" * (_WIDTH - filled), style="dim")
        made.add_row(name, bar, _share(rate), _part_of_best(rate, picture.best))
    title = Text("\nHit rate at 10", style="bold") + Text(
        "  each event predicted before it is learned", style="dim"
    )
    return Group(title, made)


def _curve(picture: Picture) -> Group:
    values = [v for v in picture.curve if not math.isnan(v)]
    top = max([picture.best, *values]) or 1.0
    step = max(1, math.ceil(len(values) / _POINTS))
    means = [sum(values[k : k + step]) / len(values[k : k + step]) for k in range(0, len(values), step)]
    bars = "".join(_BARS[min(7, int(8 * v / top))] for v in means)
    title = Text("\nLearning curve", style="bold") + Text("  full height is the best possible", style="dim")
    return Group(title, Text(bars, style="green"))


def _recommendations(picture: Picture) -> RenderableType:
    rows = [[r.item, f"{r.score:.2f}", r.why] for r in picture.recommendations]
    title = f"\nFor {picture.user}, seen a moment ago" if picture.user else "\nNobody seen yet"
    return Group(Text(title, style="bold"), table(["item", "score", "because"], rows))


def _share(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{rate:.3f}"


def _part_of_best(rate: float, best: float) -> str:
    return "" if math.isnan(rate) or not best else f"{rate / best:.0%} of the best"
