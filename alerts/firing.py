"""What fires in a project, for the top of every page: asked every few seconds per process, not for each page."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from django.db import DatabaseError
from django.http import HttpRequest
from django.urls import reverse

from alerts import actions, events
from alerts.models import Level
from iam.actors import actor_of

REMEMBER_SECONDS = 5.0
MOST_PROJECTS = 1_000

Ask = Callable[[str], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Firing:
    """How many events fire, by level, worst first; levels without any are left out."""

    levels: tuple[tuple[str, int], ...] = ()

    @property
    def total(self) -> int:
        return sum(count for _level, count in self.levels)

    @property
    def worst(self) -> str:
        """The worst level that fires; "" where nothing does."""
        return self.levels[0][0] if self.levels else ""

    @property
    def url(self) -> str:
        return f"{reverse('alerts:events')}?phase=firing"


class Watch:
    """`look()` asks at most every few seconds for each project; one query."""

    def __init__(self, ask: Ask | None = None, *, remember_seconds: float = REMEMBER_SECONDS) -> None:
        self._ask: Ask = ask or (lambda project_id: events.counts(project_id=project_id))
        self._remember = remember_seconds
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[float, Firing]] = {}

    def look(self, project_id: str) -> Firing:
        """What fires now, or did some seconds ago; nothing where the database cannot say."""
        moment = time.monotonic()
        with self._lock:
            seen = self._seen.get(project_id)
        if seen is not None and moment - seen[0] <= self._remember:
            return seen[1]
        try:
            counts = self._ask(project_id)
        except DatabaseError:
            return Firing()
        found = Firing(tuple((level, counts[level]) for level in Level.values if counts.get(level)))
        with self._lock:
            if len(self._seen) >= MOST_PROJECTS:
                self._seen.clear()
            self._seen[project_id] = (moment, found)
        return found


watch = Watch()


def of(request: HttpRequest) -> Firing | None:
    """What fires in the project that the person looks at; None where they may not know."""
    project = getattr(request, "project", None)
    if project is None or not request.user.is_authenticated:
        return None
    if not actor_of(request).can(actions.LIST_ALERTS, project):
        return None
    return watch.look(project.pk)
