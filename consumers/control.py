"""Commands to the worker of a version: lines of JSON enter through a local socket and leave as answers.

A command takes effect between two events, when all before is durable: the worker commits, then
answers. Where no worker runs, the process that asks holds the store and does the same itself.

    {"command": "snapshot", "arguments": {"keep": 5}}  →  {"result": {…}}  or  {"error": "…", "kind": "…"}

The socket lies in a directory of its own that only its user may enter; HOME/versions/NAME/worker.json
says where. The commands stand in consumers/control_commands.py.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog

from consumers.control_commands import COMMANDS, Holder, held_in
from state.live import discard
from state.versions import Version
from streaming import errors
from streaming.errors import FreshetError, StoreError, UsageError, VersionError, nearest

logger = structlog.get_logger()

_CONNECT_S = 2.0  # longest wait for a worker that takes no connections
_AGAIN_S = 0.02
REQUEST_BYTES = 1 << 16  # of one line
_ANSWER_S = 5.0  # longest wait for a client that does not read its answer
_PATH_BYTES = 100  # the kernel allows 108, macOS 104, with a zero at the end


class WorkerBusyError(VersionError):
    """A worker is there and takes no commands."""


class Control:
    """The worker's end: takes requests in without waiting, answers them at a commit boundary.

    Args:
        holder: the version that this process writes.
    """

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self._note = holder.version.path / "worker.json"
        self._clients: dict[socket.socket, bytearray] = {}
        self._requests: list[tuple[socket.socket, bytes]] = []
        self._forget_dead()
        self._directory = Path(_private_directory())
        self._path = self._directory / "worker.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        half = self._note.with_name(f".{self._note.name}.new")
        half.write_text(json.dumps({"pid": os.getpid(), "socket": str(self._path)}) + "\n")
        half.replace(self._note)

    def waiting(self) -> bool:
        """Take in what has come; whether a request is to be answered."""
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept()
            else:
                self._receive(key.fileobj)  # type: ignore[arg-type]
        return bool(self._requests)

    def answer(self) -> None:
        """Do what was asked and say so; all that was learned is durable."""
        requests, self._requests = self._requests, []
        for client, line in requests:
            reply = _reply(self._holder, line)
            client.settimeout(_ANSWER_S)
            try:
                client.sendall(json.dumps(reply).encode() + b"\n")
            except OSError as error:
                logger.info("control_client_gone", reason=str(error))
            client.close()

    def close(self) -> None:
        """Take no more requests; those that wait are told that the worker has gone, by the closed socket."""
        self._note.unlink(missing_ok=True)
        for client in [*self._clients, *(client for client, _ in self._requests)]:
            client.close()
        self._selector.close()
        self._listener.close()
        _remove_socket(self._path)

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not _is_mine(client):
            client.close()
            return
        client.setblocking(False)
        self._clients[client] = bytearray()
        self._selector.register(client, selectors.EVENT_READ)

    def _receive(self, client: socket.socket) -> None:
        line = self._clients[client]
        try:
            data = client.recv(REQUEST_BYTES)
        except OSError as error:
            logger.info("control_client_gone", reason=str(error))
            data = b""
        line += data
        whole = line.endswith(b"\n")
        if data and not whole and len(line) <= REQUEST_BYTES:
            return
        self._selector.unregister(client)
        del self._clients[client]
        if whole:
            self._requests.append((client, bytes(line)))
        else:
            client.close()

    def _forget_dead(self) -> None:
        """Remove what a killed worker left: this process holds the store, so no other worker has it."""
        if (path := _address(self._holder.version)) is not None:
            _remove_socket(path)


def ask(version: Version, command: str, **arguments: Any) -> dict[str, Any]:
    """Have a command done by the version's worker, or here where no worker runs.

    Raises:
        FreshetError: what the command raised, wherever it was done.
        VersionError: the worker ended before it answered.
        StoreLockedError: no worker listens, yet another process holds the store.
    """
    connection = _connected(version)
    if connection is not None:
        with connection:
            return _asked(version, connection, {"command": command, "arguments": arguments})
    with version.open() as store:
        discard(version.live_path)  # which would not know of what is done here
        return _done(Holder(version, store, lambda: held_in(version, store)), command, arguments)


def worker_of(version: Version) -> int | None:
    """Process id of the worker that learns a version now, None where none listens."""
    try:
        connection = _connected(version)
        if connection is None:
            return None
        connection.close()
    except WorkerBusyError:
        pass  # it is there, which is what was asked
    try:
        pid: int = json.loads((version.path / "worker.json").read_text())["pid"]
    except FileNotFoundError:  # it ended in this moment
        return None
    return pid


def _done(holder: Holder, command: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if command not in COMMANDS:
        known = ", ".join(COMMANDS)
        raise UsageError(
            f'A worker knows no command "{command}".{nearest(command, COMMANDS)} Known: {known}.'
        )
    try:
        return COMMANDS[command](holder, arguments)
    except OSError as error:
        raise StoreError(f'{holder.version.path}: "{command}" failed: {error}.') from error


def _reply(holder: Holder, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        command, arguments = request["command"], dict(request["arguments"])
    except (ValueError, KeyError, TypeError) as error:
        return {"error": f"The request is not one ({error!r}).", "kind": "UsageError"}
    try:
        result = _done(holder, command, arguments)
    except FreshetError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except (KeyError, TypeError, ValueError) as error:
        return {"error": f'"{command}" cannot have these arguments ({error!r}).', "kind": "UsageError"}
    logger.info("command_done", command=command, **result)
    return {"result": result}


def _asked(version: Version, connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    line = b""
    with suppress(ConnectionError):  # it closed the socket before it took the request in
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise VersionError(
            f'The worker of "{version.name}" ended before it answered. Run the same command again.'
        )
    answer = json.loads(line)
    if "error" in answer:
        raise getattr(errors, answer["kind"])(answer["error"])
    result: dict[str, Any] = answer["result"]
    return result


def _connected(version: Version) -> socket.socket | None:
    """A connection to the version's worker; None where the note is missing or was left by a dead worker."""
    path = _address(version)
    if path is None:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(connection, str(path))
    except TimeoutError as error:
        connection.close()
        raise WorkerBusyError(
            f'The worker of "{version.name}" takes no commands now: it may be stopped (SIGSTOP). '
            "Continue or end it, then run the same command again."
        ) from error
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except PermissionError as error:
        connection.close()
        raise VersionError(
            f'The worker of "{version.name}" belongs to another user, and takes commands from that one only.'
        ) from error
    return connection


def _connect(connection: socket.socket, path: str) -> None:
    """Connect, waiting a while where the queue of the other end is full.

    Raises:
        TimeoutError: it stays full.
    """
    until = time.monotonic() + _CONNECT_S
    connection.setblocking(False)
    while True:
        try:
            connection.connect(path)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise TimeoutError from error
            time.sleep(_AGAIN_S)
        else:
            connection.setblocking(True)  # an answer waits for the next commit
            return


def _address(version: Version) -> Path | None:
    try:
        return Path(json.loads((version.path / "worker.json").read_text())["socket"])
    except FileNotFoundError:
        return None


def _private_directory() -> str:
    """A new directory that only this user may enter, with a name short enough for a socket in it."""
    made = tempfile.mkdtemp(prefix="freshet-")
    if len(os.fsencode(made)) + len("/worker.sock") <= _PATH_BYTES:
        return made
    os.rmdir(made)
    return tempfile.mkdtemp(prefix="freshet-", dir="/tmp")


def _remove_socket(path: Path) -> None:
    """Remove a socket and its directory, and nothing else, whatever the note may name."""
    if path.is_socket():
        path.unlink()
        path.parent.rmdir()


def _is_mine(client: socket.socket) -> bool:
    """Whether the other end belongs to this process's user; where Linux does not tell, the directory does."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid in (os.getuid(), 0)
