"""How django-allauth behaves here: accounts are made by administrators, not by visitors."""

from __future__ import annotations

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Sign-in only; signing up is closed."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False
