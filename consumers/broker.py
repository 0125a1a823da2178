"""A directory enters; a real Apache Kafka on this machine runs over it, on 127.0.0.1 only.

Each node is a Java process, broker and controller in one. Its data, its properties and its log are in
`<directory>/node-<n>`: a node that was killed starts again on them. A guard process ends the nodes when
the process that started them dies without a word.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

import structlog

from consumers.broker_node import HOST, Node, cluster_properties, port_is_free
from consumers.kafka_jars import Runtime, kafka_runtime
from streaming.errors import BrokerError, UsageError

logger = structlog.get_logger()

NODE_COUNTS = (1, 3)
_CLUSTER = "cluster-id"
_PORTS = range(20_000, 32_000)  # below those that systems give to outgoing connections
_TRIES = 200
_STOP_S = 15.0
_LINK_S = 300.0
_GUARD = """
import os, shutil, signal, sys, time
nodes = set()
for line in sys.stdin:
    sign, number = line[0], int(line[1:])
    (nodes.add if sign == "+" else nodes.discard)(number)
until = time.monotonic() + 5
for node in nodes:
    try:
        os.kill(node, signal.SIGKILL)
        while time.monotonic() < until:
            os.kill(node, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        pass
for directory in sys.argv[1:]:
    shutil.rmtree(directory, ignore_errors=True)
"""


class Broker:
    """A Kafka cluster of one node or three, also as a context manager.

    A cluster whose data are kept is stopped cleanly at the end of the context; one in a directory of its
    own making is killed and removed.

    Args:
        directory: where the data are kept; a new temporary directory when None.
        nodes: 1, or 3 for trials with failures; as many as the directory holds when None, else 1.
        port: the port of the first node, the others follow; any free ones when 0. They stay the same
            when a node is started again.
        properties: Kafka's own settings, above those that are set here.
        listeners: name → security protocol of listeners beside PLAINTEXT, as {"SECURE": "SASL_SSL"}.
        runtime: Java and Kafka; `prepared_runtime()` when None.

    Raises:
        UsageError: the extra `broker` is not installed, or the number of nodes is impossible.
        BrokerError: Kafka cannot be fetched or started.
    """

    def __init__(
        self,
        directory: Path | None = None,
        nodes: int | None = None,
        port: int = 0,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        held = _held(directory) if directory else 0
        count = nodes or held or 1
        if count not in NODE_COUNTS:
            raise UsageError(f"--nodes must be 1 or 3, got {count}: a cluster decides by majority.")
        if held and held != count:
            raise UsageError(
                f"{directory} holds a cluster of {held} node{'s' * (held > 1)} and cannot start with "
                f"{count}. Leave --nodes out, or remove the directory with its topics."
            )
        names = ["PLAINTEXT", *(listeners or {})]
        if port:
            _refuse_taken(range(port, port + count))
        runtime = runtime or prepared_runtime()
        self._temporary = directory is None
        self.directory = (directory or Path(tempfile.mkdtemp(prefix="freshet-broker-"))).resolve()
        ports = [[port + k if port and name == "PLAINTEXT" else 0 for name in names] for k in range(count)]
        found = iter(_free_ports(count * (len(names) + 1)))
        ports = [[given or next(found) for given in row] for row in ports]
        controllers = [next(found) for _ in range(count)]
        protocols = {"PLAINTEXT": "PLAINTEXT", **(listeners or {})}
        shared = cluster_properties(controllers, protocols) | dict(properties or {})
        self.nodes = [
            Node(
                number=k + 1,
                directory=self.directory / f"node-{k + 1}",
                ports=dict(zip(names, ports[k], strict=True)),
                controller_port=controllers[k],
                properties=shared,
                runtime=runtime,
                tell=self._tell,
            )
            for k in range(count)
        ]
        self._guard: subprocess.Popen[str] | None = None
        self._lock: IO[str] | None = None

    @property
    def bootstrap(self) -> str:
        """The addresses that clients are given: host:port, with commas between."""
        return self.address("PLAINTEXT")

    def address(self, listener: str) -> str:
        """The bootstrap addresses of one listener."""
        return ",".join(f"{HOST}:{node.ports[listener]}" for node in self.nodes)

    def start(self, timeout_s: float = 90.0) -> None:
        """Starts every node that does not run, and returns when the cluster answers with all of them.

        A cluster that cannot start is closed.

        Raises:
            BrokerError: a node ended at once or did not answer in time; what it said is quoted.
        """
        try:
            self._prepare()
            until = time.monotonic() + timeout_s
            idle = [node for node in self.nodes if not node.alive]
            for node in idle:
                node.begin_format((self.directory / _CLUSTER).read_text())
            for node in idle:
                node.launch()
            for node in idle:
                node.await_ready(until)
        except BaseException:
            self.close()
            raise

    def stop(self, timeout_s: float = _STOP_S) -> None:
        """Ends every node cleanly, or kills what has not ended in time; the data stay."""
        for node in self.nodes:
            node.terminate()
        until = time.monotonic() + timeout_s
        for node in self.nodes:
            node.await_end(until)

    def kill(self) -> None:
        """Ends every node at once, as a power cut would (SIGKILL); the data stay as they are."""
        for node in self.nodes:
            node.kill()

    def suspend(self) -> None:
        """Stops every node in its tracks (SIGSTOP): connections stay open, nothing answers."""
        for node in self.nodes:
            node.suspend()

    def resume(self) -> None:
        """Lets suspended nodes go on (SIGCONT)."""
        for node in self.nodes:
            node.resume()

    def close(self) -> None:
        """Ends the cluster, its guard and, where it is temporary, its directory."""
        if self._temporary:
            self.kill()
        else:
            self.stop()
        if self._guard is not None and self._guard.stdin is not None:
            with suppress(BrokenPipeError):
                self._guard.stdin.close()
            self._guard.wait()
            self._guard = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self) -> None:
        """Makes the directory, the identity of the cluster and the guard, where they are absent."""
        identity = self.directory / _CLUSTER
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if self._lock is None:
                self._lock = _locked(self.directory)
            if not identity.exists():
                made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
                # Kafka's command line would take a leading dash for an option.
                identity.write_text("k" + made[1:])
        except OSError as error:
            raise BrokerError(
                f"The broker's directory {self.directory} cannot be written: {error.strerror}. Free some "
                "space, mend its permissions, or choose another --home."
            ) from error
        if self._guard is None:
            # A session of its own: what is sent to the group of a terminal must not reach it.
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD, *([str(self.directory)] * self._temporary)],
                stdin=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )

    def _tell(self, sign: str, process: int) -> None:
        """Tells the guard that a node began ("+") or ended ("-")."""
        if self._guard is not None and self._guard.stdin is not None:
            # Without a guard, because somebody ended it, the nodes run on and are ended as usual.
            with suppress(BrokenPipeError):
                self._guard.stdin.write(f"{sign}{process}\n")
                self._guard.stdin.flush()


def prepared_runtime() -> Runtime:
    """Java and Kafka, fetched, checked and, once on a machine, linked ahead of time.

    Raises:
        UsageError: the extra `broker` is not installed.
        BrokerError: Kafka cannot be fetched or started.
    """
    runtime = kafka_runtime()
    if runtime.archive.exists():
        return runtime
    logger.info("kafka_linking", into=str(runtime.archive), reason="later starts take half of the work")
    try:
        with tempfile.TemporaryDirectory(prefix=".new-", dir=runtime.archive.parent) as fresh:
            output = Path(fresh, "linked.aot")
            with Broker(runtime=runtime._replace(archive_output=output)) as cluster:
                cluster.stop(_LINK_S)
            for old in runtime.archive.parent.glob("linked-*.aot"):
                old.unlink()
            os.replace(output, runtime.archive)
    except OSError as error:
        logger.warning("kafka_not_linked", error=str(error), effect="starts take longer")
    return runtime


def _locked(directory: Path) -> IO[str]:
    """A lock on a directory that ends with this process at the latest."""
    lock = (directory / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise BrokerError(
            f"{directory} is in use by another broker. Use that one, stop it, or choose another --home."
        ) from error
    return lock


def _held(directory: Path) -> int:
    """How many nodes a directory holds."""
    return sum(1 for _ in directory.glob("node-*/data/meta.properties"))


def _refuse_taken(ports: range) -> None:
    for port in ports:
        if not port_is_free(port):
            raise BrokerError(
                f"Port {port} of {HOST} is taken by another program, perhaps by another broker. Stop it, "
                "or choose another port with --port."
            )


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now."""
    found: list[int] = []
    for port in random.sample(_PORTS, _TRIES):
        if port_is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise BrokerError(
        f"No {count} free ports were found among {_TRIES}. End some of the programs that listen."
    )
