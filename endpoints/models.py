"""Inference endpoints, and the record of how their status moved."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from catalog.models import ModelVersion
from iam.models import Project

# Ark's alphabet for tags: letters of any language, digits, spaces and a few signs; keys go without "=", so that
# "key=value" can be read back.
TAG_KEY = re.compile(r"[\w .:/+@-]+")
TAG_VALUE = re.compile(r"[\w .:/=+@-]*")


class Status(models.TextChoices):
    """Ark's statuses; what moves to what is `endpoints.lifecycle.ALLOWED`."""

    SCHEDULING = "Scheduling", _("Scheduling")
    RUNNING = "Running", _("Healthy")
    STOPPED = "Stopped", _("Stopped")
    ABNORMAL = "Abnormal", _("Abnormal")


class Desired(models.TextChoices):
    """What people want of an endpoint; the tick makes the status follow."""

    RUNNING = "running"
    STOPPED = "stopped"


class Kind(models.TextChoices):
    """Preset endpoints appear by themselves on the first call by model id (`ark.md` §4.1)."""

    CUSTOM = "custom", _("Custom")
    PRESET = "preset", _("Preset")


class EndpointQuerySet(models.QuerySet["Endpoint"]):
    def alive(self) -> EndpointQuerySet:
        """Not deleted."""
        return self.filter(deleted_at__isnull=True)

    def visible_to(self, user: Any) -> EndpointQuerySet:
        """Not deleted, and in a project that `user` may see."""
        return self.alive().filter(project__in=Project.objects.visible_to(user))

    def for_list(self) -> EndpointQuerySet:
        """With what a row shows, in the same query."""
        return self.select_related("version__model", "creator", "project")


class Endpoint(models.Model):
    """A durable address behind which a model version is served."""

    # Status changes go through lifecycle.move()/move_many() only; edits bump `revision`.
    id = models.CharField(max_length=64, primary_key=True)
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.CUSTOM)
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="endpoints")
    name = models.CharField(_("name"), max_length=64)
    description = models.CharField(_("description"), max_length=500, blank=True)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="endpoints")
    rpm = models.PositiveIntegerField(_("RPM"), validators=[MinValueValidator(1), MaxValueValidator(10_000_000)])
    tpm = models.PositiveIntegerField(_("TPM"), validators=[MinValueValidator(1), MaxValueValidator(2_000_000_000)])
    tags = models.JSONField(_("tags"), default=dict, blank=True, help_text="{key: value}")
    desired = models.CharField(max_length=8, choices=Desired, default=Desired.RUNNING)
    status = models.CharField(max_length=12, choices=Status, default=Status.SCHEDULING)
    status_reason = models.CharField(max_length=32, blank=True, help_text="code of endpoints.lifecycle.Reason")
    status_subject = models.CharField(max_length=150, blank=True, help_text="the server, person or model it speaks of")
    status_detail = models.CharField(
        max_length=255, blank=True, help_text="code of catalog.models.Trouble, else what the server said, untranslated"
    )
    status_version = models.PositiveIntegerField(default=0)
    status_at = models.DateTimeField()
    revision = models.PositiveIntegerField(default=0)
    field_revisions = models.JSONField(
        default=dict, blank=True, help_text="{field: revision that last changed it}, to tell who is late what changed"
    )
    creator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="endpoints"
    )
    creator_name = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = EndpointQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["project", "version"],
                condition=Q(kind="preset", deleted_at__isnull=True),
                name="endpoints_one_preset_per_version",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "kind", "-created_at", "-id"], name="endpoints_list"),
            models.Index(fields=["project", "kind", "name", "id"], name="endpoints_list_name"),
            models.Index(fields=["project", "kind", "status", "id"], name="endpoints_list_status"),
            # The tick counts endpoints by these columns every two seconds; the index alone answers it.
            models.Index(
                fields=["version", "desired", "status", "status_reason", "status_subject"],
                condition=Q(deleted_at__isnull=True),
                name="endpoints_converge",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.pk})"

    def get_absolute_url(self) -> str:
        return reverse("endpoints:overview", args=[self.pk])

    @property
    def trn(self) -> str:
        return f"trn:ark:local:arkconsole:endpoint/{self.pk}"

    @property
    def is_preset(self) -> bool:
        return self.kind == Kind.PRESET

    @property
    def is_moving(self) -> bool:
        """Whether the page should refresh itself: the tick still has something to do."""
        return self.status == Status.SCHEDULING

    def has_just_moved(self, now: datetime) -> bool:
        """Whether the status changed within the last seconds, for the row's flash."""
        return now - self.status_at < timedelta(seconds=5)


class EndpointEvent(models.Model):
    """One move of an endpoint's status, by a person or the tick."""

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    from_status = models.CharField(max_length=12, blank=True)
    to_status = models.CharField(max_length=12)
    reason = models.CharField(max_length=32, blank=True)
    subject = models.CharField(max_length=150, blank=True)
    detail = models.CharField(max_length=255, blank=True)
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-at", "-id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["endpoint", "-at", "-id"], name="endpoints_event_at")
        ]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.from_status} → {self.to_status}"


class VersionSwitchQuerySet(models.QuerySet["VersionSwitch"]):
    def open(self) -> VersionSwitchQuerySet:
        """Not ended: it moves traffic, or waits to."""
        return self.filter(state__in=OPEN_STATES)

    def due(self, now: datetime) -> VersionSwitchQuerySet:
        """Open, and to be looked at by the tick.

        A turn that lies further ahead than any is ever set was set before the clock went back: it is due as well.
        """
        return self.open().filter(Q(check_at__lte=now) | Q(check_at__gt=now + CHECK_AHEAD))


class VersionSwitch(models.Model):
    """The traffic of one endpoint on its way from one version to another, and the plan that it follows.

    It moves through `endpoints.switch_moves` only.
    """

    class State(models.TextChoices):
        """What moves to what is `endpoints.switching.ALLOWED`."""

        PREPARING = "preparing", _("Preparing")
        CLIMBING = "climbing", _("Under way")
        PAUSED = "paused", _("Paused")
        RETURNING = "returning", _("Rolling back")
        COMPLETED = "completed", _("Completed")
        ROLLED_BACK = "rolled_back", _("Rolled back")
        CANCELLED = "cancelled", _("Cancelled")

    class Direction(models.TextChoices):
        UP = "up"
        DOWN = "down"

    class OnBreach(models.TextChoices):
        """What a breach of a gate does."""

        HOLD = "hold", _("Hold and wait for a person")
        ROLL_BACK = "roll_back", _("Roll back at once")

    class Warm(models.TextChoices):
        """The one-token call before the first rung."""

        NONE = "none", _("Not wanted")
        WANTED = "wanted", _("Under way")
        PASSED = "passed", _("Passed")
        FAILED = "failed", _("Failed")

    endpoint = models.ForeignKey(Endpoint, on_delete=models.CASCADE, related_name="switches")
    source = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    target = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=12, choices=State, default=State.PREPARING)
    direction = models.CharField(max_length=4, choices=Direction, default=Direction.UP)
    ladder = models.JSONField(help_text='[{"weight": percent, "hold_seconds": seconds}], weights rising to 100')
    gates = models.JSONField(null=True, blank=True, help_text="fields of endpoints.switching.Gates; null: time alone")
    on_breach = models.CharField(max_length=10, choices=OnBreach, default=OnBreach.HOLD)
    rung = models.IntegerField(default=-1, help_text="index into the ladder; -1: before the first")
    weight = models.PositiveSmallIntegerField(default=0, help_text="percent of conversations that the target answers")
    soak = models.PositiveIntegerField(
        default=0, help_text="grows with every move of weight or rung; the gateway stamps calls with it"
    )
    soaked_seconds = models.FloatField(default=0, help_text="time spent in this soak while running, as ticks saw it")
    ticked_at = models.DateTimeField()
    check_at = models.DateTimeField()
    return_hold_seconds = models.PositiveIntegerField(null=True, blank=True)
    warm = models.CharField(max_length=8, choices=Warm, default=Warm.NONE)
    warm_detail = models.CharField(max_length=255, blank=True, help_text="what the server said, untranslated")
    warm_asked_at = models.DateTimeField(null=True, blank=True, help_text="when the call was last handed to a worker")
    verdict = models.CharField(max_length=32, blank=True, help_text="code of endpoints.switching.Code")
    verdict_figures = models.JSONField(default=dict, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    started_by_id = models.CharField(max_length=64, blank=True)
    started_by_name = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    ended_reason = models.CharField(max_length=32, blank=True, help_text="code of endpoints.switching.Code")
    moves = models.PositiveIntegerField(default=0, help_text="grows with every change of state, rung or weight")

    objects = VersionSwitchQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["endpoint"],
                condition=Q(state__in=["preparing", "climbing", "paused", "returning"]),
                name="endpoints_one_open_switch",
            ),
            models.CheckConstraint(condition=~Q(source=models.F("target")), name="endpoints_switch_moves"),
            models.CheckConstraint(condition=Q(weight__gte=0, weight__lte=100), name="endpoints_switch_weight"),
            models.CheckConstraint(
                condition=~Q(state__in=["rolled_back", "cancelled"]) | Q(weight=0), name="endpoints_switch_is_back"
            ),
            models.CheckConstraint(
                condition=~Q(state="completed") | Q(weight=100), name="endpoints_switch_is_complete"
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["endpoint", "-created_at", "-id"], name="endpoints_switch_history"),
            models.Index(
                fields=["check_at"],
                condition=Q(state__in=["preparing", "climbing", "paused", "returning"]),
                name="endpoints_switch_due",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.source_id} → {self.target_id} {self.state} {self.weight} %"

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES

    @property
    def step(self) -> int:
        """The rung as people count: 1 for the first, 0 before it."""
        return self.rung + 1


OPEN_STATES = (
    VersionSwitch.State.PREPARING,
    VersionSwitch.State.CLIMBING,
    VersionSwitch.State.PAUSED,
    VersionSwitch.State.RETURNING,
)
CHECK_AHEAD = timedelta(seconds=60)


class SwitchEvent(models.Model):
    """One line of a switch's log: a move, or a note, with who and why."""

    class Kind(models.TextChoices):
        STARTED = "started", _("Started")
        ADVANCED = "advanced", _("Advanced")
        ADVANCED_BY_HAND = "advanced_by_hand", _("Advanced by hand")
        STEPPED_BACK = "stepped_back", _("Stepped back")
        PAUSED = "paused", _("Paused")
        RESUMED = "resumed", _("Resumed")
        RETURNING = "returning", _("Rolling back gradually")
        ROLLED_BACK = "rolled_back", _("Rolled back")
        FINISHED = "finished", _("Finished at once")
        COMPLETED = "completed", _("Completed")
        CANCELLED = "cancelled", _("Cancelled")
        HELD = "held", _("Held")
        NOTE = "note", _("Note")

    switch = models.ForeignKey(VersionSwitch, on_delete=models.CASCADE, related_name="events")
    at = models.DateTimeField()
    kind = models.CharField(max_length=20, choices=Kind)
    soak = models.PositiveIntegerField()
    rung = models.IntegerField()
    weight = models.PositiveSmallIntegerField()
    from_weight = models.PositiveSmallIntegerField()
    code = models.CharField(max_length=32, blank=True, help_text="code of endpoints.switching.Code")
    figures = models.JSONField(default=dict, blank=True)
    reason = models.CharField(max_length=500, blank=True, help_text="a person's own words")
    actor_id = models.CharField(max_length=64, blank=True)
    actor_name = models.CharField(max_length=150, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["id"]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["switch", "id"], name="endpoints_switch_log")]

    def __str__(self) -> str:
        return f"{self.switch_id} {self.kind} {self.from_weight} → {self.weight} %"
