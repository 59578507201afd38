"""What Prometheus is told to read: the living gateway workers, by their heartbeats in Redis, and the console itself.

Prometheus keeps its last list when the question fails, and forgets its targets when the answer is an empty list. So
whatever is not known is an error here (`Unknown`, 503), and the list is empty only while nobody opened monitoring.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from common import redis
from gateway.workers import WORKER_PREFIX, WORKERS_KEY, WorkerInfo
from monitoring.models import Subscription

SERVED_KEY = "ark:monitoring:served"
"""Epoch seconds of the last time that somebody with the token was given a list that is not empty."""
REFUSED_KEY = "ark:monitoring:refused"
"""Epoch seconds of the last time that somebody asked for the list with a wrong token."""
NOTE_SECONDS = 3600


class Unknown(Exception):
    """Who lives cannot be told now; the text says why, for Prometheus's own log."""


@dataclass(frozen=True, slots=True)
class Sightings:
    """When Prometheus last got its list, and when somebody was last refused it; None: not within the last hour."""

    served_at: datetime | None = None
    refused_at: datetime | None = None


def live_workers() -> list[WorkerInfo]:
    """The gateway workers that said within the last seconds that they live, by address, whatever their host.

    Of two at one address (a port that was used again) the later one. Raises `redis.Error` when Redis is away.
    """
    client: Any = redis.client()
    ids = sorted(client.smembers(WORKERS_KEY))
    if not ids:
        return []
    said = client.mget([WORKER_PREFIX + worker_id.decode() for worker_id in ids])
    return _by_address(_decoded(said))


def _decoded(said: Iterable[bytes | None]) -> list[WorkerInfo]:
    workers = []
    for one in said:
        if one is not None:
            with contextlib.suppress(msgspec.DecodeError):  # of a release that says it otherwise
                workers.append(msgspec.json.decode(one, type=WorkerInfo))
    return workers


def _by_address(workers: Iterable[WorkerInfo]) -> list[WorkerInfo]:
    found: dict[str, WorkerInfo] = {}
    for worker in sorted(workers, key=lambda worker: worker.started_at):
        if worker.metrics:
            found[worker.metrics] = worker
    return [found[address] for address in sorted(found)]


def targets(*, console: str, scheme: str) -> list[dict[str, Any]]:
    """The list in the form of `http_sd`; [] while no project has monitoring open, or is opening it.

    `console` is the `host:port` under which Prometheus itself asked, which is right behind proxies and in containers.
    Raises `Unknown` when Redis is away or no worker says that it lives.
    """
    if not Subscription.objects.exclude(state=Subscription.State.FAILED).exists():
        return []
    try:
        workers = live_workers()
    except redis.Error as error:
        raise Unknown(f"Redis does not answer: {error}") from error
    if not workers:
        raise Unknown("no gateway worker says that it lives")
    gateway = {"targets": [worker.metrics for worker in workers], "labels": {"job": "ark-gateway"}}
    return [gateway, {"targets": [console], "labels": {"job": "ark-console", "__scheme__": scheme}}]


def note_asked(*, now: datetime, is_refused: bool = False) -> None:
    """Remember that somebody asked for the targets, for the page that waits for it; quiet when Redis is away."""
    with contextlib.suppress(redis.Error):
        redis.client().set(REFUSED_KEY if is_refused else SERVED_KEY, now.timestamp(), ex=NOTE_SECONDS)


def sightings() -> Sightings:
    """What `note_asked` remembered. Raises `redis.Error` when Redis is away."""
    noted: Any = redis.client().mget([SERVED_KEY, REFUSED_KEY])
    return Sightings(*(None if at is None else datetime.fromtimestamp(float(at), UTC) for at in noted))
