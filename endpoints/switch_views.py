"""The pages of the version switch: choosing a target, the plan, watching it move, and what people do with it."""

from __future__ import annotations

import hashlib
from datetime import datetime

from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from catalog.models import FoundationModel, ModelVersion
from common import htmx
from common.errors import Conflict, DomainError
from endpoints import switch_presentation as presentation
from endpoints import switch_preview, switch_services, switching
from endpoints.models import Endpoint, VersionSwitch
from endpoints.switch_forms import PlanForm, VerbForm
from endpoints.switching import Verb
from endpoints.views import detail_context, find_endpoint
from iam.actors import Actor, actor_of
from iam.requests import ConsoleRequest

HISTORY_SHOWN = 20
_DANGEROUS = frozenset({Verb.ROLL_BACK})


def _endpoint(request: ConsoleRequest, endpoint_id: str, action: str = switch_services.GET) -> Endpoint:
    """A custom endpoint that the person may see; preset ones have no switch (404)."""
    endpoint = find_endpoint(request, endpoint_id, action)
    if endpoint.is_preset:
        raise Http404
    return endpoint


def _switch(endpoint: Endpoint, switch_id: int) -> VersionSwitch:
    rows = VersionSwitch.objects.select_related("source__model", "target__model", "endpoint__project")
    return get_object_or_404(rows, pk=switch_id, endpoint=endpoint)


@require_GET
def switch(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The open switch, or the versions that the endpoint can be switched to; below it the switches of before."""
    endpoint, by, now = _endpoint(request, endpoint_id), actor_of(request), timezone.now()
    history = endpoint.switches.select_related("source__model", "target__model").filter(ended_at__isnull=False)
    context = {
        **detail_context(request, endpoint, "switch", now),
        "history": history[:HISTORY_SHOWN],
        "may_start": by.can(switch_services.START, endpoint),
        "missing_action": switch_services.START,
    }
    if current := switch_services.open_switch(endpoint.pk):
        return render(request, "endpoints/switch/watch.html", {**context, **_page_of(request, endpoint, current)})
    context["targets"] = switch_preview.targets(endpoint=endpoint, now=now)
    return render(request, "endpoints/switch/choose.html", context)


@require_GET
def past(request: ConsoleRequest, endpoint_id: str, switch_id: int) -> HttpResponse:
    """One switch of the endpoint, also one that has ended."""
    endpoint, now = _endpoint(request, endpoint_id), timezone.now()
    context = {
        **detail_context(request, endpoint, "switch", now),
        **_page_of(request, endpoint, _switch(endpoint, switch_id)),
        "is_past": True,
    }
    return render(request, "endpoints/switch/watch.html", context)


def _page_of(request: ConsoleRequest, endpoint: Endpoint, switch: VersionSwitch) -> dict[str, object]:
    return {**_watched(request, endpoint, switch), "points": presentation.last_points(switch)}


@require_http_methods(["GET", "POST"])
def plan(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """What would change, and the plan; POST starts the switch. `like` prefills the plan of an earlier one."""
    endpoint, by, now = _endpoint(request, endpoint_id, switch_services.START), actor_of(request), timezone.now()
    data = request.POST if request.method == "POST" else request.GET
    target = _target(data.get("target", ""))
    is_cut_over = endpoint.version.model.domain == FoundationModel.Domain.EMBEDDING
    if request.method == "GET":
        form = PlanForm.started(is_cut_over=is_cut_over, like=_like(endpoint, data.get("like", "")))
        return _plan_page(request, endpoint, target, form, now)
    form = PlanForm(data, is_cut_over=is_cut_over)
    if form.is_valid():
        values = form.cleaned_data
        try:
            switch_services.start(
                endpoint=endpoint, target=target, ladder=values["ladder"], gates=values["gates"],
                on_breach=values["on_breach"], warm=values["warm"], confirmed=values["confirmed"],
                reason=values["reason"], by=by, now=now,
            )  # fmt: skip
        except DomainError as error:
            form.refuse(error.message, error.field)
        else:
            message = _("The switch to %(target)s has begun.") % {"target": target.public_id}
            return htmx.done(request, reverse("endpoints:switch", args=[endpoint.pk]), message)
    return _plan_page(request, endpoint, target, form, now, status=422)


def _target(version_id: str) -> ModelVersion:
    if not version_id.isdecimal() or len(version_id) > 18:
        raise Http404
    return get_object_or_404(ModelVersion.objects.for_list(), pk=version_id)


def _like(endpoint: Endpoint, switch_id: str) -> VersionSwitch | None:
    if not switch_id.isdecimal() or len(switch_id) > 18:
        return None
    return endpoint.switches.filter(pk=switch_id).first()


def _plan_page(
    request: ConsoleRequest, endpoint: Endpoint, target: ModelVersion, form: PlanForm, now: datetime, status: int = 200
) -> HttpResponse:
    context = {
        **detail_context(request, endpoint, "switch", now),
        "target": target,
        "refusal": switch_preview.refusal(endpoint=endpoint, target=target, now=now),
        "preview": switch_preview.preview(endpoint=endpoint, target=target, now=now),
        "form": form,
    }
    return render(request, "endpoints/switch/plan.html", context, status=status)


@require_GET
def watch(request: ConsoleRequest, endpoint_id: str, switch_id: int) -> HttpResponse:
    """The part of the page that refreshes itself; 204 while it is as the page has it (`seen`), so that a selection stays."""
    endpoint = _endpoint(request, endpoint_id)
    context = _watched(request, endpoint, _switch(endpoint, switch_id))
    if request.GET.get("seen") == context["seen"]:
        return HttpResponse(status=204)
    response = render(request, "endpoints/switch/_watch.html", {**context, "is_refresh": True})
    # The page's other parts (its title's status, its history) hear of the end.
    return response if context["is_open"] else htmx.trigger(response, f"changed-{endpoint.pk}")


def _watched(request: ConsoleRequest, endpoint: Endpoint, switch: VersionSwitch) -> dict[str, object]:
    """The two refreshing parts as HTML, and a digest of them by which the page asks whether they are still so."""
    shown = {"endpoint": endpoint, "watch": presentation.watch(switch, by=actor_of(request))}
    body, figures = (
        render_to_string(f"endpoints/switch/{name}.html", shown, request) for name in ("_watch_body", "_figures_body")
    )
    digest = hashlib.blake2b((body + figures).encode(), digest_size=8).hexdigest()
    return {
        "endpoint": endpoint, "switch": switch, "is_open": switch.is_open, "body": body, "figures": figures,
        "seen": digest,
    }  # fmt: skip


@require_GET
def banner(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The line on the endpoint's other pages; nothing, so that it goes, once the switch has ended."""
    endpoint = _endpoint(request, endpoint_id)
    context = {"endpoint": endpoint, "open_switch": switch_services.open_switch(endpoint.pk)}
    return render(request, "endpoints/switch/_banner.html", context)


@require_GET
def chart(request: ConsoleRequest, endpoint_id: str, switch_id: int) -> JsonResponse:
    """Wanted and seen share over time: columns `time` (epoch seconds), `wanted`, `seen` (percent, null without calls)."""
    endpoint = _endpoint(request, endpoint_id)
    return JsonResponse(presentation.chart(_switch(endpoint, switch_id), now=timezone.now()))


@require_GET
def shares(request: ConsoleRequest, endpoint_id: str, switch_id: int) -> HttpResponse:
    """The figures of the chart as a table."""
    endpoint = _endpoint(request, endpoint_id)
    found = _switch(endpoint, switch_id)
    return render(
        request, "endpoints/switch/_shares.html", {"switch": found, "points": presentation.last_points(found)}
    )


@require_http_methods(["GET", "POST"])
def verb(request: ConsoleRequest, endpoint_id: str, switch_id: int, verb: str) -> HttpResponse:
    """A verb's dialog, and doing it."""
    if verb not in Verb.values:
        raise Http404
    asked = Verb(verb)
    endpoint = _endpoint(request, endpoint_id, switch_services.PERMISSION[asked])
    found, by = _switch(endpoint, switch_id), actor_of(request)
    has_hold = asked == Verb.RETURN
    if request.method == "GET":
        form = VerbForm(initial={"seen_moves": found.moves}, has_hold=has_hold)
        return _verb_page(request, endpoint, found, asked, form)
    form = VerbForm(request.POST, has_hold=has_hold)
    if form.is_valid():
        try:
            _do(asked, found, form, by)
        except Conflict as error:
            fresh = _switch(endpoint, switch_id)
            form = VerbForm(
                initial={"seen_moves": fresh.moves, "reason": form.cleaned_data["reason"]}, has_hold=has_hold
            )
            return _verb_page(request, endpoint, fresh, asked, form, status=422, error=error.message)
        except DomainError as error:
            form.refuse(error.message, error.field)
        else:
            return _done(request, endpoint, asked)
    return _verb_page(request, endpoint, found, asked, form, status=422)


def _do(asked: Verb, switch: VersionSwitch, form: VerbForm, by: Actor) -> None:
    reason, seen, now = form.cleaned_data["reason"], form.cleaned_data["seen_moves"], timezone.now()
    match asked:
        case Verb.ROLL_BACK:
            switch_services.roll_back_now(switch=switch, reason=reason, by=by, now=now)
        case Verb.RETURN:
            hold = round(form.cleaned_data["hold_minutes"] * 60)
            switch_services.return_gradually(
                switch=switch, hold_seconds=hold, seen_moves=seen, reason=reason, by=by, now=now
            )
        case _:
            do = {
                Verb.PAUSE: switch_services.pause,
                Verb.RESUME: switch_services.resume,
                Verb.STEP_BACK: switch_services.step_back,
                Verb.ADVANCE: switch_services.advance,
                Verb.FINISH: switch_services.finish_now,
                Verb.CANCEL: switch_services.cancel,
            }[asked]
            do(switch=switch, seen_moves=seen, reason=reason, by=by, now=now)


def _done(request: ConsoleRequest, endpoint: Endpoint, asked: Verb) -> HttpResponse:
    message = {
        Verb.PAUSE: _("Paused: the traffic stays as it is."),
        Verb.RESUME: _("The switch goes on."),
        Verb.STEP_BACK: _("One step back; its time begins anew."),
        Verb.ADVANCE: _("One step further."),
        Verb.RETURN: _("The traffic goes back step by step."),
        Verb.ROLL_BACK: _("All traffic is back on the version of before."),
        Verb.FINISH: _("The target serves the endpoint now."),
        Verb.CANCEL: _("The switch was cancelled; nothing had moved."),
    }[asked]
    if not htmx.is_dialog(request):
        return htmx.done(request, reverse("endpoints:switch", args=[endpoint.pk]), message)
    response = htmx.announce(HttpResponse(status=204), message)
    htmx.trigger(response, "closeDialog")
    htmx.trigger(response, f"moved-{endpoint.pk}")
    return htmx.trigger(response, f"changed-{endpoint.pk}")


def _verb_page(
    request: ConsoleRequest, endpoint: Endpoint, switch: VersionSwitch, asked: Verb, form: VerbForm, *,
    status: int = 200, error: str = "",
) -> HttpResponse:  # fmt: skip
    is_fitting = asked in switching.verbs(switch)
    context = {
        "endpoint": endpoint,
        "switch": switch,
        "verb": asked,
        "form": form,
        "error": error or ("" if is_fitting else _("This does not fit the switch as it is now.")),
        "is_fitting": is_fitting,
        "is_dangerous": asked in _DANGEROUS,
        **htmx.dialog_frame(request),
    }
    return render(request, "endpoints/switch/verb.html", context, status=status)
