"""The pages of contacts, groups, policies and one's own on-call: as owner, as reader, from elsewhere, and full."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation
from pytest_django import Settings

from alerts import actions, contacts, links, policies
from alerts.models import (
    Contact,
    ContactGroup,
    ContactMethod,
    NotificationPolicy,
    PolicyLevel,
    SendMark,
)
from iam.models import User
from tests import builders
from tests.alerts import fakes
from tests.builders import NOW

pytestmark = pytest.mark.django_db
HTMX = {"hx-request": "true", "hx-target": "dialog"}


@pytest.fixture(autouse=True)
def _local(settings: Settings) -> Iterator[None]:
    settings.ALERT_BOT_HOSTS = ["127.0.0.1"]
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = True
    settings.EMAIL_URL = "smtp://mail.example.com"
    settings.CONSOLE_URL = "https://ark.example.com"
    with translation.override("en"):
        yield


@pytest.fixture
def owner() -> User:
    return builders.member(builders.project("default"), "vmp:*", username="owner")


@pytest.fixture
def reader() -> User:
    return builders.member(builders.project("default"), policy_name="VMPReadOnlyAccess", username="reader")


def signed_in(person: User) -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(person)
    return client


def page_of(client: Client, path: str, **kwargs: Any) -> str:
    answer = client.get(path, **kwargs)
    assert answer.status_code == 200, (path, answer.status_code)
    return answer.content.decode()


def added(kind: str, address: str, secret: str = "") -> ContactMethod:
    """An address as entered, not verified."""
    contact = builders.contact(name=f"Ann {kind}", language="en")
    by = builders.actor(builders.user(is_superuser=True))
    return contacts.add_method(contact=contact, kind=kind, address=address, secret=secret, by=by, now=NOW)


def contact_form(**values: Any) -> dict[str, Any]:
    return {"name": "Ann", "language": "en", "time_zone": "Europe/Berlin", "note": "", **values}


def policy_form(group: ContactGroup, **values: Any) -> dict[str, Any]:
    form: dict[str, Any] = {"name": "Night shift", "revision": 0}
    for level, plan in policies.DEFAULTS.items():
        form |= {
            f"{level}-group_by": "rule", f"{level}-wait_seconds": plan.wait_seconds,
            f"{level}-interval_seconds": plan.interval_seconds, f"{level}-repeat_seconds": plan.repeat_seconds,
        }  # fmt: skip
    return {**form, "P0-groups": [group.pk], "P0-kinds": ["phone", "email"], "P0-resolved_kinds": ["email"], **values}


# --- contacts


def test_empty_lists_say_what_they_are_and_offer_the_first_step(owner: User) -> None:
    client = signed_in(owner)

    assert "No contact yet" in page_of(client, "/alerts/contacts")
    assert 'href="/alerts/contacts/create"' in page_of(client, "/alerts/contacts")
    assert "First, a contact" in page_of(client, "/alerts/groups")
    assert "No notification policy yet" in page_of(client, "/alerts/policies")
    assert "Nothing would reach you" in page_of(client, "/alerts/me")
    builders.contact()
    assert "No contact group yet" in page_of(client, "/alerts/groups")
    assert "There is no contact group in this project yet" in page_of(client, "/alerts/policies/create")


def test_a_contact_is_made_changed_and_deleted(owner: User) -> None:
    client = signed_in(owner)

    made = client.post("/alerts/contacts/create", contact_form(), headers=HTMX)
    contact = Contact.objects.get()
    assert made.headers["HX-Redirect"] == f"/alerts/contacts/{contact.pk}"
    assert (contact.name, contact.language, contact.time_zone) == ("Ann", "en", "Europe/Berlin")
    assert client.post("/alerts/contacts/create", contact_form()).status_code == 422
    here = f"/alerts/contacts/{contact.pk}"
    client.post(f"{here}/edit", contact_form(name="Anna", note="first floor"))
    contact.refresh_from_db()
    assert (contact.name, contact.note) == ("Anna", "first floor")
    builders.notification_policy(builders.contact_group(contact), name="Night shift")
    assert "Night shift" in page_of(client, f"{here}/delete")
    assert client.post(f"{here}/delete").status_code == 302
    assert client.get(here).status_code == 404


def test_an_address_is_masked_and_a_secret_never_comes_back(owner: User) -> None:
    contact = builders.contact()
    client = signed_in(owner)
    here = f"/alerts/contacts/{contact.pk}"

    refused = client.post(f"{here}/add?kind=feishu", {"address": "https://evil.example.com/x", "secret": "sésame-9"})
    assert refused.status_code == 422
    assert "sésame-9" not in refused.content.decode()
    token = "abcdef0123456789"
    address = f"https://open.feishu.cn/open-apis/bot/v2/hook/{token}"
    client.post(f"{here}/add?kind=feishu", {"address": address, "secret": "sesame"})
    method = ContactMethod.objects.get()
    assert (method.address, method.secret, method.state) == (address, "sesame", "unverified")
    for path in (
        here,
        "/alerts/contacts",
        f"/alerts/methods/{method.pk}/change",
        f"/alerts/methods/{method.pk}/remove",
    ):
        page = page_of(client, path)
        assert token not in page
        assert "sesame" not in page
    assert "stored; empty keeps it" in page_of(client, f"/alerts/methods/{method.pk}/change")
    assert "no-store" in client.get(f"/alerts/methods/{method.pk}/change").headers["Cache-Control"]


def test_an_empty_change_keeps_what_is_there_and_a_new_secret_unverifies(owner: User) -> None:
    contact = builders.contact()
    method = builders.contact_method(
        contact=contact, kind="dingtalk", address="https://oapi.dingtalk.com/robot/send?access_token=abc", secret="SEC1"
    )
    client = signed_in(owner)
    change = f"/alerts/methods/{method.pk}/change"

    client.post(change, {"address": "", "secret": ""})
    method.refresh_from_db()
    assert (method.secret, method.state) == ("SEC1", "verified")
    client.post(change, {"address": "", "secret": "SEC2"})
    method.refresh_from_db()
    assert (method.secret, method.state) == ("SEC2", "unverified")
    client.post(change, {"address": "", "secret": "", "forget_secret": "on"})
    method.refresh_from_db()
    assert method.secret == ""
    client.post(f"/alerts/methods/{method.pk}/remove")
    assert not ContactMethod.objects.exists()


def test_each_kind_has_its_own_fields_and_an_unknown_one_no_page(owner: User) -> None:
    contact = builders.contact()
    client = signed_in(owner)
    here = f"/alerts/contacts/{contact.pk}/add?kind="

    for kind, has_secret in (("email", False), ("phone", False), ("feishu", True), ("dingtalk", True),
                             ("wecom", False), ("webhook", True)):  # fmt: skip
        assert ('name="secret"' in page_of(client, here + kind)) is has_secret
    assert "No phone provider is configured" in page_of(client, f"{here}phone")
    assert client.get(f"{here}pigeon").status_code == 404
    assert client.get("/alerts/contacts/99999999999999999999").status_code == 404


def test_the_list_filters_by_what_reaches_nobody(owner: User) -> None:
    builders.contact("email", name="Ann")
    builders.contact(name="Bob")
    builders.contact_method(contact=builders.contact(name="Cem"), state="disabled", last_error="550 · gone")
    client = signed_in(owner)

    unreached = page_of(client, "/alerts/contacts?state=unreached")
    assert "Bob" in unreached
    assert "Cem" in unreached
    assert "Ann" not in unreached
    trouble = page_of(client, "/alerts/contacts?state=trouble")
    assert "Cem" in trouble
    assert "Bob" not in trouble
    assert "mailbox does not exist" in trouble
    found = client.get("/alerts/contacts?q=an", headers={"hx-request": "true", "hx-target": "contacts"})
    assert "Ann" in found.content.decode()
    assert "<html" not in found.content.decode()


def test_a_thousand_contacts_are_paged_in_a_handful_of_queries(owner: User) -> None:
    project = builders.project("default")
    made = Contact.objects.bulk_create(
        Contact(project=project, name=f"person {number:04}", created_at=NOW) for number in range(1000)
    )
    ContactMethod.objects.bulk_create(
        ContactMethod(
            contact=each,
            kind="email",
            address="a@example.com",
            hint="a***@example.com",
            state="verified",
            created_at=NOW,
        )
        for each in made
    )
    group = builders.contact_group(*made, name="everybody")
    policy = builders.notification_policy(group)
    client = signed_in(owner)
    page_of(client, "/alerts/contacts")

    for path in ("/alerts/contacts", "/alerts/groups", "/alerts/policies", f"/alerts/policies/{policy.pk}",
                 f"/alerts/policies/{policy.pk}/edit", f"/alerts/groups/{group.pk}/edit",
                 f"/alerts/groups/{group.pk}/test", f"/alerts/contacts/{made[0].pk}"):  # fmt: skip
        with CaptureQueriesContext(connection) as asked:
            page = page_of(client, path)
        assert len(asked) <= 22, (path, len(asked))
        assert "a@example.com" not in page
    first = page_of(client, "/alerts/contacts")
    assert first.count('href="/alerts/contacts/') >= 50
    assert "person 0049" in first
    assert "person 0050" not in first
    cursor = re.search(r'rel="next" href="([^"]+)"', first)
    assert cursor is not None
    assert "person 0050" in page_of(client, cursor[1].replace("&amp;", "&"))
    assert "900 more addresses are not shown" in page_of(client, f"/alerts/groups/{group.pk}/test")
    assert "and 997 more" in page_of(client, f"/alerts/policies/{policy.pk}")


def test_the_list_asks_no_more_with_more_contacts(owner: User) -> None:
    client = signed_in(owner)
    builders.contact_group(builders.contact("email", "feishu"))
    counts = []
    for _round in range(2):
        page_of(client, "/alerts/contacts")
        with CaptureQueriesContext(connection) as asked:
            page_of(client, "/alerts/contacts")
        counts.append(len(asked))
        for _more in range(10):
            builders.contact_group(builders.contact("email", "feishu"))
    assert counts[0] == counts[1]


# --- verifying and testing


def test_a_link_is_mailed_and_its_page_confirms_by_a_button_without_signing_in(owner: User) -> None:
    method = added("email", "ann@example.com")
    shown = signed_in(owner).post(f"/alerts/methods/{method.pk}/verify", headers={"hx-request": "true"})
    assert "Link sent to a**@example.com" in shown.content.decode()
    assert "24 hours" in shown.content.decode()
    link = str(mail.outbox[-1].body).partition("https://ark.example.com")[2].split()[0]

    stranger = Client(headers={"accept-language": "en"})
    asked = stranger.get(link)
    assert "Get alerts at this address?" in asked.content.decode()
    assert (asked.headers["Referrer-Policy"], asked.headers["X-Robots-Tag"]) == ("same-origin", "noindex")
    method.refresh_from_db()
    assert method.state == "unverified"
    assert "gets alerts of project" in stranger.post(link).content.decode()
    method.refresh_from_db()
    assert method.state == "verified"
    again = stranger.get(link)
    assert again.status_code == 410
    assert "This link has been used" in again.content.decode()
    assert stranger.post("/alerts/verify/made:up").status_code == 410


def test_the_page_behind_the_link_wants_its_token_from_browsers() -> None:
    assert Client(enforce_csrf_checks=True).post("/alerts/verify/made:up").status_code == 403


def test_asking_too_often_is_said_in_place(owner: User) -> None:
    method = added("email", "ann@example.com")
    client = signed_in(owner)
    path = f"/alerts/methods/{method.pk}/verify"

    client.post(path, headers={"hx-request": "true"})
    second = client.post(path, headers={"hx-request": "true"})

    assert second.status_code == 200
    assert re.search(r"Wait \d+ seconds before you ask again", second.content.decode())


def test_without_a_mail_server_the_page_says_which_setting(owner: User, settings: Settings) -> None:
    settings.EMAIL_URL = ""
    method = added("email", "ann@example.com")
    client = signed_in(owner)

    assert "has to set EMAIL_URL" in page_of(client, f"/alerts/contacts/{method.contact_id}")
    answer = client.post(f"/alerts/methods/{method.pk}/verify", headers={"hx-request": "true"}).content.decode()
    assert "This console could not send it." in answer
    assert "EMAIL_URL" in answer


def test_a_bot_is_verified_by_its_own_code_and_its_refusal_is_shown(owner: User) -> None:
    with fakes.running(fakes.Feishu(secret="sesame")) as bot:
        method = added("feishu", bot.url, "sesame")
        client = signed_in(owner)
        path = f"/alerts/methods/{method.pk}/verify"
        bot.fail("19024")
        refused = client.post(path)
        assert refused.status_code == 302
        assert "19024" in page_of(client, f"/alerts/contacts/{method.contact_id}")
        # The address may be asked again after some seconds only; its marks are what counts.
        SendMark.objects.all().delete()
        taken = client.post(path, headers={"hx-request": "true"}).content.decode()
        assert "Verified: the test message was taken." in taken
        assert "code 0" in taken
        assert "Send test" in taken
    method.refresh_from_db()
    assert method.state == "verified"


def test_a_code_is_typed_where_the_call_was_asked_for(owner: User, settings: Settings) -> None:
    with fakes.running(fakes.Webhook()) as provider:
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "webhook", provider.url
        method = added("phone", "+8613800001111")
        client = signed_in(owner)
        called = client.post(f"/alerts/methods/{method.pk}/verify", headers={"hx-request": "true"}).content.decode()
        assert 'name="code"' in called
        spoken = re.search(r"\b(\d{6})\b", "".join(str(each.json) for each in provider.seen))
    wrong = client.post(f"/alerts/methods/{method.pk}/code", {"code": "x"}, headers={"hx-request": "true"})
    assert "This is not the code that was spoken." in wrong.content.decode()
    assert spoken is not None
    right = client.post(f"/alerts/methods/{method.pk}/code", {"code": spoken[1]}, headers={"hx-request": "true"})
    assert "Verified." in right.content.decode()


def test_why_an_address_fails_and_is_switched_off_is_said(owner: User) -> None:
    contact = builders.contact()
    builders.contact_method(contact=contact, state="disabled", last_error="550 · no such user", last_sent_at=NOW)
    builders.contact_method(contact=contact, state="unverified", last_error="unsubscribed")
    page = page_of(signed_in(owner), f"/alerts/contacts/{contact.pk}")

    assert "Switched off" in page
    assert "this mailbox does not exist" in page
    assert "no such user" in page
    assert "Its reader has asked for no more messages" in page


def test_one_click_ends_the_messages_and_the_page_does_too(owner: User) -> None:
    method = added("email", "ann@example.com")
    ContactMethod.objects.update(state="verified")
    path = links.unsubscribe_url(method).removeprefix("https://ark.example.com")
    program = Client(enforce_csrf_checks=True, headers={"accept-language": "en"})

    assert "End alerts to this address?" in program.get(path).content.decode()
    method.refresh_from_db()
    assert method.state == "verified"
    done = program.post(path, "List-Unsubscribe=One-Click", content_type="application/x-www-form-urlencoded")
    assert done.status_code == 200
    method.refresh_from_db()
    assert method.state == "unverified"
    assert "No more alerts" in program.get(path).content.decode()
    assert program.get("/alerts/unsubscribe/made:up").status_code == 410


# --- groups


def test_a_group_is_made_and_says_who_is_reached_by_nothing(owner: User) -> None:
    ann, bob = builders.contact("email", name="Ann"), builders.contact(name="Bob")
    client = signed_in(owner)

    client.post("/alerts/groups/create", {"name": "Shift", "contacts": [ann.pk, bob.pk]})
    group = ContactGroup.objects.get()
    page = page_of(client, "/alerts/groups")
    assert "1 of 2 (Bob) is reached by nothing" in page
    client.post(f"/alerts/groups/{group.pk}/edit", {"name": "Day shift", "contacts": [ann.pk]})
    assert [each.name for each in group.contacts.all()] == ["Ann"]
    policy = builders.notification_policy(group, name="Nights")
    assert "Nights" in page_of(client, f"/alerts/groups/{group.pk}/delete")
    assert client.post(f"/alerts/groups/{group.pk}/delete").status_code == 400
    policy.levels.all().delete()
    client.post(f"/alerts/groups/{group.pk}/delete")
    group.refresh_from_db()
    assert group.deleted_at is not None


def test_a_contact_of_another_project_does_not_join(owner: User) -> None:
    theirs = builders.contact(project=builders.project("elsewhere"))
    answer = signed_in(owner).post("/alerts/groups/create", {"name": "Shift", "contacts": [theirs.pk]})
    assert answer.status_code == 422
    assert not ContactGroup.objects.exists()


def test_testing_all_of_a_group_sends_only_from_within_the_page(owner: User) -> None:
    group = builders.contact_group(builders.contact("email", name="Ann"))
    client = signed_in(owner)
    path = f"/alerts/groups/{group.pk}/test?all=1"

    # From an address alone nothing goes out.
    assert 'hx-trigger="load"' not in page_of(client, path)
    assert 'hx-trigger="load"' in page_of(client, path, headers=HTMX)


# --- policies


def test_a_policy_is_said_in_plain_words_as_it_is_filled_in(owner: User) -> None:
    ann = builders.contact("phone", "feishu", name="Ann")
    builders.contact_method(contact=ann, kind="email", state="unverified")
    group = builders.contact_group(ann, builders.contact(name="Bob"), name="Shift")
    form = policy_form(group, **{"P0-kinds": ["phone", "feishu", "email"], "P0-resolved_kinds": ["feishu"]})

    page = signed_in(owner).post("/alerts/policies/preview", form, headers={"hx-request": "true"}).content.decode()

    assert "Ann by phone and Feishu, at once, again every 10 minutes while it fires." in page
    assert "Of its end: Ann by Feishu." in page
    assert "none of their addresses for these methods is verified: Bob" in page
    assert page.count("Nobody is told. The events are kept and listed.") == 2
    assert not NotificationPolicy.objects.exists()


def test_a_policy_is_made_shown_and_changed(owner: User) -> None:
    group = builders.contact_group(builders.contact("email", name="Ann"), name="Shift")
    client = signed_in(owner)

    assert client.post("/alerts/policies/create", policy_form(group)).status_code == 302
    policy = NotificationPolicy.objects.get()
    page = page_of(client, f"/alerts/policies/{policy.pk}")
    assert "Ann by e-mail, at once, again every 10 minutes while it fires. The same people hear of its end." in page
    assert "No rule group uses this policy" in page
    builders.rule_group(policy=policy, name="Errors of ep-1")
    assert "Errors of ep-1" in page_of(client, f"/alerts/policies/{policy.pk}")
    assert "1 rule group" in page_of(client, "/alerts/policies")
    edit = page_of(client, f"/alerts/policies/{policy.pk}/edit")
    assert re.search(rf'name="P0-groups" id="\w+-groups_0" value="{group.pk}" checked', edit)
    client.post(f"/alerts/policies/{policy.pk}/edit", policy_form(group, name="Days", **{"P0-wait_seconds": 30}))
    policy.refresh_from_db()
    assert (policy.name, policy.revision) == ("Days", 1)
    assert PolicyLevel.objects.get(policy=policy, level="P0").wait_seconds == 30


def test_phones_ring_for_p0_only(owner: User) -> None:
    group = builders.contact_group(name="Shift")
    client = signed_in(owner)

    page = page_of(client, "/alerts/policies/create")
    assert 'name="P0-kinds" value="phone"' in page
    assert 'name="P1-kinds" value="phone"' not in page
    forced = policy_form(group, **{"P1-groups": [group.pk], "P1-kinds": ["phone"]})
    assert client.post("/alerts/policies/create", forced).status_code == 422
    assert not NotificationPolicy.objects.exists()


def test_repeating_sooner_than_the_interval_is_said_at_the_field(owner: User) -> None:
    group = builders.contact_group(name="Shift")
    wrong = policy_form(group, **{"P0-interval_seconds": 3600, "P0-repeat_seconds": 300})

    page = signed_in(owner).post("/alerts/policies/create", wrong)

    assert page.status_code == 422
    assert "Repeating cannot come sooner than the interval." in page.content.decode()


def test_of_two_editors_the_second_sees_what_the_first_did_and_decides(owner: User) -> None:
    group = builders.contact_group(builders.contact("email", name="Ann"), name="Shift")
    client = signed_in(owner)
    client.post("/alerts/policies/create", policy_form(group))
    policy = NotificationPolicy.objects.get()
    edit = f"/alerts/policies/{policy.pk}/edit"
    client.post(edit, policy_form(group, **{"P0-repeat_seconds": 3600}))

    second = client.post(edit, policy_form(group, name="Mine"))

    assert second.status_code == 409
    page = second.content.decode()
    assert "Somebody else has changed this policy" in page
    assert "again every 1 hour while it fires" in page
    assert 'value="Mine"' in page
    assert 'name="revision" value="1"' in page
    client.post(edit, policy_form(group, name="Mine", revision=1))
    policy.refresh_from_db()
    assert (policy.name, policy.revision) == ("Mine", 2)


def test_a_policy_in_use_is_not_deleted_and_says_why(owner: User) -> None:
    policy = builders.notification_policy(builders.contact_group(), name="Nights")
    users = builders.rule_group(policy=policy, name="Errors of ep-1")
    client = signed_in(owner)
    path = f"/alerts/policies/{policy.pk}/delete"

    page = page_of(client, path)
    assert "Errors of ep-1" in page
    assert "btn-danger" not in page
    assert client.post(path).status_code == 400
    users.deleted_at = NOW
    users.save()
    assert "btn-danger" in page_of(client, path)
    client.post(path)
    assert client.get(f"/alerts/policies/{policy.pk}").status_code == 404


def test_testing_a_policy_lists_whom_it_writes_to_and_each_answers(owner: User) -> None:
    ann = builders.contact("email", "webhook", "phone", name="Ann")
    builders.contact_method(contact=builders.contact(name="Bob"), kind="email", state="unverified")
    bob = Contact.objects.get(name="Bob")
    policy = builders.notification_policy(builders.contact_group(ann, bob), level="P1", kinds=["email", "phone"],
                                          resolved_kinds=[])  # fmt: skip
    client = signed_in(owner)

    page = page_of(client, f"/alerts/policies/{policy.pk}/test", headers=HTMX)
    # The phone rings for P0 only, and nobody chose webhooks.
    assert page.count('<li class="ct-method"') == 2
    assert "Send to 1 address" in page
    mailbox = ann.methods.get(kind="email")
    answer = client.post(
        f"/alerts/methods/{mailbox.pk}/test", headers={"hx-request": "true", "hx-target": f"test-{mailbox.pk}"}
    ).content.decode()
    assert f'id="test-{mailbox.pk}"' in answer
    assert "The test message was taken." in answer
    assert len(mail.outbox) == 1


# --- on call


def test_what_would_reach_me_follows_my_accounts_mail_and_verified_addresses(owner: User, settings: Settings) -> None:
    settings.ALERT_PHONE_PROVIDER = "webhook"
    owner.email = "Li.Wei@Example.com"
    owner.save()
    by = builders.actor(builders.user(is_superuser=True))
    me = builders.contact("phone", name="Li Wei", created_by_name="somebody else")
    contacts.add_method(contact=me, kind="email", address="Li.Wei@example.com", by=by, now=NOW)
    builders.contact("email", name="Colleague", created_by_name="owner")
    group = builders.contact_group(me)
    policy = builders.notification_policy(group, level="P0", kinds=["phone", "email"], name="Nights")
    builders.rule_group(policy=policy)

    page = page_of(signed_in(owner), "/alerts/me")

    assert "Li Wei" in page
    assert "Colleague" not in page
    # The address is mine and not verified: only the phone reaches me.
    assert "By phone" in page
    assert page.count("Nothing reaches me") == 2
    assert "Nights" in page


def test_what_this_installation_cannot_send_does_not_reach_me_and_the_reason_is_said(
    owner: User, settings: Settings
) -> None:
    settings.ALERT_PHONE_PROVIDER = ""
    me = builders.contact("phone", "email", created_by_name="owner")
    builders.notification_policy(builders.contact_group(me), level="P0", kinds=["phone", "email"])

    page = page_of(signed_in(owner), "/alerts/me")
    assert "By e-mail" in page
    assert "No phone provider is configured" in page

    settings.ALERT_PHONE_PROVIDER = "webhook"
    page = page_of(signed_in(owner), "/alerts/me")
    assert "By phone and e-mail" in page or "By e-mail and phone" in page
    assert "No phone provider" not in page


def test_without_such_an_address_the_contacts_that_i_made_stand_for_me(owner: User) -> None:
    builders.contact("email", name="Mine", created_by_name="owner")
    builders.contact("email", name="Theirs", created_by_name="li.wei")
    page = page_of(signed_in(owner), "/alerts/me")

    assert "Mine" in page
    assert "Theirs" not in page
    assert "these are the ones you made" in page


# --- who may


def test_a_reader_sees_everything_and_no_buttons(reader: User) -> None:
    contact = builders.contact("email", name="Ann")
    group = builders.contact_group(contact, name="Shift")
    policy = builders.notification_policy(group, name="Nights")
    method = contact.methods.get()
    client = signed_in(reader)

    for path in ("/alerts/contacts", f"/alerts/contacts/{contact.pk}", "/alerts/groups", "/alerts/policies",
                 f"/alerts/policies/{policy.pk}"):  # fmt: skip
        page = page_of(client, path)
        assert not re.search(
            r'(href|action)="/alerts/[^"]*/(create|edit|delete|add|change|remove|verify|test)', page
        ), path
    refused = {
        "/alerts/contacts/create": actions.CREATE_CONTACT,
        f"/alerts/contacts/{contact.pk}/edit": actions.UPDATE_CONTACT,
        f"/alerts/contacts/{contact.pk}/delete": actions.DELETE_CONTACT,
        f"/alerts/contacts/{contact.pk}/add?kind=email": actions.UPDATE_CONTACT,
        f"/alerts/methods/{method.pk}/change": actions.UPDATE_CONTACT,
        f"/alerts/methods/{method.pk}/verify": actions.SEND_VALIDATION_MESSAGE,
        f"/alerts/methods/{method.pk}/test": actions.SEND_VALIDATION_MESSAGE,
        f"/alerts/methods/{method.pk}/code": actions.SEND_VALIDATION_MESSAGE,
        "/alerts/groups/create": actions.CREATE_CONTACT_GROUP,
        f"/alerts/groups/{group.pk}/delete": actions.DELETE_CONTACT_GROUP,
        "/alerts/policies/create": actions.CREATE_NOTIFY_POLICY,
        f"/alerts/policies/{policy.pk}/edit": actions.UPDATE_NOTIFY_POLICY,
        f"/alerts/policies/{policy.pk}/delete": actions.DELETE_NOTIFY_POLICY,
    }
    for path, action in refused.items():
        answer = client.post(path, {"name": "x", "code": "123456"})
        assert answer.status_code == 403, path
        assert action in answer.content.decode(), path


def test_without_the_right_to_list_the_missing_action_is_named() -> None:
    client = signed_in(builders.member(builders.project("default"), "ark:*"))
    for path, action in (("contacts", actions.LIST_CONTACTS), ("groups", actions.LIST_CONTACT_GROUPS),
                         ("policies", actions.LIST_NOTIFY_POLICIES)):  # fmt: skip
        answer = client.get(f"/alerts/{path}")
        assert answer.status_code == 403
        assert action in answer.content.decode()


def test_another_projects_things_are_not_there(owner: User) -> None:
    other = builders.project("elsewhere")
    contact = builders.contact("email", project=other)
    group = builders.contact_group(contact, project=other)
    policy = builders.notification_policy(group, project=other)
    method = contact.methods.get()
    client = signed_in(owner)

    for path in (f"contacts/{contact.pk}", f"contacts/{contact.pk}/edit", f"methods/{method.pk}/change",
                 f"groups/{group.pk}/edit", f"groups/{group.pk}/test", f"policies/{policy.pk}",
                 f"policies/{policy.pk}/test"):  # fmt: skip
        assert client.get(f"/alerts/{path}").status_code == 404, path
    for path in (f"methods/{method.pk}/test", f"methods/{method.pk}/verify", f"policies/{policy.pk}/delete"):
        assert client.post(f"/alerts/{path}").status_code == 404, path
    assert client.post(f"/alerts/policies/preview?project={other.pk}", {}).status_code == 404
    assert Client().get("/alerts/contacts").status_code == 302
