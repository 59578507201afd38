"""What Prometheus and Alertmanager post, with the token of ALERT_HOOK_TOKEN; nobody is signed in.

Both try again what was refused with 5xx and forget what was refused with 4xx: so 4xx only for what will never be right.
"""

from __future__ import annotations

import hmac
import logging

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse
from django.utils import timezone, translation
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from alerts import events, installation, notifications, nudges, reports

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024 * 1024
"""Far above the largest post: Prometheus sends 64 alerts at a time, and our Alertmanager is told to send a thousand."""


@csrf_exempt
@login_not_required
@require_POST
def prometheus(request: HttpRequest) -> HttpResponse:
    """As if we were an Alertmanager: everything that fires, silenced or not, is told here."""
    if not _has_token(request):
        return _refused()
    body = request.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        return _sentence("The body is too long.", status=413)
    try:
        with translation.override("en"):
            posted = reports.of_prometheus(body)
    except reports.BadPost as error:
        return _bad(error)
    events.record_post(posted, now=timezone.now())
    return HttpResponse(status=200)


@csrf_exempt
@login_not_required
@require_POST
def alertmanager(request: HttpRequest) -> HttpResponse:
    """One group that somebody is to be told of. Answers when it is written down; it is sent afterwards."""
    if not _has_token(request):
        return _refused()
    body = request.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        return _sentence("The body is too long.", status=413)
    try:
        with translation.override("en"):
            post = reports.of_alertmanager(body)
    except reports.BadPost as error:
        return _bad(error)
    try:
        told = notifications.receive(post, now=timezone.now())
    except notifications.HeldBack as error:
        told = error.told
        if error.is_silenced:
            nudges.nudge("alerts.tend")
        answer = _sentence(str(error), status=503)
    else:
        answer = HttpResponse(status=200)
    if told is not None:
        nudges.nudge("alerts.deliver")
    return answer


def _has_token(request: HttpRequest) -> bool:
    """Whether the bearer is ALERT_HOOK_TOKEN. Without a token of our own nobody has it."""
    kind, _space, given = request.headers.get("Authorization", "").partition(" ")
    wanted = installation.token()
    is_same = hmac.compare_digest(given.strip().encode(), wanted.encode())
    return is_same and bool(wanted) and kind.lower() == "bearer"


def _refused() -> HttpResponse:
    response = _sentence("the bearer token is not ALERT_HOOK_TOKEN", status=401)
    response.headers["WWW-Authenticate"] = 'Bearer realm="hooks"'
    return response


def _bad(error: reports.BadPost) -> HttpResponse:
    log.warning("a post to a hook was refused: %s", error)
    return _sentence(str(error), status=400)


def _sentence(text: str, *, status: int) -> HttpResponse:
    return HttpResponse(f"{text}\n", status=status, content_type="text/plain; charset=utf-8")
