"""One pipelined connection to Redis or Valkey: commands go out as they come, replies come back in order.

A general client costs more CPU per command than the whole bare gateway per call (`gateway.md` C), hence this one. It does
what the gateway needs and no more: scripts, a deadline, and never waiting for a connection.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

log = logging.getLogger(__name__)

CHECK_SECONDS = 0.05
BACK_OFF_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)
CONNECT_SECONDS = 2.0
DEAD_SECONDS = 3.0
"""A connection on which the oldest command has waited this long is given up."""

Arg = bytes | str | int
_pack: Callable[[tuple[Arg, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]  # its stub: one element


class RedisAway(Exception):
    """The command was not answered: no connection, it broke, the deadline passed, or Redis refused it.

    Whether it was carried out is unknown.
    """


@dataclass(frozen=True, slots=True)
class Address:
    """What a Redis URL says."""

    host: str = ""
    port: int = 6379
    path: str = ""
    is_tls: bool = False
    username: str = ""
    password: str = ""
    database: int = 0
    verifies: bool = True
    ca_file: str = ""


def parse_url(url: str) -> Address:
    """Read `redis://`, `rediss://` and `unix://` URLs with user, password, database and TLS options.

    The database is the path (`redis://host/2`) or `?db=2`; `unix:///run/redis.sock?db=2`. `ssl_cert_reqs=none` and
    `ssl_ca_certs=file` are understood. Raises `ValueError` with a sentence when it is none of these.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    username = unquote(parts.username or query.get("username", ""))
    password = unquote(parts.password or query.get("password", ""))
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError("a unix:// Redis address needs the path of the socket")
        return Address(
            path=unquote(parts.path), username=username, password=password, database=_database(query.get("db"))
        )
    if parts.scheme not in ("redis", "rediss"):
        raise ValueError("a Redis address begins with redis://, rediss:// or unix://")
    return Address(
        host=parts.hostname or "localhost",
        port=parts.port or 6379,
        is_tls=parts.scheme == "rediss",
        username=username,
        password=password,
        database=_database(query.get("db") or parts.path.strip("/")),
        verifies=query.get("ssl_cert_reqs", "required") != "none",
        ca_file=query.get("ssl_ca_certs", ""),
    )


def _database(text: str | None) -> int:
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError("the database of a Redis address is a number")
    return int(text)


class Script:
    """A Lua script; its SHA-1 is what goes over the wire."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


class _Pending:
    """A command without an answer yet: `future` hears the answer, or `on_lost` that there will be none."""

    __slots__ = ("args", "at", "future", "on_lost", "script")

    def __init__(
        self,
        script: Script | None,
        args: tuple[Arg, ...],
        at: float,
        future: asyncio.Future[Any] | None,
        on_lost: Callable[[], None] | None,
    ) -> None:
        self.script = script
        self.args = args
        self.at = at
        self.future = future
        self.on_lost = on_lost

    def fail(self, reason: str) -> None:
        if self.on_lost is not None:
            self.on_lost()
        elif self.future is not None and not self.future.done():
            self.future.set_exception(RedisAway(reason))


class Pipe:
    """A connection that comes back by itself (`run`). Commands given while it is away fail at once.

    `deadline_seconds` is how old the oldest unanswered command may be before `is_stalled` says so and `ask` gives up;
    `submit` (not waited for) stays until it is answered or the connection ends.
    """

    def __init__(
        self,
        address: Address,
        *,
        scripts: tuple[Script, ...] = (),
        deadline_seconds: float = 0.25,
        on_connect: Callable[[], Awaitable[None]] | None = None,
        name: str = "gateway",
    ) -> None:
        self._address = address
        self._scripts = scripts
        self._deadline = deadline_seconds
        self._on_connect = on_connect
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._protocol: _RespProtocol | None = None
        self._is_closed = False

    @property
    def is_connected(self) -> bool:
        return self._protocol is not None

    @property
    def is_stalled(self) -> bool:
        """The oldest unanswered command is past the deadline."""
        protocol = self._protocol
        return protocol is not None and protocol.is_stalled

    @property
    def pending(self) -> int:
        """How many commands have no answer yet."""
        return len(self._protocol.queue) if self._protocol else 0

    def submit(self, script: Script | None, args: tuple[Arg, ...], on_lost: Callable[[], None]) -> None:
        """Send and wait for nothing. `on_lost` is called when Redis did not confirm it, at once without a connection."""
        protocol = self._protocol
        if protocol is None:
            on_lost()
        else:
            protocol.send(script, args, None, on_lost)

    def ask(self, script: Script | None, args: tuple[Arg, ...]) -> asyncio.Future[Any]:
        """Send and get a future for the reply: it raises `RedisAway` at the deadline at the latest."""
        future: asyncio.Future[Any] = self._loop.create_future()
        protocol = self._protocol
        if protocol is None or protocol.is_stalled:
            future.set_exception(RedisAway("no connection" if protocol is None else "stalled"))
        else:
            protocol.send(script, args, future, None)
        return future

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        tries = 0
        while True:
            try:
                protocol = await self._connect()
            except (OSError, RedisAway, TimeoutError, ssl.SSLError) as error:
                if tries == 0:
                    log.warning("Redis is away: %s", error or type(error).__name__)
                await asyncio.sleep(BACK_OFF_SECONDS[min(tries, len(BACK_OFF_SECONDS) - 1)])
                tries += 1
                continue
            if tries:
                log.warning("Redis is back")
            tries = 0
            self._protocol = protocol
            try:
                if self._on_connect is not None:
                    await self._on_connect()
                await protocol.closed
            finally:
                self._protocol = None
                protocol.end("closed")
            log.warning("the connection to Redis ended: %s", protocol.reason)
            tries = 1
            await asyncio.sleep(BACK_OFF_SECONDS[0])

    async def _connect(self) -> _RespProtocol:
        address = self._address
        loop = self._loop

        def factory() -> _RespProtocol:
            return _RespProtocol(loop, self._deadline)

        protocol: _RespProtocol
        async with asyncio.timeout(CONNECT_SECONDS):
            if address.path:
                _transport, protocol = await loop.create_unix_connection(factory, address.path)
            elif address.is_tls:
                _transport, protocol = await loop.create_connection(
                    factory, address.host, address.port, ssl=_tls(address), server_hostname=address.host
                )
            else:
                _transport, protocol = await loop.create_connection(factory, address.host, address.port)
            try:
                if address.password:
                    user = (address.username,) if address.username else ()
                    await protocol.first("AUTH", *user, address.password)
                if address.database:
                    await protocol.first("SELECT", address.database)
                for script in self._scripts:
                    await protocol.first("SCRIPT", "LOAD", script.source)
            except BaseException:
                protocol.end("not usable")
                raise
        return protocol


def _tls(address: Address) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=address.ca_file or None)
    if not address.verifies:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _RespProtocol(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, deadline_seconds: float) -> None:
        self._loop = loop
        self._deadline = deadline_seconds
        self._reader = hiredis.Reader()
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self.queue: deque[_Pending] = deque()
        self.is_stalled = False
        self.closed: asyncio.Future[None] = loop.create_future()
        self.reason = "closed by Redis"

    def send(
        self,
        script: Script | None,
        args: tuple[Arg, ...],
        future: asyncio.Future[Any] | None,
        on_lost: Callable[[], None] | None,
    ) -> None:
        pending = _Pending(script, args, self._loop.time(), future, on_lost)
        if self.closed.done():
            # Ended, and the pipe has not heard of it yet: this must fail like everything that was on the way.
            pending.fail(self.reason)
            return
        self.queue.append(pending)
        if self._timer is None:
            self._timer = self._loop.call_later(CHECK_SECONDS, self._check)
        self._transport.write(_pack(args if script is None else ("EVALSHA", script.sha, *args)))

    async def first(self, *args: Arg) -> Any:
        """A command of the set-up; raises `RedisAway` with what Redis said."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self.send(None, args, future, None)
        return await future

    def end(self, reason: str) -> None:
        """Close, and tell everything unanswered that there will be no answer. May be called twice."""
        if not self.closed.done():
            self.reason = reason
            self.closed.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()
        queue, self.queue = self.queue, deque()
        for pending in queue:
            pending.fail("the connection ended")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(str(exc) if exc else "closed by Redis")

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        reader.feed(data)
        queue = self.queue
        try:
            # RESP2 has no booleans: False from the reader always means "no whole reply yet".
            while (reply := reader.gets()) is not False:
                if not queue:
                    self.end("a reply that nobody asked for")
                    return
                pending = queue.popleft()
                if isinstance(reply, hiredis.ReplyError):
                    self._refused(pending, reply)
                elif pending.future is not None and not pending.future.done():
                    pending.future.set_result(reply)
        except hiredis.ProtocolError:
            self.end("not a Redis protocol")

    def _refused(self, pending: _Pending, error: Exception) -> None:
        text = str(error)
        if text.startswith("NOSCRIPT") and pending.script is not None:
            script, pending.script = pending.script, None
            self.queue.append(pending)
            command = ("EVAL", script.source, *pending.args)
            self._transport.write(_pack(command))
            return
        pending.fail(text)
        if text.startswith(("READONLY", "LOADING", "MASTERDOWN")):
            self.end(text)  # it may be another server by the time we are back

    def _check(self) -> None:
        """One timer for all deadlines. Loops read before they run timers, so a busy process does not blame Redis."""
        now = self._loop.time()
        self._timer = None
        limit = now - self._deadline
        for pending in self.queue:
            if pending.at > limit:
                break
            if pending.future is not None and not pending.future.done():
                pending.future.set_exception(RedisAway("deadline"))
        oldest = self.queue[0].at if self.queue else now
        self.is_stalled = oldest <= limit
        if now - oldest > DEAD_SECONDS:
            self.end("no answer")
        elif self.queue:
            self._timer = self._loop.call_later(CHECK_SECONDS, self._check)
