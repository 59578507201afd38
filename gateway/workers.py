"""Which gateway workers live: each says so once a second, with the address of its metrics."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path

import msgspec

from gateway.limits import new_generation
from gateway.resp import Pipe, RedisAway, Script
from metering import events

WORKERS_KEY = "ark:workers"
"""Set of worker ids, also of those that died and were not reaped yet."""
WORKER_PREFIX = "ark:worker:"
"""`ark:worker:<id>` is the JSON of a `WorkerInfo`, and expires when the worker stops saying that it lives."""
INTERVAL_SECONDS = 1.0
LIFETIME_MS = 4000
_FIRST_BEATS = 5

HEARTBEAT = Script((Path(__file__).parent / "lua" / "heartbeat.lua").read_text(encoding="utf-8"))


class WorkerInfo(msgspec.Struct, kw_only=True):
    """What a worker says of itself. `metrics` is `host:port` of its `/metrics`; `started_at` epoch seconds."""

    id: str
    host: str
    pid: int
    metrics: str
    started_at: float


def new_worker_id() -> str:
    """An id that no other worker has or had."""
    host = "".join(c for c in socket.gethostname().split(".")[0] if c.isalnum() or c == "-")[:32] or "host"
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Heartbeat:
    """`live` is the number of living workers at the last contact; before any, the number expected."""

    def __init__(self, pipe: Pipe, info: WorkerInfo, *, expected: int) -> None:
        self._pipe = pipe
        self._info = info
        self._expected = max(expected, 1)
        self._beats = 0
        self.live = self._expected

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            await self.beat()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def beat(self) -> None:
        """Say once that this worker lives; quiet when Redis is away."""
        info = msgspec.json.encode(self._info)
        args = (
            2,
            WORKERS_KEY,
            events.GENERATION_KEY,
            WORKER_PREFIX,
            self._info.id,
            info,
            LIFETIME_MS,
            new_generation(),
        )
        try:
            live = max(int(await self._pipe.ask(HEARTBEAT, args)), 1)
        except RedisAway:
            return
        self._beats += 1
        # The first to beat sees itself alone; its siblings are on their way.
        self.live = max(live, self._expected) if self._beats <= _FIRST_BEATS else live

    async def leave(self) -> None:
        """Say goodbye, so that nobody waits for this worker to be found dead. Open records, if any, are still reaped."""
        try:
            await self._pipe.ask(None, ("DEL", WORKER_PREFIX + self._info.id))
            if not await self._pipe.ask(None, ("EXISTS", "ark:open:" + self._info.id)):
                await self._pipe.ask(None, ("SREM", WORKERS_KEY, self._info.id))
        except RedisAway:
            return
