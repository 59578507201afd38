"""The only schedule: what beat sends, how often, and whether it still arrives.

Each tick is the Celery task of the same name in its room's `tasks.py`. A message that was not taken up within its
interval is dropped (`expires`), so a worker that was away finds no pile of old ticks. Each run of a tick writes a
heartbeat: the console says "ticks late" from it, and the supervisor restarts beat and workers from it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
from celery import Task
from django.db import DatabaseError
from django.utils import timezone

from common.models import TickHeartbeat

log = logging.getLogger(__name__)

GRACE = timedelta(seconds=30)
HEARTBEAT_SECONDS = 5
REPEAT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Tick:
    """A task's name, its interval, and the queue that it waits in."""

    name: str
    seconds: int
    queue: str = "ticks"


TICKS = (
    Tick("metering.drain", 1),
    Tick("endpoints.converge", 2),
    Tick("catalog.probe_due", 2),
    Tick("gateway.reap", 3),
    Tick("metering.prune", 3600, queue="slow"),
    Tick("arkconsole.tidy", 3600, queue="slow"),
)
BY_NAME = {tick.name: tick for tick in TICKS}
BEAT_SCHEDULE: dict[str, dict[str, Any]] = {
    tick.name: {
        "task": tick.name,
        "schedule": float(tick.seconds),
        "options": {"queue": tick.queue, "expires": float(tick.seconds)},
    }
    for tick in TICKS
}
ROUTES: dict[str, dict[str, str]] = {
    **{tick.name: {"queue": tick.queue} for tick in TICKS},
    "catalog.probe_server": {"queue": "slow"},
}
"""Where tasks wait, also when something else than beat sends them; the others go to `ticks`."""


def are_late(now: datetime) -> bool:
    """Whether any tick has not run for its interval and 30 seconds, or never; one query.

    A heartbeat that lies ahead (the clock was set back) says nothing about now, and counts as late too.
    """
    beats = dict(TickHeartbeat.objects.values_list("name", "at"))
    for tick in TICKS:
        at = beats.get(tick.name)
        if at is None and tick.seconds > GRACE.total_seconds():
            continue  # a rare tick before its first turn
        if at is None or abs(now - at) > timedelta(seconds=tick.seconds) + GRACE:
            return True
    return False


class TickTask(Task):  # type: ignore[type-arg]
    """The base of every task: a tick that raises says so in one sentence, not in a traceback each second."""

    abstract = True
    _failed_at: float | None = None
    _failures = 0
    _beat_at: float | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.name not in BY_NAME or self.request.called_directly:
            return super().__call__(*args, **kwargs)
        try:
            super().__call__(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the next tick is the retry
            self._say_failed(error)
        else:
            self._say_recovered()
        self._beat()
        return None

    def _say_failed(self, error: Exception) -> None:
        self._failures += 1
        moment = time.monotonic()
        if self._failed_at is not None and moment - self._failed_at < REPEAT_SECONDS:
            return
        self._failed_at = moment
        # A part that is away needs no traceback; anything else is a mistake of ours, and needs one.
        is_away = isinstance(error, (redis.RedisError, DatabaseError, OSError))
        sentence = " ".join(str(error).split()) or type(error).__name__
        log.error("%s failed (%d times by now): %s", self.name, self._failures, sentence, exc_info=not is_away)

    def _say_recovered(self) -> None:
        if self._failures:
            log.warning("%s works again after %d failures", self.name, self._failures)
            self._failed_at, self._failures = None, 0

    def _beat(self) -> None:
        moment = time.monotonic()
        if self._beat_at is not None and moment - self._beat_at < HEARTBEAT_SECONDS:
            return
        try:
            TickHeartbeat.beat(name=self.name, now=timezone.now())
        except DatabaseError as error:
            log.debug("no heartbeat of %s: %s", self.name, error)
        else:
            self._beat_at = moment
