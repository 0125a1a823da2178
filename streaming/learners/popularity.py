"""Popularity: what is consumed most, with or without forgetting."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.kernels import kernel
from streaming.learners.contract import Event, Field, Layout, Learner, Model
from streaming.learners.decay import fade, half_life_scale

COUNT = 0


class Options(NamedTuple):
    """Options of popularity.

    half_life: events after which an old event counts half; inf never forgets.
    """

    half_life: float = 3000.0


@kernel
def score(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """s_j = the (decayed) count of item j; one factor for all items does not change the order."""
    for j in range(out.shape[0]):
        out[j] = model.items.floats[j, COUNT]


@kernel
def learn(model: Model, event: Event) -> float:
    """c_j += weight, and all counts decay by 2^(-1 / half_life)."""
    scale = half_life_scale(event.number, model.options.half_life)
    model.items.floats[event.item, COUNT] += event.weight / scale
    return 0.0


@kernel
def decay(model: Model, known: int, number: int) -> None:
    """Keep the counts in range."""
    fade(model.items, COUNT, known, number, model.options.half_life)


@kernel
def explain(model: Model, event: Event, out: NDArray[np.float32]) -> None:
    """All of it is popularity."""
    out[:] = 0.0
    out[1] = model.items.floats[event.item, COUNT] * half_life_scale(event.number, model.options.half_life)


def check(options: Options) -> None:
    """Refuse what cannot be."""
    if not options.half_life >= 1.0:
        raise ValueError("half_life must be at least 1 event (inf never forgets)")


def layout(options: Options) -> Layout:
    """An item's row is its count."""
    return Layout(user=(), item=(Field("count"),), history=1)


LEARNER = Learner("popularity", Options, layout, score, learn, check=check, explain=explain, decay=decay)
