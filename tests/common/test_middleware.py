"""Request ids, callers' addresses, and errors as answers that a person understands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.contrib.sessions.backends.db import SessionStore
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory
from django_htmx.middleware import HtmxDetails

from common.errors import Conflict, DomainError, NotAllowed, Unavailable
from common.fields import DecryptionError
from common.htmx import announce, dialog_frame, trigger
from common.middleware import client_ip, errors_middleware, request_id_middleware
from tests import builders


def request(path: str = "/x", *, is_htmx: bool = False, **meta: Any) -> HttpRequest:
    made: Any = RequestFactory().get(path, headers={"hx-request": "true"} if is_htmx else {}, **meta)
    made.user, made.htmx = AnonymousUser(), HtmxDetails(made)
    return made  # type: ignore[no-any-return]


def answer(error: Exception, *, is_htmx: bool = False) -> HttpResponse | None:
    middleware: Any = errors_middleware(lambda _request: HttpResponse())
    response: HttpResponse | None = middleware.process_exception(request(is_htmx=is_htmx), error)
    return response


ERRORS = [
    (NotAllowed("You need ark:StopEndpoint.", action="ark:StopEndpoint"), 403),
    (Conflict("li.wei changed it first.", current={"name": ["mine", "theirs"]}), 409),
    (Unavailable("Redis is away."), 503),
    (DomainError("It is stopped already."), 400),
]


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_a_domain_error_becomes_a_page_with_its_sentence(error: DomainError, status: int) -> None:
    response = answer(error)

    assert response is not None
    assert response.status_code == status
    assert error.message in response.content.decode()


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_for_htmx_it_becomes_a_toast_with_the_same_status(error: DomainError, status: int) -> None:
    response = answer(error, is_htmx=True)

    assert response is not None
    assert (response.status_code, response.content) == (status, b"")
    assert json.loads(response.headers["HX-Trigger"])["toast"] == {"message": error.message, "level": "error"}


def test_the_page_of_a_refusal_names_the_missing_action() -> None:
    response = answer(ERRORS[0][0])

    assert response is not None
    assert 'data-copy="ark:StopEndpoint"' in response.content.decode()


@pytest.mark.parametrize("error", [OperationalError("connection refused"), InterfaceError("connection already closed")])
def test_a_database_that_is_away_is_said_without_asking_it(error: Exception) -> None:
    """No database is marked for this test: a query would fail it."""
    response, toast = answer(error), answer(error, is_htmx=True)

    assert response is not None
    assert toast is not None
    assert (response.status_code, response.headers["Retry-After"], toast.status_code) == (503, "5", 503)
    assert "The database does not answer" in response.content.decode()
    assert "connection" not in response.content.decode().lower().replace("connections", "")


def test_a_secret_that_cannot_be_read_is_said_without_its_place() -> None:
    response = answer(DecryptionError("ModelServer.api_key: …"))

    assert response is not None
    assert response.status_code == 503
    assert "FIELD_ENCRYPTION_KEY" in response.content.decode()


def test_a_defect_is_left_to_django() -> None:
    assert answer(ZeroDivisionError()) is None


@pytest.mark.parametrize(
    ("remote", "forwarded", "trusted", "expected"),
    [
        ("203.0.113.7", "", [], "203.0.113.7"),
        ("203.0.113.7", "10.0.0.1", [], "203.0.113.7"),
        ("10.0.0.2", "203.0.113.7", ["10.0.0.0/8"], "203.0.113.7"),
        ("10.0.0.2", "198.51.100.1, 203.0.113.7, 10.0.0.3", ["10.0.0.0/8"], "203.0.113.7"),
        ("10.0.0.2", "10.0.0.4, 10.0.0.3", ["10.0.0.0/8"], "10.0.0.4"),
        ("10.0.0.2", "203.0.113.7, nonsense", ["10.0.0.0/8"], "10.0.0.2"),
        ("10.0.0.2", "", ["10.0.0.2"], "10.0.0.2"),
        ("", "", [], ""),
    ],
)
def test_the_caller_is_the_nearest_hop_that_is_no_proxy_of_ours(
    settings: Any, remote: str, forwarded: str, trusted: list[str], expected: str
) -> None:
    settings.TRUSTED_PROXIES = trusted

    assert client_ip(request(REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR=forwarded)) == expected


def test_each_answer_carries_an_id_of_its_own() -> None:
    seen: list[str] = []

    def view(request: Any) -> HttpResponse:
        seen.append(request.request_id)
        return HttpResponse()

    middleware = request_id_middleware(view)
    answered = [middleware(request()).headers["X-Request-Id"] for _number in range(2)]

    assert answered == seen
    assert len(set(seen)) == 2


def test_triggers_add_up_and_stay_within_what_a_header_may_hold() -> None:
    response = announce(trigger(HttpResponse(), "keysChanged"), "已保存")

    assert response.headers["HX-Trigger"].isascii()
    assert json.loads(response.headers["HX-Trigger"]) == {
        "keysChanged": None,
        "toast": {"message": "已保存", "level": "success"},
    }


@pytest.mark.parametrize(("target", "template"), [("dialog", "_dialog.html"), ("list", "base.html"), ("", "base.html")])
def test_a_page_aimed_at_the_dialog_leaves_its_frame_out(target: str, template: str) -> None:
    made: Any = RequestFactory().get("/x", headers={"hx-request": "true", "hx-target": target})
    made.htmx = HtmxDetails(made)

    assert dialog_frame(made) == {"frame_template": template}


@pytest.mark.django_db
def test_a_session_that_ended_moves_the_whole_page_to_sign_in(client: Client) -> None:
    headers = {"hx-request": "true", "hx-current-url": "http://testserver/keys/?q=a&state=enabled"}

    response = client.get("/keys/?q=ab", headers=headers)

    assert response.headers["HX-Redirect"] == "/accounts/login/?next=/keys/%3Fq%3Da%26state%3Denabled"


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/nothing/here", "/keys/999999/edit"])
def test_what_is_not_there_is_said_in_our_own_words(client: Client, path: str) -> None:
    client.force_login(builders.member(builders.project()))

    response = client.get(path, headers={"accept-language": "en"})

    assert response.status_code == 404
    assert "There is nothing at this address" in response.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/endpoints/%00", "/keys/?q=%00", "/models/?q=%00", "/endpoints/create?project=%00"])
def test_a_nul_in_an_address_breaks_no_page(client: Client, path: str) -> None:
    client.force_login(builders.member(builders.project()))

    assert client.get(path).status_code in (200, 404)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("error", "status", "says"),
    [(OperationalError, 503, "The database does not answer"), (ZeroDivisionError, 500, "The console made a mistake")],
)
@pytest.mark.parametrize("path", ["/keys/", "/accounts/login/"])
def test_an_error_before_the_view_gets_a_page_too(
    monkeypatch: pytest.MonkeyPatch, settings: Any, path: str, error: type[Exception], status: int, says: str
) -> None:
    """Sessions and people are read before any view: the database may be away there already."""

    def load(_session: SessionStore) -> dict[str, Any]:
        raise error("postgres://user:secret@db/ark")

    monkeypatch.setattr(SessionStore, "load", load)
    client = Client(raise_request_exception=False)
    client.cookies[settings.SESSION_COOKIE_NAME] = "anything"
    client.cookies["ark_theme_8000"] = "dark"

    response = client.get(path, headers={"accept-language": "en"})

    assert response.status_code == status
    assert says in response.content.decode()
    assert "secret" not in response.content.decode()
    assert 'data-bs-theme="dark"' in response.content.decode()
