"""What became of records and users enters; sentences for `freshet experiment status` leave."""

from __future__ import annotations

from collections.abc import Mapping

from state.experiments import Trial
from streaming.joining import SECOND, Joiner

# By count, in the order in which they are said; {n} is the count.
_SAID = {
    "two_arms": "{n} users were seen in two arms within their window: left out",
    "moved": "{n} users were sent to another arm by a change of shares within their window: left out, "
    "whether they came back or not",
    "strays": "{n} users were served by an arm whose share is 0: left out",
    "other_exposures": "{n} lists were of a version that is no arm: not counted",
    "late_exposures": "{n} lists came more than {lateness} behind the newest of their source: left out",
    "late": "{n} events came more than {lateness} behind the newest of their source: left out",
    "ahead": "{n} events were stamped more than {lateness} after Kafka took them, so their clock is wrong: "
    "left out",
    "repeated_exposures": "{n} lists came again with the same id: counted once",
    "repeated": "{n} events came again (same item, time, value and exposure): counted once",
    "unexposed": "{n} events had no list with their item before them, clocks {skew} apart allowed, or named "
    "a list that is not there: not counted",
    "after_window": "{n} events came after their user's window: not counted",
    "later_exposures": "{n} lists were served to users whose windows had ended: they change nothing",
    "bad": "{n} lines are neither lists nor events: passed over",
}


def notes(joiner: Joiner, trial: Trial, counts: Mapping[str, int]) -> list[str]:
    """Whatever was left out or counted once, and what the join waits for; nothing where all is plain."""
    found = []
    if joiner.watermark is None:
        waits = ", ".join(source for source, ts in joiner.reached.items() if ts is None)
        found.append(f"no window can close before {waits} has a record, or is known to have none")
    times = {"lateness": _seconds(trial.lateness_us), "skew": _seconds(joiner.skew_us)}
    return found + [text.format(n=f"{counts[key]:,}", **times) for key, text in _SAID.items() if counts[key]]


def _seconds(us: int) -> str:
    return f"{us / SECOND:g} s"
