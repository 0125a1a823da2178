"""A registry enters; its metrics page is served and announced for as long as a process runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry

from consumers.machine_metrics import announced
from consumers.metrics import serve_metrics
from consumers.settings import Settings

logger = structlog.get_logger()


@contextmanager
def metrics_page(settings: Settings, process: str, registry: CollectorRegistry) -> Iterator[None]:
    """The metrics page, where the settings want one (worker.metrics_port, or the next free one).

    Args:
        process: its name for Prometheus and `freshet watch`, as "work-mine".

    Raises:
        SettingError: no port may be used, or the address is not this machine's.
    """
    worker = settings.worker
    if worker.metrics_port is None:
        yield
        return
    port = serve_metrics(registry, worker.metrics_port, worker.metrics_host)
    address = f"{'127.0.0.1' if worker.metrics_host == '0.0.0.0' else worker.metrics_host}:{port}"
    logger.info("metrics_served", address=f"http://{address}/metrics")
    with announced(settings.home, process, address):
        yield
