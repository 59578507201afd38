"""What people do with an event: say that they have seen it, and write down what they know."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import cast

from django.utils.translation import gettext as _

from alerts import actions
from alerts.models import AlertEvent, EventNote
from audit.services import GLOBAL, Attempt, attempt
from common.errors import DomainError
from iam.actors import Actor, Resource

MAX_NOTE = 1000


def acknowledge(*, event: AlertEvent, by: Actor, now: datetime) -> AlertEvent:
    """Say that somebody looks after it, so that nobody is reminded; of two at once the first is the one.

    Its end is told all the same, and what is worse is an event of its own. Raises `NotAllowed`, and `DomainError` when
    it is over.
    """
    with _attempt(event, by=by, now=now) as noted:
        stored = _open(event)
        if stored.acknowledged_at is None:
            _look_after(stored, now, by.name)
            EventNote.objects.create(event=stored, at=now, kind=EventNote.Kind.ACKNOWLEDGED, by_name=by.name)
            noted.changed(acknowledged_by=(None, by.name))
    return stored


def take_back(*, event: AlertEvent, by: Actor, now: datetime) -> AlertEvent:
    """Say that nobody looks after it any more: reminders go on. Raises `NotAllowed`, and `DomainError` when it is over."""
    with _attempt(event, by=by, now=now) as noted:
        stored = _open(event)
        if stored.acknowledged_at is not None:
            noted.changed(acknowledged_by=(stored.acknowledged_by_name, None))
            _look_after(stored, None, "")
            EventNote.objects.create(event=stored, at=now, kind=EventNote.Kind.UNACKNOWLEDGED, by_name=by.name)
    return stored


def _open(event: AlertEvent) -> AlertEvent:
    """The stored event, locked, while it lasts: the page may be an old one, and what was pending may be gone."""
    stored = AlertEvent.objects.open().select_for_update().filter(pk=event.pk).first()
    if stored is None:
        raise DomainError(_("It is over"))
    return stored


def _look_after(stored: AlertEvent, at: datetime | None, name: str) -> None:
    stored.acknowledged_at, stored.acknowledged_by_name = at, name
    stored.save(update_fields=["acknowledged_at", "acknowledged_by_name"])


def add_note(*, event: AlertEvent, text: str, by: Actor, now: datetime) -> EventNote:
    """Add a line to the event's log. Raises `NotAllowed`, and `DomainError` for what is empty or too long."""
    with _attempt(event, by=by, now=now) as noted:
        said = text.replace("\0", "").strip()
        if not said:
            raise DomainError(_("Write something."), field="text")
        if len(said) > MAX_NOTE:
            raise DomainError(_("At most %(count)d characters.") % {"count": MAX_NOTE}, field="text")
        note = EventNote.objects.create(event=event, at=now, kind=EventNote.Kind.NOTE, by_name=by.name, text=said)
        noted.changed(note=(None, said))
    return note


@contextmanager
def _attempt(event: AlertEvent, *, by: Actor, now: datetime) -> Iterator[Attempt]:
    project = event.project
    with attempt(
        by=by, action=actions.UPDATE_ALERT, project_id=project.pk if project else GLOBAL,
        project_name=project.name if project else "", resource=event.trn, resource_name=event.rule_name, now=now,
    ) as noted:  # fmt: skip
        by.require(actions.UPDATE_ALERT, cast(Resource, event))
        yield noted
