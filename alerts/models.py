"""Rules, who hears of them, what happened, and who was told."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from common.fields import EncryptedTextField
from iam.models import Project

KEPT_FOR = timedelta(days=90)
"""Events, and with them what was sent, are kept for this long after their end."""


class Level(models.TextChoices):
    """How bad; P0 is the worst. Cloned from VMP, whose names are these."""

    P0 = "P0", "P0"
    P1 = "P1", "P1"
    P2 = "P2", "P2"


class Phase(models.TextChoices):
    """Where an event stands."""

    PENDING = "pending", _("Pending")
    FIRING = "firing", _("Firing")
    RESOLVED = "resolved", _("Resolved")


class SyncState(models.TextChoices):
    """Whether what the database says has reached Prometheus or Alertmanager."""

    PENDING = "pending", _("On its way")
    ACTIVE = "active", _("In force")
    FAILED = "failed", _("Refused")


class MethodKind(models.TextChoices):
    """How a message travels; a phone rings for P0 only."""

    EMAIL = "email", _("E-mail")
    PHONE = "phone", _("Phone")
    FEISHU = "feishu", _("Feishu")
    DINGTALK = "dingtalk", _("DingTalk")
    WECOM = "wecom", _("WeCom")
    WEBHOOK = "webhook", _("Webhook")


# --- who hears


class Contact(models.Model):
    """A person or a room of people that can be told, by any number of methods."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="contacts")
    name = models.CharField(_("name"), max_length=64)
    language = models.CharField(_("language"), max_length=10, default="zh-hans")
    time_zone = models.CharField(_("time zone"), max_length=64, default="Asia/Shanghai")
    note = models.CharField(_("note"), max_length=255, blank=True)
    created_by_name = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["name", "id"]
        verbose_name = _("contact")
        verbose_name_plural = _("contacts")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["project", "name"], condition=Q(deleted_at__isnull=True), name="alerts_contact_name"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def trn(self) -> str:
        return f"trn:vmp:local:arkconsole:contact/{self.pk}"


class ContactMethodQuerySet(models.QuerySet["ContactMethod"]):
    def receiving(self) -> ContactMethodQuerySet:
        """Written to: verified once, not switched off since, and of a contact that is still there."""
        return self.filter(
            contact__deleted_at__isnull=True,
            state__in=(ContactMethod.State.VERIFIED, ContactMethod.State.FAILING),
        )


class ContactMethod(models.Model):
    """One address of a contact. Only a verified one is written to."""

    class State(models.TextChoices):
        UNVERIFIED = "unverified", _("Not verified")
        VERIFIED = "verified", _("Verified")
        FAILING = "failing", _("Failing")
        DISABLED = "disabled", _("Switched off")

    contact = models.ForeignKey(Contact, on_delete=models.CASCADE, related_name="methods")
    kind = models.CharField(_("kind"), max_length=8, choices=MethodKind)
    address = EncryptedTextField(_("address"))
    address_digest = models.CharField(
        max_length=64, db_index=True, help_text="SHA-256 of the address: limits are per address"
    )
    hint = models.CharField(max_length=128, blank=True, help_text="the address, masked: what pages show")
    secret = EncryptedTextField(_("secret"), blank=True, help_text="signs what is sent to a bot or webhook")
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.UNVERIFIED)
    verified_at = models.DateTimeField(null=True, blank=True)
    nonce_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the open link's nonce")
    code_digest = models.CharField(max_length=64, blank=True, help_text="of the open code, keyed")
    code_tries = models.PositiveSmallIntegerField(default=0)
    asked_at = models.DateTimeField(null=True, blank=True, help_text="when verification was last asked for")
    failures = models.PositiveSmallIntegerField(default=0, help_text="permanent ones in a row")
    last_error = models.CharField(max_length=255, blank=True)
    last_sent_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()

    objects = ContactMethodQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["id"]
        verbose_name = _("contact method")
        verbose_name_plural = _("contact methods")

    def __str__(self) -> str:
        return f"{self.kind} {self.hint}"

    @property
    def is_usable(self) -> bool:
        """Whether it is written to: verified once, and not switched off since."""
        return self.state in (self.State.VERIFIED, self.State.FAILING)


class ContactGroup(models.Model):
    """Contacts that are told together."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="contact_groups")
    name = models.CharField(_("name"), max_length=64)
    contacts: models.ManyToManyField[Contact, models.Model] = models.ManyToManyField(
        Contact, related_name="groups", blank=True
    )
    created_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["name", "id"]
        verbose_name = _("contact group")
        verbose_name_plural = _("contact groups")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["project", "name"], condition=Q(deleted_at__isnull=True), name="alerts_contactgroup_name"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def trn(self) -> str:
        return f"trn:vmp:local:arkconsole:contactgroup/{self.pk}"


class NotificationPolicy(models.Model):
    """Which level goes to whom, how and how often. Rules name it in their label `notify_policy` by its id."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="notification_policies")
    name = models.CharField(_("name"), max_length=64)
    revision = models.PositiveIntegerField(default=0)
    created_by_name = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["name", "id"]
        verbose_name = _("notification policy")
        verbose_name_plural = _("notification policies")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["project", "name"], condition=Q(deleted_at__isnull=True), name="alerts_policy_name"
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def trn(self) -> str:
        return f"trn:vmp:local:arkconsole:notifypolicy/{self.pk}"


class PolicyLevel(models.Model):
    """What a policy does with one level; no row, or no groups: nobody is told of it."""

    class GroupBy(models.TextChoices):
        """What makes one message of several alerts."""

        RULE = "rule", _("the rule, over all endpoints")
        ENDPOINT = "endpoint", _("the endpoint, over all rules")
        POLICY = "policy", _("everything of this policy and level")

    policy = models.ForeignKey(NotificationPolicy, on_delete=models.CASCADE, related_name="levels")
    level = models.CharField(_("level"), max_length=2, choices=Level)
    groups: models.ManyToManyField[ContactGroup, models.Model] = models.ManyToManyField(
        ContactGroup, related_name="policy_levels", blank=True
    )
    kinds = models.JSONField(default=list, blank=True, help_text="method kinds that are told of firing")
    resolved_kinds = models.JSONField(default=list, blank=True, help_text="method kinds that are told of recovery")
    group_by = models.CharField(max_length=8, choices=GroupBy, default=GroupBy.RULE)
    wait_seconds = models.PositiveIntegerField(_("first wait"))
    interval_seconds = models.PositiveIntegerField(_("interval"))
    repeat_seconds = models.PositiveIntegerField(_("repeat"))

    class Meta:
        ordering: ClassVar[list[str]] = ["level"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["policy", "level"], name="alerts_policylevel_once"),
            models.CheckConstraint(
                condition=Q(interval_seconds__gte=1, repeat_seconds__gte=F("interval_seconds")),
                name="alerts_policylevel_repeat",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.policy_id} {self.level}"


# --- the rules


class RuleGroup(models.Model):
    """Rules that were made together, for one endpoint or a whole project; one file for Prometheus."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="rule_groups")
    endpoint_id = models.CharField(max_length=64, blank=True, help_text='"" watches the whole project')
    template_id = models.CharField(max_length=64, blank=True, help_text='"" was made by hand')
    template_version = models.PositiveIntegerField(default=0)
    name = models.CharField(_("name"), max_length=128)
    policy = models.ForeignKey(
        NotificationPolicy, on_delete=models.PROTECT, null=True, blank=True, related_name="rule_groups"
    )
    is_enabled = models.BooleanField(default=True)
    sync_state = models.CharField(max_length=8, choices=SyncState, default=SyncState.PENDING)
    sync_message = models.TextField(blank=True, help_text="what promtool or Prometheus said, untranslated")
    revision = models.PositiveIntegerField(default=0)
    created_by_name = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    updated_at = models.DateTimeField()
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        verbose_name = _("rule group")
        verbose_name_plural = _("rule groups")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["project", "endpoint_id", "template_id"],
                condition=Q(deleted_at__isnull=True) & ~Q(template_id=""),
                name="alerts_rulegroup_template_once",
            )
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "endpoint_id"], name="alerts_rulegroup_list"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def trn(self) -> str:
        return f"trn:vmp:local:arkconsole:alertingrulegroup/{self.pk}"


class Rule(models.Model):
    """One condition with up to three levels; each level is one Prometheus alert."""

    class Kind(models.TextChoices):
        TEMPLATE = "template", _("Default")
        METRIC = "metric", _("Metric")
        PROMQL = "promql", "PromQL"

    group = models.ForeignKey(RuleGroup, on_delete=models.CASCADE, related_name="rules")
    key = models.CharField(max_length=64, help_text="the template's item, or r1, r2…")
    name = models.CharField(_("name"), max_length=128)
    kind = models.CharField(max_length=8, choices=Kind)
    form = models.JSONField(default=dict, blank=True, help_text="the metric form as filled in")
    promql = models.TextField(blank=True, help_text="as typed, before it is confined to the project")
    comparator = models.CharField(max_length=2, default=">")
    levels = models.JSONField(default=list, help_text='[{"level", "threshold", "for_seconds"}]')
    labels = models.JSONField(default=dict, blank=True)
    texts = models.JSONField(default=dict, blank=True, help_text='{"en", "zh"}')
    unit = models.CharField(max_length=16, blank=True)
    position = models.PositiveSmallIntegerField(default=0)
    is_enabled = models.BooleanField(default=True)
    changed = models.JSONField(default=list, blank=True, help_text="fields that people changed: an upgrade keeps them")
    health = models.CharField(max_length=16, blank=True, help_text="Prometheus' own word: ok, err, unknown")
    last_error = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["position", "id"]
        verbose_name = _("rule")
        verbose_name_plural = _("rules")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["group", "key"], name="alerts_rule_key_once")
        ]

    def __str__(self) -> str:
        return self.name


# --- what happened


class AlertEventQuerySet(models.QuerySet["AlertEvent"]):
    def open(self) -> AlertEventQuerySet:
        """Pending or firing."""
        return self.filter(phase__in=OPEN_PHASES)

    def for_list(self) -> AlertEventQuerySet:
        """With what a row shows, in the same query."""
        return self.select_related("project", "rule__group")


class AlertEvent(models.Model):
    """One time that one rule fired for one set of labels, told by Prometheus itself, whoever else heard of it."""

    fingerprint = models.CharField(max_length=64, help_text="SHA-256 over the labels")
    starts_at = models.DateTimeField(_("since"), help_text="firing since; of a pending one, pending since")
    pending_at = models.DateTimeField(null=True, blank=True, help_text="when the condition first held, where seen")
    rule = models.ForeignKey(Rule, on_delete=models.SET_NULL, null=True, blank=True, related_name="events")
    rule_key = models.CharField(max_length=64, blank=True)
    rule_name = models.CharField(_("rule"), max_length=128, blank=True)
    group_name = models.CharField(max_length=128, blank=True)
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, null=True, blank=True, related_name="alert_events",
        help_text="empty: it concerns the installation itself",
    )  # fmt: skip
    endpoint_id = models.CharField(max_length=64, blank=True)
    level = models.CharField(_("level"), max_length=2, choices=Level)
    labels = models.JSONField(default=dict)
    summary = models.CharField(max_length=500, blank=True, help_text="plain English, made by Prometheus")
    value = models.FloatField(null=True, blank=True, help_text="last seen while firing")
    comparator = models.CharField(max_length=2, blank=True)
    threshold = models.FloatField(null=True, blank=True)
    expression = models.TextField(blank=True, help_text="as Prometheus evaluated it, with comparator and threshold")
    phase = models.CharField(_("phase"), max_length=8, choices=Phase)
    last_at = models.DateTimeField(help_text="Prometheus last spoke of it")
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="firing until then, unless Prometheus speaks of it again"
    )
    ends_at = models.DateTimeField(null=True, blank=True)
    has_expired = models.BooleanField(default=False, help_text="ended because Prometheus no longer spoke of it")
    is_silenced = models.BooleanField(default=False, help_text="now, or when it ended")
    is_inhibited = models.BooleanField(default=False, help_text="now, or when it ended")
    has_policy = models.BooleanField(default=False)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by_name = models.CharField(max_length=150, blank=True)

    objects = AlertEventQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-starts_at", "-id"]
        verbose_name = _("alert event")
        verbose_name_plural = _("alert events")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["fingerprint", "starts_at"], name="alerts_event_once"),
            models.UniqueConstraint(
                fields=["fingerprint"],
                condition=Q(phase__in=["pending", "firing"]),
                name="alerts_event_one_open",
            ),
            models.CheckConstraint(
                condition=Q(phase="resolved", ends_at__isnull=False) | (~Q(phase="resolved") & Q(ends_at__isnull=True)),
                name="alerts_event_end",
            ),
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "-starts_at", "-id"], name="alerts_event_list"),
            models.Index(fields=["endpoint_id", "-starts_at", "-id"], name="alerts_event_endpoint"),
            models.Index(
                fields=["phase", "project", "level"], condition=~Q(phase="resolved"), name="alerts_event_counts"
            ),
            models.Index(fields=["ends_at"], condition=Q(phase="resolved"), name="alerts_event_prune"),
        ]

    def __str__(self) -> str:
        return f"{self.level} {self.rule_name} {self.endpoint_id} {self.phase}"

    def get_absolute_url(self) -> str:
        return reverse("alerts:event", args=[self.pk])

    @property
    def is_open(self) -> bool:
        return self.phase in OPEN_PHASES

    @property
    def trn(self) -> str:
        return f"trn:vmp:local:arkconsole:alert/{self.pk}"


OPEN_PHASES = (Phase.PENDING, Phase.FIRING)


class EventNote(models.Model):
    """One line of an event's log."""

    class Kind(models.TextChoices):
        PENDING = "pending", _("Pending")
        FIRING = "firing", _("Firing")
        RESOLVED = "resolved", _("Resolved")
        EXPIRED = "expired", _("No longer heard of")
        SILENCED = "silenced", _("Silenced")
        UNSILENCED = "unsilenced", _("No longer silenced")
        INHIBITED = "inhibited", _("Inhibited")
        UNINHIBITED = "uninhibited", _("No longer inhibited")
        ACKNOWLEDGED = "acknowledged", _("Acknowledged")
        UNACKNOWLEDGED = "unacknowledged", _("No longer acknowledged")
        NOTE = "note", _("Note")

    event = models.ForeignKey(AlertEvent, on_delete=models.CASCADE, related_name="notes")
    at = models.DateTimeField()
    kind = models.CharField(max_length=16, choices=Kind)
    by_name = models.CharField(max_length=150, blank=True)
    text = models.CharField(max_length=1000, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["at", "id"]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["event", "at", "id"], name="alerts_note_log")]

    def __str__(self) -> str:
        return f"{self.event_id} {self.kind}"


class Silence(models.Model):
    """Alerts that nobody is to be told of for a while, or at the same hours each week."""

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="silences")
    matchers = models.JSONField(default=dict, help_text="{label: value}; the project is always matched as well")
    reason = models.CharField(_("reason"), max_length=255)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    weekly = models.JSONField(
        null=True, blank=True, help_text='{"days": [0 is Monday…6], "from": "22:00", "to": "06:00", "zone": "…"}'
    )
    created_by_name = models.CharField(max_length=150, blank=True)
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True, help_text="ended by a person before its time")
    ended_by_name = models.CharField(max_length=150, blank=True)
    alertmanager_id = models.CharField(max_length=64, blank=True, help_text="of what is in force there now")
    sync_state = models.CharField(max_length=8, choices=SyncState, default=SyncState.PENDING)
    sync_message = models.CharField(max_length=255, blank=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        verbose_name = _("silence")
        verbose_name_plural = _("silences")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(condition=Q(ends_at__gt=F("starts_at")), name="alerts_silence_lasts")
        ]
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["ends_at"], name="alerts_silence_end")]

    def __str__(self) -> str:
        return f"{self.project_id}: {self.reason}"

    @property
    def trn(self) -> str:
        return f"trn:vmp:local:arkconsole:silence/{self.pk}"


# --- who was told


class Notification(models.Model):
    """One thing to tell the people of one policy: a group of alerts as it stood, once for each repeat."""

    class Status(models.TextChoices):
        FIRING = "firing", _("Firing")
        RESOLVED = "resolved", _("Resolved")

    policy = models.ForeignKey(NotificationPolicy, on_delete=models.PROTECT, related_name="notifications")
    level = models.CharField(max_length=2, choices=Level)
    group_key = models.CharField(max_length=64, help_text="SHA-256 over the group's labels")
    digest = models.CharField(max_length=64, help_text="SHA-256 over fingerprint, start and status of each alert")
    slot = models.PositiveIntegerField(default=0, help_text="0 for the first message, then one for each repeat")
    status = models.CharField(max_length=8, choices=Status)
    at = models.DateTimeField()
    payload = models.JSONField(default=dict)
    told = models.JSONField(default=dict, help_text="{event id: its status in this message}")
    events: models.ManyToManyField[AlertEvent, models.Model] = models.ManyToManyField(
        AlertEvent, related_name="notifications", blank=True
    )

    class Meta:
        ordering: ClassVar[list[str]] = ["-at", "-id"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["policy", "group_key", "digest", "slot"], name="alerts_notification_once")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["at"], name="alerts_notification_at"),
            models.Index(fields=["policy", "group_key", "-at", "-id"], name="alerts_notification_recent"),
        ]

    def __str__(self) -> str:
        return f"{self.policy_id} {self.status} {self.slot}"


LEASE = timedelta(seconds=90)
"""Longer than any try to send can take: who has not come back by then was killed, and another tries."""


class DeliveryQuerySet(models.QuerySet["Delivery"]):
    def due(self, now: datetime) -> DeliveryQuerySet:
        """To be sent now, or left behind by a worker that died."""
        is_due = Q(state=Delivery.State.QUEUED, next_at__lte=now)
        return self.filter(is_due | Q(state=Delivery.State.SENDING, claimed_at__lte=now - LEASE))


class Delivery(models.Model):
    """One notification on its way to one address."""

    class State(models.TextChoices):
        QUEUED = "queued", _("Waiting")
        SENDING = "sending", _("Being sent")
        SENT = "sent", _("Sent")
        FAILED = "failed", _("Failed")
        SKIPPED = "skipped", _("Not sent")
        DIGESTED = "digested", _("Sent in a summary")

    notification = models.ForeignKey(Notification, on_delete=models.CASCADE, related_name="deliveries")
    method = models.ForeignKey(
        ContactMethod, on_delete=models.SET_NULL, null=True, blank=True, related_name="deliveries"
    )
    contact_name = models.CharField(max_length=64, blank=True)
    kind = models.CharField(max_length=8, choices=MethodKind)
    hint = models.CharField(max_length=128, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.QUEUED)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(null=True, blank=True)
    claimed_at = models.DateTimeField(null=True, blank=True)
    answer_status = models.PositiveSmallIntegerField(null=True, blank=True, help_text="HTTP")
    answer_code = models.CharField(max_length=64, blank=True, help_text="the provider's own; or why it was not sent")
    answer_text = models.CharField(
        max_length=255, blank=True, help_text="what the provider said; or why it was skipped"
    )
    latency_ms = models.PositiveIntegerField(null=True, blank=True)
    may_repeat = models.BooleanField(default=False, help_text="an answer was lost: it may have arrived twice")
    digested_into = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="digested")
    at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)

    objects = DeliveryQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-at", "-id"]
        verbose_name = _("delivery")
        verbose_name_plural = _("deliveries")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["notification", "method"], name="alerts_delivery_once")
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["next_at"], condition=Q(state="queued"), name="alerts_delivery_due"),
            models.Index(fields=["claimed_at"], condition=Q(state="sending"), name="alerts_delivery_claimed"),
            models.Index(fields=["method"], condition=Q(state__in=["queued", "sending"]), name="alerts_delivery_open"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.hint} {self.state}"


class SendMark(models.Model):
    """One try at one address; what the limits count, so that they hold without Redis and over any number of workers."""

    key = models.CharField(max_length=96)
    at = models.DateTimeField()

    class Meta:
        indexes: ClassVar[list[models.Index]] = [models.Index(fields=["key", "at"], name="alerts_sendmark_window")]

    def __str__(self) -> str:
        return self.key


class Pulse(models.Model):
    """When a part of the chain was last heard of, by name."""

    name = models.CharField(max_length=32, primary_key=True)
    at = models.DateTimeField()
    since = models.DateTimeField(help_text="heard of without a gap since then")
    text = models.TextField(blank=True, help_text="what it last said")
    told_at = models.DateTimeField(null=True, blank=True, help_text="when the admins were last told of its silence")

    def __str__(self) -> str:
        return self.name
