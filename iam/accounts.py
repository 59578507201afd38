"""The sign-in pages that differ from django-allauth's own."""

from __future__ import annotations

from allauth.account import views as allauth
from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


@login_not_required
def reset_password(request: HttpRequest) -> HttpResponse:
    """Send a link by e-mail where e-mail is set up, else say who can help."""
    if not settings.EMAIL_URL:
        return render(request, "account/password_reset_unavailable.html")
    response: HttpResponse = allauth.password_reset(request)
    return response
