"""The load that the benchmark of serving makes: at its moments, whatever the server does."""

from __future__ import annotations

import asyncio

from benchmarks.serving import Client, load, quantiles


async def measured(stall_s: float) -> tuple[list[float], int]:
    """Milliseconds of 20 requests, 200 a second, to a server that stalls once."""
    asked = 0
    handlers: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while await reader.readuntil(b"\r\n\r\n"):
            asked += 1
            if asked == 1:
                await asyncio.sleep(stall_s)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        try:
            await answer(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await client.open()
        took = await load(client, lambda n: f"/{n}", 200, 0.1)
        await client.close()
        await asyncio.gather(*(task for task in handlers if task is not None))
    return took, asked


def test_each_request_is_timed_from_its_moment() -> None:
    took, asked = asyncio.run(measured(0.3))
    assert asked == len(took) == 20
    assert max(took) >= 300 and min(took) < max(took)


def test_quantiles_are_those_of_the_requests() -> None:
    found = quantiles([float(n) for n in range(101)])
    assert (found["p50_ms"], found["p99_ms"], found["max_ms"], found["requests"]) == (50.0, 99.0, 100.0, 101)
