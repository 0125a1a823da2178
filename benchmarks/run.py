"""Runs a version over files as `freshet work` does, in this process, for measurements."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event as Flag
from typing import Any

from prometheus_client import CollectorRegistry

from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.contract import EventLog
from consumers.eventlog.files import FilesLog
from consumers.metrics import WorkerMetrics
from consumers.pace import Pace
from state.learned import Learned
from state.spec import new_spec
from state.versions import Registry
from streaming.rules import EventRules


@contextmanager
def worker(
    learner: str,
    log: EventLog | Path,
    *,
    home: Path | None = None,
    user_cache: int = 100_000,
    pace: Pace | None = None,
    batch_events: int = 4096,
    **given: Any,
) -> Iterator[EmbeddingWorker]:
    """A worker on a RocksDB of its own; what it learned is removed afterwards, unless `home` is given."""
    place = home or Path(tempfile.mkdtemp(prefix="freshet-bench-"))
    registry = Registry(place)
    version = registry.get("v") if "v" in registry.names() else registry.create("v", new_spec(learner, given))
    source = FilesLog([log], EventRules()) if isinstance(log, Path) else log
    try:
        with version.open() as store:
            yield EmbeddingWorker(
                Learned(version.spec, store, user_cache=user_cache),
                source,
                dead_letters=DeadLetters(version.dead_letters_path),
                metrics=WorkerMetrics(CollectorRegistry()).of("v"),
                pace=pace or Pace(),
                batch_events=batch_events,
            )
    finally:
        source.close()
        if home is None:
            shutil.rmtree(place)


def run_all(embedding_worker: EmbeddingWorker) -> float:
    """Run to the end of the log; returns the seconds it took, the last commit included."""
    return embedding_worker.run(Flag()).seconds
