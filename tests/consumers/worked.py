"""Versions that learned from real files by the worker's code, and their stores read with plain rocksdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from rocksdict import AccessType, DBCompressionType, Options, Rdict

from consumers.control import Control
from consumers.dead_letters import DeadLetters
from consumers.embeddings import EmbeddingWorker, Totals
from consumers.event_rules import rules_text
from consumers.eventlog.contract import EventLog
from consumers.eventlog.files import FilesLog
from consumers.metrics import WorkerMetrics
from consumers.pace import Pace
from state.erasure_list import Erasures, read_erasures
from state.learned import Learned
from state.spec import new_spec
from state.store import Store
from state.versions import Registry, Version
from streaming.rules import EventRules

RULES = EventRules()
BAD = ["", "{", '{"user": 7.5, "item": "x", "ts": 1700000000}', "[]"]  # one blank, three bad


def lines(n: int, *, seed: int, start: int = 0) -> list[str]:
    """JSON lines of events; one in ten is blank or bad."""
    random = np.random.default_rng((seed, start))
    return [
        BAD[k // 10 % len(BAD)]
        if k % 10 == 9
        else json.dumps({
            "user": f"u{int(30 * random.random() ** 2)}",
            "item": f"i{int(20 * random.random() ** 2)}",
            "ts": 1_700_000_000 + 60 * k,
            "type": "view" if random.random() < 0.3 else "buy",
        })
        for k in range(start, start + n)
    ]  # fmt: skip


def append(path: Path, more: Sequence[str]) -> Path:
    """Put lines at the end of a file."""
    with path.open("a") as file:
        file.writelines(line + "\n" for line in more)
    return path


def made(home: Path, learner: str = "popularity", name: str = "mine", **given: Any) -> Version:
    """A new version that evaluates a fifth of the events."""
    return Registry(home).create(name, new_spec(learner, {"evaluation_rate": 0.2, **given}))


def worker_on(
    version: Version,
    store: Store,
    log: EventLog,
    *,
    rules: EventRules = RULES,
    commit: int = 0,
    batch: int = 50,
    observe: Callable[[Totals], None] | None = None,
    control: Control | None = None,
    erasures: Callable[[], Erasures] | None = None,
) -> EmbeddingWorker:
    """A worker over an open store."""
    return EmbeddingWorker(
        Learned(version.spec, store),
        log,
        dead_letters=DeadLetters(version.dead_letters_path),
        metrics=WorkerMetrics(CollectorRegistry()).of(version.name),
        rules=rules_text(rules),
        pace=Pace(events=commit),
        batch_events=batch,
        observe=observe,
        control=control,
        erasures=erasures,
    )


def learn(
    version: Version, *paths: Path, rules: EventRules = RULES, commit: int = 0, batch: int = 50
) -> Totals:
    """One run over files, to their end."""
    with version.open() as store:
        log = FilesLog([str(path) for path in paths], rules)
        erasures = partial(read_erasures, version.home)
        worker = worker_on(version, store, log, rules=rules, commit=commit, batch=batch, erasures=erasures)
        totals = worker.run(Flag())
        log.close()
    return totals


def everything(store: Path) -> dict[bytes, bytes]:
    """All keys and values, read by plain rocksdict."""
    # Its types do not know raw mode.
    database: Any = Rdict(str(store), Options(raw_mode=True), access_type=AccessType.read_only(False))
    try:
        return dict(database.items())
    finally:
        database.close()


def spoil(store: Path, prefix: bytes, at: int = -1) -> bytes:
    """Flip a bit in the value of the first key with a prefix; returns the key."""
    database: Any = Rdict(str(store), Options(raw_mode=True))
    try:
        key: bytes = next(k for k, _ in database.items(from_key=prefix) if k.startswith(prefix))
        value = bytearray(database[key])
        value[at] ^= 1
        database[key] = bytes(value)
        return key
    finally:
        database.close()


def spoil_file(store: Path, prefix: bytes) -> None:
    """Flip a bit on the disk, in the block of the sorted file that holds the first key with a prefix."""
    options = Options(raw_mode=True)
    options.set_compression_type(DBCompressionType.none())
    database = Rdict(str(store), options)
    database.flush()
    database.compact_range(None, None)
    database.close()
    # Keys share their beginnings with those before; the first of each 16 stands there whole.
    file = max(store.glob("*.sst"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[content.index(prefix) + len(prefix) + 2] ^= 1
    file.write_bytes(content)
