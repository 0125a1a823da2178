"""Compiles the kernels of the default path once, so that the first start does not wait for them.

Run by `make setup`: `python -m consumers.warm`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from threading import Event as Flag

from prometheus_client import CollectorRegistry

from consumers.demo import Demo
from consumers.logs import configure_logs
from consumers.metrics import WorkerMetrics
from consumers.settings import Settings
from streaming.decoding import JsonDecoder
from streaming.rules import EventRules


def warm() -> None:
    """Learn a few simulated events, decode a record and answer a query."""
    import numpy as np

    from consumers.eventlog.record_batches import warm_batches

    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home))
        demo = Demo(settings, WorkerMetrics(CollectorRegistry()), seed=1, rate=None, more=2000)
        demo.run(Flag(), lambda: None)
        demo.picture()
        demo.learned.evaluation_cost_s()
        demo.close()
        again = Demo(settings, WorkerMetrics(CollectorRegistry()), seed=1, rate=None, more=100)
        again.close()
    record = np.frombuffer(b'{"user":"u","item":"i","ts":1700000000}', np.uint8)
    warm_batches()
    JsonDecoder(EventRules(), None).decode(
        record, np.zeros(1, np.int64), np.array([len(record)]), np.zeros(1, np.int64)
    )


if __name__ == "__main__":
    started = time.monotonic()
    configure_logs("auto", "warning")  # that kernels compile is what this command is for
    print("compiling kernels for this machine, once …", flush=True)
    warm()
    print(f"kernels are ready ({time.monotonic() - started:.0f} s)")
