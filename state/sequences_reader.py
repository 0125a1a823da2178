"""Sequence embeddings as servers see them: a user enters; the correction of what ranks items leaves, and why.

They are read from the tables of the transformer's worker while it is at work. A correction is served where
the gate lets in histories of this length, the worker has seen all that the version knows of the user, and
the session has not ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from state.ids import IdArrays, IdTable
from state.live import LiveTables, boot, run_of
from state.live_rows import LiveUsers, TablesMovedError
from state.sequences_directory import FACT_DIMENSION, FACT_IDLE, FACT_MODE, MODES, SequenceDirectory
from streaming.errors import StoreError
from streaming.learners.contract import History, Rows
from streaming.session.gate import Gate, Record, bucket_of

_LOOK_S = 0.05  # between two looks for a newer worker


class Sequence(NamedTuple):
    """What the transformer's worker has for a user.

    Attributes:
        correction: (d,) what is added to the query, in the unit of scores; None where it is not served.
        reason: why it is served or not.
    """

    correction: NDArray[np.float32] | None
    reason: str


class SequenceTables:
    """The sequence embeddings of a version, while its transformer's worker is there.

    Args:
        directory: of the version's sequences.
    """

    def __init__(self, directory: SequenceDirectory) -> None:
        self._directory, self._path = directory, directory.live_path
        self._tables: LiveTables | None = None
        self._looked = -1.0

    def of(self, user: str, seen: int, now: int) -> Sequence | None:
        """What is there for a user; None where no worker is at work.

        Args:
            seen: time of the user's newest event that the version knows, seconds.
            now: newest event time of the version, seconds.
        """
        self._look()
        if self._tables is None:
            return None
        try:
            if self._tables.refresh():
                self._arrange(self._tables)
            found = self._users.copy(user, self._row, self._history)
        except StoreError:
            return Sequence(None, "not fresh: it is being refreshed")
        except (TablesMovedError, FileNotFoundError):  # the worker has ended, or its tables grow
            self._looked = -1.0
            return Sequence(None, "not fresh: its tables move")
        if not found:
            return Sequence(None, "none: the user is not among the active ones")
        return self._judged(seen, now)

    def close(self) -> None:
        """Give up the tables."""
        if self._tables is not None:
            self._tables.close()
            self._tables = None

    def _judged(self, seen: int, now: int) -> Sequence:
        length, mine = int(self._history.pushed[0]), int(self._row.seen[0])
        idle, mode = int(self._facts[FACT_IDLE]), MODES[int(self._facts[FACT_MODE])]
        bucket = bucket_of(length)
        if bucket < 0:
            return Sequence(None, "none: the user has no history yet")
        if mine < seen:
            return Sequence(None, f"not fresh: {seen - mine:,} s behind the user's newest event")
        if idle and now - mine > idle:
            return Sequence(None, f"none: the session ended {now - mine - idle:,} s ago")
        if mode != "auto":
            reason, serves = f'{mode}: sessions.gate = "{mode}"', mode == "open"
        else:
            reason, serves = self._gate.standings()[bucket].reason, self._gate.serves(length)
        return Sequence(self._row.floats[0, : self._dimension].copy() if serves else None, reason)

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        run = run_of(self._path)
        if self._tables is not None and (str(run) != self._tables.run or not self._tables.alive):
            self.close()
        if self._tables is None and run is not None:
            self._map()

    def _map(self) -> None:
        try:
            tables = LiveTables(self._path)
            current = tables.alive and tables.identity == self._directory.identity and tables.boot == boot()
        except FileNotFoundError:  # replaced in this moment, or the version is gone
            return
        if not current:
            tables.close()
            return
        self._tables = tables
        self._arrange(tables)

    def _arrange(self, tables: LiveTables) -> None:
        arrays = tables.arrays

        def those(kind: Callable[..., tuple[object, ...]], name: str) -> list[NDArray[np.generic]]:
            return [arrays[f"{name}.{field}"] for field in kind._fields]  # type: ignore[attr-defined]

        self._users = LiveUsers(tables, 0.0)
        self._users.ids = IdTable.over(IdArrays(*those(IdArrays, "users.ids")))  # type: ignore[arg-type]
        self._users.rows = Rows(*those(Rows, "users"))  # type: ignore[arg-type]
        self._users.history = History(*those(History, "history"))  # type: ignore[arg-type]
        self._facts = arrays["facts"]
        self._dimension = int(self._facts[FACT_DIMENSION])
        self._gate = Gate()
        self._gate.record = Record(*those(Record, "gate"))  # type: ignore[arg-type]
        self._row = Rows(*(np.zeros((1, *array.shape[1:]), array.dtype) for array in self._users.rows))
        self._history = History(
            *(np.zeros((1, *array.shape[1:]), array.dtype) for array in self._users.history)
        )
