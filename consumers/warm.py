"""Compiles the kernels of the default path once, so that the first start does not wait for them.

Run by `make setup`: `python -m consumers.warm`.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import closing
from pathlib import Path
from threading import Event as Flag

import numpy as np
from prometheus_client import CollectorRegistry

from consumers.demo import Demo
from consumers.logs import configure_logs
from consumers.metrics import WorkerMetrics
from consumers.settings import Settings
from streaming.decoding import JsonDecoder
from streaming.rules import EventRules


def warm() -> None:
    """Learn a few simulated events, decode a record, answer queries as the demonstration and as a server."""
    from consumers.eventlog.batch_scan import warm_batches

    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        demo = Demo(settings, WorkerMetrics(CollectorRegistry()), seed=1, rate=None, more=2000)
        demo.run(Flag(), lambda: None)
        demo.picture()
        demo.learned.evaluation_cost_s()
        _ask(settings.home)
        demo.close()
        again = Demo(settings, WorkerMetrics(CollectorRegistry()), seed=1, rate=None, more=100)
        again.close()
    record = np.frombuffer(b'{"user":"u","item":"i","ts":1700000000}', np.uint8)
    warm_batches()
    JsonDecoder(EventRules(), None).decode(
        record, np.zeros(1, np.int64), np.array([len(record)]), np.zeros(1, np.int64)
    )


def _ask(home: Path) -> None:
    """Ask the version of the demonstration as a server does."""
    from state.index import ItemIndex
    from state.live_view import IndexedItems
    from state.reader import Reader
    from state.versions import Registry

    with closing(Reader(Registry(home).get("demo"))) as reader:
        reader.ask(lambda answers: answers.recommend("user-000001", 5))
        reader.ask(lambda answers: answers.embedding("item", answers.recommend("?", 1).items[0].item))
        if reader.live is None:  # there is no room for live tables here
            return
        source = IndexedItems(reader.live)
        index = ItemIndex(source, exact_most=0)
        index.refresh()
        index.search(np.zeros(source.dimension, np.float32), 5)


if __name__ == "__main__":
    started = time.monotonic()
    configure_logs("auto", "warning")  # that kernels compile is what this command is for
    print("compiling kernels for this machine, once …", flush=True)
    warm()
    print(f"kernels are ready ({time.monotonic() - started:.0f} s)")
