"""What the demonstrations learn with: a version and a log enter, a worker in this process leaves."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from consumers.control import Control
from consumers.control_commands import Holder
from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker
from consumers.eventlog.contract import EventLog
from consumers.live import forget_first, live_arena
from consumers.metrics import VersionMetrics
from consumers.pace import Pace
from consumers.settings import Settings
from state.erasure_list import read_erasures
from state.learned import Learned
from state.versions import Version


def opened_learned(version: Version, settings: Settings, held: ExitStack) -> Learned:
    """A version in live tables, with its store; `held` closes both."""
    store = held.enter_context(version.open())
    forget_first(version, store)
    arena = live_arena(version, settings)
    held.callback(arena.close)
    return Learned(version.spec, store, user_cache=settings.worker.user_cache, arena=arena)


def opened_worker(
    version: Version,
    learned: Learned,
    log: EventLog,
    settings: Settings,
    metrics: VersionMetrics,
    held: ExitStack,
) -> EmbeddingWorker:
    """A worker as `freshet work` has it, to be stepped from a loop; `held` closes what it opens."""
    worker = settings.worker
    return EmbeddingWorker(
        learned,
        log,
        dead_letters=DeadLetters(version.dead_letters_path),
        metrics=metrics,
        pace=Pace(worker.commit_interval_min, worker.commit_interval_max, worker.commit_share),
        control=held.enter_context(Control(Holder(version, learned.store, lambda: learned))),
        erasures=partial(read_erasures, version.home),
    )
