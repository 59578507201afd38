"""A stream to drain: the gateway's end of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis as redis_client

from common import redis
from metering import events
from metering.events import UsageEvent

GENERATION = "g1"
Send = Callable[..., list[bytes]]


@pytest.fixture
def stream(fresh_redis: redis_client.Redis) -> redis_client.Redis:
    """A Redis with a generation and nothing in it, as bytes."""
    client = redis.client()
    client.set(events.GENERATION_KEY, GENERATION)
    return client


@pytest.fixture
def send(stream: redis_client.Redis) -> Send:
    """Append events (or raw bytes) to the stream of a generation; returns the entries' ids."""

    def append(*sent: UsageEvent | bytes, generation: str = GENERATION) -> list[bytes]:
        pipe = stream.pipeline(transaction=False)
        for each in sent:
            value = each if isinstance(each, bytes) else events.encode(each)
            pipe.xadd(events.stream_key(generation), {events.FIELD: value})
        return list(pipe.execute())

    return append
