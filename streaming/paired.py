"""Two versions' outcomes of the same events enter; the mean difference leaves, with an interval.

Of each event d = b - a, the difference of a figure that each version had for it (hit: 0 or 1, or a gain).
The interval is mean(d) ± 1.96 · sd(d) / √n, the normal one of a mean: what both versions find hard alike
cancels out of d, so it is far narrower than that of two separate rates. It takes events as independent;
where few users make most events, it is too narrow.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.evaluation import BINS, GAINS, NEW_ITEM, NEW_USER

Z = 1.96  # of a normal distribution, 95 % lie within
SEGMENTS = ("overall", "new_user", "returning_user", "new_item")
MEASURES = ("hr@10", "ndcg@10", "mrr@10", "hr@20", "ndcg@20", "mrr@20")


class Difference(NamedTuple):
    """How two versions differ in one figure on n events; b - a, above 0 where b is better."""

    events: int
    a: float
    b: float
    difference: float
    low: float
    high: float


def paired(a: NDArray[np.void], b: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """The events that are in both, in the order of source and offset.

    Args:
        a, b: EVALUATED, their sources numbered alike.

    >>> from streaming.evaluation import EVALUATED
    >>> one = np.array([(7, 0, 3, 1), (9, 0, 0, 1)], EVALUATED); two = np.array([(9, 0, 4, 1)], EVALUATED)
    >>> [part["bin"].tolist() for part in paired(one, two)]
    [[0], [4]]
    """
    places = np.dtype([("source", "<u4"), ("offset", "<u8")])

    def place(events: NDArray[np.void]) -> NDArray[np.void]:
        made = np.zeros(len(events), places)
        made["source"], made["offset"] = events["source"], events["offset"]
        return made

    _, in_a, in_b = np.intersect1d(place(a), place(b), assume_unique=True, return_indices=True)
    return a[in_a], b[in_b]


def differences(a: NDArray[np.void], b: NDArray[np.void]) -> dict[str, dict[str, Difference]]:
    """Differences by segment and measure of paired events; the segments are as `a` saw them.

    Args:
        a, b: (N,) EVALUATED, the same events in the same order.
    """
    new_user, new_item = a["flags"] & NEW_USER > 0, a["flags"] & NEW_ITEM > 0
    masks = (np.ones(len(a), np.bool_), new_user, ~new_user, new_item)
    return {
        segment: {name: _difference(name, a["bin"][mask], b["bin"][mask]) for name in MEASURES}
        for segment, mask in zip(SEGMENTS, masks, strict=True)
    }


def _difference(measure: str, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Difference:
    gain = _gain(measure)
    before, after = gain[a], gain[b]  # (n,) float64
    n = len(before)
    if not n:
        nothing = float("nan")
        return Difference(0, nothing, nothing, nothing, nothing, nothing)
    change = after - before
    mean = float(change.mean())
    half = Z * float(change.std(ddof=1)) / n**0.5 if n > 1 else float("inf")
    return Difference(n, float(before.mean()), float(after.mean()), mean, mean - half, mean + half)


def _gain(measure: str) -> NDArray[np.float64]:
    """(BINS + 1,) what an event with 2 · rank = k counts in a measure."""
    name, _, top = measure.partition("@")
    gain = np.zeros(BINS + 1)
    gain[: 2 * int(top)] = GAINS[name][: 2 * int(top)]
    return gain
