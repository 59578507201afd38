"""Which projects opened monitoring. The figures themselves are in Prometheus and in the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from iam.models import Project

LOOK_EVERY = timedelta(seconds=1)
"""A worker looks at an opening again after this."""
LOOK_LASTS = timedelta(seconds=30)
"""Longer than any look takes: who has not come back by then was killed, and another looks."""


class SubscriptionQuerySet(models.QuerySet["Subscription"]):
    def due(self, now: datetime) -> SubscriptionQuerySet:
        """On their way to open, and to be looked at.

        A turn that lies further ahead than any is ever set was set before the clock went back: it is due as well.
        """
        return self.filter(state=Subscription.State.OPENING).filter(
            Q(look_at__lte=now) | Q(look_at__gt=now + LOOK_LASTS)
        )


class Subscription(models.Model):
    """A project that asked for monitoring; no row: it is closed. Moved by `monitoring.services` only."""

    class State(models.TextChoices):
        OPENING = "opening", _("Being opened")
        OPEN = "open", _("Open")
        FAILED = "failed", _("Could not be opened")

    class Step(models.TextChoices):
        """What opening waits for, in this order."""

        PROMETHEUS = "prometheus", _("Prometheus answers")
        TARGETS = "targets", _("Prometheus has the list of what to read")
        SAMPLES = "samples", _("The first figures have arrived")

    project = models.OneToOneField(
        Project, on_delete=models.CASCADE, primary_key=True, related_name="monitoring", verbose_name=_("project")
    )
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.OPENING)
    step = models.CharField(_("step"), max_length=10, choices=Step, default=Step.PROMETHEUS)
    trouble = models.CharField(
        _("trouble"), max_length=24, blank=True, help_text="code of monitoring.opening.Trouble: what the step waits for"
    )
    detail = models.CharField(
        _("detail"), max_length=255, blank=True, help_text="what the other side said, untranslated"
    )
    opened_by_id = models.CharField(max_length=64, blank=True)
    opened_by_name = models.CharField(_("opened by"), max_length=150, blank=True)
    asked_at = models.DateTimeField(_("asked"), help_text="the last press, also of a retry")
    step_at = models.DateTimeField(help_text="when the step became the current one")
    look_at = models.DateTimeField(help_text="when a worker should look again")
    opened_at = models.DateTimeField(_("opened"), null=True, blank=True)

    objects = SubscriptionQuerySet.as_manager()

    class Meta:
        verbose_name = _("monitoring of a project")
        verbose_name_plural = _("monitoring of projects")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=~Q(state="open") | Q(opened_at__isnull=False), name="monitoring_open_has_a_time"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.project_id}: {self.state}"

    @property
    def is_open(self) -> bool:
        return self.state == self.State.OPEN

    @property
    def is_opening(self) -> bool:
        return self.state == self.State.OPENING

    @property
    def has_failed(self) -> bool:
        return self.state == self.State.FAILED
