"""Users, projects, policies and API keys."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.contrib.auth.models import AbstractUser, Group
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person; language and time zone are how pages speak to them ("" follows the browser)."""

    language = models.CharField(_("language"), max_length=10, blank=True)
    time_zone = models.CharField(_("time zone"), max_length=64, blank=True)


class ProjectQuerySet(models.QuerySet["Project"]):
    def visible_to(self, user: Any) -> ProjectQuerySet:
        """Projects in which `user` has any policy, directly or by group; all for a superuser."""
        if not user.is_authenticated or not user.is_active:
            return self.none()
        if user.is_superuser:
            return self
        held = Attachment.objects.of(user)
        if held.filter(project__isnull=True).exists():
            return self
        return self.filter(pk__in=held.values("project_id"))


class Project(models.Model):
    """What resources, keys and permissions belong to; the id is a short slug and never changes."""

    id = models.CharField(
        _("id"),
        max_length=64,
        primary_key=True,
        validators=[
            RegexValidator(r"^[a-z][a-z0-9-]{0,62}$", _("Lower-case letters, digits and -, beginning with a letter."))
        ],
    )
    name = models.CharField(_("name"), max_length=128)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = ProjectQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        verbose_name = _("project")
        verbose_name_plural = _("projects")

    def __str__(self) -> str:
        return self.name

    @property
    def project_id(self) -> str:
        """Itself: permission checks ask every resource for its project."""
        return self.pk

    @property
    def trn(self) -> str:
        return f"trn:iam::arkconsole:project/{self.pk}"


class Policy(models.Model):
    """A named list of statements `{"effect": "Allow"|"Deny", "actions": ["ark:*"], "resources": ["*"]}`."""

    name = models.CharField(_("name"), max_length=64, unique=True)
    description = models.CharField(_("description"), max_length=255, blank=True)
    is_builtin = models.BooleanField(_("built in"), default=False, editable=False)
    statements = models.JSONField(_("statements"), default=list)

    class Meta:
        ordering: ClassVar[list[str]] = ["name"]
        verbose_name = _("policy")
        verbose_name_plural = _("policies")

    def __str__(self) -> str:
        return self.name


class AttachmentQuerySet(models.QuerySet["Attachment"]):
    def of(self, user: Any) -> AttachmentQuerySet:
        """What is attached to `user`, directly or through a group."""
        return self.filter(Q(user=user) | Q(group__user=user))


class Attachment(models.Model):
    """A policy given to a user or a group, in one project or (project empty) in all."""

    policy = models.ForeignKey(Policy, on_delete=models.CASCADE, related_name="attachments", verbose_name=_("policy"))
    user = models.ForeignKey(
        User, on_delete=models.CASCADE, null=True, blank=True, related_name="attachments", verbose_name=_("user")
    )
    group = models.ForeignKey(
        Group, on_delete=models.CASCADE, null=True, blank=True, related_name="attachments", verbose_name=_("group")
    )
    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, null=True, blank=True, related_name="attachments", verbose_name=_("project"),
        help_text=_("Empty: every project."),
    )  # fmt: skip

    objects = AttachmentQuerySet.as_manager()

    class Meta:
        verbose_name = _("attachment")
        verbose_name_plural = _("attachments")
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.CheckConstraint(
                condition=Q(user__isnull=True) ^ Q(group__isnull=True), name="iam_attachment_user_or_group"
            ),
            # One for each pattern of nulls: `nulls_distinct=False` is PostgreSQL's alone, and SQLite would take twins.
            models.UniqueConstraint(
                fields=["policy", "user", "project"],
                condition=Q(user__isnull=False, project__isnull=False),
                name="iam_attachment_user_project_once",
            ),
            models.UniqueConstraint(
                fields=["policy", "user"],
                condition=Q(user__isnull=False, project__isnull=True),
                name="iam_attachment_user_once",
            ),
            models.UniqueConstraint(
                fields=["policy", "group", "project"],
                condition=Q(group__isnull=False, project__isnull=False),
                name="iam_attachment_group_project_once",
            ),
            models.UniqueConstraint(
                fields=["policy", "group"],
                condition=Q(group__isnull=False, project__isnull=True),
                name="iam_attachment_group_once",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.policy} → {self.user or self.group} @ {self.project or '*'}"


class KeyState(models.TextChoices):
    """What a key can do now."""

    ENABLED = "enabled", _("Enabled")
    DISABLED = "disabled", _("Disabled")
    EXPIRED = "expired", _("Expired")


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def matching(self, text: str) -> ApiKeyQuerySet:
        """Keys whose name contains `text`, or which begin as it does."""
        if not text:
            return self
        return self.filter(Q(name__icontains=text) | Q(prefix__startswith=text))

    def in_state(self, state: str, *, now: datetime) -> ApiKeyQuerySet:
        """Keys that are enabled (and not expired), disabled or expired; "" for all."""
        if state == KeyState.EXPIRED:
            return self.filter(expires_at__lte=now)
        if state in (KeyState.ENABLED, KeyState.DISABLED):
            is_current = Q(expires_at__isnull=True) | Q(expires_at__gt=now)
            return self.filter(is_current, is_enabled=state == KeyState.ENABLED)
        return self

    def for_list(self) -> ApiKeyQuerySet:
        """Rows as the page shows them: not deleted, not the console's own short-lived try-it keys."""
        return (
            self.filter(deleted_at__isnull=True, is_internal=False)
            .select_related("created_by")
            .prefetch_related("scopes")
        )


class ApiKey(models.Model):
    """A key for the data plane. Only the SHA-256 of it is stored; the key itself is shown once.

    Without `KeyScope` rows it may call every endpoint of its project.
    """

    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="api_keys")
    name = models.CharField(_("name"), max_length=64)
    prefix = models.CharField(max_length=16)
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the key, hexadecimal")
    allowed_ips = models.JSONField(
        _("allowed IPs"), default=list, blank=True, help_text="addresses or networks; empty: any"
    )
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    is_enabled = models.BooleanField(_("enabled"), default=True)
    is_internal = models.BooleanField(default=False, help_text="made by the console for try-it; lives minutes")
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, related_name="api_keys")
    created_at = models.DateTimeField(_("created"))
    deleted_at = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-id"]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(
                fields=["project", "-created_at", "-id"],
                condition=Q(deleted_at__isnull=True, is_internal=False),
                name="iam_apikey_list",
            )
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def trn(self) -> str:
        return f"trn:ark:local:arkconsole:apikey/{self.pk}"

    def is_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def state(self, now: datetime) -> KeyState:
        """Expired comes first: enabling alone would not help."""
        if self.is_expired(now):
            return KeyState.EXPIRED
        return KeyState.ENABLED if self.is_enabled else KeyState.DISABLED


class KeyScope(models.Model):
    """One thing that a scoped key may call. The id is a string: endpoints live in a room above this one."""

    class ResourceType(models.TextChoices):
        ENDPOINT = "endpoint", _("custom endpoint")
        PRESET_ENDPOINT = "presetendpoint", _("preset endpoint")
        MODEL = "model", _("model id")

    key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="scopes")
    resource_type = models.CharField(max_length=16, choices=ResourceType)
    resource_id = models.CharField(max_length=128)

    class Meta:
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["key", "resource_type", "resource_id"], name="iam_keyscope_once"),
        ]

    def __str__(self) -> str:
        return f"{self.resource_type}/{self.resource_id}"
