"""Small helpers for views that serve htmx and plain browsers alike."""

from __future__ import annotations

import json
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

DIALOG = "dialog"


class HtmxHttpRequest(HttpRequest):
    """A request that passed django-htmx's middleware."""

    htmx: HtmxDetails


def announce(response: HttpResponse, message: str, *, level: str = "success") -> HttpResponse:
    """Have the page show `message` as a toast (aria-live), through the `HX-Trigger` header."""
    return trigger(response, "toast", {"message": str(message), "level": level})


def trigger(response: HttpResponse, event: str, detail: Any = None) -> HttpResponse:
    """Have the page dispatch `event` on its body when the answer arrives, beside those already named."""
    triggers: dict[str, Any] = json.loads(response.headers.get("HX-Trigger", "{}"))
    triggers[event] = detail
    # ASCII only: header values are Latin-1, and sentences may be Chinese.
    response.headers["HX-Trigger"] = json.dumps(triggers)
    return response


def is_dialog(request: HttpRequest) -> bool:
    """Whether the answer will be shown in the page's `#dialog`."""
    details: HtmxDetails | None = getattr(request, "htmx", None)
    return bool(details) and getattr(details, "target", None) == DIALOG


def dialog_frame(request: HttpRequest) -> dict[str, str]:
    """Context for a template that `extends frame_template`: a dialog's content for htmx, else a whole page."""
    return {"frame_template": "_dialog.html" if is_dialog(request) else "base.html"}


def done(request: HttpRequest, url: str, message: str) -> HttpResponse:
    """After a successful POST: go to `url` and say `message` there, for htmx and plain browsers alike."""
    messages.success(request, message)
    if getattr(request, "htmx", None):
        return HttpResponseClientRedirect(url)
    return redirect(url)
