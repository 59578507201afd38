"""Calls of dead workers: their reservations go back, and the ledger hears that they were lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime

import msgspec
import redis as redis_client

from common import redis
from gateway.errors import NOT_JSON
from gateway.limits import OPEN_PREFIX, SETTLE, WINDOW_PREFIX, new_generation
from gateway.workers import WORKER_PREFIX, WORKERS_KEY
from metering import events

log = logging.getLogger(__name__)

GRACE_MS = 3000
"""How long a worker must be seen dead: after a restart of Redis every heartbeat is missing for a moment."""
_DEAD_PREFIX = "ark:dead:"


def reap(now: datetime, client: redis_client.Redis | None = None) -> int:
    """Settle the open records of workers that have been dead for `GRACE_MS`; return how many.

    Needs two passes at least `GRACE_MS` apart. May run twice at once. Raises `common.redis.Error` when Redis is away.
    """
    client = client or redis.client()
    now_ms = int(now.timestamp() * 1000)
    reaped = 0
    for member in client.smembers(WORKERS_KEY):
        worker = member.decode() if isinstance(member, bytes) else member
        if client.exists(WORKER_PREFIX + worker):
            client.delete(_DEAD_PREFIX + worker)
            continue
        client.set(_DEAD_PREFIX + worker, now_ms, nx=True, px=3_600_000)
        since = client.get(_DEAD_PREFIX + worker)
        if since is None or now_ms - int(since) < GRACE_MS:
            continue
        count = 0
        for call_id, event in _open_records(client, worker, now_ms):
            keys = (WINDOW_PREFIX + event.endpoint_id, OPEN_PREFIX + worker, events.GENERATION_KEY)
            client.eval(SETTLE.source, 3, *keys, call_id, "0", events.encode(event), new_generation())
            count += 1
        if count:
            log.warning("gateway worker %s died with %d open calls", worker, count)
        reaped += count
        client.delete(OPEN_PREFIX + worker, _DEAD_PREFIX + worker)
        client.srem(WORKERS_KEY, worker)
    return reaped


def _open_records(client: redis_client.Redis, worker: str, now_ms: int) -> Iterator[tuple[str, events.UsageEvent]]:
    """Each open call of a worker with the event that says it was lost."""
    for call_id, record in client.hscan_iter(OPEN_PREFIX + worker, count=500):
        body = record.split(b" ", 2)[-1]
        try:
            event = events.decode(body)
        except NOT_JSON:
            log.error("open record of call %s cannot be read", call_id.decode())
            continue
        yield (
            call_id.decode(),
            msgspec.structs.replace(
                event,
                outcome=events.Outcome.LOST,
                status=500,
                code="InternalServiceError",
                duration_ms=max(now_ms - event.at, 0),
                is_estimated=True,
            ),
        )
