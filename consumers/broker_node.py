"""Properties enter; one node of a Kafka cluster is formatted, started, awaited and ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from consumers.kafka_jars import Runtime
from streaming.errors import BrokerError

HOST = "127.0.0.1"
_CONTROLLER = "CONTROLLER"
_POLL_S = 0.03
_REPLY_S = 5.0
_KILL_S = 60.0  # a kill is certain, and on a busy machine slow
_JAVA = (
    "--enable-native-access=ALL-UNNAMED",
    "--sun-misc-unsafe-memory-access=allow",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",  # a node that is killed would leave its file in the system's directory
    "-Xlog:disable",  # Java's own remarks, not Kafka's
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
# A Metadata request of version 1 as the Kafka protocol guide has it: size, key, version, correlation, no
# client id, no topics. It answers with the brokers that may be given partitions.
_WHO = struct.pack(">ihhihi", 14, 3, 1, 1, -1, 0)
_CAUSE = re.compile(r"(?:Caused by: |Exception in thread \S+ |ERROR )?[\w.$]*(?:Exception|Error)\b: *(.+)")


def cluster_properties(controller_ports: Sequence[int], protocols: Mapping[str, str]) -> dict[str, str]:
    """Kafka's settings that all nodes share: small, quick to start, and replicated where three can be.

    Args:
        controller_ports: port of each node's controller, in the order of the nodes.
        protocols: listener → security protocol.
    """
    count = len(controller_ports)
    voters = ",".join(f"{k + 1}@{HOST}:{port}" for k, port in enumerate(controller_ports))
    security = ",".join(f"{name}:{protocol}" for name, protocol in protocols.items())
    in_sync = str(min(2, count))
    return {
        "process.roles": "broker,controller",
        "controller.quorum.voters": voters,
        "controller.listener.names": _CONTROLLER,
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": f"{security},{_CONTROLLER}:PLAINTEXT",
        "default.replication.factor": str(count),
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": str(count),
        "transaction.state.log.replication.factor": str(count),
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": str(count),
        "share.coordinator.state.topic.min.isr": in_sync,
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.num.partitions": "8",
        # A killed node loses its partitions, and may start again, after three seconds instead of nine.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "group.initial.rebalance.delay.ms": "0",
        "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
        "num.io.threads": "4",
        "num.network.threads": "2",
    }


def port_is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine's loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Node:
    """One Java process of a cluster, and its directory.

    Args:
        number: from 1; Kafka's node id.
        directory: where its data, properties and log are.
        ports: listener → port.
        controller_port: port of its controller.
        properties: Kafka's settings of the whole cluster.
        runtime: Java and Kafka's jars.
        tell: is told "+" and the process id after each start, "-" and the id after each end.
    """

    def __init__(
        self,
        number: int,
        directory: Path,
        ports: Mapping[str, int],
        controller_port: int,
        properties: Mapping[str, str],
        runtime: Runtime,
        tell: Callable[[str, int], None],
    ) -> None:
        self.number = number
        self.directory = directory
        self.ports = dict(ports)
        self.log_path = directory / "broker.log"
        self._properties_path = directory / "server.properties"
        self._runtime = runtime
        self._tell = tell
        self._process: subprocess.Popen[bytes] | None = None
        self._format: subprocess.Popen[bytes] | None = None
        addresses = ",".join(f"{name}://{HOST}:{port}" for name, port in self.ports.items())
        heap = 512 if "," not in properties["controller.quorum.voters"] else 256
        self._flags = [*_JAVA, f"-Xmx{heap}m", f"-Djava.io.tmpdir={directory / 'tmp'}"]
        if runtime.archive.exists() and not runtime.archive_output:
            self._flags.append(f"-XX:AOTCache={runtime.archive}")
        self._properties = {
            "node.id": str(number),
            "listeners": f"{addresses},{_CONTROLLER}://{HOST}:{controller_port}",
            "advertised.listeners": addresses,
            "log.dirs": str(directory / "data"),
            **properties,
        }

    @property
    def alive(self) -> bool:
        """Whether its process runs, suspended or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def process_id(self) -> int | None:
        """The id of its process, None where none runs."""
        return self._process.pid if self._process is not None and self.alive else None

    def start(self, timeout_s: float = 90.0) -> None:
        """Starts the node again and returns when the cluster counts it among its brokers.

        Raises:
            BrokerError: it ended at once or did not answer in time.
        """
        self.launch()
        self.await_ready(time.monotonic() + timeout_s)

    def begin_format(self, cluster: str) -> None:
        """Writes the properties, and begins to lay out the data directory where there is none yet.

        Args:
            cluster: identity of the cluster, 22 characters of base64.
        """
        try:
            shutil.rmtree(self.directory / "tmp", ignore_errors=True)
            (self.directory / "tmp").mkdir(parents=True)
            self._properties_path.touch(mode=0o600)  # they may hold passwords
            self._properties_path.write_text(_as_properties(self._properties), encoding="ascii")
        except OSError as error:
            raise BrokerError(
                f"Node {self.number} cannot write {self.directory}: {error.strerror}. Free some space or "
                "mend its permissions."
            ) from error
        if not (self.directory / "data" / "meta.properties").exists():
            self._format = self._java(
                "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties_path)
            )

    def launch(self) -> None:
        """Starts the process, once its data directory is laid out, without waiting for its answer."""
        if self.alive:
            return
        if self._format is not None:
            code = self._format.wait()
            self._ended(self._format)
            self._format = None
            if code:
                raise self._failure("cannot lay out its data")
        output = self._runtime.archive_output
        flags = [f"-XX:AOTCacheOutput={output}"] if output else []
        self._process = self._java(*flags, "kafka.Kafka", str(self._properties_path))

    def await_ready(self, until: float) -> None:
        """Waits until the node answers and the cluster counts it among its brokers.

        Args:
            until: reading of the monotonic clock, in seconds, at which it is given up.

        Raises:
            BrokerError: it ended, or did not answer in time.
        """
        while self.number not in _brokers_known_at(self.ports["PLAINTEXT"]):
            if not self.alive:
                raise self._failure("ended before it was ready")
            if time.monotonic() > until:
                raise self._failure("did not get ready in time")
            time.sleep(_POLL_S)

    def terminate(self) -> None:
        """Asks the node to end cleanly (SIGTERM) and returns at once."""
        if self.alive:
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)

    def await_end(self, until: float) -> None:
        """Waits for the end of the process until a reading of the monotonic clock, then kills it."""
        if self._process is not None:
            try:
                self._process.wait(max(until - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait(_KILL_S)
            self._ended(self._process)
            self._process = None

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ends the node cleanly, within a time in seconds."""
        self.terminate()
        self.await_end(time.monotonic() + timeout_s)

    def kill(self) -> None:
        """Ends the node at once (SIGKILL)."""
        if self._format is not None:
            self._format.kill()
            self._format.wait(_KILL_S)
            self._ended(self._format)
            self._format = None
        self._signal(signal.SIGKILL)
        self.await_end(time.monotonic() + _KILL_S)

    def suspend(self) -> None:
        """Stops the node in its tracks (SIGSTOP), and returns when all of it stands still."""
        self._signal(signal.SIGSTOP)
        if self._process is not None and hasattr(os, "waitid"):  # macOS has none before Python 3.13
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Lets a suspended node go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.alive:
            self._process.send_signal(number)

    def _java(self, *words: str) -> subprocess.Popen[bytes]:
        """Begins a Java program, flags first, whose output goes to the node's log."""
        command = [str(self._runtime.java), *self._flags, "-cp", self._runtime.class_path, *words]
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl-C is for the program that owns the broker, which ends it cleanly.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._tell("+", process.pid)
        return process

    def _ended(self, process: subprocess.Popen[bytes]) -> None:
        self._tell("-", process.pid)

    def _failure(self, what: str) -> BrokerError:
        """An error with the last cause that the node's log names."""
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        causes = [match[1] for line in text.splitlines() if (match := _CAUSE.search(line))]
        said = causes[-1].strip() if causes else (text.strip().splitlines() or ["nothing"])[-1]
        return BrokerError(f"Kafka's node {self.number} {what}. It said: {said} All it said: {self.log_path}")


def _brokers_known_at(port: int) -> list[int]:
    """Node ids of the brokers that may be given partitions, as one of them tells; none where none answers."""
    try:
        with socket.create_connection((HOST, port), _REPLY_S) as connection:
            connection.sendall(_WHO)
            with connection.makefile("rb") as reply:
                (size,) = struct.unpack(">i", reply.read(4))
                body = reply.read(size)
    except (OSError, struct.error):  # nothing listens yet, or it closed the connection before it answered
        return []
    (count,) = struct.unpack_from(">i", body, 4)
    known, at = [], 8
    for _ in range(count):
        number, host = struct.unpack_from(">ih", body, at)
        (rack,) = struct.unpack_from(">h", body, at + 10 + host)
        known.append(number)
        at += 12 + host + max(rack, 0)
    return known


def _as_properties(properties: Mapping[str, str]) -> str:
    """Lines of a Java properties file; what these files cannot hold plainly is escaped.

    >>> _as_properties({"ssl.keystore.key": "a\\nb = é"})
    'ssl.keystore.key=a\\\\nb = \\\\u00e9\\n'
    """
    lines = []
    for key, value in properties.items():
        plain = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        units = plain.encode("utf-16-be")
        codes = [int.from_bytes(units[k : k + 2]) for k in range(0, len(units), 2)]
        text = "".join(chr(code) if code < 127 else f"\\u{code:04x}" for code in codes)
        lines.append(f"{key}={text}\n")
    return "".join(lines)
