"""What the drain could not count, in the administration: to read, never to change."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from metering.models import DeadEvent

SHOWN_BYTES = 4_096


@admin.register(DeadEvent)
class DeadEventAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """For superusers: an event speaks of any project. Not listed while there is none."""

    list_display = ("at", "reason", "detail", "generation", "entry_id")
    list_filter = ("reason",)
    fields = ("at", "reason", "detail", "generation", "entry_id", "event")
    readonly_fields = fields
    show_full_result_count = False

    @admin.display(description=_("event"))
    def event(self, dead: DeadEvent) -> str:
        """As much of the entry as a person reads; bytes that are no text are shown as such."""
        return bytes(dead.data)[:SHOWN_BYTES].decode(errors="backslashreplace")

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and DeadEvent.objects.exists()

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        user: Any = request.user
        return bool(user.is_active and user.is_superuser)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
