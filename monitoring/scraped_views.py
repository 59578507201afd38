"""What Prometheus asks the console for, with the token of METRICS_TOKEN; nobody is signed in."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.http import require_GET

from monitoring import exposition
from monitoring import targets as scrape_targets


class Pace:
    """At most one thing a second, in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until = float("-inf")

    def is_next(self) -> bool:
        """Whether it is time for another; then the next is due in a second."""
        with self._lock:
            at = self._clock()
            if at < self._until:
                return False
            self._until = at + 1
            return True


_refusals = Pace()


@login_not_required
@require_GET
def targets(request: HttpRequest) -> HttpResponse:
    """`http_sd`: what to read. 503 when that is not known, so that Prometheus keeps the list that it has."""
    now = timezone.now()
    if not _has_token(request):
        # Of somebody without any token nothing is to be learnt, and strangers shall not write as fast as they ask.
        if request.headers.get("Authorization") and _refusals.is_next():
            scrape_targets.note_asked(now=now, is_refused=True)
        return _refused()
    try:
        found = scrape_targets.targets(console=request.get_host(), scheme=str(request.scheme))
    except scrape_targets.Unknown as error:
        return HttpResponse(f"{error}\n", status=503, content_type="text/plain; charset=utf-8")
    if found:
        scrape_targets.note_asked(now=now)
    return JsonResponse(found, safe=False)


@login_not_required
@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """What the database knows of all projects, in Prometheus's text format."""
    if not _has_token(request):
        return _refused()
    return HttpResponse(exposition.memo.text(now=timezone.now()), content_type=exposition.CONTENT_TYPE)


def _has_token(request: HttpRequest) -> bool:
    """Whether the bearer is METRICS_TOKEN. Without a token of our own nobody has it."""
    kind, _space, given = request.headers.get("Authorization", "").partition(" ")
    wanted = settings.METRICS_TOKEN
    is_same = hmac.compare_digest(given.strip().encode(), wanted.encode())
    return is_same and bool(wanted) and kind.lower() == "bearer"


def _refused() -> HttpResponse:
    return HttpResponse(
        "the bearer token is not METRICS_TOKEN\n",
        status=401,
        content_type="text/plain; charset=utf-8",
        headers={"WWW-Authenticate": 'Bearer realm="metrics"'},
    )
