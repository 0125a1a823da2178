"""`freshet serve` as a process: sockets, slow clients, signals, and from a posted event to its answer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from consumers.cli import main
from tests.consumers.served import taught

ROOT = Path(__file__).parents[2]
ENOUGH_S = 120.0


@contextmanager
def freshet(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process of its own, ended at the end; a failure shows what it said."""
    program = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    with subprocess.Popen(
        [*program, "--home", str(home), *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.terminate()  # a kill would leave its temporary files
            try:
                process.wait(ENOUGH_S)
            finally:
                process.kill()


@contextmanager
def server(home: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port, and its address."""
    with freshet(home, *words, "serve", "--port", "0") as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, f"the server ended with code {process.wait(ENOUGH_S)} before it listened"
        yield process, address


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that waits longer for a request to come whole than a machine may stall."""
    home = tmp_path_factory.mktemp("home")
    taught(home, "mine")
    with server(home, "--set", "serve.request_timeout=60s") as (_, address):
        yield address


def connected(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), ENOUGH_S)


def received(connection: socket.socket) -> tuple[int, Any]:
    """Status and body of the one answer that comes before the connection is closed, or broken off."""
    data = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def exchanged(address: str, *parts: bytes) -> tuple[int, Any]:
    with connected(address) as connection:
        with suppress(ConnectionError):  # a server that has refused waits a second for the rest, no longer
            for part in parts:
                connection.sendall(part)
        return received(connection)


def asked(address: str, path: str, body: object = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{address}{path}", data, {"content-type": "application/json"})
    try:
        with urlopen(request, timeout=ENOUGH_S) as answer:
            return answer.status, json.load(answer)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


HEAD = b"POST /v1/scores HTTP/1.1\r\nhost: x\r\n"


def test_clients_that_send_too_slowly_are_told_and_closed(tmp_path: Path) -> None:
    begun = [
        b"",
        b"GET /livez HT",
        HEAD + b"content-length: 9\r\n\r\n{",
        HEAD + b"transfer-encoding: chunked\r\n\r\n",
    ]
    with server(tmp_path, "--set", "serve.request_timeout=1s") as (_, address), ExitStack() as held:
        connections = [held.enter_context(connected(address)) for _ in begun]
        for connection, sent in zip(connections, begun, strict=True):
            with suppress(ConnectionError):  # this process may have stalled until it was told
                connection.sendall(sent)
        assert dripped(address).startswith(b"HTTP/1.1 408 ")
        for connection in connections:
            status, body = received(connection)
            assert (status, body["error"]["code"]) == (408, "too_slow")


def dripped(address: str) -> bytes:
    """What a client is answered that goes on sending, a few bytes at a time."""
    until = time.monotonic() + ENOUGH_S
    with connected(address) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        connection.settimeout(0.05)
        while time.monotonic() < until:
            with suppress(ConnectionError):  # it was told, and closed
                connection.sendall(b"x-drip: 1\r\n")
            with suppress(TimeoutError):
                return connection.recv(4096)
    raise AssertionError("a client that drips bytes is never told to go")


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ((b"this is not HTTP\r\n\r\n",), 400, "bad_request"),
        ((b"GET /v1/users/\xff/embedding HTTP/1.1\r\nhost: x\r\n\r\n",), 400, "bad_request"),
        ((b"GET /livez HTTP/1.1\r\nx-long: ", *[b"x" * 10_000] * 100, b"\r\n\r\n"), 431, "headers_too_long"),
        ((b"GET /v1/users/", *[b"x" * 10_000] * 100, b"/embedding HTTP/1.1\r\n\r\n"), 414, "id_too_long"),
        ((b"GET /livez HTTP/1.1\r\nhost: x\r\ncontent-length: no\r\n\r\n",), 400, "bad_request"),
    ],
)
def test_what_is_no_request_is_refused_in_the_one_form(
    address: str, parts: tuple[bytes, ...], status: int, code: str
) -> None:
    found, body = exchanged(address, *parts)
    assert (found, body["error"]["code"]) == (status, code)


def test_body_too_large_is_refused_though_its_length_was_never_told(address: str) -> None:
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    with connected(address) as connection:
        connection.sendall(HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.sendall(40 * chunk + b"0\r\n\r\n")
        status, body = received(connection)
    assert (status, body["error"]["code"]) == (413, "too_large")


def test_requests_on_one_connection_are_answered_in_turn(address: str) -> None:
    with connected(address) as connection:
        connection.sendall(3 * b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        data = b""
        while part := connection.recv(65_536):
            data += part
    assert data.count(b"HTTP/1.1 200") == data.count(b'{"status":"alive"}') == 4


def test_event_that_is_posted_is_learned_and_answered(tmp_path: Path) -> None:
    assert main(["--home", str(tmp_path), "versions", "create", "mine", "--set", "dimension=4"]) == 0
    with (
        server(tmp_path) as (process, address),
        freshet(
            tmp_path, "--set", "worker.metrics_port=none", "work", "mine", "--follow", "--json"
        ) as worker,
    ):
        events = [{"user": "ann", "item": item} for item in ("tea", "cup", "tea")]
        assert asked(address, "/v1/events", events) == (200, {"events": 3, "log": "segments"})
        until = time.monotonic() + ENOUGH_S
        while True:
            status, found = asked(address, "/v1/users/ann/embedding")
            if status == 200 and found["events"] == 3 and found["worker"]:
                break
            assert status in (200, 404, 503) and time.monotonic() < until, found
            time.sleep(0.1)
        assert (found["version"], found["arm"]) == ("mine", "only")
        assert asked(address, "/v1/versions")[1]["versions"][0]["worker"] is True
        with server(tmp_path) as (_, other):  # many servers on one home
            assert asked(other, "/v1/items/tea/similar")[1]["similar"][0]["id"] == "cup"
        worker.send_signal(signal.SIGTERM)
        report = json.loads(worker.communicate(timeout=ENOUGH_S)[0])
        assert worker.returncode == 0 and report["learned"] == 3
        assert asked(address, "/v1/users/ann/embedding")[1]["vector"] == found["vector"]
        with connected(address):
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENOUGH_S) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_server_beyond_this_machine_needs_a_token(
    bare: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert main(["serve", "--host", host, "--port", "0"]) == 2
    assert "set serve.token" in capsys.readouterr().err


def test_port_that_is_taken_is_named(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"serve.port {port}: cannot listen there" in capsys.readouterr().err
