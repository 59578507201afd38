"""The endpoint pages: the list, creating, one endpoint's tabs, its dialogs, and the fragments that refresh alone."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from functools import partial

from django.conf import settings
from django.core.cache import cache
from django.db import transaction
from django.http import Http404, HttpResponse, HttpResponseBase, JsonResponse, QueryDict, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from catalog.models import FoundationModel, ModelVersion
from catalog.services import tiers_in_force
from common import htmx
from common.errors import Conflict, DomainError
from common.paging import paginate
from endpoints import forms, presentation, queries, samples, services, switch_presentation, tryit
from endpoints.models import Endpoint, Kind, Status
from endpoints.presentation import May
from iam.actors import Actor, actor_of
from iam.models import Project
from iam.requests import ConsoleRequest
from iam.services import CREATE_KEY
from metering import ledger

PAGE_SIZE = 50
API_PATH = "/api/v3"
# Pressing "create" again within this time gives the endpoint that the first press made.
TOKEN_SECONDS = 24 * 3600
HISTORY_SHOWN = 8


def find_endpoint(request: ConsoleRequest, endpoint_id: str, action: str = services.GET) -> Endpoint:
    """The endpoint, when the person may see its project (404 else) and may do `action` (403 else)."""
    endpoint = get_object_or_404(Endpoint.objects.visible_to(request.user).for_list(), pk=endpoint_id)
    request.project = endpoint.project
    actor_of(request).require(action, endpoint)
    return endpoint


# --- the list --------------------------------------------------------------------------------------------------------


@require_GET
def index(request: ConsoleRequest) -> HttpResponse:
    """The endpoints of the current project; the rows alone for htmx when it filters, sorts or pages."""
    by, now, project = actor_of(request), timezone.now(), request.project
    by.require(services.LIST, project)
    filters = queries.Filters.of(request.GET.dict())
    page = paginate(
        queries.endpoints(filters, project=project),
        order=filters.order, cursor=request.GET.get("cursor", ""), size=PAGE_SIZE,
    )  # fmt: skip
    context = {
        "filters": filters,
        "page": page,
        "rows": presentation.rows(page.rows, by=by, now=now),
        "is_filtered": filters.is_filtered,
        "may_create": by.can(services.CREATE, project),
    }
    if filters.kind == Kind.PRESET and not page.rows:
        context["sample_curl"] = _first_preset_call(now)
    if request.htmx.target == "endpoint-list":
        return _part(render(request, "endpoints/_list.html", context))
    counts = queries.counts(project=project)
    has_any = bool(counts.preset if filters.kind == Kind.PRESET else counts.custom)
    context |= {"counts": counts, "has_any": has_any}
    if has_any:
        context["choices"] = queries.choices(project=project, kind=filters.kind)
    return _part(render(request, "endpoints/list.html", context))


def _part(response: HttpResponse) -> HttpResponse:
    """Tell caches (the browser's on "back" first of all) that this address also answers with a part of the page."""
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response


def _first_preset_call(now: datetime) -> str:
    """The line that makes a project's first preset endpoint: a call by model id; "" when no model can be called."""
    version = ModelVersion.objects.working(now).select_related("model").order_by("pk").first()
    if version is None:
        return ""
    base_url = f"{settings.GATEWAY_URL}{API_PATH}"
    return samples.samples(model=version.public_id, domain=version.model.domain, base_url=base_url)[0].code


# --- creating --------------------------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def create(request: ConsoleRequest) -> HttpResponse:
    """The form for a new endpoint, and making it. The same press twice (same token) makes one endpoint."""
    by, now = actor_of(request), timezone.now()
    data = request.POST if request.method == "POST" else request.GET
    project = _project(request, data.get("project", ""))
    by.require(services.CREATE, project)
    offer = forms.Offer.at(now, model=data.get("model", ""), version=data.get("version", ""))
    if request.method == "GET" or forms.is_redraw(data):
        token = data.get("token") or secrets.token_urlsafe(16)
        form = _blank(data, offer, token=token, project=project)
        return _create_page(request, form, project, by, now)
    form = forms.CreateForm(data, offer=offer, tag_rows=forms.TagRows.posted(data))
    if form.is_valid():
        endpoint = _create_once(form, project, by, now)
        if endpoint:
            message = _("%(name)s was created. It turns healthy by itself.") % {"name": endpoint.name}
            return htmx.done(request, endpoint.get_absolute_url(), message)
    return _create_page(request, form, project, by, now, status=422)


def _project(request: ConsoleRequest, project_id: str) -> Project:
    """The project that the form was opened in, whatever the switcher says by now; the current one when none is named."""
    if not project_id:
        return request.project
    found = next((each for each in Project.objects.visible_to(request.user) if each.pk == project_id), None)
    if found is None:
        raise Http404
    return found


def _blank(data: QueryDict, offer: forms.Offer, *, token: str, project: Project) -> forms.CreateForm:
    initial = forms.CreateForm.started(data, offer, token=token, project=project.pk)
    return forms.CreateForm(initial=initial, offer=offer, tag_rows=forms.TagRows.posted(data))


def _create_once(form: forms.CreateForm, project: Project, by: Actor, now: datetime) -> Endpoint | None:
    """The endpoint made for this form, now or by an earlier press; None when the service refused (noted in the form).

    The token is claimed by a row of the cache table inside the transaction that creates the endpoint: of two presses
    at once the second waits for the first, then finds its endpoint.
    """
    values = form.cleaned_data
    claim = f"endpoint-create:{by.id}:{values['token']}"
    with transaction.atomic():
        if not cache.add(claim, "", TOKEN_SECONDS):
            return Endpoint.objects.for_list().filter(pk=cache.get(claim)).first()
        try:
            endpoint = services.create(
                project=project, name=values["name"], description=values["description"], version=values["version"],
                rpm=values["rpm"], tpm=values["tpm"], tags=form.tag_rows.pairs, by=by, now=now,
            )  # fmt: skip
        except DomainError as error:
            cache.delete(claim)
            form.refuse(error.message, error.field)
            return None
        cache.set(claim, endpoint.pk, TOKEN_SECONDS)
    return endpoint


def _create_page(
    request: ConsoleRequest, form: forms.CreateForm, project: Project, by: Actor, now: datetime, status: int = 200
) -> HttpResponse:
    context = {
        "form": form,
        "offer": form.offer,
        "tiers": _tiers(form.offer, now),
        "project": project,
        "can_see_servers": by.user is not None and by.user.is_staff,
    }
    return render(request, "endpoints/create.html", context, status=status)


def _tiers(offer: forms.Offer, now: datetime) -> object:
    return tiers_in_force(offer.version.prices.all(), at=now) if offer.version else []


@require_GET
def version_fields(request: ConsoleRequest) -> HttpResponse:
    """Version, prices and limits for the model chosen in the create form."""
    now = timezone.now()
    actor_of(request).require(services.CREATE, request.project)
    offer = forms.Offer.at(now, model=request.GET.get("model", ""), version=request.GET.get("version", ""))
    form = _blank(request.GET, offer, token="", project=request.project)
    return render(
        request, "endpoints/_version_fields.html", {"form": form, "offer": offer, "tiers": _tiers(offer, now)}
    )


# --- one endpoint ----------------------------------------------------------------------------------------------------


def detail_context(request: ConsoleRequest, endpoint: Endpoint, tab: str, now: datetime) -> dict[str, object]:
    """What the pages of one endpoint share."""
    by = actor_of(request)
    limits = {endpoint.pk: (endpoint.rpm, endpoint.tpm)}
    return {
        "endpoint": endpoint,
        "tab": tab,
        "may": May.of(by, endpoint),
        "pressure": ledger.pressure(limits, now=now).get(endpoint.pk),
        "can_see_servers": request.user.is_staff,
        # Called by the template, where a page shows it: fragments that refresh alone do not ask for it.
        "open_switch": partial(switch_presentation.banner, endpoint, by=by),
    }


@require_GET
def overview(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Basic information, billing, the last day, tags, recent changes and the history of the status."""
    endpoint, now = find_endpoint(request, endpoint_id), timezone.now()
    context = {
        **detail_context(request, endpoint, "overview", now),
        "tiers": tiers_in_force(endpoint.version.prices.all(), at=now),
        "costs": ledger.costs(endpoint.pk, now=now, tz=timezone.get_current_timezone()),
        "summary": ledger.summary(endpoint.pk, since=now - timedelta(hours=24), now=now),
        "hourly": ledger.usage_24h([endpoint.pk], now=now)[endpoint.pk].hourly,
        "changes": presentation.recent_changes(endpoint),
        "events": endpoint.events.all()[:HISTORY_SHOWN],
    }
    return render(request, "endpoints/overview.html", context)


@require_GET
def calls(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The calls of one endpoint, filtered and paged; the rows alone for htmx."""
    endpoint, now = find_endpoint(request, endpoint_id), timezone.now()
    query = forms.CallsQuery.of(request.GET)
    page = paginate(
        ledger.calls(endpoint.pk, query.filters(now=now)),
        order=ledger.CALLS_ORDER, cursor=request.GET.get("cursor", ""), size=PAGE_SIZE,
    )  # fmt: skip
    context = {
        "endpoint": endpoint,
        "page": page,
        "rows": presentation.call_rows(page.rows),
        "is_filtered": query.is_filtered,
        "has_any": bool(page.rows) or query.is_filtered,
        "keep_days": settings.CALL_RECORD_DAYS,
    }
    if request.htmx.target == "endpoint-calls":
        return _part(render(request, "endpoints/_calls.html", context))
    selects = query.selects(
        keys=presentation.calling_keys(endpoint, now=now), versions=presentation.answering_versions(endpoint, now=now)
    )
    context |= {**detail_context(request, endpoint, "calls", now), "selects": selects}
    return _part(render(request, "endpoints/calls.html", context))


# --- fragments that refresh alone ------------------------------------------------------------------------------------


def _seen(request: ConsoleRequest, endpoint: Endpoint) -> tuple[bool, bool]:
    """(the status moved, anything changed) since the page asked last; the page sends what it shows in `seen`."""
    status_version, _dot, revision = request.GET.get("seen", "").partition(".")
    has_moved = status_version != str(endpoint.status_version)
    return has_moved, has_moved or revision != str(endpoint.revision)


@require_GET
def row(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """One line of the list. 204 while nothing changed; nothing at all, so that it goes, once the endpoint is deleted."""
    if not Endpoint.objects.visible_to(request.user).filter(pk=endpoint_id).exists():
        return HttpResponse()
    endpoint = find_endpoint(request, endpoint_id)
    has_moved, has_changed = _seen(request, endpoint)
    switch = switch_presentation.open_switches([endpoint]).get(endpoint.pk)
    if not has_changed and request.GET.get("switch", "") == presentation.seen_switch(switch):
        return HttpResponse(status=204)
    return _row(request, endpoint, is_fresh=has_moved)


def _row(request: ConsoleRequest, endpoint: Endpoint, *, is_fresh: bool) -> HttpResponse:
    (line,) = presentation.rows([endpoint], by=actor_of(request), now=timezone.now(), is_fresh=is_fresh)
    return render(request, "endpoints/_row.html", {"row": line})


@require_GET
def status(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The status beside the title. 204 while nothing changed; once it moved the other fragments are told."""
    endpoint = find_endpoint(request, endpoint_id)
    has_moved, has_changed = _seen(request, endpoint)
    if not has_changed:
        return HttpResponse(status=204)
    response = _fragment(request, "endpoints/_status.html", endpoint)
    return htmx.trigger(response, f"moved-{endpoint.pk}") if has_moved else response


def _fragment(request: ConsoleRequest, template: str, endpoint: Endpoint, **context: object) -> HttpResponse:
    return render(request, template, {**detail_context(request, endpoint, "", timezone.now()), **context})


@require_GET
def actions(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The buttons of an endpoint's page."""
    return _fragment(
        request, "endpoints/_actions.html", find_endpoint(request, endpoint_id), tab=request.GET.get("tab", "")
    )


@require_GET
def trouble(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """What is wrong with an endpoint and what the person can do."""
    return _fragment(request, "endpoints/_trouble.html", find_endpoint(request, endpoint_id))


@require_GET
def basics(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Basic information."""
    return _fragment(request, "endpoints/_basics.html", find_endpoint(request, endpoint_id))


@require_GET
def tags(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The tags."""
    return _fragment(request, "endpoints/_tags.html", find_endpoint(request, endpoint_id))


@require_GET
def changes(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The last changes by people."""
    endpoint = find_endpoint(request, endpoint_id)
    return _fragment(request, "endpoints/_changes.html", endpoint, changes=presentation.recent_changes(endpoint))


@require_GET
def history(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """How the status moved."""
    endpoint = find_endpoint(request, endpoint_id)
    return _fragment(request, "endpoints/_history.html", endpoint, events=endpoint.events.all()[:HISTORY_SHOWN])


# --- what people do --------------------------------------------------------------------------------------------------


def _changed(
    request: ConsoleRequest, endpoint: Endpoint, message: str, *, url: str = "", has_moved: bool
) -> HttpResponse:
    """After a dialog's POST: htmx closes it and has what shows the endpoint refresh itself; a plain browser goes on."""
    if not htmx.is_dialog(request):
        return htmx.done(request, url or endpoint.get_absolute_url(), message)
    response = htmx.announce(HttpResponse(status=204), message)
    htmx.trigger(response, "closeDialog")
    htmx.trigger(response, f"changed-{endpoint.pk}")
    return htmx.trigger(response, f"moved-{endpoint.pk}") if has_moved else response


def _is_on_list(request: ConsoleRequest) -> bool:
    """Whether the dialog was opened over the list."""
    here = (request.htmx.current_url_abs_path or "").partition("?")[0]
    return here == reverse("endpoints:list")


@require_http_methods(["GET", "POST"])
def edit(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Name, description, limits and tags. Who comes second is shown what changed, with all that was typed kept."""
    endpoint, by = find_endpoint(request, endpoint_id, services.UPDATE), actor_of(request)
    if request.method == "GET":
        return _edit_form(request, endpoint, forms.EditForm.opened(endpoint))
    form = forms.EditForm.posted(request.POST)
    if not form.is_bound:
        return _edit_form(request, endpoint, form)
    if form.is_valid():
        values = {name: form.cleaned_data[name] for name in ("revision", "name", "description", "rpm", "tpm")}
        try:
            saved = services.edit(endpoint=endpoint, **values, tags=form.tag_rows.pairs, by=by, now=timezone.now())
        except Conflict as error:
            endpoint.refresh_from_db()
            return _edit_form(request, endpoint, form.over(endpoint, error.current), status=422)
        except DomainError as error:
            form.refuse(error.message, error.field)
        else:
            message = _("%(name)s was saved.") % {"name": saved.name}
            is_title = (saved.name, saved.description) != (endpoint.name, endpoint.description)
            if is_title and not _is_on_list(request):
                return htmx.done(request, request.htmx.current_url_abs_path or saved.get_absolute_url(), message)
            return _changed(request, saved, message, has_moved=False)
    return _edit_form(request, endpoint, form, status=422)


def _edit_form(request: ConsoleRequest, endpoint: Endpoint, form: forms.EditForm, status: int = 200) -> HttpResponse:
    editor = presentation.last_editor(endpoint) if form.differences else None
    context = {
        "endpoint": endpoint,
        "form": form,
        "changed_by": editor.actor_name if editor else "",
        "changed_at": editor.at if editor else None,
        **htmx.dialog_frame(request),
    }
    return render(request, "endpoints/edit.html", context, status=status)


@require_POST
def start(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Start a stopped endpoint; htmx gets back what it pressed in: the row, or the status beside the title."""
    endpoint = find_endpoint(request, endpoint_id, services.START)
    started = services.start(endpoint=endpoint, by=actor_of(request), now=timezone.now())
    message = _("%(name)s was started. It turns healthy by itself.") % {"name": started.name}
    if not request.htmx:
        return htmx.done(request, started.get_absolute_url(), message)
    if request.htmx.target == f"row-{started.pk}":
        return htmx.announce(_row(request, started, is_fresh=True), message)
    response = htmx.announce(_fragment(request, "endpoints/_status.html", started), message)
    htmx.trigger(response, f"moved-{started.pk}")
    return htmx.trigger(response, f"changed-{started.pk}")


@require_http_methods(["GET", "POST"])
def stop(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Who would be cut off, then the stop itself."""
    endpoint, now = find_endpoint(request, endpoint_id, services.STOP), timezone.now()
    error = ""
    if request.method == "POST":
        try:
            stopped = services.stop(endpoint=endpoint, by=actor_of(request), now=now)
        except DomainError as refused:
            error = refused.message
        else:
            message = _("%(name)s was stopped.") % {"name": stopped.name}
            return _changed(request, stopped, message, has_moved=True)
    context = {
        "endpoint": endpoint,
        "impact": presentation.impact(endpoint, now=now),
        "error": error,
        **htmx.dialog_frame(request),
    }
    return render(request, "endpoints/stop.html", context, status=422 if error else 200)


@require_http_methods(["GET", "POST"])
def delete(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Who called it and how often, its name typed again, then it goes for good."""
    endpoint, by, now = find_endpoint(request, endpoint_id, services.DELETE), actor_of(request), timezone.now()
    form = forms.DeleteForm(request.POST if request.method == "POST" else None)
    must_stop = not endpoint.is_preset and endpoint.status != Status.STOPPED
    if request.method == "POST" and form.is_valid():
        try:
            services.delete(endpoint=endpoint, confirm_name=form.cleaned_data["confirm_name"], by=by, now=now)
        except DomainError as error:
            form.add_error(error.field if error.field in form.fields else None, error.message)
        else:
            url = reverse("endpoints:list") + ("?kind=preset" if endpoint.is_preset else "")
            message = _("%(name)s was deleted.") % {"name": endpoint.name}
            if _is_on_list(request):
                gone = _changed(request, endpoint, message, url=url, has_moved=False)
                return htmx.trigger(gone, "endpoint-deleted")
            return htmx.done(request, url, message)
    context = {
        "endpoint": endpoint,
        "impact": presentation.impact(endpoint, now=now),
        "form": form,
        "must_stop": must_stop,
        "may": May.of(by, endpoint),
        **htmx.dialog_frame(request),
    }
    return render(request, "endpoints/delete.html", context, status=422 if form.is_bound else 200)


@require_GET
def api(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """Ready samples, making a key, and the try-it box; the samples alone for htmx."""
    return _api_page(request, find_endpoint(request, endpoint_id))


def _api_page(
    request: ConsoleRequest, endpoint: Endpoint, *, prompt: str = "", attempt: presentation.Attempt | None = None
) -> HttpResponse:
    by, now = actor_of(request), timezone.now()
    base_url = f"{settings.GATEWAY_URL}{API_PATH}"
    domain = endpoint.version.model.domain
    offered = samples.samples(model=endpoint.pk, domain=domain, base_url=base_url)
    context: dict[str, object] = {
        "endpoint": endpoint,
        "samples": offered,
        "sample": next((each for each in offered if each.key == request.GET.get("sample")), offered[0]),
    }
    if request.htmx.target == "endpoint-samples":
        return _part(render(request, "endpoints/_samples.html", context))
    is_embedding = domain == FoundationModel.Domain.EMBEDDING
    here = reverse("endpoints:api", args=[endpoint.pk])
    context |= {
        **detail_context(request, endpoint, "api", now),
        "base_url": base_url,
        "key_url": f"{reverse('iam:key_create')}?{urlencode({'endpoint': endpoint.pk, 'next': here})}",
        "may_create_key": by.can(CREATE_KEY, endpoint.project),
        "may_try": by.can(tryit.ACTION, endpoint),
        "try_action": tryit.ACTION,
        "is_callable": endpoint.status in (Status.RUNNING, Status.ABNORMAL),
        "is_embedding": is_embedding,
        "max_prompt": tryit.MAX_PROMPT,
        "prompt": prompt or (_("A durable address for models") if is_embedding else _("Say hello in three languages.")),
        "attempt": attempt,
    }
    return _part(render(request, "endpoints/api.html", context, status=attempt.page_status if attempt else 200))


@require_POST
def try_it(request: ConsoleRequest, endpoint_id: str) -> HttpResponseBase:
    """Call the endpoint: a script reads the stream as it comes, a plain browser gets the page with the whole answer."""
    endpoint, by, now = find_endpoint(request, endpoint_id), actor_of(request), timezone.now()
    prompt = request.POST.get("prompt", "")
    is_script = "text/event-stream" in request.headers.get("Accept", "")
    try:
        if not is_script:
            answer = tryit.answer(endpoint=endpoint, prompt=prompt, by=by, now=now)
            return _api_page(request, endpoint, prompt=prompt, attempt=presentation.Attempt.of(answer))
        stream = tryit.stream(endpoint=endpoint, prompt=prompt, by=by, now=now)
    except DomainError as error:
        failed = presentation.Attempt.failed(error)
        if is_script:
            refusal = {"error": {"code": failed.code, "message": failed.error}}
            return JsonResponse(refusal, status=failed.status)
        return _api_page(request, endpoint, prompt=prompt, attempt=failed)
    response = StreamingHttpResponse(stream, content_type=stream.content_type, status=stream.status)
    # Proxies would hold the answer back until it is whole.
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Cache-Control"] = "no-store"
    return response
