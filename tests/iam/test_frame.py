"""What every page knows before its view runs: who reads it, in which language and zone, and which project."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.utils import timezone

from audit.models import Event
from iam.middleware import language_of
from iam.models import Attachment, Project, User
from tests import builders

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("chosen", "cookie", "browser", "expected"),
    [
        ("", "", "", "zh-hans"),
        ("", "", "en-US,en;q=0.9", "en"),
        ("", "", "zh-TW,zh;q=0.9,en;q=0.8", "zh-hans"),
        ("", "", "de-DE,de;q=0.9", "en"),
        ("", "", "de-DE,de;q=0.9,zh-CN;q=0.5", "zh-hans"),
        ("", "", "*", "zh-hans"),
        ("", "zh-hans", "en", "zh-hans"),
        ("en", "zh-hans", "zh-CN", "en"),
        ("xx", "yy", "en", "en"),
    ],
)
def test_pages_speak_the_language_that_was_chosen_else_the_browsers(
    settings: Any, chosen: str, cookie: str, browser: str, expected: str
) -> None:
    request = RequestFactory().get("/", headers={"accept-language": browser} if browser else {})
    request.COOKIES[settings.LANGUAGE_COOKIE_NAME] = cookie

    assert language_of(request, chosen=chosen) == expected


def signed_in(person: User) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(person)
    return client


def test_times_are_told_in_the_zone_that_was_chosen_else_the_browsers(settings: Any) -> None:
    key = builders.api_key(expires_at=timezone.now() + timedelta(hours=1))
    person = builders.member(key.project)
    client = signed_in(person)

    def zone_of_page() -> str:
        page = client.get("/keys/").content.decode()
        return page.split('<time datetime="')[1].split('"')[0][-6:]

    assert zone_of_page() == "+08:00"  # the setting
    client.cookies[settings.LANGUAGE_COOKIE_NAME.replace("language", "zone")] = "Asia%2FKolkata"
    assert zone_of_page() == "+05:30"  # what the browser told
    User.objects.filter(pk=person.pk).update(time_zone="Asia/Tokyo")
    assert zone_of_page() == "+09:00"
    User.objects.filter(pk=person.pk).update(time_zone="Nowhere/At all")
    client.cookies[settings.LANGUAGE_COOKIE_NAME.replace("language", "zone")] = "../../etc/passwd"
    assert zone_of_page() == "+08:00"


def test_the_language_is_switched_and_remembered() -> None:
    person = builders.member(builders.project())
    client = signed_in(person)
    assert '<html lang="en"' in client.get("/keys/").content.decode()

    response = client.post("/settings/language", {"language": "zh-hans", "next": "/keys/"})

    assert response.headers["Location"] == "/keys/"
    assert User.objects.get(pk=person.pk).language == "zh-hans"
    assert '<html lang="zh-hans"' in client.get("/keys/").content.decode()
    client.post("/accounts/logout/")
    assert '<html lang="zh-hans"' in client.get("/accounts/login/").content.decode()


def test_the_theme_is_switched_without_a_script_too() -> None:
    client = Client()

    client.post("/settings/theme", {"theme": "dark", "next": "/accounts/login/"})

    assert 'data-bs-theme="dark"' in client.get("/accounts/login/").content.decode()


@pytest.mark.parametrize("path", ["/settings/language", "/settings/theme"])
@pytest.mark.parametrize("target", ["https://evil.example.com/", "//evil.example.com", "javascript:alert(1)", ""])
def test_a_switch_sends_nobody_elsewhere(path: str, target: str) -> None:
    response = Client().post(path, {"language": "en", "theme": "dark", "next": target})

    assert response.headers["Location"] == "/"


def test_the_first_visible_project_is_looked_at_until_another_is_chosen() -> None:
    here, there = builders.project("a-here", name="Here"), builders.project("b-there", name="There")
    person = builders.member(here)
    Attachment.objects.create(policy=builders.policy("ark:*"), user=person, project=there)
    client = signed_in(person)
    assert 'title="Here (a-here)"' in client.get("/keys/").content.decode()

    response = client.post("/projects/switch", {"project": "b-there", "next": "/keys/"})

    assert response.headers["Location"] == "/keys/"
    assert 'title="There (b-there)"' in client.get("/keys/").content.decode()


def test_a_project_that_may_no_longer_be_seen_is_left() -> None:
    here, there = builders.project("a-here"), builders.project("b-there")
    person = builders.member(here)
    attachment = Attachment.objects.create(policy=builders.policy("ark:*"), user=person, project=there)
    client = signed_in(person)
    client.post("/projects/switch", {"project": "b-there"})

    attachment.delete()

    assert "(a-here)" in client.get("/keys/").content.decode()


def test_nobody_switches_to_a_project_that_they_may_not_see() -> None:
    builders.project("secret")
    client = signed_in(builders.member(builders.project("mine")))

    assert client.post("/projects/switch", {"project": "secret"}).status_code == 404
    assert client.post("/projects/switch", {}).status_code == 404
    assert client.get("/projects/switch").status_code == 405


def test_from_a_detail_page_a_switch_leads_to_the_front() -> None:
    client = signed_in(builders.member(builders.project("mine")))

    assert client.post("/projects/switch", {"project": "mine", "next": "/endpoints/ep-1"}).headers["Location"] == "/"


def test_somebody_in_no_project_learns_which_action_is_missing() -> None:
    response = signed_in(builders.user(username="newcomer")).get("/keys/")

    assert response.status_code == 403
    assert "iam:AttachPolicy" in response.content.decode()
    assert "newcomer" in response.content.decode()


def test_a_refused_page_is_no_dead_end() -> None:
    first, second = builders.project("default"), builders.project("second")
    someone = builders.member(first, policy_name="VMPReadOnlyAccess")
    Attachment.objects.create(policy=builders.policy(name="ArkFullAccess"), user=someone, project=second)
    client = Client()
    client.force_login(someone)

    refused = client.get("/endpoints/")

    assert refused.status_code == 403
    assert 'name="project" value="second"' in refused.content.decode()
    assert 'action="/accounts/logout/"' in refused.content.decode()
    client.post("/projects/switch", {"project": "second", "next": "/endpoints/"})
    assert client.get("/endpoints/").status_code == 200


def test_somebody_in_no_project_may_still_change_their_settings_and_sign_out() -> None:
    client = signed_in(builders.user())

    assert client.get("/settings/").status_code == 200
    assert client.get("/accounts/password/change/", follow=True).status_code == 200
    assert client.post("/accounts/logout/").status_code == 302


def test_a_superuser_without_projects_is_offered_the_first_one() -> None:
    Project.objects.all().delete()

    page = signed_in(builders.user(is_superuser=True, is_staff=True)).get("/keys/").content.decode()

    assert "/admin/iam/project/add/" in page


@pytest.mark.parametrize(
    "path", ["/", "/keys/", "/keys/create", "/settings/", "/admin/", "/keys/1/edit", "/accounts/password/change/"]
)
def test_nobody_sees_anything_before_signing_in(client: Client, path: str) -> None:
    response = client.get(path, follow=True)

    assert response.request["PATH_INFO"] == "/accounts/login/"


def test_a_refused_page_is_kept_in_the_record_once() -> None:
    project = builders.project()
    client = signed_in(builders.member(project, "ark:GetEndpoint", username="curious"))

    response = client.get("/keys/")

    assert response.status_code == 403
    assert "ark:ListApiKeys" in response.content.decode()
    event = Event.objects.get()
    assert (event.outcome, event.action, event.actor_name) == ("denied", "ark:ListApiKeys", "curious")
    assert (event.project_id, event.resource) == (project.pk, project.trn)
    assert event.request_id == response.headers["X-Request-Id"]


def test_a_refusal_by_a_service_is_not_recorded_a_second_time_by_the_page() -> None:
    key = builders.api_key()
    client = signed_in(builders.member(key.project, policy_name="ArkReadOnlyAccess"))

    assert client.post(f"/keys/{key.pk}/disable").status_code == 403

    assert Event.objects.filter(outcome="denied").count() == 1


def test_no_page_carries_inline_script_or_style() -> None:
    builders.api_key(project=builders.project("default"))
    client = signed_in(builders.member(builders.project("default")))

    for path in ("/keys/", "/keys/create", "/settings/", "/accounts/password/change/"):
        response = client.get(path, follow=True)
        page = response.content.decode()
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]
        assert "style=" not in page
        assert "<style" not in page
        assert " onclick=" not in page
        assert "hx-on" not in page
        assert "<script>" not in page


def test_the_menu_leads_staff_to_the_administration_and_nobody_else() -> None:
    project = builders.project()

    assert 'href="/admin/"' in signed_in(builders.member(project, is_staff=True)).get("/keys/").content.decode()
    assert 'href="/admin/"' not in signed_in(builders.member(project)).get("/keys/").content.decode()


def test_somebody_without_staff_rights_is_told_who_the_administration_is_for() -> None:
    client = signed_in(builders.member(builders.project()))

    response = client.get("/admin/", follow=True)

    assert response.status_code == 403
    assert "for administrators" in response.content.decode()
