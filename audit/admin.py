"""The audit record in the administration: to read, never to change."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from audit.models import Event


@admin.register(Event)
class EventAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ("at", "project_id", "actor_name", "action", "resource_name", "outcome", "source_ip")
    list_filter = ("outcome",)
    search_fields = ("=project_id", "=actor_name", "=action", "=resource", "=request_id")
    search_help_text = _("A project id, who, an action, a TRN or a request id, each written whole.")
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
