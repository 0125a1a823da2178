"""How fast the server answers while a worker learns on the same machine.

    python -m benchmarks.serving [--quick]

Requests are sent at their moments whether or not earlier ones were answered, and timed from the moment
at which they were due: a server that stalls does not slow the clock down. Embeddings are asked for beside
an endpoint of the same server that returns a constant, interleaved in the same seconds.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.verdict import Report, run_benchmark
from state.spec import new_spec
from state.versions import Registry

USERS = 20_000
_EVENTS_PER_S = 2000
_CONSTANT_PER_S = 100
_CONNECTIONS = 16
_START_S = 180.0
_FEED_S = 0.01


class Client:
    """Connections to one server that are kept; a request takes the next free one."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self._place = host, int(port)
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def open(self) -> None:
        """Connect."""
        for _ in range(_CONNECTIONS):
            self._free.put_nowait(await asyncio.open_connection(*self._place))

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        reader, writer = await self._free.get()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        self._free.put_nowait((reader, writer))
        return int(head[9:12]), body

    async def close(self) -> None:
        """Close the connections."""
        while not self._free.empty():
            _, writer = self._free.get_nowait()
            writer.close()
            await writer.wait_closed()


def line(user: int, item: int, number: int) -> str:
    """An event of the stream."""
    event = {"user": f"user-{user}", "item": f"item-{item}", "ts": 1_700_000_000 + number}
    return json.dumps(event, separators=(",", ":")) + "\n"


@contextmanager
def freshet(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command as a process of its own."""
    program = [sys.executable, "-c", "from consumers.cli import main; raise SystemExit(main())"]
    settings = ["--set", "worker.metrics_port=none", "--set", "worker.log_level=error"]
    command = [*program, "--home", str(home), *settings, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


@asynccontextmanager
async def serving(items: int) -> AsyncIterator[tuple[Client, IO[str]]]:
    """A server beside a worker that has learned every item once; and the file that the worker follows."""
    home = Path(tempfile.mkdtemp(prefix="freshet-bench-"))
    Registry(home).create("v", new_spec("softmax", {}))
    path = home / "events.jsonl"
    try:
        with path.open("w") as file:
            file.writelines(line(k % USERS, k, k) for k in range(max(items, USERS)))
            file.flush()
            with (
                freshet(home, "work", "v", "--from", str(path), "--follow"),
                freshet(home, "serve", "--port", "0") as server,
            ):
                assert server.stdout is not None  # it is a pipe
                client = Client(server.stdout.readline().strip())
                await client.open()
                await _learned(client, max(items, USERS) - 1)
                yield client, file
                await client.close()
    finally:
        shutil.rmtree(home)


async def _learned(client: Client, last: int) -> None:
    """Wait until the last item is answered from live tables."""
    until = time.monotonic() + _START_S
    for path in (f"/v1/items/item-{last}/embedding", "/v1/users/user-0/recommendations"):
        while True:
            status, body = await client.get(path)
            if status == 200 and json.loads(body)["origin"] == "live":
                break
            assert time.monotonic() < until, f"{path}: {status} {body.decode()}"
            await asyncio.sleep(0.2)


async def feed(file: IO[str], items: int, seconds: float, rate: int = _EVENTS_PER_S) -> None:
    """Append events at a steady rate."""
    random, begun, written = np.random.default_rng(2), time.perf_counter(), 0
    users = random.integers(USERS, size=int(seconds * rate) + rate).tolist()
    chosen = (items * random.random(len(users)) ** 2).astype(int).tolist()
    while (now := time.perf_counter() - begun) < seconds:
        due = min(int(now * rate), len(users))
        file.write("".join(line(users[k], chosen[k], items + k) for k in range(written, due)))
        file.flush()
        written = due
        await asyncio.sleep(_FEED_S)


async def load(client: Client, path: Callable[[int], str], rate: float, seconds: float) -> list[float]:
    """Milliseconds of each request from the moment at which it was due."""
    begun, took = time.perf_counter() + 0.05, []
    errors: list[str] = []

    async def one(number: int, due: float) -> None:
        status, body = await client.get(path(number))
        took.append(1000 * (time.perf_counter() - due))
        if status != 200:
            errors.append(f"{path(number)}: {status} {body[:200]!r}")

    asked: list[asyncio.Task[None]] = []
    for number in range(int(rate * seconds)):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*asked)
    assert not errors, errors[0]
    return took


def quantiles(took: list[float]) -> dict[str, float]:
    """p50, p99 and the longest, in ms."""
    p50, p99 = np.quantile(took, [0.5, 0.99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": max(took), "requests": len(took)}


async def embeddings(items: int, rate: float, seconds: float) -> dict[str, Any]:
    """Embeddings of users beside the constant, while 2,000 events a second are learned."""
    random = np.random.default_rng(3).integers(USERS, size=int(rate * seconds)).tolist()
    async with serving(items) as (client, file):
        await load(client, lambda n: f"/v1/users/user-{random[n]}/embedding", rate, 1.0)
        _, users, constant = await asyncio.gather(
            feed(file, items, seconds + 0.5),
            load(client, lambda n: f"/v1/users/user-{random[n]}/embedding", rate, seconds),
            load(client, lambda _: "/livez", _CONSTANT_PER_S, seconds),
        )
    return {"items": items, "rate": rate, "embedding": quantiles(users), "constant": quantiles(constant)}


async def recommendations(items: int, rate: float, seconds: float) -> dict[str, Any]:
    """Recommendations, while 2,000 events a second are learned."""
    random = np.random.default_rng(4).integers(USERS, size=int(rate * seconds)).tolist()
    async with serving(items) as (client, file):
        await load(client, lambda n: f"/v1/users/user-{random[n]}/recommendations", rate, 1.0)
        _, took = await asyncio.gather(
            feed(file, items, seconds + 0.5),
            load(client, lambda n: f"/v1/users/user-{random[n]}/recommendations", rate, seconds),
        )
    return {"items": items, "rate": rate, "recommendations": quantiles(took)}


def measure(quick: bool) -> Report:
    """Embeddings at 300 requests a second, recommendations at 100."""
    report = Report()
    found = asyncio.run(embeddings(500, 50, 1.0) if quick else embeddings(20_000, 300, 20.0))
    vector, constant = found["embedding"], found["constant"]
    note = f"{vector['p99_ms']:.2f} ms, constant {constant['p99_ms']:.2f} ms"
    what = f"embedding, {found['items']:,} items, {found['rate']} requests/s beside a worker"
    report.at_most(f"{what}: p99, × that of a constant", vector["p99_ms"] / constant["p99_ms"], 2.0, note)
    report.at_most(f"{what}: p99, ms", vector["p99_ms"], None, f"p50 {vector['p50_ms']:.2f}")
    report.figures["embeddings"] = found
    found = asyncio.run(recommendations(500, 20, 1.0) if quick else recommendations(50_000, 100, 20.0))
    what = f"recommendations, exact, {found['items']:,} items, {found['rate']} requests/s: p99, ms"
    took = found["recommendations"]
    report.at_most(what, took["p99_ms"], 8.0, f"p50 {took['p50_ms']:.2f}")
    report.figures["recommendations"] = found
    return report


def main() -> int:
    """Measure, print, record."""
    return run_benchmark("serving", __doc__, measure)


if __name__ == "__main__":
    raise SystemExit(main())
