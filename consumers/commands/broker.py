"""`freshet broker`: a Kafka for development runs on this machine until Ctrl-C."""

from __future__ import annotations

import signal
import time
from typing import NoReturn

from consumers.broker import Broker
from consumers.commands.context import current_settings
from consumers.commands.output import stderr
from streaming.errors import BrokerError, UsageError

_WATCH_S = 0.2


def broker(*, port: int = 9092, nodes: int | None = None) -> int:
    """Run Apache Kafka on this machine, for development, until Ctrl-C.

    Its data are kept in the home directory, and it listens on 127.0.0.1 alone. The first start fetches
    Kafka (45 MB) from Maven Central; later ones need no network. Standard output gets one line, the
    bootstrap address, when the broker is ready.

    Parameters
    ----------
    port
        Port of the first node; further nodes have the ports after it.
    nodes
        1, or 3 for trials with failures. As many as there are in the home directory when left out, else 1.
    """
    if not 1 <= port <= 65_533:
        raise UsageError(f"--port must be from 1 to 65533, got {port}.")
    signal.signal(signal.SIGTERM, _interrupt)
    directory = current_settings().home / "broker"
    cluster = Broker(directory, nodes=nodes, port=port)
    began = time.monotonic()
    with cluster:
        took = time.monotonic() - began
        try:
            stderr.print(f"Kafka is ready after {took:.1f} s, its data are in {directory}; Ctrl-C stops it")
            print(cluster.bootstrap, flush=True)
            _watch(cluster)
        except KeyboardInterrupt:
            stderr.print("stopping Kafka; its data stay")
    return 0


def _watch(cluster: Broker) -> NoReturn:
    """Says which nodes end by themselves, until none is left.

    Raises:
        BrokerError: the last node ended.
    """
    running = list(cluster.nodes)
    while running:
        for node in [node for node in running if not node.alive]:
            stderr.print(f"node {node.number} ended by itself; see {node.log_path}")
            running.remove(node)
        time.sleep(_WATCH_S)
    logs = ", ".join(str(node.log_path) for node in cluster.nodes)
    raise BrokerError(f"Kafka ended by itself. What it said is in {logs}; start it again.")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
