"""Users who are to be forgotten leave the stores of all experiments."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from consumers.outcomes import Outcomes
from consumers.outcomes_metrics import OutcomeMetrics
from consumers.outcomes_store import opened_store, store_path
from state.experiments import Experiments
from streaming.errors import StoreLockedError
from streaming.rules import EventRules


def forget_in_all(home: Path, rules: EventRules) -> list[str]:
    """Follow the list of erasures in every experiment; a process that joins one does so itself.

    Returns:
        Experiments that were followed here.
    """
    done = []
    for name in Experiments(home).names():
        if not (store_path(home, name) / "CURRENT").exists():
            continue
        try:
            store = opened_store(home, name)
        except StoreLockedError:
            continue
        with store:
            Outcomes(home, name, store, rules, OutcomeMetrics(CollectorRegistry())).erase()
            store.purge()
        done.append(name)
    return done
