"""Versions whose sequences learned from real files by the worker's code, with a small transformer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event as Flag
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.eventlog.files import FilesLog
from consumers.pace import Pace
from consumers.sessions import SessionTotals, SessionWorker
from consumers.sessions_metrics import SessionMetrics
from state.erasure_list import read_erasures
from state.reader import Reader
from state.sequences import Sequences, open_sequences, settled_options
from state.sequences_directory import sequences_of
from state.store import Store
from state.versions import Version
from streaming import learners
from tests.consumers.worked import RULES, append, learn, lines, made

SOFTMAX: dict[str, Any] = {"dimension": 4, "start": 1, "negatives": 5, "history": 6, "context": 4}
OPTIONS = {
    "length": "4", "hidden": "8", "negatives": "16", "batch": "16", "replayed": "8", "remembered": "128",
    "every": "16", "learning_rate": "0.01",
}  # fmt: skip


def softmax(home: Path, path: Path, n: int = 400) -> Version:
    """A version that learned n lines of a file, which is made."""
    version = made(home, "softmax", **SOFTMAX)
    learn(version, append(path, lines(n, seed=1)))
    return version


def worker_on(version: Version, store: Store, log: FilesLog, **others: Any) -> SessionWorker:
    """A worker over an open store, which reads the version from a reader that is the caller's."""
    options = settled_options(version.spec, store, OPTIONS, others.pop("idle_s", 0))
    limit, arena = others.pop("limit", None), others.pop("arena", None)
    sequences: Sequences = open_sequences(version.spec, store, options, limit=limit, arena=arena)
    return SessionWorker(
        sequences,
        log,
        metrics=SessionMetrics(others.pop("registry", CollectorRegistry()), version.name),
        learner=learners.load(version.spec.learner),
        seed=version.spec.seed,
        erasures=lambda: read_erasures(version.home),
        **others,
    )


def follow(
    version: Version,
    path: Path,
    *,
    commit_s: float = 1e9,
    batch: int = 50,
    wrap: Callable[[Store], Store] = lambda store: store,
    look: Callable[[SessionWorker], None] = lambda worker: None,
    **others: Any,
) -> SessionTotals:
    """One run over a file, to its end.

    Args:
        commit_s: time between commits.
        wrap: puts something between the worker and its store.
        look: sees the worker at the end.
    """
    with ExitStack() as held:
        store = held.enter_context(sequences_of(version).open())
        log = held.enter_context(closing(FilesLog([str(path)], RULES)))
        reader = held.enter_context(closing(Reader(version)))
        pace = Pace(commit_s, commit_s) if commit_s else Pace(0.0, 0.0)
        worker = worker_on(version, wrap(store), log, reader=reader, pace=pace, batch_events=batch, **others)
        totals = worker.run(Flag())
        look(worker)
    return totals
