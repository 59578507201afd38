"""The way to a model server: one method to send a request, and an answer to read as it comes.

`Upstream` and `Answer` are the seam. `HttpUpstream` is ours: asyncio protocols with httptools' parser and a keep-alive
pool, because general clients cost several times the CPU of the whole rest of a call (`docs/bench.md`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import httptools

from common import addresses
from common import tls as client_tls
from gateway.errors import AnswerBroken, AnswerTimedOut, ConnectFailed

IDLE_SECONDS = 4.0
"""How long an unused connection is kept: under the 5 s after which uvicorn and others close theirs."""
SWEEP_SECONDS = 0.2
HIGH_WATER_BYTES = 256 * 1024
MAX_IDLE = 512

Headers = list[tuple[bytes, bytes]]
Resolve = Callable[[str, int], list[str]]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections go; connections are shared by what is equal here."""

    host: str
    port: int
    is_tls: bool

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of an http or https URL. Raises `ValueError` when it is neither."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http(s) address")
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if is_tls else 80), is_tls)

    @property
    def host_header(self) -> str:
        """The value of `Host`: the port only when it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"


@dataclass(slots=True)
class Request:
    """One request. `head` is everything up to the call's own lines: request line, Host, Authorization, each with CRLF."""

    origin: Origin
    head: bytes
    call_id: str
    body: bytes
    connect_seconds: float = 5.0
    first_byte_seconds: float = 600.0
    idle_seconds: float = 600.0


class Answer(Protocol):
    """An answer whose head has come. `headers` have lower-case names.

    `is_framed` is False when only the end of the connection says where the body ends, so that a body that was cut off
    looks like a whole one.
    """

    status: int
    headers: Headers
    is_framed: bool

    async def next(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises `AnswerBroken` when it ends early or stalls."""

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `AnswerBroken`, also when it is larger than `limit_bytes`."""

    def close(self) -> None:
        """Let go: at once when the answer is not complete (the connection is closed). May be called twice."""


class Upstream(Protocol):
    """The one-method seam to model servers."""

    async def send(self, request: Request) -> Answer:
        """Send and wait for the head of the answer. Raises `ConnectFailed`, `AnswerTimedOut`, `AnswerBroken`."""


class _HttpAnswer:
    __slots__ = (
        "_connection",
        "_decompress",
        "_error",
        "_is_complete",
        "_is_head_done",
        "_loop",
        "_parts",
        "_size",
        "_waiter",
        "had_bytes",
        "headers",
        "is_framed",
        "status",
    )

    def __init__(self, connection: _Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection: _Connection | None = connection
        self._loop = loop
        self._parts: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._is_head_done = False
        self._is_complete = False
        self._decompress: Callable[[bytes], bytes] | None = None
        self.had_bytes = False
        self.status = 0
        self.headers: Headers = []
        self.is_framed = True

    async def head(self) -> None:
        while not self._is_head_done:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def next(self) -> bytes:
        while True:
            if self._parts:
                parts = self._parts
                data = parts[0] if len(parts) == 1 else b"".join(parts)
                self._parts = []
                self._size = 0
                if self._connection is not None:
                    self._connection.resume()
                if self._decompress is not None:
                    data = self._inflate(data)
                    if not data:
                        continue
                return data
            if self._error is not None:
                raise self._error
            if self._is_complete:
                return b""
            await self._wait()

    async def read(self, limit_bytes: int) -> bytes:
        if self._is_complete and self._decompress is None:
            data = b"".join(self._parts)
            self._parts = []
            if len(data) > limit_bytes:
                raise AnswerBroken("the answer is too large", had_bytes=True)
            return data
        pieces: list[bytes] = []
        size = 0
        while piece := await self.next():
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise AnswerBroken("the answer is too large", had_bytes=True)
        return b"".join(pieces)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop(self)

    def _inflate(self, data: bytes) -> bytes:
        assert self._decompress is not None
        try:
            return self._decompress(data)
        except zlib.error:
            self.close()
            raise AnswerBroken("the answer's compression is broken", had_bytes=True) from None

    async def _wait(self) -> None:
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None

    # -- from the connection --

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def head_is_done(self, status: int, headers: Headers) -> None:
        self.status = status
        self.headers = headers
        self._is_head_done = True
        for name, value in headers:
            if name == b"content-encoding":
                encoding = value.strip().lower()
                if encoding in (b"gzip", b"x-gzip"):
                    self._decompress = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress
                elif encoding == b"deflate":
                    self._decompress = zlib.decompressobj().decompress
                elif encoding not in (b"", b"identity"):
                    self.fail(AnswerBroken("the answer is in an encoding that was not asked for", had_bytes=True))

    def add(self, data: bytes) -> int:
        self._parts.append(data)
        self._size += len(data)
        return self._size

    def complete(self) -> None:
        self._is_complete = True
        self._connection = None

    def fail(self, error: Exception) -> None:
        self._error = error
        self._connection = None
        self.wake()


class _Connection(asyncio.Protocol):
    """One connection; carries one request at a time. The parser calls its `on_…` methods."""

    __slots__ = (
        "_answer",
        "_got_extra",
        "_headers",
        "_idle_seconds",
        "_is_close_delimited",
        "_is_informational",
        "_is_kept_alive",
        "_is_paused",
        "_loop",
        "_parser",
        "_pool",
        "_transport",
        "deadline",
        "idle_limit_seconds",
        "idle_since",
        "is_closed",
        "origin",
    )

    def __init__(self, pool: HttpUpstream, origin: Origin, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._answer: _HttpAnswer | None = None
        self._headers: Headers = []
        self._idle_seconds = 0.0
        self._is_paused = False
        self._is_informational = False
        self._is_close_delimited = False
        self._is_kept_alive = False
        self._got_extra = False
        self.origin = origin
        self.deadline = float("inf")
        self.idle_since = 0.0
        self.idle_limit_seconds = pool.idle_seconds
        self.is_closed = False

    @property
    def is_usable(self) -> bool:
        """Whether a request may be written: the transport knows of an end some moments before it tells us."""
        return not (self.is_closed or self._transport.is_closing())

    def start(self, request: Request) -> _HttpAnswer:
        answer = self._answer = _HttpAnswer(self, self._loop)
        self._idle_seconds = request.idle_seconds
        self.deadline = self._loop.time() + request.first_byte_seconds
        self._headers = []
        body = request.body
        own = f"X-Request-Id: {request.call_id}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        self._transport.write(b"".join((request.head, own, body)))
        return answer

    def drop(self, answer: _HttpAnswer) -> None:
        """The reader of `answer` lets go before its end: the rest would only cost the server, so close."""
        if self._answer is answer:
            self._answer = None
            self._close()

    def resume(self) -> None:
        if self._is_paused and not self.is_closed:
            self._is_paused = False
            self.deadline = self._loop.time() + self._idle_seconds
            self._transport.resume_reading()

    def expire(self) -> None:
        """The deadline has passed."""
        answer, self._answer = self._answer, None
        self._close()
        if answer is None:
            return
        if answer.had_bytes:
            answer.fail(AnswerBroken("the answer stalled", had_bytes=True))
        else:
            answer.fail(AnswerTimedOut("no answer in time"))

    def _close(self) -> None:
        self.is_closed = True
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self._close()  # an idle server has nothing to say: whatever this is, it is not ours
            return
        answer.had_bytes = True
        self.deadline = self._loop.time() + self._idle_seconds
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._answer = None
            self._close()
            answer.fail(AnswerBroken("the answer is not HTTP", had_bytes=True))
            return
        if self._answer is None:
            self._let_go()
        elif answer._size > HIGH_WATER_BYTES and not self._is_paused:  # noqa: SLF001 - the two halves of one exchange
            self._is_paused = True
            self.deadline = float("inf")  # it is our reader who is slow
            self._transport.pause_reading()
        answer.wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._pool.forget(self)
        answer, self._answer = self._answer, None
        if answer is None:
            return
        if self._is_close_delimited and answer._is_head_done and exc is None:  # noqa: SLF001
            answer.complete()
            answer.wake()
        else:
            answer.fail(AnswerBroken("the connection was closed", had_bytes=answer.had_bytes))

    def _let_go(self) -> None:
        """The answer is complete: back into the pool, unless something says that the connection cannot go on."""
        if (
            self._got_extra
            or not self.is_usable
            or self._is_close_delimited
            or not self._is_kept_alive
            or self._transport.get_write_buffer_size()
        ):
            self._close()
            return
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        self._pool.take_back(self)

    # -- httptools --

    def on_message_begin(self) -> None:
        if self._answer is None:
            self._got_extra = True

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        answer = self._answer
        if answer is None:
            return
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if 100 <= status < 200:
            self._is_informational = True
            return
        has_length = status in (204, 304)
        for name, value in headers:
            if name in (b"content-length", b"transfer-encoding"):
                has_length = True
            elif name == b"keep-alive":
                self._note_keep_alive(value)
        self._is_close_delimited = not has_length
        self._is_kept_alive = self._parser.should_keep_alive()  # the parser forgets at the end of the message
        answer.is_framed = has_length
        answer.head_is_done(status, headers)

    def on_body(self, body: bytes) -> None:
        answer = self._answer
        if answer is not None:
            answer.add(body)

    def on_message_complete(self) -> None:
        if self._is_informational:
            self._is_informational = False
            return
        answer, self._answer = self._answer, None
        if answer is not None:
            self.deadline = float("inf")
            answer.complete()

    def _note_keep_alive(self, value: bytes) -> None:
        for item in value.split(b","):
            name, _equals, seconds = item.strip().partition(b"=")
            if name.lower() == b"timeout" and seconds.isdigit():
                self.idle_limit_seconds = min(self._pool.idle_seconds, max(float(seconds) - 1.0, 0.0))


class HttpUpstream:
    """HTTP/1.1 over TCP or TLS, with connections kept for reuse.

    A request that met a kept connection in the moment in which the server closed it (not one byte of an answer came) is
    sent once more on a new connection. Names are resolved and checked by `resolve` for each new connection, and the
    connection goes to the address that was checked. Use inside one running loop.
    """

    def __init__(
        self,
        *,
        resolve: Resolve = addresses.resolve,
        idle_seconds: float = IDLE_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.idle_seconds = idle_seconds
        self._resolve = resolve
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._active: set[_Connection] = set()
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        self._is_closed = False

    async def send(self, request: Request) -> Answer:
        connection = self._idle_connection(request.origin)
        is_reused = connection is not None
        while True:
            if connection is None:
                connection = await self._connect(request)
            self._active.add(connection)
            answer = connection.start(request)
            try:
                await answer.head()
            except AnswerBroken as error:
                if is_reused and not error.had_bytes:
                    connection, is_reused = None, False
                    continue
                raise
            except asyncio.CancelledError:
                answer.close()
                raise
            return answer

    async def aclose(self) -> None:
        """Close every connection; answers that are being read break."""
        self._is_closed = True
        self._sweeper.cancel()
        for connection in [*self._active, *(c for idle in self._idle.values() for c in idle)]:
            connection.expire()
        self._idle.clear()

    @property
    def open_connections(self) -> int:
        """How many connections are open, in use or kept."""
        return len(self._active) + sum(len(idle) for idle in self._idle.values())

    # -- from connections --

    def take_back(self, connection: _Connection) -> None:
        self._active.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = deque()
        connection.idle_since = self._loop.time()
        if self._is_closed or len(idle) >= MAX_IDLE or connection.idle_limit_seconds <= 0:
            connection.expire()
        else:
            idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        self._active.discard(connection)

    def _idle_connection(self, origin: Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        now = self._loop.time()
        while idle:
            connection = idle.pop()
            if not connection.is_usable:
                continue
            if now - connection.idle_since < connection.idle_limit_seconds:
                return connection
            connection.expire()
        return None

    async def _connect(self, request: Request) -> _Connection:
        origin = request.origin
        try:
            async with asyncio.timeout(request.connect_seconds):
                found = await self._addresses(origin)
                for position, address in enumerate(found):
                    is_last = position == len(found) - 1
                    try:
                        async with asyncio.timeout(None if is_last else request.connect_seconds / len(found)):
                            return await self._connect_to(origin, address)
                    except (OSError, TimeoutError):
                        if is_last:
                            raise
        except TimeoutError:
            raise ConnectFailed("no connection in time") from None
        except ssl.SSLError as error:
            raise ConnectFailed(f"TLS failed: {error.reason or 'unknown'}") from None
        except OSError as error:
            raise ConnectFailed(f"no connection: {error.strerror or type(error).__name__}") from None
        except addresses.UnsafeAddress:
            raise ConnectFailed("the name resolves to an address that we never call") from None
        except UnicodeError:
            raise ConnectFailed("the name is no host name") from None
        raise ConnectFailed("the name resolves to nothing")

    async def _addresses(self, origin: Origin) -> list[str]:
        try:
            literal = ipaddress.ip_address(origin.host)
        except ValueError:
            return await self._loop.run_in_executor(None, self._resolve, origin.host, origin.port)
        if addresses.is_forbidden(literal):
            raise ConnectFailed("the address is one that we never call")
        return [origin.host]

    async def _connect_to(self, origin: Origin, address: str) -> _Connection:
        factory = partial(_Connection, self, origin, self._loop)
        if not origin.is_tls:
            _transport, connection = await self._loop.create_connection(factory, address, origin.port)
            return connection
        if self._tls is None:
            self._tls = client_tls.client_context()
        _transport, connection = await self._loop.create_connection(
            factory, address, origin.port, ssl=self._tls, server_hostname=origin.host
        )
        return connection

    def _sweep(self) -> None:
        """End what has waited too long. One timer for all: a timer per request would cost more than it gives."""
        now = self._loop.time()
        for connection in [c for c in self._active if c.deadline <= now]:
            connection.expire()
        for origin, idle in list(self._idle.items()):
            while idle and (idle[0].is_closed or now - idle[0].idle_since >= idle[0].idle_limit_seconds):
                idle.popleft().expire()
            if not idle:
                del self._idle[origin]
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
