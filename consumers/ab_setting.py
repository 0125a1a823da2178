"""What the A/B demonstration is about: a home and a seed enter; versions, users and the experiment leave."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from consumers.eventlog.segments import EVENTS, read_mark
from consumers.experiments import new_salt
from consumers.settings import Settings
from state.experiments import Trial
from state.spec import new_spec
from state.versions import Registry, Version
from streaming.errors import UsageError, VersionError
from streaming.experiments import Design
from streaming.simulated_visits import VisitedSimulator
from streaming.simulator import SimulatorOptions

Challenger = Literal["better", "worse"]

LEARNED, HELD_BACK = "ab-learned", "ab-held-back"  # names of the versions
HELD_BACK_RATE = 0.007  # learning rate of the worse one; the default is 0.09
WARM_UP = 30_000  # events that both versions learn beforehand, one a second of simulated time
METRIC = "click"
DESIGN = Design(mean=0.5, lift=0.2, guardrail=-0.03)
_WINDOW_US, _LATENESS_US = 2_000_000, 1_000_000
_NAME = re.compile(r"ab-(\d+)")


def users_of(seed: int) -> VisitedSimulator:
    """The users: 5,000 who visit three times at a stretch, now and then a new one, and 1,000 items."""
    options = SimulatorOptions(
        seed=seed,
        users=5_000,
        items=1_000,
        sessions=8,  # few at the same moment, so that a visit is over within the window
        session_events=3.0,
        new_user_share=0.05,
        activity_skew=0.3,
        events_per_second=1.0,
        start_us=int((time.time() - 2 * WARM_UP) * 1e6),
    )
    return VisitedSimulator(options)


def arms_of(challenger: Challenger) -> tuple[str, str]:
    """Names of the versions, the champion first."""
    return (LEARNED, HELD_BACK) if challenger == "worse" else (HELD_BACK, LEARNED)


def trial_of(challenger: Challenger, names: Iterable[str]) -> Trial:
    """The experiment.

    Args:
        names: of those that there are.
    """
    numbers = [int(found[1]) for name in names if (found := _NAME.fullmatch(name))]
    return Trial(
        f"ab-{max(numbers, default=0) + 1}",
        dict.fromkeys(arms_of(challenger), 0.5),
        metric=METRIC,
        design=DESIGN.state(),
        salt=new_salt(),
        window_us=_WINDOW_US,
        lateness_us=_LATENESS_US,
    )


def is_ours(trial: Trial) -> bool:
    """Whether an experiment is one of the demonstration."""
    return _NAME.fullmatch(trial.name) is not None and set(trial.arms) == {LEARNED, HELD_BACK}


def has_events(home: Path) -> bool:
    """Whether the log of a home holds any events."""
    mark = read_mark(home / EVENTS)
    return mark is not None and (mark.segment > 0 or mark.length > 0)


def versions_of(settings: Settings, seed: int) -> list[Version]:
    """Both versions, made where they are not there.

    Raises:
        UsageError: the home posts to Kafka, or holds events that are not the demonstration's.
        VersionError: versions of these names are others.
    """
    if settings.kafka.bootstrap_servers:
        raise UsageError("--ab runs on the logs of a home directory; unset kafka.bootstrap_servers for it.")
    registry, own = Registry(settings.home), {"seed": seed, "evaluation_rate": 0.05}
    specs = {
        LEARNED: new_spec("softmax", own),
        HELD_BACK: new_spec("softmax", {**own, "learning_rate": HELD_BACK_RATE}),
    }
    names = registry.names()
    if LEARNED not in names and has_events(settings.home):
        raise UsageError(
            f"{settings.home} holds events, and simulated users must not be mixed with others. Give the "
            "demonstration a home of its own: --home PATH."
        )
    for name, spec in specs.items():
        if name in names and registry.get(name).spec != spec:
            raise VersionError(
                f'The version "{name}" of this home is not the one that the demonstration with --seed {seed} '
                "would make. Give it the seed of then, or another home: --home PATH."
            )
    return [
        registry.get(name) if name in names else registry.create(name, spec) for name, spec in specs.items()
    ]
