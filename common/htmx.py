"""Small helpers for views that serve htmx and plain browsers alike."""

from __future__ import annotations

import json
from typing import Any

from django.http import HttpRequest, HttpResponse
from django_htmx.middleware import HtmxDetails


class HtmxHttpRequest(HttpRequest):
    """A request that passed django-htmx's middleware."""

    htmx: HtmxDetails


def announce(response: HttpResponse, message: str, *, level: str = "success") -> HttpResponse:
    """Have the page show `message` as a toast (aria-live), through the `HX-Trigger` header."""
    triggers: dict[str, Any] = json.loads(response.headers.get("HX-Trigger", "{}"))
    triggers["toast"] = {"message": message, "level": level}
    response.headers["HX-Trigger"] = json.dumps(triggers)
    return response
