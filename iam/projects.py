"""Which project a person looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from django.http import HttpRequest

from iam.models import Project

SESSION_KEY = "project"
SWITCHER_LIMIT = 200
View = TypeVar("View", bound=Callable[..., object])


def current(request: HttpRequest) -> Project | None:
    """The session's choice where the person may still see it, else the first that they may; None without any."""
    visible = Project.objects.visible_to(request.user)
    chosen = request.session.get(SESSION_KEY)
    if chosen:
        project = visible.filter(pk=chosen).first()
        if project is not None:
            return project
    return visible.filter(pk="default").first() or visible.first()


def switch_to(request: HttpRequest, project: Project) -> None:
    """Look at `project` from now on."""
    request.session[SESSION_KEY] = project.pk


def choices(request: HttpRequest) -> list[Project]:
    """What the switcher offers; at most `SWITCHER_LIMIT`."""
    return list(Project.objects.visible_to(request.user)[:SWITCHER_LIMIT])


def projectless(view: View) -> View:
    """Mark a view that works for people without any project, such as their settings."""
    view.is_projectless = True  # type: ignore[attr-defined]
    return view
