"""Opening monitoring for a project, the steps as they happen, and closing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRefresh

from common import htmx
from common.errors import DomainError
from iam.actors import actor_of
from iam.holders import holders
from iam.models import Project
from iam.requests import ConsoleRequest
from monitoring import config, installation, opening, services
from monitoring.models import Subscription

TOKEN_FILE = "/etc/prometheus/ark-metrics-token"  # noqa: S105 - the name of a file, on the operator's own machine
Step = Subscription.Step


@dataclass(frozen=True, slots=True)
class Line:
    """A step as the page shows it: `mark` is done, current, failed or ahead; `said` is what it waits for."""

    label: str
    mark: str
    said: str = ""
    detail: str = ""


def opening_context(request: ConsoleRequest, project: Project, *, next_url: str) -> dict[str, Any]:
    """What `monitoring/_opening.html` shows of a project whose monitoring is not open; `next_url` is the page it is on."""
    by, here, state = actor_of(request), installation.look(), services.state_of(project)
    may_open = by.can(services.OPEN, project)
    is_asked_whom = not (may_open or state.is_open or state.is_opening)
    query = urlencode({"project": project.pk, "next": next_url})
    context = {
        "opening_project": project,
        "opening": state,
        "installation": here,
        "lines": _lines(state.subscription, here),
        "seen": _seen(state, here),
        "next_url": next_url,
        "may_open": may_open,
        "open_action": services.OPEN,
        "holders": holders(services.OPEN, project) if is_asked_whom else None,
        "opening_url": f"{reverse('monitoring:opening')}?{query}",
        "close_url": f"{reverse('monitoring:close')}?{query}" if by.can(services.CLOSE, project) else "",
        "is_waiting_for_server": here.state in (installation.Presence.STARTING, installation.Presence.GETTING),
    }
    if here.is_external and may_open:
        context |= {
            "scrape_config": config.scrape_job(
                console_url=settings.CONSOLE_URL, scrape_seconds=settings.SCRAPE_SECONDS, token_file=TOKEN_FILE
            ),
            "token_file": TOKEN_FILE,
            "data_dir_token": str(settings.DATA_DIR / "metrics-token"),
        }
    return context


def _lines(subscription: Subscription | None, here: installation.Installation) -> list[Line]:
    if subscription is None:
        return []
    lines, order = [], list(Step)
    current = order.index(Step(subscription.step))
    for position, step in enumerate(order):
        if position != current:
            lines.append(Line(str(step.label), "done" if position < current else "ahead"))
            continue
        said = opening.sentence(subscription.trouble, installation=here, has_failed=subscription.has_failed)
        mark = "failed" if subscription.has_failed else "current"
        lines.append(Line(str(step.label), mark, said, subscription.detail))
    return lines


def _seen(state: services.State, here: installation.Installation) -> str:
    """What the fragment shows, in a word: while it stays the same nothing is drawn anew."""
    row = state.subscription
    if row is None:
        return f"off.{here.state}"
    return f"{row.state}.{row.step}.{row.trouble}"


def _project(request: ConsoleRequest, project_id: str) -> Project:
    """The project that the page speaks of, whatever the switcher says by now; the current one when none is named."""
    if not project_id:
        return request.project
    found = Project.objects.visible_to(request.user).filter(pk=project_id).first()
    if found is None:
        raise Http404
    request.project = found
    return found


def _next_url(request: ConsoleRequest, given: str) -> str:
    """A page of ours to go back to."""
    is_ours = url_has_allowed_host_and_scheme(given, allowed_hosts=None, require_https=request.is_secure())
    return given if is_ours else reverse("monitoring:overview")


@require_POST
def open_project(request: ConsoleRequest) -> HttpResponse:
    """The one click: htmx gets the steps, a plain browser the page that it came from."""
    project = _project(request, request.POST.get("project", ""))
    next_url = _next_url(request, request.POST.get("next", ""))
    services.open_monitoring(project=project, by=actor_of(request), now=timezone.now())
    if not request.htmx:
        return redirect(next_url)
    context = opening_context(request, project, next_url=next_url)
    return render(request, "monitoring/_opening.html", {**context, "takes_focus": True})


@require_GET
def steps(request: ConsoleRequest) -> HttpResponse:
    """The steps by themselves: 204 while nothing changed, and the whole page anew once monitoring is open."""
    project = _project(request, request.GET.get("project", ""))
    next_url = _next_url(request, request.GET.get("next", ""))
    actor_of(request).require(services.GET, project)
    if not request.htmx:
        return redirect(next_url)
    state = services.state_of(project)
    if state.is_open:
        return HttpResponseClientRefresh()
    if request.GET.get("seen") == _seen(state, installation.look()):
        return HttpResponse(status=204)
    context = opening_context(request, project, next_url=next_url)
    response = render(request, "monitoring/_opening.html", context)
    if context["opening"].has_failed:
        htmx.announce(response, _("Monitoring could not be opened."), level="error")
    return response


@require_http_methods(["GET", "POST"])
def close(request: ConsoleRequest) -> HttpResponse:
    """What closing means, then the closing itself."""
    data = request.POST if request.method == "POST" else request.GET
    project, next_url = _project(request, data.get("project", "")), _next_url(request, data.get("next", ""))
    by = actor_of(request)
    by.require(services.CLOSE, project)
    error = ""
    if request.method == "POST":
        try:
            services.close_monitoring(project=project, by=by, now=timezone.now())
        except DomainError as refused:
            error = refused.message
        else:
            return htmx.done(request, next_url, _("Monitoring of %(name)s was closed.") % {"name": project.name})
    context = {
        "closing_project": project,
        "closing": services.state_of(project),
        "others": Subscription.objects.exclude(project=project).count(),
        "retention_days": config.RETENTION_DAYS,
        "is_external": settings.PROMETHEUS_IS_EXTERNAL,
        "next_url": next_url,
        "error": error,
        **htmx.dialog_frame(request),
    }
    return render(request, "monitoring/close.html", context, status=422 if error else 200)
