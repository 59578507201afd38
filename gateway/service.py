"""One gateway worker put together: what it runs beside calls, and in which order it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine
from types import FrameType
from typing import Any

import redis.asyncio as redis_asyncio

from gateway.app import Gateway
from gateway.auth import KeyRing
from gateway.config import Config
from gateway.exposition import Exposition
from gateway.forward import Forwarder
from gateway.limits import ADMIT, SETTLE, RedisLimiter
from gateway.metrics import Metrics, expected
from gateway.resp import Pipe, RedisAway, parse_url
from gateway.routes import Reader, RouteTable, Source
from gateway.slots import Slot
from gateway.spool import Spool
from gateway.upstream import HttpUpstream
from gateway.workers import HEARTBEAT, Heartbeat, WorkerInfo, new_worker_id

log = logging.getLogger(__name__)

WAKE_CHANNEL = "ark:routes"
REPLAY_SECONDS = 5.0
HOUSEKEEPING_SECONDS = 60.0


class Service:
    """A worker: `start`, then `gateway` serves, then `stop`. Starting waits for nothing outside the process."""

    def __init__(self, config: Config, source: Source) -> None:
        self._config = config
        self.id = new_worker_id()
        self._reader = Reader()
        self._tasks: list[asyncio.Task[None]] = []
        self.keys = KeyRing(source, self._reader)
        self.routes = RouteTable(source, self._reader, on_keys_changed=self.keys.changed)
        self.metrics = Metrics(expected=lambda: expected(self.routes))
        self.spool = Spool(config.data_dir / "spool", worker=self.id)
        self.pipe = Pipe(
            parse_url(config.redis_url), scripts=(ADMIT, SETTLE, HEARTBEAT), on_connect=self._on_connect, name=self.id
        )
        self._exposition = Exposition(
            self.metrics,
            worker=self.id,
            host=config.metrics_host,
            advertise=config.metrics_advertise,
            token=config.metrics_token,
            slot=Slot(config.data_dir / "run" / "metrics-ports"),
        )
        info = WorkerInfo(id=self.id, host=socket.gethostname(), pid=os.getpid(), metrics="", started_at=time.time())
        self._info = info
        self.heartbeat = Heartbeat(self.pipe, info, expected=config.workers)
        self.limiter = RedisLimiter(
            self.pipe, worker=self.id, spool=self.spool.append, live_workers=lambda: self.heartbeat.live
        )
        self.upstream = HttpUpstream()
        self._forwarder = Forwarder(
            routes=self.routes,
            limiter=self.limiter,
            upstream=self.upstream,
            metrics=self.metrics,
            worker=self.id,
            max_answer_bytes=config.max_answer_bytes,
            stall_seconds=config.stall_seconds,
        )
        self.gateway = Gateway(
            config=config,
            routes=self.routes,
            keys=self.keys,
            forwarder=self._forwarder,
            metrics=self.metrics,
            degraded=self.degraded,
        )
        self._describe_metrics()

    async def start(self) -> None:
        """Begin everything; calls are served as soon as routes are there."""
        self._info.metrics = await self._exposition.start()
        for job in (self.routes.run(), self.pipe.run(), self.heartbeat.run(), self._replay(), self._listen()):
            self._spawn(job)
        self._spawn(self._keep_house())
        log.info("gateway worker %s started, metrics on %s", self.id, self._info.metrics)

    async def stop(self) -> None:
        """End everything. Calls have ended by now; what Redis has not confirmed goes to the spool."""
        deadline = time.monotonic() + 2
        while self.pipe.pending and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self.heartbeat.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.upstream.aclose()
        await self._exposition.stop()
        self.spool.close()
        self._reader.close()

    def drain(self, then: Any = None) -> None:
        """Unready from now on; after `drain_seconds`, call `then` (which closes the listener)."""
        if self.gateway.is_draining:
            return
        self.gateway.is_draining = True
        if then is not None:
            asyncio.get_running_loop().call_later(self._config.drain_seconds, then)

    def degraded(self) -> list[str]:
        """What is away, though calls go on."""
        away = []
        if not self.pipe.is_connected or self.pipe.is_stalled:
            away.append("redis")
        if self.routes.is_away:
            away.append("database")
        return away

    def _spawn(self, job: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.ensure_future(job))

    async def _on_connect(self) -> None:
        await self.heartbeat.beat()

    async def _replay(self) -> None:
        while True:
            if self.pipe.is_connected and not self.pipe.is_stalled:
                try:
                    count = await self.spool.replay(self.limiter.replay)
                    if count:
                        log.warning("%d spooled usage events replayed", count)
                except (RedisAway, OSError) as error:
                    log.warning("the spool waits: %s", error)
            await asyncio.sleep(0.5 if not self.spool.is_empty else REPLAY_SECONDS)

    async def _listen(self) -> None:
        """Wake the route table when somebody says that something changed; nothing depends on it."""
        while True:
            try:
                async with (
                    contextlib.aclosing(redis_asyncio.from_url(self._config.redis_url)) as client,
                    client.pubsub() as channel,
                ):
                    await channel.subscribe(WAKE_CHANNEL)
                    async for _message in channel.listen():
                        self.routes.wake()
            except (redis_asyncio.RedisError, OSError) as error:
                log.debug("no wake-ups: %s", error)
            await asyncio.sleep(1)

    async def _keep_house(self) -> None:
        # What was made at the start stays for ever: keep the collector from walking it again and again. Calls leave no
        # cycles behind, so it need not look after every few of them either.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        while True:
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
            self.metrics.evict()
            self.limiter.forget_idle()

    def _describe_metrics(self) -> None:
        self.metrics.gauges["ark_gateway_redis_connected"] = (
            "Whether this worker has a connection to Redis.",
            lambda: float(self.pipe.is_connected),
        )
        self.metrics.gauges["ark_gateway_upstream_connections"] = (
            "Open connections to model servers.",
            lambda: float(self.upstream.open_connections),
        )
        self.metrics.counters["ark_gateway_spooled_events"] = (
            "Usage events that Redis did not take at once.",
            lambda: float(self.spool.appended),
        )
        self.metrics.counters["ark_gateway_lost_events"] = (
            "Usage events that neither Redis nor the disk took.",
            lambda: float(self.spool.lost),
        )


class Application:
    """The ASGI application: starts a `Service` with the server's lifespan and stops it with it."""

    def __init__(self, config: Config, source: Source) -> None:
        self._config = config
        self._source = source
        self.service: Service | None = None
        self._gateway: Gateway | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "http" and self._gateway is not None:
            await self._gateway(scope, receive, send)
        elif kind == "lifespan":
            await self._lifespan(receive, send)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def _lifespan(self, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.service = Service(self._config, self._source)
                await self.service.start()
                self._gateway = self.service.gateway
                self._take_signals(self.service)
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self.service is not None:
                    await self.service.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _take_signals(self, service: Service) -> None:
        """Put the time of draining between the signal and the server's own handler, which closes the listener."""
        if self._config.drain_seconds <= 0:
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            server_handler = signal.getsignal(number)
            if not callable(server_handler):
                continue

            def handle(signum: int, frame: FrameType | None, server_handler: Any = server_handler) -> None:
                if service.gateway.is_draining:
                    server_handler(signum, frame)  # asked twice: now
                else:
                    loop.call_soon_threadsafe(service.drain, lambda: server_handler(signum, frame))

            try:
                signal.signal(number, handle)
            except ValueError:
                return  # not the main thread: a test's server, which is stopped in other ways
