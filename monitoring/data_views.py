"""Figures for the charts as JSON, one panel's as CSV, and the Grafana dashboard. Errors of the JSON are sentences in it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any

from django.http import Http404, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from common.errors import DomainError, Unavailable
from common.middleware import STATUS_CODES
from endpoints.models import Endpoint
from endpoints.views import find_endpoint
from iam.actors import actor_of
from iam.requests import ConsoleRequest
from monitoring import figures, grafana, panels, services
from monitoring import marks as changes
from monitoring.filters import MonitoringFilters
from monitoring.panels import Group

View = Callable[..., HttpResponse]


def _as_json(view: View) -> View:
    """Refusals as `{"state": "error", "message": …}` with their status, for scripts instead of pages."""

    @wraps(view)
    def answer(request: ConsoleRequest, **kwargs: str) -> HttpResponse:
        try:
            return view(request, **kwargs)
        except Http404:
            return _refused(_("There is no such endpoint, or you may not see it."), 404)
        except DomainError as error:
            status = next(code for kind, code in STATUS_CODES.items() if isinstance(error, kind))
            response = _refused(error.message, status)
            response.refused = error  # type: ignore[attr-defined]  # read by the room that records refusals
            return response

    return answer


def _refused(message: str, status: int) -> HttpResponse:
    return JsonResponse({"state": "error", "message": message}, status=status)


@require_GET
@never_cache
@_as_json
def group(request: ConsoleRequest, endpoint_id: str, group: str) -> HttpResponse:
    """One group of panels: series aligned to one list of times, tiles, and the state of Prometheus."""
    endpoint = find_endpoint(request, endpoint_id, services.GET)
    wanted = next((each for each in _groups(endpoint) if each.id == group), None)
    if wanted is None:
        return _refused(_("There is no such group of charts for this model."), 404)
    filters = MonitoringFilters.of(request.GET, now=timezone.now())
    return JsonResponse(figures.group(endpoint, wanted, filters))


@require_GET
@never_cache
@_as_json
def marks(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """What changed in the range, and the band of the status."""
    endpoint = find_endpoint(request, endpoint_id, services.GET)
    filters = MonitoringFilters.of(request.GET, now=timezone.now())
    found = changes.marks(endpoint, filters, shows_servers=request.user.is_staff, by=actor_of(request))
    return JsonResponse(found)


@require_GET
@never_cache
def panel_csv(request: ConsoleRequest, endpoint_id: str, panel: str) -> HttpResponse:
    """One panel's figures as a table, times in the reader's zone: the same that the chart shows."""
    endpoint = find_endpoint(request, endpoint_id, services.GET)
    wanted = next((each for each in _groups(endpoint) if any(one.id == panel for one in each.panels)), None)
    if wanted is None:
        raise Http404
    # Only the panel that is asked for, but with the step of its group, so that its rows are those of the chart.
    alone = Group(wanted.id, wanted.title, [one for one in wanted.panels if one.id == panel])
    filters = MonitoringFilters.of(request.GET, now=timezone.now())
    answer = figures.group(endpoint, alone, filters, is_coarse=wanted.is_coarse)
    if answer["state"] != "ok":
        raise Unavailable(answer["message"])
    response = HttpResponse(_table(answer, panel), content_type="text/csv; charset=utf-8")
    response.headers["Content-Disposition"] = f'attachment; filename="{endpoint.pk}-{panel}.csv"'
    return response


@require_GET
def grafana_json(request: ConsoleRequest) -> HttpResponse:
    """The dashboard to import into Grafana, its variables set for `endpoint` and its project, else for the current one."""
    if endpoint_id := request.GET.get("endpoint", ""):
        # Its own project, whatever the switcher says by now.
        find_endpoint(request, endpoint_id, services.GET)
    else:
        actor_of(request).require(services.GET, request.project)
    made = grafana.dashboard(project=request.project, endpoint_id=endpoint_id)
    response = JsonResponse(made, json_dumps_params={"indent": 2, "ensure_ascii": False})
    response.headers["Content-Disposition"] = 'attachment; filename="arkconsole-grafana.json"'
    return response


def _groups(endpoint: Endpoint) -> list[Group]:
    return panels.groups_for(endpoint.version.model.domain, has_switch=True)


def _table(answer: Mapping[str, Any], panel: str) -> str:
    heads, columns = [_("Time")], []
    for one in answer["panels"][panel]["series"]:
        heads.append(_cell(f"{one['label']} ({one['unit']})"))
        columns.append(one["values"])
        if one["previous"] is not None:
            before = _("%(label)s, the period before") % {"label": one["label"]}
            heads.append(_cell(f"{before} ({one['unit']})"))
            columns.append(one["previous"])
    # Excel takes UTF-8 for what it is only by this mark.
    written = io.StringIO("\ufeff")
    written.seek(0, io.SEEK_END)
    writer = csv.writer(written)
    writer.writerow(heads)
    zone = timezone.get_current_timezone()
    for position, at in enumerate(answer["time"]):
        values = [column[position] for column in columns]
        writer.writerow(
            [datetime.fromtimestamp(at, zone).isoformat(timespec="seconds"), *("" if v is None else v for v in values)]
        )
    return written.getvalue()


def _cell(text: str) -> str:
    """`text` so that no spreadsheet takes it for a formula: labels hold names that other programs chose."""
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@", "\t", "\r", "|", "%") else text
