"""The one way to Redis outside the gateway: short deadlines, so that Redis being away never holds a page up."""

from __future__ import annotations

import logging
from functools import cache

import redis
from django.conf import settings

log = logging.getLogger(__name__)
Error = redis.RedisError


@cache
def client() -> redis.Redis:
    """The process's Redis client (thread-safe, pooled); raises `Error` on use when Redis is away."""
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=0.5, health_check_interval=15
    )


def publish_quietly(channel: str, message: str) -> None:
    """Publish a wake-up that nothing depends on; log at debug level when it could not be sent."""
    try:
        client().publish(channel, message)
    except Error as error:
        log.debug("no wake-up on %s: %s", channel, error)


def is_alive() -> bool:
    """Whether Redis answers a ping within the deadlines above."""
    try:
        return bool(client().ping())
    except Error:
        return False
