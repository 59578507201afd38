"""Whether an address agrees: links, codes, test messages; and how it ends again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.core import mail
from django.utils import translation
from pytest_django import Settings

from alerts import actions, contacts, links, verification
from alerts.channels.base import Outcome
from alerts.models import ContactMethod
from audit.models import Event
from common.errors import DomainError, NotAllowed
from iam.actors import Actor
from tests import builders
from tests.alerts import fakes
from tests.builders import NOW

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def _local(settings: Settings) -> Iterator[None]:
    settings.ALERT_BOT_HOSTS = ["127.0.0.1"]
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = True
    settings.EMAIL_URL = "smtp://mail.example.com"
    settings.CONSOLE_URL = "https://ark.example.com"
    with translation.override("en"):
        yield


@pytest.fixture
def by() -> Actor:
    return builders.actor(builders.user(username="li.wei", is_superuser=True))


def method_of(by: Actor, kind: str, address: str, secret: str = "") -> ContactMethod:
    contact = builders.contact(language="en", name=f"Ann {kind}")
    return contacts.add_method(contact=contact, kind=kind, address=address, secret=secret, by=by, now=NOW)


def state(method: ContactMethod) -> str:
    method.refresh_from_db()
    return str(method.state)


def mailed_link() -> str:
    """The token of the last mail's link."""
    body = str(mail.outbox[-1].body)
    return body.partition("https://ark.example.com/alerts/verify/")[2].split()[0]


# --- e-mail


def test_a_link_is_mailed_and_confirms_once(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")

    answer = verification.ask(method=method, by=by, now=NOW)

    assert answer.ok
    (sent,) = mail.outbox
    assert sent.to == ["ann@example.com"]
    assert "li.wei has entered this address" in sent.body
    assert "List-Unsubscribe" not in sent.extra_headers
    token = mailed_link()
    # Mail scanners follow links: looking changes nothing.
    assert verification.read_link(token, now=NOW) == method
    assert state(method) == "unverified"
    verification.confirm_link(token, source_ip="192.0.2.9", now=NOW + MINUTE)
    assert state(method) == "verified"
    assert method.verified_at == NOW + MINUTE
    event = Event.objects.order_by("sequence").last()
    assert event is not None
    assert (event.actor_id, event.source_ip) == ("link", "192.0.2.9")
    assert event.changes["state"] == ["unverified", "verified"]
    with pytest.raises(links.LinkExpired):
        verification.confirm_link(token, now=NOW + MINUTE)


def test_a_link_ends_after_a_day_and_with_the_next_one_and_with_the_address(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")
    verification.ask(method=method, by=by, now=NOW)
    first = mailed_link()
    assert verification.read_link(first, now=NOW + timedelta(hours=24))
    with pytest.raises(links.LinkExpired):
        verification.confirm_link(first, now=NOW + timedelta(hours=24, seconds=1))

    verification.ask(method=method, by=by, now=NOW + MINUTE)
    second = mailed_link()
    with pytest.raises(links.LinkExpired):
        verification.confirm_link(first, now=NOW + MINUTE)

    contacts.update_method(method=method, address="eve@example.com", by=by, now=NOW + MINUTE)
    with pytest.raises(links.LinkExpired):
        verification.confirm_link(second, now=NOW + MINUTE)
    assert state(method) == "unverified"


@pytest.mark.parametrize("token", ["", "x", "1:2:3", "1:2:3:forged", "a:b:c:d:e", "\u4e00:1"])
def test_a_link_that_nobody_sent(token: str) -> None:
    for read in (lambda: verification.confirm_link(token, now=NOW), lambda: verification.unsubscribe(token, now=NOW)):
        with pytest.raises(links.LinkExpired):
            read()


def test_a_token_fits_into_a_path(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")
    verification.ask(method=method, by=by, now=NOW)
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_:-")
    assert set(mailed_link()) <= allowed
    assert set(links.unsubscribe_url(method).rpartition("/")[2]) <= allowed


def test_nobody_is_asked_too_often_however_the_address_is_entered_anew(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")
    verification.ask(method=method, by=by, now=NOW)
    with pytest.raises(DomainError) as caught:
        verification.ask(method=method, by=by, now=NOW + timedelta(seconds=59))
    assert "1 seconds" in caught.value.message
    for position in range(1, 5):
        verification.ask(method=method, by=by, now=NOW + position * MINUTE)
    contacts.delete_contact(contact=method.contact, by=by, now=NOW)
    again = method_of(by, "email", "ann@example.com")

    with pytest.raises(DomainError) as caught:
        verification.ask(method=again, by=by, now=NOW + 10 * MINUTE)
    assert "5 times" in caught.value.message
    assert len(mail.outbox) == 5

    verification.ask(method=again, by=by, now=NOW + timedelta(hours=24, minutes=5))
    assert len(mail.outbox) == 6


def test_without_a_mail_server_asking_says_so(by: Actor, settings: Settings) -> None:
    settings.EMAIL_URL = ""
    answer = verification.ask(method=method_of(by, "email", "ann@example.com"), by=by, now=NOW)
    assert (answer.outcome, answer.code) == (Outcome.OURS, "not_set_up")


# --- phone


@pytest.fixture
def aliyun(settings: Settings) -> Iterator[fakes.Aliyun]:
    with fakes.running(fakes.Aliyun(NOW.timestamp)) as service:
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "aliyun", service.url
        settings.ALERT_PHONE_KEY, settings.ALERT_PHONE_SECRET = service.key, service.secret
        settings.ALERT_PHONE_TEMPLATE, settings.ALERT_PHONE_CODE_TEMPLATE = "TTS_1001", "TTS_1002"
        yield service


def spoken(aliyun: fakes.Aliyun) -> str:
    return str(json.loads(aliyun.taken[-1].form["TtsParam"])["code"])


def test_a_number_is_verified_by_the_code_that_was_spoken(by: Actor, aliyun: fakes.Aliyun) -> None:
    method = method_of(by, "phone", "13800001111")

    verification.ask(method=method, by=by, now=NOW)

    code = spoken(aliyun)
    method.refresh_from_db()
    assert len(code) == 6
    assert code not in method.code_digest
    verification.confirm_code(
        method=method, code=f" {code[:3]} {code[3:]} ", by=by, now=NOW + 10 * MINUTE - MINUTE / 60
    )
    assert state(method) == "verified"
    with pytest.raises(DomainError):
        verification.confirm_code(method=method, code=code, by=by, now=NOW + MINUTE)


def test_a_code_is_good_for_ten_minutes_and_five_tries(by: Actor, aliyun: fakes.Aliyun) -> None:
    method = method_of(by, "phone", "13800001111")
    verification.ask(method=method, by=by, now=NOW)
    code = spoken(aliyun)
    with pytest.raises(DomainError):
        verification.confirm_code(method=method, code=code, by=by, now=NOW + 10 * MINUTE)
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    for _ in range(5):
        with pytest.raises(DomainError) as caught:
            verification.confirm_code(method=method, code=wrong, by=by, now=NOW)
        assert caught.value.field == "code"

    with pytest.raises(DomainError):
        verification.confirm_code(method=method, code=code, by=by, now=NOW)
    assert state(method) == "unverified"


# --- bots and webhooks


@pytest.fixture
def feishu() -> Iterator[fakes.Feishu]:
    with fakes.running(fakes.Feishu(NOW.timestamp, secret="s3cret")) as service:
        yield service


def test_a_bot_is_verified_when_it_takes_the_test_message(by: Actor, feishu: fakes.Feishu) -> None:
    method = method_of(by, "feishu", feishu.url, "s3cret")
    ContactMethod.objects.update(state="disabled", failures=5, last_error="19021")
    method.refresh_from_db()

    answer = verification.ask(method=method, by=by, now=NOW)

    assert (answer.ok, answer.code) == (True, "0")
    assert (state(method), method.failures, method.last_error) == ("verified", 0, "")
    assert "li.wei is trying out" in json.dumps(feishu.taken[0].json)


def test_a_bot_that_says_no_stays_unverified_and_its_answer_is_shown(by: Actor, feishu: fakes.Feishu) -> None:
    method = method_of(by, "feishu", feishu.url, "wrong")

    answer = verification.ask(method=method, by=by, now=NOW)

    assert (answer.ok, answer.code, state(method)) == (False, "19021", "unverified")


def test_what_changed_while_the_test_was_under_way_is_not_verified(by: Actor, feishu: fakes.Feishu) -> None:
    method = method_of(by, "feishu", feishu.url, "s3cret")
    asked = ContactMethod.objects.get()
    contacts.update_method(method=method, secret="another", by=by, now=NOW)

    with pytest.raises(links.LinkExpired):
        verification._agreed(asked, by=by, now=NOW)

    assert state(method) == "unverified"


# --- test messages


def test_a_test_message_goes_only_to_mailboxes_that_agreed(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")
    with pytest.raises(DomainError):
        verification.test_send(method=method, by=by, now=NOW)
    assert mail.outbox == []
    ContactMethod.objects.update(state="failing", failures=2, last_error="550")

    answer = verification.test_send(method=method, by=by, now=NOW)

    assert answer.ok
    assert mail.outbox[0].subject == "ArkConsole: this is a test"
    assert (state(method), method.last_error) == ("verified", "")


def test_a_failed_test_costs_nobody_their_address(by: Actor, feishu: fakes.Feishu) -> None:
    method = method_of(by, "feishu", feishu.url, "wrong")
    ContactMethod.objects.update(state="verified")
    method.refresh_from_db()

    answer = verification.test_send(method=method, by=by, now=NOW)

    assert (answer.code, state(method), method.failures) == ("19021", "verified", 0)


def test_tests_count_towards_the_limits_of_the_address(by: Actor, aliyun: fakes.Aliyun) -> None:
    method = method_of(by, "phone", "13800001111")
    ContactMethod.objects.update(state="verified")
    verification.test_send(method=method, by=by, now=NOW)

    with pytest.raises(DomainError) as caught:
        verification.test_send(method=method, by=by, now=NOW + timedelta(seconds=30))

    assert "30 seconds" in caught.value.message
    assert len(aliyun.seen) == 1


def test_the_record_says_what_came_of_a_test_and_no_secret(by: Actor, feishu: fakes.Feishu) -> None:
    method = method_of(by, "feishu", feishu.url, feishu.secret)
    answers = []
    for minute, how in enumerate(("19024", "")):
        if how:
            feishu.fail(how)
        verification.test_send(method=method, by=by, now=NOW + minute * MINUTE)
        noted = Event.objects.filter(changes__has_key="answer").order_by("-sequence").first()
        assert noted is not None
        answers.append(noted.changes["answer"][1])
    assert answers == ["permanent 200 19024", "ok 200 0"]
    for event in Event.objects.all():
        for secret in (feishu.url, feishu.secret):
            assert secret not in str(event.changes)


def test_sending_needs_its_permission(feishu: fakes.Feishu, by: Actor) -> None:
    method = method_of(by, "feishu", feishu.url, "s3cret")
    project = builders.project("default")
    outsider = builders.actor(builders.member(project, policy_name="VMPReadOnlyAccess"))
    for act in (
        lambda: verification.ask(method=method, by=outsider, now=NOW),
        lambda: verification.test_send(method=method, by=outsider, now=NOW),
        lambda: verification.confirm_code(method=method, code="1", by=outsider, now=NOW),
    ):
        with pytest.raises(NotAllowed):
            act()
    assert feishu.seen == []
    assert Event.objects.filter(action=actions.SEND_VALIDATION_MESSAGE, outcome="denied").count() == 3

    member = builders.actor(builders.member(project, actions.SEND_VALIDATION_MESSAGE))
    assert verification.ask(method=method, by=member, now=NOW).ok


# --- the way out


def test_whoever_unsubscribes_is_written_to_no_more(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")
    ContactMethod.objects.update(state="verified")
    token = links.unsubscribe_url(method).rpartition("/")[2]
    assert verification.read_unsubscribe(token) == method
    assert state(method) == "verified"

    verification.unsubscribe(token, now=NOW)
    verification.unsubscribe(token, now=NOW)

    assert (state(method), method.last_error) == ("unverified", verification.UNSUBSCRIBED)


def test_an_old_link_does_not_unsubscribe_the_next_owner_of_the_row(by: Actor) -> None:
    method = method_of(by, "email", "ann@example.com")
    token = links.unsubscribe_url(method).rpartition("/")[2]
    contacts.update_method(method=method, address="bob@example.com", by=by, now=NOW)

    with pytest.raises(links.LinkExpired):
        verification.unsubscribe(token, now=NOW)
