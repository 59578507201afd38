"""The pages of events and silences: the list, one event as its message's link opens it, and what people do with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import cast

from django.db.models import Max, Q
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRedirect

from alerts import actions, event_chart, event_forms, event_queries, event_services, installation, rule_forms, silences
from alerts import event_presentation as presentation
from alerts.models import AlertEvent, Silence
from common import htmx
from common.errors import DomainError
from common.paging import paginate
from endpoints import services as endpoint_services
from endpoints.models import Endpoint
from iam import projects
from iam.actors import Resource, actor_of
from iam.models import Project
from iam.requests import ConsoleRequest

PAGE_SIZE = 50
PAST_SHOWN = 50


# --- the list ----------------------------------------------------------------------------------------------------------


@require_GET
def events(request: ConsoleRequest) -> HttpResponse:
    """The events of the current project, or of the one that a message's link names; the rows alone for htmx."""
    now, by, is_staff = timezone.now(), actor_of(request), request.user.is_staff
    if request.htmx.trigger_name == "project":
        # All of the page is another one's, not the rows alone.
        return HttpResponseClientRedirect(_address(request.GET.dict()))
    current = request.project
    project = _project(request)
    by.require(actions.LIST_ALERTS, project)
    filters = event_queries.Filters.of(request.GET.dict())
    if filters.endpoint == event_queries.INSTALLATION and not is_staff:
        raise Http404
    page = paginate(
        event_queries.events(filters, project=project, now=now),
        order=event_queries.ORDER, cursor=request.GET.get("cursor", ""), size=PAGE_SIZE,
    )  # fmt: skip
    context = {
        "filters": filters,
        "page": page,
        "rows": presentation.rows(page.rows, now=now),
        "is_filtered": filters.is_filtered,
        "project": project,
        "is_first": not request.GET.get("cursor"),
        "tab": "events",
    }
    if request.htmx.target == "event-list":
        return _part(render(request, "alerts/_events.html", context))
    has_any = bool(page.rows) or AlertEvent.objects.filter(project=project).exists() or filters.is_filtered
    others = [each for each in projects.choices(request) if each != current and by.can(actions.LIST_ALERTS, each)]
    context |= {"current": current, "others": others}
    if has_any or others:
        context["selects"] = event_queries.selects(filters, project=project, is_staff=is_staff)
    return _part(render(request, "alerts/events.html", context))


def _address(chosen: Mapping[str, str]) -> str:
    """The list with what was chosen and nothing else. An endpoint is one of its project, so it goes with that."""
    kept = {name: value for name, value in chosen.items() if value and name not in ("endpoint", "cursor")}
    url = reverse("alerts:events")
    return f"{url}?{urlencode(kept)}" if kept else url


def _part(response: HttpResponse) -> HttpResponse:
    """Tell caches (the browser's on "back" first of all) that this address also answers with a part of the page."""
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response


def _project(request: ConsoleRequest) -> Project:
    """The project that the address names, for this page alone; the current one where it names none."""
    wanted = request.GET.get("project", "")
    if wanted and wanted != request.project.pk:
        request.project = get_object_or_404(Project.objects.visible_to(request.user), pk=wanted)
    return request.project


# --- one event ---------------------------------------------------------------------------------------------------------


def find_event(request: ConsoleRequest, pk: int, action: str = actions.GET_ALERT) -> AlertEvent:
    """The event, when the person may see its project (404 else) and may do `action` (403 else).

    Events of the installation itself are for those who look after it.
    """
    visible = Q(project__in=Project.objects.visible_to(request.user))
    if request.user.is_staff:
        visible |= Q(project__isnull=True)
    event = get_object_or_404(AlertEvent.objects.for_list().filter(visible), pk=pk)
    if event.project is not None:
        request.project = event.project
    actor_of(request).require(action, cast(Resource, event))
    return event


def _endpoint(request: ConsoleRequest, event: AlertEvent) -> Endpoint | None:
    """The event's endpoint, where there still is one and the person may look at it."""
    endpoint = presentation.endpoint_of(event)
    return endpoint if endpoint is not None and actor_of(request).can(endpoint_services.GET, endpoint) else None


def _head(request: ConsoleRequest, event: AlertEvent, endpoint: Endpoint | None, now: datetime) -> dict[str, object]:
    """What stands above the fold: what, how bad, still now, since when; and the buttons."""
    by = actor_of(request)
    covering = presentation.covering(event, by=by, now=now)
    return {
        "event": event,
        "endpoint": endpoint,
        "endpoint_name": endpoint.name if endpoint else event.endpoint_id,
        "says": presentation.sentence(event, now=now),
        "silences": covering,
        "may": presentation.buttons(event, endpoint, by=by),
        "seen": _seen(event, covering),
    }


def _seen(event: AlertEvent, covering: list[presentation.SilenceRow]) -> str:
    """What the page shows of the event, so that its parts refresh when there is something new."""
    last_note = event.notes.aggregate(last=Max("pk"))["last"] or 0
    return f"{event.phase}.{last_note}.{'-'.join(str(row.silence.pk) for row in covering)}"


@require_GET
@never_cache
def event(request: ConsoleRequest, pk: int) -> HttpResponse:
    """The page that the link of a message opens."""
    now = timezone.now()
    found = find_event(request, pk)
    endpoint = _endpoint(request, found)
    context = {
        **_head(request, found, endpoint, now),
        "told": presentation.told(found),
        "log": presentation.log(found),
        "similar": presentation.similar(found, now=now),
        "tab": "events",
    }
    if endpoint is not None:
        context |= {
            "here": presentation.endpoint_now(found, endpoint, now=now),
            "changes": presentation.changes(found, endpoint, is_staff=request.user.is_staff, now=now),
            "can_see_servers": request.user.is_staff,
        }
    return render(request, "alerts/event.html", context)


@require_GET
@never_cache
def event_now(request: ConsoleRequest, pk: int) -> HttpResponse:
    """How it stands; when that changed, the other parts of the page are told."""
    found, now = find_event(request, pk), timezone.now()
    context = _head(request, found, _endpoint(request, found), now)
    response = render(request, "alerts/_event_now.html", context)
    return response if request.GET.get("seen") == context["seen"] else htmx.trigger(response, f"event-{found.pk}")


@require_GET
@never_cache
def event_actions(request: ConsoleRequest, pk: int) -> HttpResponse:
    """The buttons."""
    found, now = find_event(request, pk), timezone.now()
    return render(request, "alerts/_event_actions.html", _head(request, found, _endpoint(request, found), now))


@require_GET
@never_cache
def event_endpoint(request: ConsoleRequest, pk: int) -> HttpResponse:
    """The endpoint as it is now, and what changed; nothing where it is gone."""
    found, now = find_event(request, pk), timezone.now()
    endpoint = _endpoint(request, found)
    if endpoint is None:
        return HttpResponse()
    context = {
        "event": found,
        "endpoint": endpoint,
        "here": presentation.endpoint_now(found, endpoint, now=now),
        "changes": presentation.changes(found, endpoint, is_staff=request.user.is_staff, now=now),
        "can_see_servers": request.user.is_staff,
    }
    return render(request, "alerts/_event_endpoint.html", context)


@require_GET
@never_cache
def event_told(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Who was told, when, by what, with which answer."""
    found = find_event(request, pk)
    return render(request, "alerts/_event_told.html", {"event": found, "told": presentation.told(found)})


@require_GET
@never_cache
def event_log(request: ConsoleRequest, pk: int) -> HttpResponse:
    """What happened with the event, and people's notes."""
    found = find_event(request, pk)
    may = presentation.buttons(found, None, by=actor_of(request))
    return render(request, "alerts/_event_log.html", {"event": found, "log": presentation.log(found), "may": may})


@require_GET
@never_cache
def chart(request: ConsoleRequest, pk: int) -> JsonResponse:
    """The rule's curve around the firing; what is wrong with it is a sentence in the answer."""
    found = find_event(request, pk)
    endpoint = _endpoint(request, found)
    servers = presentation.servers_of(endpoint) if endpoint else {}
    answer = event_chart.chart(found, now=timezone.now(), servers=servers, shows_names=request.user.is_staff)
    return JsonResponse(answer)


# --- what people do with an event ----------------------------------------------------------------------------------------


def _changed(request: ConsoleRequest, event: AlertEvent, message: str) -> HttpResponse:
    """After a dialog's POST: htmx closes it and the page's parts refresh themselves; a plain browser goes back to it."""
    if not htmx.is_dialog(request):
        return htmx.done(request, event.get_absolute_url(), message)
    response = htmx.announce(HttpResponse(status=204), message)
    htmx.trigger(response, "closeDialog")
    return htmx.trigger(response, f"event-{event.pk}")


@require_POST
def acknowledge(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Say that somebody looks after it: one press, so that others need not get up."""
    found, now = find_event(request, pk, actions.UPDATE_ALERT), timezone.now()
    is_first = found.acknowledged_at is None
    found = event_services.acknowledge(event=found, by=actor_of(request), now=now)
    if is_first:
        message = _("Acknowledged. Others see that you look after it, and nobody is reminded.")
    else:
        message = _("%(name)s looks after it already.") % {"name": found.acknowledged_by_name}
    if not request.htmx:
        return htmx.done(request, found.get_absolute_url(), message)
    found = find_event(request, pk)
    response = render(request, "alerts/_event_actions.html", _head(request, found, _endpoint(request, found), now))
    return htmx.trigger(htmx.announce(response, message), f"event-{found.pk}")


@require_POST
def take_back(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Look after it no more: others are reminded again."""
    found = find_event(request, pk, actions.UPDATE_ALERT)
    found = event_services.take_back(event=found, by=actor_of(request), now=timezone.now())
    message = _("Others are reminded again.")
    if not request.htmx:
        return htmx.done(request, found.get_absolute_url(), message)
    return htmx.trigger(htmx.announce(HttpResponse(status=204), message), f"event-{found.pk}")


@require_http_methods(["GET", "POST"])
def note(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Write down what is known, for those who come later."""
    found = find_event(request, pk, actions.UPDATE_ALERT)
    form = event_forms.NoteForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            event_services.add_note(
                event=found, text=form.cleaned_data["text"], by=actor_of(request), now=timezone.now()
            )
        except DomainError as error:
            form.refuse(error.message, error.field)
        else:
            return _changed(request, found, _("The note was added."))
    context = {"event": found, "form": form, "name": presentation.rule_name(found), **htmx.dialog_frame(request)}
    return render(request, "alerts/event_note.html", context, status=422 if form.is_bound else 200)


@require_http_methods(["GET", "POST"])
def silence(request: ConsoleRequest, pk: int) -> HttpResponse:
    """Tell nobody of this for a while. The event itself goes on and is recorded."""
    found, by, now = find_event(request, pk), actor_of(request), timezone.now()
    project = found.project
    if project is None:
        raise Http404
    by.require(actions.CREATE_SILENCE, project)
    endpoint = presentation.endpoint_of(found)
    texts = {"rule": presentation.rule_name(found), "endpoint": endpoint.name if endpoint else found.endpoint_id}
    if request.method == "GET":
        span = request.GET.get("for", "1h")
        form = event_forms.EventSilenceForm.started(span, found, by_name=by.name, now=now, **texts)
    else:
        form = event_forms.EventSilenceForm(request.POST, event=found, **texts)
        if form.is_valid():
            try:
                made = silences.create(
                    project=project, matchers=form.matchers(), reason=form.cleaned_data["reason"], starts_at=now,
                    ends_at=form.ends(now), by=by, now=now,
                )  # fmt: skip
            except DomainError as error:
                form.refuse(error.message, error.field)
            else:
                until = presentation.moment(made.ends_at)
                return _changed(request, found, _("Silenced until %(time)s.") % {"time": until})
    context = {"event": found, "form": form, "says": texts, **htmx.dialog_frame(request)}
    return render(request, "alerts/event_silence.html", context, status=422 if form.is_bound else 200)


# --- silences ------------------------------------------------------------------------------------------------------------


@require_GET
def silence_list(request: ConsoleRequest) -> HttpResponse:
    """The silences of the project: those that hold or will, and the last ones that are over."""
    by, now, project = actor_of(request), timezone.now(), request.project
    by.require(actions.LIST_SILENCES, project)
    some = Silence.objects.filter(project=project)
    is_alive = Q(ended_at__isnull=True, ends_at__gt=now)
    found = [*some.filter(is_alive).order_by("starts_at", "pk"), *some.exclude(is_alive)[:PAST_SHOWN]]
    rows = presentation.silence_rows(found, by=by, now=now)
    context = {
        "alive": [row for row in rows if not row.is_over],
        "past": [row for row in rows if row.is_over],
        "may_create": by.can(actions.CREATE_SILENCE, project),
        "is_untold": not installation.url(),
        "tab": "silences",
    }
    if request.htmx.target == "silence-list":
        return _part(render(request, "alerts/_silences.html", context))
    return _part(render(request, "alerts/silences.html", context))


@require_http_methods(["GET", "POST"])
def silence_create(request: ConsoleRequest) -> HttpResponse:
    """A silence of its own, also for the same hours each week."""
    by, now, project = actor_of(request), timezone.now(), _project(request)
    by.require(actions.CREATE_SILENCE, project)
    rules = event_forms.rules_of(project)
    if request.method == "GET":
        asked = request.GET.get("endpoint", "")
        if asked and not rule_forms.is_endpoint(asked, project):
            # The form would show "all endpoints" instead, and silence what nobody meant.
            raise Http404
        initial = event_forms.SilenceForm.started(request.GET.dict(), now=now)
        form = event_forms.SilenceForm(initial=initial, project=project, rules=rules)
    else:
        form = event_forms.SilenceForm(request.POST, project=project, rules=rules)
        if form.is_valid():
            values = form.cleaned_data
            try:
                silences.create(
                    project=project, matchers=form.matchers(), reason=values["reason"], starts_at=values["starts_at"],
                    ends_at=values["ends_at"], weekly=form.weekly(), by=by, now=now,
                )  # fmt: skip
            except DomainError as error:
                form.refuse(error.message, error.field)
            else:
                return htmx.done(request, reverse("alerts:silences"), _("The silence was created."))
    context = {"form": form, "zone": timezone.get_current_timezone_name(), "tab": "silences"}
    return render(request, "alerts/silence_create.html", context, status=422 if form.is_bound else 200)


@require_POST
def silence_end(request: ConsoleRequest, pk: int) -> HttpResponse:
    """End a silence before its time: what it held back is told again."""
    visible = Project.objects.visible_to(request.user)
    found = get_object_or_404(Silence.objects.select_related("project").filter(project__in=visible), pk=pk)
    request.project = found.project
    silences.end(silence=found, by=actor_of(request), now=timezone.now())
    message = _("The silence was ended.")
    event_id = request.POST.get("event", "")
    if request.htmx:
        response = htmx.announce(HttpResponse(status=204), message)
        return htmx.trigger(response, f"event-{event_id}" if event_id.isdecimal() else "silences-changed")
    is_on_event = event_id.isdecimal() and len(event_id) <= 18
    url = reverse("alerts:event", args=[int(event_id)]) if is_on_event else reverse("alerts:silences")
    return htmx.done(request, url, message)
