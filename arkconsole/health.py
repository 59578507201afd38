"""What is away, as the console knows it: for `/healthz` and `/readyz`, and for the sentence above every page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.translation import gettext as _

from alerts import chain
from alerts.chain import Chain
from arkconsole import ticks
from common import redis

REMEMBER_SECONDS = 5.0


@dataclass(frozen=True)
class Degraded:
    """Parts that are away while the console itself works."""

    is_redis_away: bool
    are_ticks_late: bool
    alerts: Chain

    def names(self) -> list[str]:
        """Short names for programs: `redis`, `ticks`, `alerts`."""
        parts = (("redis", self.is_redis_away), ("ticks", self.are_ticks_late), ("alerts", self.alerts.is_broken))
        return [name for name, away in parts if away]

    def sentence(self) -> str:
        """What a reader should know, or ""."""
        if self.is_redis_away:
            return _(
                "Redis does not answer: background work waits, and each gateway worker enforces its share of the limits."
            )
        if self.are_ticks_late:
            return _("Background work is late: statuses and usage on this page may be out of date.")
        return ""


class Watch:
    """`look()` asks at most every few seconds per process, so that a page costs no ping and no query for it."""

    def __init__(self, *, remember_seconds: float = REMEMBER_SECONDS) -> None:
        self._remember = remember_seconds
        self._lock = threading.Lock()
        self._seen: tuple[float, Degraded] | None = None

    def look(self, *, now: datetime, monotonic: float | None = None) -> Degraded:
        """What is away now, or a few seconds ago."""
        moment = time.monotonic() if monotonic is None else monotonic
        with self._lock:
            if self._seen is None or moment - self._seen[0] > self._remember:
                self._seen = (moment, _ask(now))
            return self._seen[1]


def _ask(now: datetime) -> Degraded:
    is_redis_away = not redis.is_alive()
    try:
        are_ticks_late = ticks.are_late(now)
    except DatabaseError:
        are_ticks_late = False  # the page that says so is the database's own
    try:
        alerts = chain.look(now=now)
    except DatabaseError:
        alerts = Chain()
    return Degraded(is_redis_away=is_redis_away, are_ticks_late=are_ticks_late, alerts=alerts)


watch = Watch()


def readiness() -> str:
    """Why the console cannot serve ("database" or "migrations"), or ""."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        executor = MigrationExecutor(connection)
        is_behind = bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))
    except DatabaseError:
        return "database"
    return "migrations" if is_behind else ""


def probes_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Answer `/healthz` (the process lives) and `/readyz` before anything else: probes come with any Host header.

    Ready is 503 without the database or with migrations missing; anything else that is away is listed as degraded.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info == "/healthz":
            return JsonResponse({"status": "ok"})
        if request.path_info == "/readyz":
            missing = readiness()
            if missing:
                return JsonResponse({"status": "unready", "missing": [missing]}, status=503)
            return JsonResponse({"status": "ok", "degraded": watch.look(now=timezone.now()).names()})
        return get_response(request)

    return middleware
