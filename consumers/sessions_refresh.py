"""Refresh: users whose histories moved enter, their sequence embeddings leave, a fixed number at a time."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from consumers.sessions_events import copy_histories, drawn, new_scratch, read_sequences
from consumers.sessions_rows import VersionRows
from state.arena import DONE
from state.guests import query_each
from state.sequences import Sequences
from streaming.learners.contract import Event, Learner
from streaming.learners.loop import bound
from streaming.session.model import Params
from streaming.session.options import Options
from streaming.session.refresh import Refresh

USERS = 256  # of one pass


class SequenceRefresh:
    """Computes δ / τ of users who moved since the last time.

    Args:
        rows: of the version.
        learner, seed: of the version.
        compared: share of the events after which h is kept beside δ, for the gate.
    """

    def __init__(
        self, sequences: Sequences, rows: VersionRows, learner: Learner, seed: int, compared: float
    ) -> None:
        options = sequences.options
        self._sequences, self._version, self._learner = sequences, rows, learner
        self._seed, self._compared = np.uint64(seed), compared
        self._forward, self._read = _forward(options), bound(read_sequences, learner)
        self._scratch = new_scratch(options, 0)
        size = (USERS, options.length)
        self._rows = np.zeros((*size, options.dimension), np.float32)
        self._mask, self._gaps = np.zeros(size, np.bool_), np.zeros(size, np.int32)
        self._nothing = np.zeros((USERS, options.dimension), np.float32)

    @property
    def compilations(self) -> int:
        """How often the pass was compiled."""
        return self._forward.compilations

    def __call__(self, params: Params) -> int:
        """δ / τ of all who moved, as of their newest event; returns how many these are."""
        sequences, d = self._sequences, self._sequences.options.dimension
        users, idle_s = sequences.users, sequences.options.idle_s
        moved = users.changed(int(sequences.arena.head[DONE]))
        model = sequences.items.model._replace(history=users.history)
        for first in range(0, len(moved), USERS):
            part = moved[first : first + USERS]
            arrays = self._rows, self._mask, self._gaps
            self._mask[:] = False
            self._read(model, users.rows.seen, part, idle_s, self._scratch, *arrays)
            delta = self._forward(params, *arrays, self._nothing)
            users.rows.floats[part, :d] = delta[: len(part)] / np.float32(sequences.options.temperature)
            users.rows.floats[part, d : 2 * d] = 0.0
        self._keep_queries(moved[drawn(users.rows.touched[moved], self._seed, self._compared)])
        return len(moved)

    def _keep_queries(self, slots: NDArray[np.int64]) -> None:
        """h / τ beside it, unless the version has learned a later event of the user, which h would know."""
        sequences, d = self._sequences, self._sequences.options.dimension
        users, items = sequences.users, sequences.items
        size = len(items.model.users.seen)
        for first in range(0, len(slots), size):
            part = slots[first : first + size]
            if not self._version.load([users.ids.id_of(slot).decode() for slot in part.tolist()]):
                return
            model, n = items.model, len(part)
            copy_histories(users.history, part, model.history)
            queries = np.zeros((n, d), np.float32)
            bound(query_each, self._learner)(model, self._now(), queries)
            fit = model.users.seen[:n] <= users.rows.seen[part]
            users.rows.floats[part[fit], d : 2 * d] = queries[fit]

    def _now(self) -> Event:
        """The present, in the types of the kernels that are compiled for answers."""
        sequences, one = self._sequences, np.float32(1.0)
        known, number = np.int32(sequences.counts.known), np.int64(sequences.items.number)
        time = np.int64(sequences.ledger.watermark)
        return Event._make((np.int32(0), np.int32(0), known, number, time, one, one, np.uint64(0)))


@cache
def _forward(options: Options) -> Refresh:
    """The pass; one for all that have the same options."""
    return Refresh(options, USERS)
