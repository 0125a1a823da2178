"""Prequential evaluation: ranks enter, hit rates by segment and over time leave.

All figures come from whole numbers, counts of ranks, so that they do not depend on how events were
batched and can be kept in the store. Ranks are halves (ties count half): bin k holds rank k / 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 40  # ranks 0, 0.5 … 19.5; one more bin for all others
NEW_ITEM_EVENTS = 5
SEGMENTS = ("overall", "new_user", "returning_user", "new_item")
CURVE_POINTS = 128
NEWEST = 20_000  # evaluated events that are remembered one by one, for comparisons of versions
NEWEST_BLOCK = 1000

# An evaluated event: where it stands in the log, 2 · rank (BINS: a miss), and what it belongs to.
EVALUATED = np.dtype([("offset", "<u8"), ("source", "<u4"), ("bin", "u1"), ("flags", "u1")])
THERE, NEW_USER, NEW_ITEM = 1, 2, 4  # flags

_RANK = np.arange(BINS) / 2.0
GAINS = {"hr": np.ones(BINS), "ndcg": 1.0 / np.log2(_RANK + 2.0), "mrr": 1.0 / (_RANK + 1.0)}


def rates(counts: NDArray[np.int64]) -> dict[str, float]:
    """HR, NDCG and MRR at 10 and 20 from counts of ranks (protocol P1); NaN where nothing was evaluated.

    Args:
        counts: (BINS + 1,) evaluated events by 2 · rank; the last bin holds the misses.

    >>> counts = np.zeros(41, np.int64); counts[0] = counts[-1] = 1
    >>> rates(counts)["hr@10"], rates(counts)["mrr@20"]
    (0.5, 0.5)
    """
    total = counts.sum()
    return {
        f"{name}@{k}": float(counts[: 2 * k] @ gain[: 2 * k] / total) if total else float("nan")
        for k in (10, 20)
        for name, gain in GAINS.items()
    }


class Prequential:
    """Counts of ranks: in all, by segment, and along the stream.

    Segments: new_user, no event before; returning_user, one at least; new_item, fewer than 5 events
    before (an item never seen is a miss for any learner).
    """

    def __init__(self) -> None:
        self.segments = np.zeros((len(SEGMENTS), BINS + 1), np.int64)
        self.span = 64  # evaluated events in a point of the curve; doubles when there are too many
        self.curve = np.zeros((CURVE_POINTS, BINS + 1), np.int64)
        self.loss_sum = 0.0
        self.losses = 0
        self._newest = np.zeros(NEWEST, EVALUATED)  # a ring: evaluated event k lies in place k % NEWEST
        self._committed = 0  # evaluated events up to here are in the store

    @property
    def evaluated(self) -> int:
        """Events evaluated so far."""
        return int(self.segments[0].sum())

    def observe(
        self,
        rank: NDArray[np.float32],
        loss: NDArray[np.float32],
        user_events: NDArray[np.uint32],
        item_events: NDArray[np.uint32],
        source: int,
        offsets: NDArray[np.int64],
    ) -> None:
        """Count a batch, in order; NaN stands for not evaluated, not learned.

        Args:
            source, offsets: where the events stand in the log.
        """
        drawn = ~np.isnan(rank)
        bins = np.minimum(2.0 * rank[drawn], BINS).astype(np.int64)
        new_user, new_item = user_events[drawn] == 0, item_events[drawn] < NEW_ITEM_EVENTS
        chosen = (np.ones(len(bins), bool), new_user, ~new_user, new_item)
        before = self.evaluated
        self._note(before, bins, THERE + NEW_USER * new_user + NEW_ITEM * new_item, source, offsets[drawn])
        for counts, mask in zip(self.segments, chosen, strict=True):
            counts += np.bincount(bins[mask], minlength=BINS + 1)
        self._extend_curve(bins, before)
        finite = loss[np.isfinite(loss)].astype(np.float64)
        self.losses += len(finite)
        # A running sum adds one by one, so that a batch boundary changes no bit.
        self.loss_sum = float(np.cumsum(np.concatenate([[self.loss_sum], finite]))[-1])

    def _note(
        self,
        before: int,
        bins: NDArray[np.int64],
        flags: NDArray[np.int64],
        source: int,
        offsets: NDArray[np.int64],
    ) -> None:
        last = slice(max(0, len(bins) - NEWEST), None)
        entries = np.zeros(len(bins[last]), EVALUATED)
        entries["bin"], entries["flags"] = bins[last], flags[last]
        entries["source"], entries["offset"] = source, offsets[last]
        self._newest[(before + np.arange(len(bins))[last]) % NEWEST] = entries

    def newest(self) -> NDArray[np.void]:
        """The newest evaluated events, oldest first, as EVALUATED."""
        ordered = np.roll(self._newest, -(self.evaluated % NEWEST))
        found: NDArray[np.void] = ordered[ordered["flags"] & THERE > 0]
        return found

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """(number, bytes) of each part of the newest events that moved since `committed`."""
        moved = np.arange(max(self._committed, self.evaluated - NEWEST), self.evaluated) % NEWEST
        for block in np.unique(moved // NEWEST_BLOCK).tolist():
            yield block, self._newest[block * NEWEST_BLOCK : (block + 1) * NEWEST_BLOCK].tobytes()

    def committed(self) -> None:
        """All of it is in the store."""
        self._committed = self.evaluated

    def _extend_curve(self, bins: NDArray[np.int64], before: int) -> None:
        while before + len(bins) > self.span * CURVE_POINTS:
            room = max(0, self.span * CURVE_POINTS - before)
            self._extend_curve(bins[:room], before)
            before, bins = before + room, bins[room:]
            self.curve = np.concatenate(
                [self.curve[0::2] + self.curve[1::2], np.zeros_like(self.curve[0::2])]
            )
            self.span *= 2
        np.add.at(self.curve, ((before + np.arange(len(bins))) // self.span, bins), 1)

    def summary(self) -> dict[str, Any]:
        """Rates in all and by segment, the learning curve, the mean loss."""
        by_segment = {
            n: {**rates(c), "events": int(c.sum())} for n, c in zip(SEGMENTS, self.segments, strict=True)
        }
        points = self.curve[: -(-self.evaluated // self.span)]
        return {
            "overall": by_segment.pop("overall"),
            "segments": by_segment,
            "curve": {"evaluated_per_point": self.span, "hr@10": [rates(c)["hr@10"] for c in points]},
            "loss": self.loss_sum / self.losses if self.losses else None,
        }

    def window(self, points: int = 4) -> dict[str, float]:
        """Rates over the newest points of the curve."""
        last = -(-self.evaluated // self.span)
        return rates(self.curve[max(0, last - points) : last].sum(axis=0))

    def state(self) -> dict[str, Any]:
        """All of it, for the store."""
        used = -(-self.evaluated // self.span)
        return {
            "segments": self.segments.tolist(),
            "span": self.span,
            "curve": self.curve[:used].tolist(),
            "loss_sum": self.loss_sum,
            "losses": self.losses,
        }

    @classmethod
    def restored(cls, state: dict[str, Any], blocks: Iterable[tuple[int, bytes]] = ()) -> Prequential:
        """The counts that `state` gave, and the newest events that `blocks` did."""
        totals = cls()
        totals.segments = np.array(state["segments"], np.int64)
        totals.span, totals.loss_sum, totals.losses = state["span"], state["loss_sum"], state["losses"]
        if state["curve"]:
            totals.curve[: len(state["curve"])] = state["curve"]
        for number, block in blocks:
            first = number * NEWEST_BLOCK
            totals._newest[first : first + NEWEST_BLOCK] = np.frombuffer(block, EVALUATED)
        totals.committed()
        return totals
