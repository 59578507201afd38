"""The console's front door, and the pages that say what went wrong."""

from __future__ import annotations

import sys

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.template import loader
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_GET

from common import preferences
from common.middleware import database_away


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    """The list of endpoints is where people begin."""
    return redirect("endpoints:list")


@require_GET
def alert_source(request: HttpRequest) -> HttpResponse:
    """Where Prometheus and Alertmanager say that their alerts come from: their own pages are nobody's."""
    return redirect("alerts:events")


@login_not_required
@require_GET
def admin_login(request: HttpRequest) -> HttpResponse:
    """One door only: the admin's own sign-in form is not throttled."""
    if request.user.is_authenticated:
        raise PermissionDenied
    target = urlencode({"next": request.GET.get("next", reverse("admin:index"))})
    return redirect(f"{reverse('account_login')}?{target}")


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    return render(request, "errors/not_found.html", status=404)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403 from Django itself (the admin, a bad host); our own refusals name the missing action."""
    return render(request, "errors/forbidden.html", status=403)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """403 for a form that is too old, or came from elsewhere."""
    return render(request, "errors/csrf.html", status=403)


def broken(request: HttpRequest) -> HttpResponse:
    """500, or 503 where the database is away: errors before the view (sessions, people) arrive here too."""
    error = sys.exc_info()[1]
    if isinstance(error, OperationalError | InterfaceError):
        return database_away(request)
    # No `request` in the context: whatever broke may break a context processor as well.
    context = {"theme": preferences.theme_of(request), "request_id": getattr(request, "request_id", "")}
    return HttpResponse(loader.render_to_string("errors/broken.html", context), status=500)
