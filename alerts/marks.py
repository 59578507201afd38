"""What fired for an endpoint, as marks on its charts; `settings.MONITORING_MARKS` names it to the room below."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import cast

from django.db.models import Q

from alerts import actions
from alerts import event_presentation as presentation
from alerts.models import AlertEvent, EventNote, Phase
from endpoints.models import Endpoint
from iam.actors import Actor, Resource
from monitoring.marks import MOST, Mark


def of_endpoint(endpoint: Endpoint, *, since: datetime, until: datetime, by: Actor) -> Iterable[Mark]:
    """When an alert of the endpoint began to fire and when it ended, the latest; one query.

    Nothing for whoever may not list the project's alerts. What is only pending has not fired.
    """
    if not by.can(actions.LIST_ALERTS, endpoint.project):
        return
    found = AlertEvent.objects.for_list().filter(
        Q(starts_at__gte=since) | Q(ends_at__gte=since),
        project_id=endpoint.project_id, endpoint_id=endpoint.pk, starts_at__lte=until,
    )  # fmt: skip
    for event in found.exclude(phase=Phase.PENDING)[: MOST + 1]:
        if event.starts_at >= since:
            yield _mark(event, event.starts_at, str(Phase.FIRING.label), by=by)
        if event.ends_at is not None and since <= event.ends_at <= until:
            ended = EventNote.Kind.EXPIRED if event.has_expired else EventNote.Kind.RESOLVED
            yield _mark(event, event.ends_at, str(ended.label), by=by)


def _mark(event: AlertEvent, at: datetime, what: str, *, by: Actor) -> Mark:
    says = presentation.sentence(event, now=at)
    seen = EventNote.Kind.ACKNOWLEDGED.label
    who = f"{seen}: {event.acknowledged_by_name}" if event.acknowledged_at else ""
    return Mark(
        at=at, kind="alert", title=f"{event.level} {says.name} · {what}", by="",
        detail=" · ".join(part for part in (says.comparison, who) if part),
        url=event.get_absolute_url() if by.can(actions.GET_ALERT, cast(Resource, event)) else "",
    )  # fmt: skip
