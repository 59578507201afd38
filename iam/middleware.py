"""Language, time zone and current project of a request, and the record of views that were refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone, translation
from django.utils.cache import patch_vary_headers
from django.utils.translation.trans_real import parse_accept_lang_header

import audit.services
from common import preferences
from common.errors import DomainError, NotAllowed
from iam import projects
from iam.actors import actor_of

GetResponse = Callable[[HttpRequest], HttpResponse]


def language_of(request: HttpRequest, *, chosen: str = "") -> str:
    """What the person chose, else this browser's cookie, else what the browser asks for: Chinese or English."""
    known = dict(settings.LANGUAGES)
    for choice in (chosen, request.COOKIES.get(settings.LANGUAGE_COOKIE_NAME, "")):
        if choice in known:
            return choice
    wanted = request.headers.get("Accept-Language", "")
    for code, _weight in parse_accept_lang_header(wanted):
        for prefix, language in (("zh", "zh-hans"), ("en", "en")):
            if code.split("-")[0] == prefix:
                return language
    return "en" if wanted.strip("* ,") else settings.LANGUAGE_CODE


def locale_middleware(get_response: GetResponse) -> GetResponse:
    """Speak the reader's language and tell times in their zone."""

    def middleware(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        try:
            language, zone = str(getattr(user, "language", "")), str(getattr(user, "time_zone", ""))
        except (OperationalError, InterfaceError):
            # Without a database nobody is known; the page that says so still speaks the browser's language.
            language = zone = ""
        language, zone = language_of(request, chosen=language), zone or preferences.zone_of(request)
        with (
            translation.override(language),
            timezone.override(preferences.zone(zone) if zone in preferences.known_zones() else None),
        ):
            request.LANGUAGE_CODE = language
            response = get_response(request)
        response.headers.setdefault("Content-Language", language)
        patch_vary_headers(response, ("Accept-Language", "Cookie"))
        return response

    return middleware


def project_middleware(get_response: GetResponse) -> GetResponse:
    """Set `request.project`; see `_Projects`."""
    return _Projects(get_response)


class _Projects:
    """Know the project that a person looks at before the view runs, and record what views refuse.

    A person without any project sees which administrator action is missing instead of an empty console.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.project = None  # type: ignore[attr-defined]
        response = self.get_response(request)
        error: DomainError | None = getattr(response, "refused", None)
        if isinstance(error, NotAllowed) and not error.is_recorded:
            _record_refusal(request, error)
        return response

    def process_view(
        self, request: HttpRequest, view: Callable[..., HttpResponse], _args: Any, _kwargs: Any
    ) -> HttpResponse | None:
        match = request.resolver_match
        is_admin = match is not None and match.app_name == "admin"
        if is_admin or not getattr(view, "login_required", True) or not request.user.is_authenticated:
            return None
        project = request.project = projects.current(request)  # type: ignore[attr-defined]
        is_projectless = getattr(view, "is_projectless", False) or str(match and match.url_name).startswith("account_")
        if project is None and not is_projectless:
            return render(request, "errors/no_project.html", status=403)
        return None


def _record_refusal(request: HttpRequest, error: NotAllowed) -> None:
    """A view (not a service) refused: the record keeps it as denied."""
    resource = error.resource if error.resource is not None else getattr(request, "project", None)
    if resource is None or not request.user.is_authenticated:
        return
    with transaction.atomic():
        audit.services.record_denied(
            by=actor_of(request), action=error.action, project_id=resource.project_id, resource=resource.trn,
            resource_name=str(resource), reason=error.message, now=timezone.now(),
        )  # fmt: skip
    error.is_recorded = True
