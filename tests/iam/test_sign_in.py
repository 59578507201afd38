"""Signing in: throttled without Redis, recorded, and one door for console and administration."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import mail
from django.core.cache import cache
from django.test import Client, override_settings

from audit.models import Event
from iam.models import User
from tests import builders

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery staple"


@pytest.fixture(autouse=True)
def _nobody_has_tried_yet() -> None:
    cache.clear()


@pytest.fixture
def person() -> User:
    someone = builders.member(builders.project("default"), username="li.wei", email="li.wei@example.com")
    someone.set_password(PASSWORD)
    someone.save()
    return someone


def browser(address: str = "192.0.2.7") -> Client:
    return Client(headers={"accept-language": "en"}, REMOTE_ADDR=address)


def sign_in(client: Client, password: str = PASSWORD, name: str = "li.wei", **values: str) -> Any:
    return client.post("/accounts/login/", {"login": name, "password": password, **values})


def test_a_person_signs_in_and_comes_back_to_where_they_wanted(person: User) -> None:
    response = sign_in(browser(), next="/keys/?state=enabled")

    assert response.headers["Location"] == "/keys/?state=enabled"
    event = Event.objects.get()
    assert (event.action, event.outcome, event.actor_name, event.source_ip) == (
        "iam:SignIn", "allowed", "li.wei", "192.0.2.7",
    )  # fmt: skip


def test_signing_in_sends_nobody_elsewhere(person: User) -> None:
    assert "evil" not in sign_in(browser(), next="https://evil.example.com/").headers["Location"]


@pytest.mark.parametrize("name", ["li.wei", "nobody-of-that-name"])
def test_a_wrong_password_and_an_unknown_name_are_answered_alike(person: User, name: str) -> None:
    response = sign_in(browser(), "wrong", name=name)

    assert "User name or password is wrong." in response.content.decode()
    event = Event.objects.get()
    assert (event.action, event.outcome, event.actor_name) == ("iam:SignIn", "denied", name)
    assert "wrong" not in str(event.changes)


def test_five_wrong_passwords_for_a_name_close_it_for_a_while_from_anywhere(person: User) -> None:
    for number in range(5):
        assert "is wrong" in sign_in(browser(f"192.0.2.{number}"), "wrong").content.decode()

    page = sign_in(browser("192.0.2.99")).content.decode()

    assert "Too many failed attempts. Wait five minutes" in page
    assert not Event.objects.filter(outcome="allowed").exists()


def test_ten_wrong_passwords_from_an_address_close_it_for_a_minute(person: User) -> None:
    client = browser()
    for number in range(10):
        sign_in(client, "wrong", name=f"guess{number}")

    assert "Too many failed attempts" in sign_in(client).content.decode()
    assert sign_in(browser("192.0.2.99")).status_code == 302


def test_right_passwords_do_not_count_against_anybody(person: User) -> None:
    for _turn in range(8):
        assert sign_in(browser()).status_code == 302


def test_a_flood_of_requests_gets_429_and_a_sentence(person: User) -> None:
    client = browser()
    answers = [client.post("/accounts/login/", {}) for _number in range(61)]

    assert [response.status_code for response in answers[:60]] == [200] * 60
    assert answers[60].status_code == 429
    assert "Wait a minute" in answers[60].content.decode()


def test_throttling_asks_the_database_and_not_redis(person: User) -> None:
    """Nothing listens there; a cache in Redis would raise."""
    with override_settings(REDIS_URL="redis://127.0.0.1:9/0"):
        for _number in range(6):
            response = sign_in(browser(), "wrong")

    assert "Too many failed attempts" in response.content.decode()


@override_settings(TRUSTED_PROXIES=["10.0.0.0/8"])
def test_behind_a_proxy_each_address_is_counted_for_itself(person: User) -> None:
    for number in range(12):
        client = Client(
            REMOTE_ADDR="10.0.0.1", headers={"x-forwarded-for": f"203.0.113.{number}", "accept-language": "en"}
        )
        response = sign_in(client, "wrong", name=f"guess{number}")

    assert "is wrong" in response.content.decode()


def test_somebody_switched_off_cannot_sign_in(person: User) -> None:
    person.is_active = False
    person.save()

    response = sign_in(browser())

    assert "_auth_user_id" not in response.client.session


def test_nobody_makes_an_account_for_themselves() -> None:
    for path in ("/accounts/signup/", "/accounts/email/", "/accounts/confirm-email/"):
        assert browser().get(path).status_code in (302, 404)
        browser().post(path, {"username": "x", "password1": PASSWORD, "password2": PASSWORD})
    assert not User.objects.exists()


def test_the_administration_has_no_unthrottled_door_of_its_own(person: User) -> None:
    client = browser()

    response = client.get("/admin/login/?next=/admin/iam/user/")

    assert response.headers["Location"] == "/accounts/login/?next=%2Fadmin%2Fiam%2Fuser%2F"
    assert client.post("/admin/login/", {"username": "li.wei", "password": PASSWORD}).status_code == 405


def test_signing_out_needs_a_press(person: User) -> None:
    client = browser()
    sign_in(client)

    assert client.get("/accounts/logout/").status_code == 200
    assert client.get("/keys/").status_code == 200
    client.post("/accounts/logout/")
    assert client.get("/keys/").status_code == 302


# --- passwords ------------------------------------------------------------------------------------------------------------


def change(client: Client, old: str, new: str) -> Any:
    return client.post("/accounts/password/change/", {"oldpassword": old, "password1": new, "password2": new})


def test_a_password_is_changed_and_other_browsers_are_signed_out(person: User) -> None:
    here, there = browser(), browser("192.0.2.8")
    sign_in(here)
    sign_in(there)

    response = change(here, PASSWORD, "another long password")

    assert response.headers["Location"] == "/settings/"
    assert here.get("/keys/").status_code == 200
    assert there.get("/keys/").status_code == 302
    event = Event.objects.latest("id")
    assert (event.action, event.actor_name, event.source_ip, event.changes) == (
        "iam:ChangePassword", "li.wei", "192.0.2.7", {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "says"), [("wrong", "another long password", "not your current"), (PASSWORD, "12345678", "common")]
)
def test_a_password_is_not_changed_without_the_old_one_nor_into_a_weak_one(
    person: User, old: str, new: str, says: str
) -> None:
    client = browser()
    sign_in(client)

    page = change(client, old, new).content.decode()

    assert says in page
    assert User.objects.get(pk=person.pk).check_password(PASSWORD)


@override_settings(EMAIL_URL="")
def test_without_e_mail_the_reset_page_says_who_can_help() -> None:
    page = browser().get("/accounts/password/reset/").content.decode()

    assert "manage.py changepassword" in page
    assert "<form" not in page.split("<main")[1]


@override_settings(EMAIL_URL="smtp://mail.example.com", EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend")
def test_with_e_mail_a_link_resets_the_password(person: User) -> None:
    client = browser()

    client.post("/accounts/password/reset/", {"email": "li.wei@example.com"})
    link = next(word for word in mail.outbox[0].body.split() if "/password/reset/key/" in word)
    form = client.get(link, follow=True)
    answer = client.post(
        form.request["PATH_INFO"],
        {"password1": "another long password", "password2": "another long password"},
        follow=True,
    )

    assert "The new password works" in answer.content.decode()
    assert User.objects.get(pk=person.pk).check_password("another long password")


@override_settings(EMAIL_URL="smtp://mail.example.com", EMAIL_BACKEND="django.core.mail.backends.locmem.EmailBackend")
def test_the_reset_page_does_not_tell_who_has_an_account(person: User) -> None:
    answers = [
        browser().post("/accounts/password/reset/", {"email": email}, follow=True).content.decode()
        for email in ("li.wei@example.com", "stranger@example.com")
    ]

    assert all("Look into your mailbox" in page for page in answers)


# --- settings -------------------------------------------------------------------------------------------------------------


def test_settings_are_kept_and_recorded(person: User) -> None:
    client = browser()
    sign_in(client)

    response = client.post("/settings/", {"language": "en", "time_zone": "Asia/Tokyo", "theme": "dark"}, follow=True)

    person.refresh_from_db()
    assert (person.language, person.time_zone) == ("en", "Asia/Tokyo")
    assert 'data-bs-theme="dark"' in response.content.decode()
    assert "Settings saved." in response.content.decode()
    assert Event.objects.latest("id").changes == {"language": ["", "en"], "time_zone": ["", "Asia/Tokyo"]}


@pytest.mark.parametrize("values", [{"language": "xx"}, {"time_zone": "Mars/Olympus"}, {"theme": "pink"}])
def test_settings_that_are_no_choice_are_refused(person: User, values: dict[str, str]) -> None:
    client = browser()
    sign_in(client)

    response = client.post("/settings/", {"language": "", "time_zone": "", "theme": "auto", **values})

    assert response.status_code == 422
    assert "is-invalid" in response.content.decode()
