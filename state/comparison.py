"""Two versions enter; how they did on the same events, each predicted before it was learned, leaves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.evaluations import read_prequential
from state.ledger import Ledger
from state.lineage import read_lineage
from state.versions import Version
from streaming.errors import VersionError
from streaming.paired import Difference, differences, paired


class Compared(NamedTuple):
    """How two versions compare.

    Attributes:
        events: that both evaluated.
        since: next offsets of the newest fork of either; events before it tell nothing of their difference.
        segments: segment → measure → difference, b - a.
    """

    events: int
    since: dict[str, int]
    segments: dict[str, dict[str, Difference]]


class _Outcomes(NamedTuple):
    seed: int
    rate: float
    sources: list[str]
    events: NDArray[np.void]  # EVALUATED
    forked: tuple[int, dict[str, int]]  # records and offsets at the newest fork


def compare_versions(a: Version, b: Version) -> Compared:
    """The paired differences of two versions over the newest events that both evaluated.

    Raises:
        VersionError: there are none; the message says why, and how to get them.
    """
    one, two = _outcomes(a), _outcomes(b)
    _, since = max(one.forked, two.forked, key=lambda fork: fork[0])
    sources = list(dict.fromkeys([*one.sources, *two.sources]))
    mine, theirs = paired(*(_renumbered(found, sources, since) for found in (one, two)))
    if not len(mine):
        raise VersionError(f'"{a.name}" and "{b.name}" {_why_none(one, two)}')
    return Compared(len(mine), since, differences(mine, theirs))


def _outcomes(version: Version) -> _Outcomes:
    if not version.learned_anything:
        raise VersionError(f'"{version.name}" has learned nothing yet, so there is nothing to compare.')
    with version.reading() as store:
        prequential, ledger = read_prequential(store), Ledger.read(store)
        forks = [origin.offsets for origin in read_lineage(store) if origin.kind == "fork"]
    if prequential is None or not prequential.evaluated:
        raise VersionError(
            f'"{version.name}" has evaluated no events yet (evaluation_rate = '
            f"{version.spec.evaluation_rate:g}), so there is nothing to compare."
        )
    since = forks[-1] if forks else {}
    return _Outcomes(
        version.spec.seed,
        version.spec.evaluation_rate,
        [source.name for source in ledger.sources],
        prequential.newest(),
        (sum(since.values()), since),
    )


def _renumbered(found: _Outcomes, sources: list[str], since: dict[str, int]) -> NDArray[np.void]:
    """Events since the fork, their sources numbered as in `sources`."""
    number = np.array([sources.index(name) for name in found.sources], np.uint32)
    first = np.array([since.get(name, 0) for name in sources], np.uint64)
    events = found.events.copy()
    events["source"] = number[events["source"]]
    kept: NDArray[np.void] = events[events["offset"] >= first[events["source"]]]
    return kept


def _why_none(one: _Outcomes, two: _Outcomes) -> str:
    """Why no event was evaluated by both, and what to do."""
    if one.seed != two.seed:
        return (
            "evaluated no event in common: which ones are drawn depends on the seed, and theirs are "
            f"{one.seed} and {two.seed}. Make a version with the same one (`freshet versions create NAME "
            f"--set seed={one.seed}`), or fork one of them."
        )
    if not set(one.sources) & set(two.sources):
        return (
            "learned from different logs, so no event is common to both. Let both learn from the same one, "
            "or compare learners on it with `freshet backtest`."
        )
    return (
        "have no evaluated event in common among those that are kept (the newest 20,000 of each, since a "
        f"fork only those after it; evaluation_rate {one.rate:g} and {two.rate:g}). Let both learn on."
    )
