"""The append-only, hash-chained record of who did what; one chain per project."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db import models
from django.utils.translation import gettext_lazy as _


class AppendOnly(Exception):
    """Somebody tried to change or remove what is written once."""


class EventQuerySet(models.QuerySet["Event"]):
    """Reads only: the record refuses to be changed through the ORM."""

    def update(self, **kwargs: Any) -> int:
        raise AppendOnly("audit events are never changed")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise AppendOnly("audit events are never removed")


class Event(models.Model):
    """One thing somebody did or tried. `previous_hash` and `hash` chain it to the event before in its project."""

    class Outcome(models.TextChoices):
        ALLOWED = "allowed", _("Allowed")
        DENIED = "denied", _("Denied")
        FAILED = "failed", _("Failed")

    project_id = models.CharField(_("project id"), max_length=64)
    project_name = models.CharField(_("project"), max_length=128, blank=True)
    sequence = models.BigIntegerField(_("number in its chain"))
    at = models.DateTimeField(_("time"))
    actor_id = models.CharField(_("user id"), max_length=64)
    actor_name = models.CharField(_("who"), max_length=150)
    action = models.CharField(_("action"), max_length=64)
    resource = models.CharField("TRN", max_length=255, blank=True)
    resource_name = models.CharField(_("resource"), max_length=255, blank=True)
    outcome = models.CharField(_("outcome"), max_length=8, choices=Outcome)
    reason = models.CharField(_("reason"), max_length=255, blank=True)
    source_ip = models.CharField(_("source address"), max_length=45, blank=True)
    request_id = models.CharField(_("request id"), max_length=64, blank=True)
    changes = models.JSONField(_("changes"), default=dict, help_text="{field: [before, after]}")
    previous_hash = models.CharField(_("hash of the event before"), max_length=64)
    hash = models.CharField(_("hash"), max_length=64)

    objects = EventQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-id"]
        verbose_name = _("event")
        verbose_name_plural = _("events")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["project_id", "sequence"], name="audit_event_project_sequence"),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["resource", "-at"], name="audit_event_resource_at")
        ]

    def __str__(self) -> str:
        return f"{self.project_id}#{self.sequence} {self.action} {self.outcome}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnly("audit events are never changed")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise AppendOnly("audit events are never removed")


class Head(models.Model):
    """The last link of a project's chain; locking this row puts the project's events in order."""

    project_id = models.CharField(max_length=64, primary_key=True)
    sequence = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)

    def __str__(self) -> str:
        return f"{self.project_id}#{self.sequence}"
