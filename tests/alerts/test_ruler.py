"""Who is told to read its rules again: the Prometheus of this console, or an external one where that is allowed.

What its answers mean is in `test_sync.py` too, for one of our own.
"""

from __future__ import annotations

import httpx
import pytest
from pytest_django import Settings

from alerts.ruler import Away, CannotReload, Prometheus, Refused, Trouble

RELOAD_URL = "https://ops.example.com/hooks/reload?of=prometheus"


@pytest.fixture
def external(settings: Settings) -> None:
    settings.PROMETHEUS_IS_EXTERNAL = True
    settings.PROMETHEUS_URL = "https://prometheus.example.com"
    settings.PROMETHEUS_RELOAD_URL = RELOAD_URL


def asked(status: int = 200, said: str = "") -> tuple[Prometheus, list[httpx.Request]]:
    """A door to one that answers so, and what it has been asked."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(status, text=said)

    return Prometheus(transport=httpx.MockTransport(answer)), requests


def test_an_external_one_is_told_at_the_address_named_for_it(external: None, settings: Settings) -> None:
    settings.PROMETHEUS_TOKEN = "sesame"
    door, requests = asked()

    door.reload()

    (request,) = requests
    assert (request.method, str(request.url)) == ("POST", RELOAD_URL)
    assert request.headers["Authorization"] == "Bearer sesame"


def test_an_external_one_without_such_an_address_is_not_asked_at_all(external: None, settings: Settings) -> None:
    settings.PROMETHEUS_RELOAD_URL = ""
    door, requests = asked()

    with pytest.raises(CannotReload, match="PROMETHEUS_RELOAD_URL is empty"):
        door.reload()

    assert requests == []


def test_ours_is_told_at_its_own_address_whatever_is_named(settings: Settings) -> None:
    settings.PROMETHEUS_IS_EXTERNAL = False
    settings.PROMETHEUS_INTERNAL_URL = "http://prometheus:9090/"
    settings.PROMETHEUS_RELOAD_URL = RELOAD_URL
    door, requests = asked()

    door.reload()

    assert [str(request.url) for request in requests] == ["http://prometheus:9090/-/reload"]


@pytest.mark.parametrize(
    ("status", "said", "error", "text"),
    [
        (400, "no such hook", Refused, "no such hook"),
        (500, "failed to reload config:\n  bad rule", Refused, "failed to reload config: bad rule"),
        (500, "", Refused, "HTTP 500"),
        # Redirects are never followed: the token would go along.
        (302, "", Refused, "HTTP 302"),
        (403, "Lifecycle API is not enabled.", CannotReload, "Lifecycle API is not enabled."),
        (404, "", CannotReload, "HTTP 404"),
        (502, "", Away, "HTTP 502"),
    ],
)
def test_what_an_external_one_answers(external: None, status: int, said: str, error: type[Trouble], text: str) -> None:
    door, requests = asked(status, said)

    with pytest.raises(error) as caught:
        door.reload()

    assert str(caught.value) == text
    assert len(requests) == 1


def test_an_external_one_that_does_not_answer_is_away(external: None) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectTimeout("", request=request)

    with pytest.raises(Away, match="ConnectTimeout"):
        Prometheus(transport=httpx.MockTransport(answer)).reload()
