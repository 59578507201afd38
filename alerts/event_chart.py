"""The curve of an event's rule around the time that it fired, with the threshold, from Prometheus."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from alerts import messages, promql
from alerts.models import AlertEvent
from monitoring import figures, installation, prometheus, services
from monitoring.filters import KEPT, Grid, step_for
from monitoring.prometheus import Kind, Series, Trouble

LEAD = timedelta(hours=1)
TAIL = timedelta(minutes=20)
POINTS = 240
MOST_MARKS = 20

_CONDITION = re.compile(
    r"(?P<left>\(.*\))\s*(?:>=|<=|==|!=|>|<)\s*(?:bool\s*)?[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|inf|nan)\s*",
    re.DOTALL | re.IGNORECASE,
)


def left_side(expression: str) -> str:
    """What is compared, without comparator and threshold, so that the curve goes on where the condition does not hold.

    What is not of our rules' form `(…) > 5` is returned as it is: a curve with gaps says less, but nothing wrong.
    """
    found = _CONDITION.fullmatch(expression.strip())
    if found is None or not _is_one_pair(found["left"]):
        return expression
    return found["left"]


def _is_one_pair(text: str) -> bool:
    """Whether the first bracket is closed by the last one, and not before. Brackets in strings do not count."""
    depth = 0
    bare = re.sub(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`', lambda match: "_" * len(match[0]), text)
    for place, sign in enumerate(bare):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0:
            return place == len(bare) - 1
    return False


def chart(
    event: AlertEvent, *, now: datetime, servers: Mapping[str, str] | None = None, shows_names: bool = False
) -> dict[str, Any]:
    """The answer for the page's script, as JSON. Never raises for what Prometheus does: `message` says what is wrong.

    `servers`: the model servers behind the endpoint, {id: name}; when one of them went or came back is marked.
    """
    grid = _grid(event, now=now)
    unit = event.rule.unit if event.rule else ""
    answer: dict[str, Any] = {
        "message": "",
        "time": list(grid.times),
        "values": [],
        "threshold": event.threshold,
        "threshold_text": "" if event.threshold is None else messages.figure(event.threshold, unit),
        "unit": unit,
        "starts_at": event.starts_at.timestamp(),
        "ends_at": event.ends_at.timestamp() if event.ends_at else None,
        "summary": "",
        "marks": [],
    }
    if why := _why_none(event, now=now):
        return {**answer, "message": why, "time": []}
    curve = (_expression(event), grid)
    states = (_servers_query(servers or {}), grid)
    try:
        answers = prometheus.fetch([curve, states] if servers else [curve])
    except Trouble as trouble:
        if trouble.kind == Kind.TOO_MUCH:
            message = _("This rule has more series than can be drawn.")
        else:
            message = figures.sentence(trouble, last_at=prometheus.last_answer_at(), now=now)
        return {**answer, "message": message, "time": []}
    values = _of_event(answers[curve], event)
    if not any(value is not None for value in values):
        return {**answer, "message": _("Prometheus has no figures of this rule around that time."), "time": []}
    marked = _server_marks(answers.get(states, []), grid, servers or {}, shows_names=shows_names)
    return {**answer, "values": list(values), "summary": _summary(values, unit), "marks": marked}


def _why_none(event: AlertEvent, *, now: datetime) -> str:
    here = installation.look()
    if not here.is_on:
        return here.reason
    if event.project is not None and not services.state_of(event.project).is_open:
        return _("Monitoring is not opened for this project.")
    if not event.expression:
        return _("The rule's expression was not told with this event.")
    if now - event.starts_at > KEPT:
        return _("Figures are kept for 15 days; this event is older.")
    return ""


def _expression(event: AlertEvent) -> str:
    """The curve's PromQL; of a rule for a whole project, that of the event's endpoint alone where this can be asked for."""
    left = left_side(event.expression)
    if not (event.project_id and event.endpoint_id):
        return left
    try:
        return promql.confine(left, project=event.project_id, endpoint=event.endpoint_id)
    except promql.Invalid:
        # Not one of ours, or it chooses endpoints by itself: the series that fired is picked from the answer.
        return left


def _grid(event: AlertEvent, *, now: datetime) -> Grid:
    since = max((event.pending_at or event.starts_at) - LEAD, now - KEPT)
    until = now if event.ends_at is None else min(event.ends_at + TAIL, now)
    start, end = since.timestamp(), max(until, since + timedelta(minutes=5)).timestamp()
    step = step_for((end - start) / POINTS, scrape_seconds=settings.SCRAPE_SECONDS)
    return Grid(int(start // step * step), int(end // step * step), step)


def _of_event(found: Sequence[Series], event: AlertEvent) -> Sequence[float | None]:
    """The series that fired: all its labels are the event's. Others, whosever they are, are not shown."""
    fitting = [series for series in found if _fits(series.labels, event.labels)]
    return max(fitting, key=lambda series: len(series.labels)).values if fitting else []


def _fits(labels: Mapping[str, str], of_event: Mapping[str, Any]) -> bool:
    return all(of_event.get(name) == value for name, value in labels.items() if name != "__name__")


def _servers_query(servers: Mapping[str, str]) -> str:
    ids = "|".join(sorted(pk for pk in servers if pk.isdecimal()))
    return f'min by (server) (ark_gateway_upstream_up{{server=~"{ids}"}})'


def _server_marks(
    found: Sequence[Series], grid: Grid, servers: Mapping[str, str], *, shows_names: bool
) -> list[dict[str, Any]]:
    """When a model server stopped answering or answered again, oldest first."""
    marked: list[dict[str, Any]] = []
    for series in found:
        name = servers.get(series.labels.get("server", ""), "")
        before: float | None = None
        for at, value in zip(grid.times, series.values, strict=True):
            if value is None:
                continue
            if before is not None and (value > 0) != (before > 0):
                marked.append(
                    {"at": at, "is_bad": value <= 0, "title": _server_title(name if shows_names else "", value)}
                )
            before = value
    return sorted(marked, key=lambda mark: mark["at"])[-MOST_MARKS:]


def _server_title(name: str, value: float) -> str:
    what = _("Model server %(name)s") % {"name": name} if name else _("A model server")
    return (
        _("%(what)s answers again") % {"what": what} if value > 0 else _("%(what)s stopped answering") % {"what": what}
    )


def _summary(values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    return _("Lowest %(low)s, highest %(high)s, last %(last)s.") % {
        "low": messages.figure(min(known), unit),
        "high": messages.figure(max(known), unit),
        "last": messages.figure(known[-1], unit),
    }
