"""The status of an endpoint: the whole diagram, the reasons, and the only doors through which it moves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Protocol

from django.db import models, transaction
from django.db.models import F
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from catalog.models import Trouble
from common import routing
from common.errors import DomainError
from common.models import RouteChange
from endpoints.models import Endpoint, EndpointEvent, EndpointQuerySet, Status
from iam.actors import SYSTEM, Actor

ALLOWED: dict[Status, frozenset[Status]] = {
    Status.SCHEDULING: frozenset({Status.RUNNING, Status.ABNORMAL, Status.STOPPED}),
    Status.RUNNING: frozenset({Status.ABNORMAL, Status.STOPPED}),
    Status.ABNORMAL: frozenset({Status.RUNNING, Status.STOPPED}),
    Status.STOPPED: frozenset({Status.SCHEDULING}),
}

BATCH = 500
SUBJECT_LENGTH = 150
DETAIL_LENGTH = 255
EVENTS_KEPT = timedelta(days=90)


class Reason(models.TextChoices):
    """Why an endpoint has its status. The value is stored; the label is the sentence, with what it speaks of in it."""

    CREATED = "created", gettext_lazy("Created; waiting for the first check.")
    STARTED = "started", gettext_lazy("Started by %(subject)s; waiting for the check.")
    RESUMED = "resumed", gettext_lazy("The model is offered again; waiting for the check.")
    WAITING_FOR_PROBE = "waiting_for_probe", gettext_lazy("Waiting for the first probe of %(subject)s.")
    SERVED = "served", gettext_lazy("A model server answers.")
    SERVERS_DOWN = "servers_down", gettext_lazy("Model server %(subject)s is down. %(detail)s")
    CALLS_FAIL = "calls_fail", gettext_lazy("The latest calls failed on model server %(subject)s: %(detail)s")
    NO_SERVER = "no_server", gettext_lazy("No enabled model server runs %(subject)s.")
    STOPPED_BY = "stopped_by", gettext_lazy("Stopped by %(subject)s.")
    MODEL_RETIRED = "model_retired", gettext_lazy("%(subject)s was retired; its endpoints are stopped.")


class TransitionNotAllowed(DomainError):
    """The status moved meanwhile, or nothing leads from it to the one asked for; nothing was changed."""


class _Explained(Protocol):
    status_reason: str
    status_subject: str
    status_detail: str


def sentence(*, reason: str, subject: str = "", detail: str = "") -> str:
    """A stored reason as a sentence in the reader's language; "" for no reason."""
    if reason not in Reason.values:
        return detail
    said = str(Trouble(detail).label) if detail in Trouble.values else detail
    return (str(Reason(reason).label) % {"subject": subject, "detail": said}).strip()


def reason_sentence(endpoint: _Explained) -> str:
    """Why the endpoint has its status, in the reader's language; "" where the status says it all (healthy)."""
    if endpoint.status_reason == Reason.SERVED:
        return ""
    return sentence(reason=endpoint.status_reason, subject=endpoint.status_subject, detail=endpoint.status_detail)


def event_sentence(event: EndpointEvent) -> str:
    """Why the status moved, in the reader's language."""
    return sentence(reason=event.reason, subject=event.subject, detail=event.detail)


def begin(*, endpoint: Endpoint, now: datetime, by: Actor) -> None:
    """Note the first status of an endpoint that was just saved. The caller holds the transaction."""
    _record([(endpoint.pk, "")], to=Status(endpoint.status), reason=Reason(endpoint.status_reason),
            subject=endpoint.status_subject, detail=endpoint.status_detail, now=now, by=by)  # fmt: skip


def move(
    *,
    endpoint: Endpoint,
    to: Status,
    reason: Reason,
    now: datetime,
    subject: str = "",
    detail: str = "",
    by: Actor = SYSTEM,
) -> None:
    """Move one endpoint from the status in `endpoint` to `to`, with its event and route change; updates `endpoint`.

    Raises `TransitionNotAllowed` when the diagram has no such arrow or the stored status is another one by now.
    """
    here = Status(endpoint.status)
    if to not in ALLOWED[here]:
        raise TransitionNotAllowed(
            _("An endpoint that is “%(here)s” cannot become “%(to)s”.") % {"here": here.label, "to": to.label}
        )
    values = _values(to=to, reason=reason, subject=subject, detail=detail, now=now)
    with transaction.atomic():
        moved = (
            Endpoint.objects.alive()
            .filter(pk=endpoint.pk, status=here, status_version=endpoint.status_version)
            .update(**values, status_version=endpoint.status_version + 1)
        )
        if not moved:
            raise TransitionNotAllowed(_("The status of this endpoint has just changed. Look again, then repeat it."))
        _record([(endpoint.pk, here)], to=to, reason=reason, subject=subject, detail=detail, now=now, by=by)
    endpoint.status_version += 1
    for name, value in values.items():
        setattr(endpoint, name, value)


def move_many(
    *,
    endpoints: EndpointQuerySet,
    to: Status,
    reason: Reason,
    now: datetime,
    subject: str = "",
    detail: str = "",
    by: Actor = SYSTEM,
) -> int:
    """Move all of `endpoints` that may go to `to`; how many moved. Four statements per batch of 500 rows.

    Each batch is a transaction of its own, so that a page is never held up by 10,000 rows; rows that somebody holds
    at the moment are left for the next tick.
    """
    origins = [status for status, targets in ALLOWED.items() if to in targets]
    candidates = endpoints.alive().filter(status__in=origins).order_by("pk")
    values = _values(to=to, reason=reason, subject=subject, detail=detail, now=now)
    total = 0
    while True:
        with transaction.atomic():
            locked = candidates.select_for_update(skip_locked=True, no_key=True)
            batch = list(locked.values_list("pk", "status")[:BATCH])
            if batch:
                Endpoint.objects.filter(pk__in=[pk for pk, _origin in batch]).update(
                    **values, status_version=F("status_version") + 1
                )
                _record(batch, to=to, reason=reason, subject=subject, detail=detail, now=now, by=by)
        total += len(batch)
        if len(batch) < BATCH:
            return total


def explain_many(*, endpoints: EndpointQuerySet, reason: Reason, subject: str = "", detail: str = "") -> int:
    """Correct why `endpoints` have the status that they keep; no move, no event. How many were corrected."""
    return (
        endpoints.alive()
        .exclude(status_reason=reason, status_subject=subject[:SUBJECT_LENGTH])
        .update(status_reason=reason, status_subject=subject[:SUBJECT_LENGTH], status_detail=detail[:DETAIL_LENGTH])
    )


def forget_events(*, now: datetime) -> int:
    """Remove events older than `EVENTS_KEPT`; how many. What people did stays in the audit record."""
    removed, _by_model = EndpointEvent.objects.filter(at__lt=now - EVENTS_KEPT).delete()
    return removed


def _values(*, to: Status, reason: Reason, subject: str, detail: str, now: datetime) -> dict[str, str | datetime]:
    return {
        "status": to,
        "status_reason": reason,
        "status_subject": subject[:SUBJECT_LENGTH],
        "status_detail": detail[:DETAIL_LENGTH],
        "status_at": now,
    }


def _record(
    moves: list[tuple[str, str]],
    *,
    to: Status,
    reason: Reason,
    subject: str,
    detail: str,
    now: datetime,
    by: Actor,
) -> None:
    EndpointEvent.objects.bulk_create(
        [
            EndpointEvent(endpoint_id=pk, at=now, from_status=origin, to_status=to, reason=reason,
                          subject=subject[:SUBJECT_LENGTH], detail=detail[:DETAIL_LENGTH], actor_id=by.id, actor_name=by.name)
            for pk, origin in moves
        ],
        batch_size=BATCH,
    )  # fmt: skip
    routing.announce(kind=RouteChange.Kind.ENDPOINT, object_ids=[pk for pk, _origin in moves], now=now)
