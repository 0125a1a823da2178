"""`freshet watch`: the essentials of running processes in a terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import RenderableType
from rich.live import Live

from consumers.commands.arguments import Switch
from consumers.commands.context import current_settings
from consumers.commands.output import emit, stderr, stdout, table
from consumers.machine_metrics import announced_addresses
from consumers.watch import Watch
from streaming.errors import UsageError

_COLUMNS = (
    "process",
    "version",
    "state",
    "events",
    "events/s",
    "lag",
    "fresh p99 s",
    "hit@10",
    "refused",
    "drift",
)
_KEYS = (
    "process",
    "version",
    "state",
    "events",
    "events_per_second",
    "lag",
    "freshness_p99_seconds",
    "hit_rate_at_10",
    "dead_letters",
    "drift_alarms",
)
_FIRST_S = 1.0  # between the two readings that a rate needs


def watch(
    *addresses: str,
    every: float = 2.0,
    json: Switch = False,
) -> int:
    """Show what running workers and servers are doing, until Ctrl-C.

    Parameters
    ----------
    addresses
        Where metrics pages are, as 127.0.0.1:9464. Without any: those of the processes of this home.
    every
        Seconds between two readings.
    json
        Print two readings' worth of figures as JSON, once.
    """
    if not every > 0:
        raise UsageError(f"--every must be above 0 seconds, got {every:g}.")
    home = current_settings().home
    chosen = {address: address for address in addresses} or announced_addresses(home)
    if not chosen:
        raise UsageError(
            f"No process of {home} has announced a metrics page. Start `freshet work VERSION`, "
            "or give the addresses of metrics pages."
        )
    seen = Watch(chosen)
    seen.look()
    if json or not sys.stdout.isatty():
        time.sleep(_FIRST_S)
        seen.look()
        rows = seen.picture()
        emit(rows, json, lambda: _table(rows))
        return 0
    with Live(_table(seen.picture()), console=stdout(), auto_refresh=False, screen=False) as live:
        try:
            while True:
                time.sleep(every)
                if not addresses:
                    seen.addresses = announced_addresses(home)  # processes come, go and come back
                seen.look()
                live.update(_table(seen.picture()), refresh=True)
        except KeyboardInterrupt:
            stderr.print("watched until Ctrl-C; the processes go on")
    return 0


def _table(rows: list[dict[str, Any]]) -> RenderableType:
    return table(_COLUMNS, [[row.get(key) for key in _KEYS] for row in rows])
