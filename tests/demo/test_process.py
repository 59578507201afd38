"""The server as a process of its own: what needs a real connection, a real kill, or many callers at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

TOKEN = '"delta":{"content"'
ROOT = Path(__file__).resolve().parents[2]


class Process:
    """A running demo server."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "demo", "--port", "0", *options]
        self.popen = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.popen.stdout is not None
        line = self.popen.stdout.readline()
        self.address = line.rsplit(" ", 1)[-1].strip().removesuffix("/v1")
        self.client = httpx.Client(base_url=self.address, timeout=30)

    def set(self, model: str, **change: Any) -> None:
        assert self.client.post(f"/demo/models/{model}", json=change).status_code == 200

    def totals(self) -> Any:
        return self.client.get("/demo/stats").json()["totals"]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.client.close()
        self.popen.send_signal(number)
        return self.popen.wait(10)

    def errors(self) -> str:
        """What an ended server wrote to stderr."""
        return self.popen.communicate()[1]


@contextlib.contextmanager
def running(*options: str) -> Iterator[Process]:
    process = Process(*options)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.end()
        process.client.close()
        process.errors()


def chat(tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "demo-fast", "messages": [{"role": "user", "content": f"{tokens} tokens"}], **more}


def eventually(ask: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 5
    while not wanted(found := ask()):
        assert time.monotonic() < deadline, found
    return found


def test_a_client_that_leaves_stops_the_stream_at_once() -> None:
    with running() as server:
        server.set("demo-fast", first_token_seconds=0, token_seconds=0.02)
        with server.client.stream("POST", "/v1/chat/completions", json=chat(5_000, stream=True)) as response:
            lines = response.iter_lines()
            seen = [next(lines) for _ in range(9)]
        totals = eventually(server.totals, lambda totals: totals["cancelled"] == 1)
        said = sum(TOKEN in line for line in seen)
        assert said <= totals["completion_tokens"] < said + 25
        assert totals["running"] == 0


def test_a_client_that_leaves_before_an_answer_is_counted_too() -> None:
    with running() as server:
        server.set("demo-fast", first_token_seconds=0, token_seconds=0.05)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.address}/v1/chat/completions", json=chat(5_000), timeout=0.3)
        totals = eventually(server.totals, lambda totals: totals["cancelled"] == 1)
        assert 1 <= totals["completion_tokens"] < 40


def test_a_cut_stream_is_a_broken_connection_and_not_a_short_answer() -> None:
    with running() as server:
        server.set("demo-fast", cut_rate=1, first_token_seconds=0, token_seconds=0)
        with pytest.raises(httpx.RemoteProtocolError):
            server.client.post("/v1/chat/completions", json=chat(20, stream=True))
        with pytest.raises(httpx.RemoteProtocolError):
            server.client.post("/v1/chat/completions", json=chat(20))
        totals = server.totals()
        assert (totals["cut"], totals["completion_tokens"]) == (2, 22)


def test_what_was_answered_is_still_known_after_a_kill(tmp_path: Path) -> None:
    state = str(tmp_path / "state" / "demo.journal")
    with running("--state", state) as server:
        server.set("demo-fast", first_token_seconds=0, token_seconds=0.01)
        server.client.post("/v1/chat/completions", json=chat(3))
        before = server.totals()
        with server.client.stream("POST", "/v1/chat/completions", json=chat(9_000, stream=True)) as response:
            lines = response.iter_lines()
            said = sum(TOKEN in next(lines) for _ in range(20))
            os.kill(server.popen.pid, signal.SIGKILL)
            server.popen.wait()
            with contextlib.suppress(httpx.HTTPError):
                said += sum(TOKEN in line for line in lines)
        server.end()
    with running("--state", state) as server:
        after = server.totals()
        assert (after["ok"], after["lost"]) == (before["ok"], 1)
        assert after["completion_tokens"] - before["completion_tokens"] == said
        second = subprocess.run(
            [sys.executable, "-m", "demo", "--port", "0", "--state", state],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 2
        assert "in use by another demo server" in second.stderr


def test_a_taken_port_is_one_clear_sentence() -> None:
    with running() as server:
        port = server.address.rsplit(":", 1)[-1]
        second = subprocess.run(
            [sys.executable, "-m", "demo", "--port", port], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert second.returncode == 2
        assert second.stderr == f"demo: cannot listen on 127.0.0.1:{port}: Address already in use.\n"


def test_five_hundred_streams_at_once_are_all_served_whole() -> None:
    with running() as server:
        server.set("demo-fast", first_token_seconds=0.5, token_seconds=0.05)

        async def read_one(port: int) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = httpx.Request("POST", "http://x", json=chat(10, stream=True)).content
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer

        async def read_all() -> list[bytes]:
            port = int(server.address.rsplit(":", 1)[-1])
            return await asyncio.gather(*(read_one(port) for _ in range(500)))

        answers = asyncio.run(read_all())
        assert sum(b"data: [DONE]" in answer for answer in answers) == 500
        totals = server.totals()
        assert (totals["ok"], totals["completion_tokens"]) == (500, 5_000)


def test_a_stop_ends_open_streams_without_a_traceback() -> None:
    with running() as server:
        with server.client.stream("POST", "/v1/chat/completions", json=chat(9_000, stream=True)) as response:
            lines = response.iter_lines()
            next(lines)
            server.popen.terminate()
            with contextlib.suppress(httpx.RemoteProtocolError):
                assert "data: [DONE]" not in list(lines)
        assert server.popen.wait(10) in (0, -signal.SIGTERM)
        assert "Traceback" not in server.errors()
