"""How django-allauth behaves here: accounts are made by administrators, and who signs in is kept in the record."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

import audit.services
from iam.actors import Actor

SIGN_IN = "iam:SignIn"


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-in only; signing up is closed."""

    error_messages = {
        **DefaultAccountAdapter.error_messages,
        "too_many_login_attempts": _("Too many failed attempts. Wait five minutes, then try again."),
        "username_password_mismatch": _("User name or password is wrong."),
        "enter_current_password": _("This is not your current password."),
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    def get_client_ip(self, request: HttpRequest) -> str:
        """The address that throttling counts: TRUSTED_PROXIES decides which hops are believed."""
        return str(getattr(request, "client_ip", "")) or "unknown"

    def get_password_change_redirect_url(self, request: HttpRequest) -> str:
        return reverse("iam:settings")

    def add_message(
        self, request: HttpRequest, level: int, message_template: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Say what somebody could not see for themselves: not that they are in, or out."""
        if message_template and message_template.endswith(("logged_in.txt", "logged_out.txt")):
            return
        super().add_message(request, level, message_template, *args, **kwargs)

    def authentication_failed(self, request: HttpRequest, **credentials: Any) -> None:
        """Somebody gave a wrong password: recorded with the name they tried, never with the password."""
        name = str(credentials.get("username", ""))[:150]
        audit.services.record_denied(
            by=_actor(request, "", name), action=SIGN_IN, project_id=audit.services.GLOBAL, resource_name=name,
            reason="wrong password", now=timezone.now(),
        )  # fmt: skip

    def post_login(self, request: HttpRequest, user: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = super().post_login(request, user, **kwargs)
        actor = _actor(request, str(user.pk), user.get_username())
        with audit.services.attempt(
            by=actor, action=SIGN_IN, project_id=audit.services.GLOBAL, resource_name=actor.name, now=timezone.now()
        ):
            pass
        return response

    def set_password(self, user: Any, password: str) -> None:
        """Change the password and record that it was changed."""
        actor = Actor(id=str(user.pk), name=user.get_username(), source_ip="", request_id="")
        if self.request is not None:
            actor = _actor(self.request, actor.id, actor.name)
        with audit.services.attempt(
            by=actor, action="iam:ChangePassword", project_id=audit.services.GLOBAL, resource_name=actor.name,
            resource=f"trn:iam::arkconsole:user/{user.pk}", now=timezone.now(),
        ):  # fmt: skip
            super().set_password(user, password)


def _actor(request: HttpRequest, pk: str, name: str) -> Actor:
    return Actor(
        id=pk, name=name, source_ip=getattr(request, "client_ip", ""), request_id=getattr(request, "request_id", "")
    )
