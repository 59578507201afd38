"""The two choices on the hot path, each against its fallback: CPU of this process per command and per request.

`python -m bench.parts`: the limit script over our own pipe, over redis-py, and over redis-py with the commands of one tick
in one pipeline; a small request over our own client, over httpx, and over pyreqwest where that is installed. 64 at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import redis.asyncio
import uvloop

from bench.run import compile_c, free_port, tool, wait_for
from gateway.limits import ADMIT
from gateway.resp import Pipe, parse_url
from gateway.upstream import HttpUpstream, Origin, Request

AT_ONCE = 64
COUNT = 20_000
BODY = b'{"model":"bench-up","messages":[{"role":"user","content":"' + b"x" * 1000 + b'"}]}'


async def cpu_us(one: Callable[[int], Awaitable[Any]], count: int = COUNT) -> float:
    """CPU of this process for one, in microseconds: the best of three rounds."""

    async def worker(first: int) -> None:
        for number in range(first, count, AT_ONCE):
            await one(number)

    best = float("inf")
    for _round in range(3):
        before = time.process_time()
        await asyncio.gather(*(worker(first) for first in range(AT_ONCE)))
        best = min(best, (time.process_time() - before) / count * 1e6)
    return best


class Batched:
    """redis-py, the commands of one tick of the loop in one pipeline."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._client = client
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []

    def ask(self, *args: Any) -> asyncio.Future[Any]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((args, future))
        if len(self._waiting) == 1:
            loop.call_soon(lambda: asyncio.ensure_future(self._flush()))
        return future

    async def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        pipeline = self._client.pipeline(transaction=False)
        for args, _future in waiting:
            pipeline.execute_command(*args)
        for (_args, future), reply in zip(waiting, await pipeline.execute(), strict=True):
            future.set_result(reply)


async def redis_clients(port: int) -> dict[str, float]:
    url = f"redis://127.0.0.1:{port}"
    found = {}

    def args(number: int) -> tuple[Any, ...]:
        return 2, "ark:limit:ep", "ark:open:w", f"call-{number}", 0, 0, 100, b"{}"

    pipe = Pipe(parse_url(url), scripts=(ADMIT,))
    task = asyncio.ensure_future(pipe.run())
    while not pipe.is_connected:
        await asyncio.sleep(0.01)
    found["own pipe"] = await cpu_us(lambda number: pipe.ask(ADMIT, args(number)))
    task.cancel()
    async with redis.asyncio.Redis.from_url(url, max_connections=AT_ONCE) as client:
        batched = Batched(client)
        found["redis-py, batched by hand"] = await cpu_us(lambda n: batched.ask("EVALSHA", ADMIT.sha, *args(n)))
        found["redis-py"] = await cpu_us(lambda n: client.evalsha(ADMIT.sha, *args(n)), COUNT // 4)
    return found


async def http_clients(port: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    found = {}
    upstream = HttpUpstream()
    origin = Origin("127.0.0.1", port, is_tls=False)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nContent-Type: application/json\r\n"

    async def own(number: int) -> None:
        answer = await upstream.send(Request(origin, head, str(number), BODY))
        await answer.read(100_000)

    found["own client"] = await cpu_us(own)
    await upstream.aclose()
    with contextlib.suppress(ImportError):
        pyreqwest = importlib.import_module("pyreqwest.client")
        async with pyreqwest.ClientBuilder().build() as rust:

            async def fast(_number: int) -> None:
                async with rust.post(url).body_bytes(BODY).build_streamed() as answer:
                    await answer.bytes()

            found["pyreqwest"] = await cpu_us(fast)
    async with httpx.AsyncClient() as client:

        async def plain(_number: int) -> None:
            await client.post(url, content=BODY)

        found["httpx"] = await cpu_us(plain, COUNT // 20)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ark-bench-") as folder, contextlib.ExitStack() as stack:
        ports = free_port(), free_port()
        mock = compile_c("mock", Path(folder))
        server = [tool("redis-server", "redis-server"), "--port", str(ports[1]), "--save", ""]
        for command, port in (([mock, str(ports[0])], ports[0]), (server, ports[1])):
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_for(port)
        for name, cost in (asyncio.run(redis_clients(ports[1])) | asyncio.run(http_clients(ports[0]))).items():
            print(f"| {name} | {cost:.1f} |")


if __name__ == "__main__":
    uvloop.install()
    main()
