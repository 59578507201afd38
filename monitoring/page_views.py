"""The monitoring tab of an endpoint: the skeleton of its charts, which fetch their figures themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from common.templatetags import ark
from endpoints import views as endpoint_views
from endpoints.models import Endpoint, VersionSwitch
from iam.requests import ConsoleRequest
from monitoring import filters, open_views, panels, services
from monitoring.filters import Choices, MonitoringFilters


@require_GET
def endpoint(request: ConsoleRequest, endpoint_id: str) -> HttpResponse:
    """The page; where the project has not opened monitoring, how to open it instead of charts."""
    found, now = endpoint_views.find_endpoint(request, endpoint_id, services.GET), timezone.now()
    context = endpoint_views.detail_context(request, found, "monitoring", now)
    if not services.state_of(found.project).is_open:
        context |= open_views.opening_context(request, found.project, next_url=request.path)
        return render(request, "monitoring/endpoint_closed.html", context)
    asked = MonitoringFilters.of(request.GET, now=now)
    # The range may be changed without loading the page anew: whether the switch's charts are seen, the page decides.
    spans = _switch_spans(found, now=now)
    groups = panels.groups_for(found.version.model.domain, has_switch=bool(spans))
    context |= {
        "filters": asked,
        "ranges": filters.RANGES,
        "autos": filters.AUTOS,
        "choices": _choices(found, asked),
        "default_range": filters.DEFAULT_RANGE,
        "groups": groups,
        "switch_spans": " ".join(spans),
        "query": asked.querystring(),
        "told": _told(),
    }
    return render(request, "monitoring/endpoint.html", context)


def _choices(endpoint: Endpoint, asked: MonitoringFilters) -> Choices:
    """What the filters offer; also what a link asks for that the endpoint no longer has calls of."""
    found = filters.choices(endpoint, now=asked.now)
    return Choices(
        apis=_with(found.apis, asked.api),
        models=_with(found.models, asked.model),
        versions=_with(found.versions, asked.version),
    )


def _with(pairs: Sequence[tuple[str, str]], chosen: str) -> Sequence[tuple[str, str]]:
    return pairs if not chosen or chosen in dict(pairs) else [*pairs, (chosen, chosen)]


def _switch_spans(endpoint: Endpoint, *, now: datetime) -> list[str]:
    """ "beginning-end" in epoch seconds of each switch that may be looked at; an open one has no end yet."""
    rows = VersionSwitch.objects.filter(endpoint=endpoint).exclude(ended_at__lt=now - filters.KEPT)
    return [
        f"{int(began.timestamp())}-{int(ended.timestamp()) if ended else ''}"
        for began, ended in rows.order_by("created_at").values_list("created_at", "ended_at")
    ]


def _told() -> dict[str, Any]:
    """What the page's scripts cannot know: zone, units of large figures, and the words they say."""
    return {
        "zone": str(timezone.get_current_timezone_name()),
        "units": ark.units_of(get_language() or "en"),
        "keep_seconds": int(filters.KEPT.total_seconds()),
        "least_seconds": filters.SHORTEST_SECONDS,
        "words": {
            "time": _("Time"),
            "toggle": _("Show or hide"),
            "above": _("(above the chart)"),
            "total": _("%(value)s in total"),
            "before": _("before"),
            "column_before": _("%(label)s, the period before"),
            "span": _("%(from)s to %(to)s"),
            "changes": _("%(n)s changes in this range"),
            "one_change": _("1 change in this range"),
            "away": _("The console does not answer. What you see may be out of date."),
            "refused": _("That did not work. Try again; if it stays so, tell an administrator.") + " (%(status)s)",
            "no_queries": _("There is nothing to copy: the chart has no data."),
            "table_shown": _("%(title)s is shown as a table."),
            "chart_shown": _("%(title)s is shown as a chart."),
            "range_missing": _("Give both times."),
            "range_turned": _("The beginning lies after the end."),
            "range_short": _("The range is shorter than a minute."),
            "range_ahead": _("The range begins in the future."),
            "range_old": _("Figures are kept for 15 days; begin later."),
        },
    }
