"""Administration of people, groups, projects and policies; each change is kept in the audit record too."""

from __future__ import annotations

from typing import Any

from allauth.account.models import EmailAddress
from django import forms
from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

import audit.services
from iam.actors import actor_of
from iam.models import Attachment, Policy, Project, User
from iam.policies import problems


class Audited(admin.ModelAdmin):  # type: ignore[type-arg]
    """Writes an audit event for what the admin adds, changes and removes, inside the admin's own transaction."""

    hidden_fields = frozenset({"password", "last_login"})

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            before = type(obj)._base_manager.get(pk=obj.pk)
            request.audit_before = self.snapshot(before)  # type: ignore[attr-defined]
        super().save_model(request, obj, form, change)

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, "Create", obj, {}, self.snapshot(obj))
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        after = self.snapshot(obj)
        before = getattr(request, "audit_before", None)
        if before is None:  # the page for a new password saves by itself
            before, after = {"password": "set"}, {"password": "set anew"}
        self._record(request, "Update", obj, before, after)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        for obj in queryset:
            self._record(request, "Delete", obj, self.snapshot(obj), {})
        return super().log_deletions(request, queryset)

    def snapshot(self, obj: Any) -> dict[str, Any]:
        """The values of `obj` as the record keeps them; never a secret."""
        values: dict[str, Any] = {
            field.name: field.value_from_object(obj)
            for field in obj._meta.concrete_fields
            if field.name not in self.hidden_fields and not field.primary_key
        }
        for field in obj._meta.many_to_many:
            values[field.name] = sorted(str(item) for item in getattr(obj, field.name).all())
        return values

    def project_of(self, obj: Any) -> str:
        """Whose chain the event belongs to."""
        return audit.services.GLOBAL

    def _record(
        self, request: HttpRequest, verb: str, obj: Model, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        kind = type(obj).__name__
        with audit.services.attempt(
            by=actor_of(request), action=f"iam:{verb}{kind}", project_id=self.project_of(obj), now=timezone.now(),
            resource=getattr(obj, "trn", f"trn:iam::arkconsole:{kind.lower()}/{obj.pk}"), resource_name=str(obj)[:255],
        ) as noted:  # fmt: skip
            names = dict.fromkeys([*before, *after])
            noted.changed(**{name: (before.get(name), after.get(name)) for name in names})


class UserAttachments(admin.TabularInline):  # type: ignore[type-arg]
    model = Attachment
    fields = ("policy", "project")
    extra = 0


class HoldsPolicies(Audited):
    """For users and groups: what is attached to them belongs to what changed."""

    inlines = (UserAttachments,)

    def snapshot(self, obj: Any) -> dict[str, Any]:
        held = obj.attachments.select_related("policy")
        return {**super().snapshot(obj), "policies": sorted(f"{a.policy.name} @ {a.project_id or '*'}" for a in held)}


@admin.register(User)
class UserAdmin(HoldsPolicies, DjangoUserAdmin):  # type: ignore[type-arg]
    list_display = (
        "username",
        "first_name",
        "last_name",
        "email",
        "is_staff",
        "is_superuser",
        "is_active",
        "last_login",
    )
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name", "email", "language", "time_zone")}),
        (
            _("Administration"),
            {
                "fields": ("is_active", "is_staff", "is_superuser", "groups"),
                "description": _("A superuser passes every permission check. Everybody else needs policies, below."),
            },
        ),
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")


admin.site.unregister(Group)
# Addresses are the people's own `email`; allauth's table beside it stays empty here.
admin.site.unregister(EmailAddress)


@admin.register(Group)
class GroupAdmin(HoldsPolicies, DjangoGroupAdmin):
    pass


@admin.register(Project)
class ProjectAdmin(Audited):
    list_display = ("name", "id", "created_at")
    search_fields = ("name", "id")
    fields = ("id", "name")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        # Endpoints, keys and the record refer to a project by its id: it is chosen once.
        return ("id",) if obj else ()

    def project_of(self, obj: Any) -> str:
        return str(obj.pk)


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Policy
        fields = ("name", "description", "statements")
        help_texts = {
            "statements": _(
                'A list such as [{"effect": "Allow", "actions": ["ark:Get*", "ark:StopEndpoint"], "resources": ["*"]}]. '
                "A matching Deny wins over every Allow."
            )
        }

    def clean_statements(self) -> Any:
        statements = self.cleaned_data["statements"]
        found = problems(statements)
        if found:
            raise forms.ValidationError(found)
        return statements


@admin.register(Policy)
class PolicyAdmin(Audited):
    form = PolicyForm
    list_display = ("name", "description", "is_builtin")
    list_filter = ("is_builtin",)
    search_fields = ("name", "description")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        # A built-in policy means the same in every console; copy its statements into one of your own.
        return super().has_change_permission(request, obj) and not (obj and obj.is_builtin)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and not (obj and obj.is_builtin)


@admin.register(Attachment)
class AttachmentAdmin(Audited):
    list_display = ("policy", "user", "group", "project")
    list_filter = ("policy", "project")
    list_select_related = ("policy", "user", "group", "project")
    autocomplete_fields = ("user",)
    search_fields = ("user__username", "group__name", "policy__name")

    def snapshot(self, obj: Any) -> dict[str, Any]:
        return {
            "policy": obj.policy.name, "user": str(obj.user or ""), "group": str(obj.group or ""),
            "project": obj.project_id or "*",
        }  # fmt: skip

    def project_of(self, obj: Any) -> str:
        return str(obj.project_id or audit.services.GLOBAL)
