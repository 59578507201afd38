"""The permission backend: `user.has_perm("ark:StopEndpoint", resource)` by attached policies."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.backends import BaseBackend

from iam.models import Attachment
from iam.policies import allows


class PolicyBackend(BaseBackend):
    """Judges Ark-style actions. Django's own permission names (with a dot) are left to the other backends.

    A superuser never gets here: Django passes superusers before any backend.
    """

    def has_perm(self, user_obj: Any, perm: str, obj: Any = None) -> bool:
        if ":" not in perm or obj is None or not user_obj.is_active or user_obj.is_anonymous:
            return False
        return allows(self._statements(user_obj, obj.project_id), action=perm, resource=obj.trn)

    @staticmethod
    def _statements(user: Any, project_id: str) -> list[dict[str, Any]]:
        # One query per request: request.user lives as long as the request.
        held: list[tuple[str | None, list[dict[str, Any]]]] | None = getattr(user, "_held_policies", None)
        if held is None:
            held = list(Attachment.objects.of(user).values_list("project_id", "policy__statements"))
            user._held_policies = held  # noqa: SLF001 - ours, on the person of this request
        return [statement for project, statements in held if project in (None, project_id) for statement in statements]
