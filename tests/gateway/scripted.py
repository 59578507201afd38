"""A tiny model server that does what the request tells it to (`x_script` in the body, untouched by the gateway)."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """One request as it arrived; `ended_at` and `is_cut` (the other side closed first) are set when it is over."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    body: dict[str, Any]
    began_at: float
    connection: int
    ended_at: float | None = None
    is_cut: bool = False
    sent_chunks: int = 0
    sent_bytes: int = 0


@dataclass
class Script:
    """What to do. `force` of the server wins over `x_script` of the request."""

    status: int = 200
    answer: Any = None
    text: str = "hello"
    usage: dict[str, Any] | None = field(default_factory=lambda: {"prompt_tokens": 10, "completion_tokens": 5})
    delay_ms: int = 0
    chunks: int = 5
    every_ms: int = 0
    split: int = 0
    cut_after: int | None = None
    close_at_once: bool = False
    close_after_answer: bool = False
    never: bool = False
    chunk_bytes: int = 0
    model: str | None = None
    space: bool = False
    is_framed: bool = True
    says_done: bool = True
    error_after: int | None = None
    wait_after: int | None = None
    raw_answer: str | None = None
    content_type: str | None = None


class ScriptedUpstream:
    """Listens on a free loopback port in a thread of its own. `seen` has every request that came in whole.

    A stream whose script says `wait_after` sends so many chunks and waits there for `go_on()`.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.force: dict[str, Any] = {}
        self.connections = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._ready = threading.Event()
        self._is_over = asyncio.Event()
        self._goes_on = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> ScriptedUpstream:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def go_on(self) -> None:
        """Let streams that wait, and those to come until `reset()`, go on."""
        self._loop.call_soon_threadsafe(self._goes_on.set)

    def close_connections(self) -> None:
        """Close every connection that is open now, as a server that is restarted does."""
        self._loop.call_soon_threadsafe(lambda: [writer.close() for writer in list(self._writers)])

    def reset(self) -> None:
        self.seen.clear()
        self.force = {}
        self._loop.call_soon_threadsafe(self._goes_on.clear)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # As a whole: between two runs of the loop the end of a server that was hardly there would go unheard.
        self._loop.run_until_complete(self._live())
        self._loop.close()

    async def _live(self) -> None:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=64 * 1024 * 1024, backlog=512)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._is_over.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)
        for writer in list(self._writers):
            writer.transport.abort()
        server.close()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        self._writers.add(writer)
        try:
            while await self._one(reader, writer, connection):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _version = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        raw = await reader.readexactly(int(headers.get("content-length", "0")))
        body = json.loads(raw) if raw else {}
        seen = Seen(method, path, headers, raw, body, time.monotonic(), connection)
        script = Script(**{**body.get("x_script", {}), **self.force})
        if script.close_at_once:
            return False
        self.seen.append(seen)
        try:
            await self._answer(seen, script, reader, writer)
        except (OSError, _Left):
            seen.is_cut = True
            return False
        finally:
            seen.ended_at = time.monotonic()
        return not (script.close_after_answer or script.cut_after is not None or not script.is_framed)

    async def _answer(
        self, seen: Seen, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if script.never:
            await _pause(reader, 3600)
        if script.delay_ms:
            await _pause(reader, script.delay_ms / 1000)
        if script.raw_answer is not None:
            writer.write(script.raw_answer.encode())
            await writer.drain()
            return
        if seen.body.get("stream") and script.status == 200:
            await self._stream(seen, script, reader, writer)
            return
        data = json.dumps(script.answer if script.answer is not None else self._plain(seen, script)).encode()
        kind = script.content_type or "application/json"
        head = f"HTTP/1.1 {script.status} X\r\nContent-Type: {kind}\r\n"
        if script.cut_after is not None:
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data[: script.cut_after])
        elif script.is_framed:
            writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        else:
            writer.write(f"{head}\r\n".encode() + data)
        await writer.drain()

    def _plain(self, seen: Seen, script: Script) -> dict[str, Any]:
        model = script.model or seen.body.get("model")
        if seen.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.25, -1.0]}]
            return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": 7, "total_tokens": 7}}
        message = {"role": "assistant", "content": script.text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {"id": "c-1", "object": "chat.completion", "model": model, "choices": [choice], "x_extra": {"a": [1]}}
        return {**answer, "usage": script.usage} if script.usage is not None else answer

    async def _stream(
        self, seen: Seen, script: Script, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        framing = "Transfer-Encoding: chunked\r\n" if script.is_framed else ""
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n".encode())
        for number in range(script.chunks):
            if script.cut_after is not None and number == script.cut_after:
                return
            if number == script.wait_after:
                await self._goes_on.wait()
            if number == script.error_after:
                await self._write(seen, script, writer, b'data: {"error":{"message":"CUDA out of memory"}}\n\n')
                break
            if script.every_ms:
                await _pause(reader, script.every_ms / 1000)
            elif reader.at_eof():
                raise _Left
            text = f"w{number} " + "x" * script.chunk_bytes
            delta = {"role": "assistant", "content": ""} if number == 0 else {"content": text}
            await self._event(seen, script, writer, {"choices": [{"index": 0, "delta": delta}]})
            seen.sent_chunks += 1
        await self._event(seen, script, writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        options = seen.body.get("stream_options") or {}
        if script.usage is not None and options.get("include_usage"):
            await self._event(seen, script, writer, {"choices": [], "usage": script.usage})
        if script.says_done:
            await self._write(seen, script, writer, b"data: [DONE]\n\n")
        if script.is_framed:
            writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _event(self, seen: Seen, script: Script, writer: asyncio.StreamWriter, fields: dict[str, Any]) -> None:
        model = script.model or seen.body.get("model")
        separators = (", ", ": ") if script.space else (",", ":")
        chunk = {"id": "c-1", "object": "chat.completion.chunk", "model": model, **fields}
        await self._write(seen, script, writer, b"data: " + json.dumps(chunk, separators=separators).encode() + b"\n\n")

    async def _write(self, seen: Seen, script: Script, writer: asyncio.StreamWriter, data: bytes) -> None:
        size = script.split or len(data)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if script.is_framed else piece)
            await writer.drain()
            seen.sent_bytes += len(piece)
            if script.split:
                await asyncio.sleep(0)


class _Left(Exception):
    """The other side closed."""


async def _pause(reader: asyncio.StreamReader, seconds: float) -> None:
    """Wait; raise `_Left` as soon as the other side closes."""
    try:
        async with asyncio.timeout(seconds):
            if not await reader.read(1):
                raise _Left
    except TimeoutError:
        return
