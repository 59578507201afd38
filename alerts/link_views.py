"""The pages behind links in mails: no sign-in, a button that posts, and a sentence for each way it can end."""

from __future__ import annotations

from django.contrib.auth.decorators import login_not_required
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from alerts import verification
from alerts.links import LinkExpired
from common.htmx import HtmxHttpRequest
from common.middleware import client_ip


@login_not_required
@never_cache
@require_http_methods(["GET", "POST"])
def verify(request: HtmxHttpRequest, token: str) -> HttpResponse:
    """Confirm an e-mail address. GET only asks: mail scanners follow links."""
    now = timezone.now()
    try:
        if request.method == "POST":
            method = verification.confirm_link(token, source_ip=client_ip(request), now=now)
        else:
            method = verification.read_link(token, now=now)
    except LinkExpired as error:
        return _private(render(request, "alerts/verify.html", {"problem": error.message}, status=410))
    context = {"method": method, "is_done": request.method == "POST"}
    return _private(render(request, "alerts/verify.html", context))


# A mail program posts by itself (RFC 8058): it has no cookie and no token of ours; the link's signature is what counts.
@csrf_exempt
@login_not_required
@never_cache
@require_http_methods(["GET", "POST"])
def unsubscribe(request: HtmxHttpRequest, token: str) -> HttpResponse:
    """End all messages to an address, by its page's button or by a mail program's one click."""
    try:
        if request.method == "POST":
            method = verification.unsubscribe(token, source_ip=client_ip(request), now=timezone.now())
        else:
            method = verification.read_unsubscribe(token)
    except LinkExpired as error:
        return _private(render(request, "alerts/unsubscribe.html", {"problem": error.message}, status=410))
    context = {"method": method, "is_done": request.method == "POST", "is_over": not method.is_usable}
    return _private(render(request, "alerts/unsubscribe.html", context))


def _private(response: HttpResponse) -> HttpResponse:
    """Whoever has the address may press: it goes into no search engine.

    Other sites do not see it either, by the referrer policy of all pages (same-origin). A stricter one would have
    browsers post "Origin: null", which the protection against forged requests refuses.
    """
    response.headers["X-Robots-Tag"] = "noindex"
    return response
