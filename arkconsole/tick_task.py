"""How a tick runs in a worker: it beats, and when it fails it says so in one sentence, not in a traceback each second."""

from __future__ import annotations

import logging
import time
from typing import Any

import redis
from celery import Task
from django.db import DatabaseError
from django.utils import timezone

from arkconsole.ticks import BY_NAME
from common.models import TickHeartbeat

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5
REPEAT_SECONDS = 60


class TickTask(Task):  # type: ignore[type-arg]
    """The base of every task. Called as a function, and for what is no tick, it is Celery's own."""

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
