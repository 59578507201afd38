"""Request ids, the caller's address, and domain errors as answers that a person understands."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from functools import cache
from typing import Any
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.db import DataError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template import loader
from django.utils import timezone
from django.utils.translation import gettext as _
from django_htmx.http import HttpResponseClientRedirect

from common import ids, preferences
from common.errors import Conflict, DomainError, NotAllowed, Unavailable
from common.fields import DecryptionError
from common.htmx import announce, trigger

log = logging.getLogger(__name__)
GetResponse = Callable[[HttpRequest], HttpResponse]
STATUS_CODES: dict[type[DomainError], int] = {NotAllowed: 403, Conflict: 409, Unavailable: 503, DomainError: 400}


def errors_middleware(get_response: GetResponse) -> GetResponse:
    """Turn errors that views raise into answers; see `_Errors`."""
    return _Errors(get_response)


def request_id_middleware(get_response: GetResponse) -> GetResponse:
    """Give each request an id (`request.request_id`), answered as `X-Request-Id`, and its `client_ip`."""

    def middleware(request: HttpRequest) -> HttpResponse:
        request_id = ids.request_id(now=timezone.now())
        request.request_id = request_id  # type: ignore[attr-defined]
        request.client_ip = client_ip(request)  # type: ignore[attr-defined]
        response = get_response(request)
        response.headers["X-Request-Id"] = request_id
        return response

    return middleware


@cache
def _trusted_networks(entries: tuple[str, ...]) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(entry, strict=False) for entry in entries)


def client_ip(request: HttpRequest) -> str:
    """The address of the nearest hop that is not one of TRUSTED_PROXIES; "" when there is none."""
    remote = str(request.META.get("REMOTE_ADDR", "") or "")
    networks = _trusted_networks(tuple(settings.TRUSTED_PROXIES))
    hops = [hop.strip() for hop in str(request.META.get("HTTP_X_FORWARDED_FOR", "")).split(",") if hop.strip()]
    for hop in [remote, *reversed(hops)]:
        try:
            address = ipaddress.ip_address(hop)
        except ValueError:
            # A made-up header entry ends the walk: what came before it cannot be trusted either.
            return remote
        if not any(address in network for network in networks):
            return str(address)
        remote = str(address)
    return remote


class _Errors:
    """A `DomainError` becomes a page with its sentence, for htmx a toast with the right status; never a traceback.

    The answer carries the error as `response.refused`, for the room above that writes refusals into the audit record.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        return _signed_out(request, response) or response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, OperationalError | InterfaceError):
            log.warning("database away: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)
            return database_away(request)
        if isinstance(error, DataError) and "NUL (0x00)" in str(error):
            # Looked for under a name that PostgreSQL cannot hold, so it is not there; SQLite simply finds nothing.
            return render(request, "errors/not_found.html", status=404)
        if isinstance(error, DecryptionError):
            log.error("%s", error)
            error = Unavailable(
                _("A stored secret cannot be read: its key is missing from FIELD_ENCRYPTION_KEY. Ask an administrator.")
            )
        if not isinstance(error, DomainError):
            return None
        return refusal(request, error)


def refusal(request: HttpRequest, error: DomainError) -> HttpResponse:
    """The answer for a domain error: page or toast, and the status that fits."""
    status = next(code for kind, code in STATUS_CODES.items() if isinstance(error, kind))
    response = _page_or_toast(request, "errors/refused.html", {"error": error, "status": status}, error.message, status)
    response.refused = error  # type: ignore[attr-defined]
    return response


def database_away(request: HttpRequest) -> HttpResponse:
    """503 and a page that says so; renders without any query."""
    message = _("The database does not answer. Calls go on; the console will be back by itself.")
    response = _page_or_toast(request, "errors/database.html", {}, message, 503)
    response.headers["Retry-After"] = "5"
    return response


def _page_or_toast(
    request: HttpRequest, template: str, context: dict[str, Any], message: str, status: int
) -> HttpResponse:
    if getattr(request, "htmx", None):
        response = HttpResponse(status=status)
        announce(response, message, level="error")
        return trigger(response, "refused", {"status": status})
    if status == 503 and template == "errors/database.html":
        # Without `request` no context processor asks the database for a session, a person or a message.
        page = loader.render_to_string(template, {"theme": preferences.theme_of(request)})
        return HttpResponse(page, status=status)
    return render(request, template, context, status=status)


def _signed_out(request: HttpRequest, response: HttpResponse) -> HttpResponse | None:
    """For htmx, a redirect to the sign-in page must move the whole page, not land inside a fragment."""
    if not getattr(request, "htmx", None) or response.status_code != 302:
        return None
    target = urlsplit(response.headers["Location"])
    if not target.path.startswith("/accounts/login"):
        return None
    here = request.htmx.current_url_abs_path or "/"  # type: ignore[attr-defined]
    return HttpResponseClientRedirect(f"{target.path}?next={quote(here)}")
