"""The panels of the monitoring page as a Grafana dashboard, made from the same names: what one shows the other shows."""

from __future__ import annotations

from typing import Any

from catalog.models import FoundationModel
from iam.models import Project
from monitoring import queries
from monitoring.panels import Kind, Line, Measure, Panel, groups_for, project_group
from monitoring.queries import REQUESTS, Matchers, Spans

UID = "arkconsole-endpoint"
SCHEMA = 36
"""Of Grafana 9; newer ones read it."""

_UNITS = {
    Measure.COUNT: "short", Measure.TOKENS: "short", Measure.SECONDS: "s", Measure.PERCENT: "percent",
    Measure.SPEED: "short", Measure.MONEY: "short",
}  # fmt: skip
_SOURCE = {"type": "prometheus", "uid": "${source}"}

_WHOLE = 'project="$project",ark_endpoint="$endpoint"'
MATCHERS = Matchers(
    whole=_WHOLE,
    by_api=f'{_WHOLE},api=~"$api"',
    filtered=f'{_WHOLE},api=~"$api",base_model=~"$model",ark_model=~"$version"',
)
PROJECT_MATCHERS = Matchers(whole='project="$project"', by_api='project="$project"', filtered='project="$project"')
# Grafana's own rate interval is a step and a scrape, at least four scrapes: the window of our rates.
SPANS = Spans(
    window="$__rate_interval", step="$__rate_interval", step_seconds="($__interval_ms / 1000)", range="$__range",
    minute="75s", look="15s",
)  # fmt: skip


def dashboard(*, project: Project, endpoint_id: str = "") -> dict[str, Any]:
    """The dashboard, ready to be imported, for `project`: all groups of a chat model's endpoint, then all endpoints.

    With `endpoint_id` it opens on that endpoint.
    """
    rows: list[dict[str, Any]] = []
    top = 0
    own = groups_for(FoundationModel.Domain.THINKING, has_switch=True)
    for group in (*(group for group in own if group.panels), project_group()):
        rows.append(_row(len(rows) + 1, str(group.title), top))
        top += 1
        for position, panel in enumerate(group.panels):
            place = {"x": 12 * (position % 2), "y": top + 8 * (position // 2), "w": 12, "h": 8}
            rows.append(_panel(len(rows) + 1, panel, place))
        top += 8 * ((len(group.panels) + 1) // 2)
    return {
        "uid": UID,
        "title": "ArkConsole",
        "tags": ["arkconsole"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "graphTooltip": 1,
        "templating": {"list": _variables(project, endpoint_id)},
        "annotations": {"list": []},
        "panels": rows,
    }


def _row(number: int, title: str, top: int) -> dict[str, Any]:
    return {
        "id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
        "gridPos": {"x": 0, "y": top, "w": 24, "h": 1},
    }  # fmt: skip


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    is_bars = panel.kind is Kind.BARS
    custom = {
        "drawStyle": "bars" if is_bars else "line",
        "fillOpacity": 60 if is_bars else 12 if panel.kind is Kind.AREA else 0,
        "stacking": {"mode": "normal" if is_bars else "none"},
        "showPoints": "never",
    }
    lines = [line for line in panel.lines if line.query not in queries.FOR_LONG_STEPS]
    dashed = [str(line.label) for line in lines if line.is_dashed and not line.by]
    return {
        "id": number,
        "type": "timeseries",
        "title": str(panel.title),
        "description": str(panel.help),
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": _UNITS[panel.measure], "min": 0, "custom": custom},
            "overrides": [
                {
                    "matcher": {"id": "byName", "options": name},
                    "properties": [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}}],
                }
                for name in dashed
            ],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [_target(position, line) for position, line in enumerate(lines)],
        **({"interval": "1m"} if is_bars else {}),
    }


def _target(position: int, line: Line) -> dict[str, Any]:
    by = f"{{{{{line.by}}}}}" if line.by else ""
    return {
        "refId": chr(ord("A") + position),
        "datasource": _SOURCE,
        "expr": queries.promql(line.query, PROJECT_MATCHERS if line.by == "ark_endpoint" else MATCHERS, SPANS),
        "legendFormat": " ".join(part for part in (by, str(line.label)) if part),
    }


def _variables(project: Project, endpoint_id: str) -> list[dict[str, Any]]:
    here = f"{REQUESTS}{{{_WHOLE}}}"
    chosen = {"current": {"text": endpoint_id, "value": endpoint_id}} if endpoint_id else {}
    return [
        {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"},
        {
            "name": "project", "label": "Project", "type": "textbox", "query": project.pk,
            "current": {"text": project.pk, "value": project.pk},
        },
        {
            **_choice("endpoint", "Endpoint", f'label_values({REQUESTS}{{project="$project"}}, ark_endpoint)', has_all=False),
            **chosen,
        },
        _choice("api", "API", f"label_values({here}, api)"),
        _choice("model", "Model", f"label_values({here}, base_model)"),
        _choice("version", "Version", f"label_values({here}, ark_model)"),
    ]  # fmt: skip


def _choice(name: str, label: str, query: str, *, has_all: bool = True) -> dict[str, Any]:
    made: dict[str, Any] = {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2, "sort": 1,
    }  # fmt: skip
    if has_all:
        made |= {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return made
