"""Contacts, addresses, groups and policies: who may change them, what is refused, what the record keeps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import translation

from alerts import actions, contacts, policies
from alerts.models import Contact, ContactGroup, ContactMethod, Level, NotificationPolicy
from audit.models import Event
from common.errors import Conflict, DomainError, NotAllowed
from iam.actors import Actor
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
BOT = "https://open.feishu.cn/open-apis/bot/v2/hook/f1a9c3d2-7b64-4c1e-9a55-0d2e8b7c6f21"


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def by() -> Actor:
    return builders.actor()


def contact(by: Actor, **values: Any) -> Contact:
    values = {"project": builders.project("default"), "name": "Ann", "language": "en", "time_zone": "Asia/Shanghai",
              "note": "", **values}  # fmt: skip
    return contacts.create_contact(**values, by=by, now=NOW)


def test_a_contact_is_made_changed_and_forgotten_with_its_addresses(by: Actor) -> None:
    ann = contact(by)
    contacts.add_method(contact=ann, kind="email", address="ann@example.com", by=by, now=NOW)
    contacts.create_group(project=ann.project, name="night", contacts=[ann], by=by, now=NOW)

    contacts.update_contact(
        contact=ann, name="Ann Lee", language="zh-hans", time_zone="Europe/Berlin", note="nights", by=by, now=NOW
    )
    contacts.delete_contact(contact=ann, by=by, now=NOW)

    ann.refresh_from_db()
    assert (ann.name, ann.language, ann.time_zone, ann.deleted_at) == ("Ann Lee", "zh-hans", "Europe/Berlin", NOW)
    assert not ContactMethod.objects.exists()
    assert not ContactGroup.objects.get().contacts.exists()
    with pytest.raises(DomainError):
        contacts.delete_contact(contact=ann, by=by, now=NOW)
    assert contact(by, name="Ann Lee").pk != ann.pk


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": " "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "Bob"}, "name"),
        ({"language": "fr"}, "language"),
        ({"time_zone": "Mars/Phobos"}, "time_zone"),
        ({"time_zone": "../etc/passwd"}, "time_zone"),
        ({"note": "x" * 256}, "note"),
    ],
)
def test_what_a_contact_cannot_be(by: Actor, values: dict[str, str], field: str) -> None:
    contact(by, name="Bob")

    with pytest.raises(DomainError) as caught:
        contact(by, **values)

    assert caught.value.field == field
    assert Event.objects.filter(action=actions.CREATE_CONTACT, outcome="failed").count() == 1


def test_addresses_and_secrets_are_sealed_in_the_database_and_absent_from_the_record(by: Actor) -> None:
    method = contacts.add_method(
        contact=contact(by), kind="feishu", address=BOT, secret=" s3cret-s3cret ", by=by, now=NOW
    )

    method.refresh_from_db()
    assert (method.address, method.secret, method.state) == (BOT, "s3cret-s3cret", "unverified")
    assert method.hint == "https://open.feishu.cn/…6f21"
    with connection.cursor() as cursor:
        cursor.execute("select address, secret, address_digest, hint from alerts_contactmethod")
        stored = str(cursor.fetchall())
    record = json.dumps(list(Event.objects.values_list("changes", flat=True)), default=str)
    for text in (stored, record):
        assert "f1a9c3d2" not in text
        assert "s3cret" not in text
    assert "6f21" in record


def test_another_address_or_secret_has_to_be_verified_anew(by: Actor) -> None:
    method = contacts.add_method(contact=contact(by), kind="feishu", address=BOT, secret="one", by=by, now=NOW)
    verified = {"state": "verified", "verified_at": NOW, "nonce_digest": "n", "failures": 3}
    changes: list[tuple[dict[str, Any], str]] = [
        ({}, "verified"),
        ({"address": BOT, "secret": "one"}, "verified"),
        ({"secret": "two"}, "unverified"),
        ({"address": BOT.replace("6f21", "6f22")}, "unverified"),
        ({"secret": ""}, "unverified"),
    ]
    for change, state in changes:
        ContactMethod.objects.update(**verified)
        method.refresh_from_db()
        contacts.update_method(method=method, **change, by=by, now=NOW)
        method.refresh_from_db()
        assert (method.state, method.verified_at is None) == (state, state == "unverified")
        if state == "unverified":
            assert (method.nonce_digest, method.failures) == ("", 0)


def test_one_address_once_for_a_contact(by: Actor) -> None:
    ann = contact(by)
    contacts.add_method(contact=ann, kind="phone", address="138 0000 1111", by=by, now=NOW)

    with pytest.raises(DomainError) as caught:
        contacts.add_method(contact=ann, kind="phone", address="+8613800001111", by=by, now=NOW)

    assert caught.value.field == "address"
    contacts.add_method(contact=contact(by, name="Bob"), kind="phone", address="+8613800001111", by=by, now=NOW)
    assert ContactMethod.objects.values("address_digest").distinct().count() == 1


def test_a_kind_that_there_is_not(by: Actor) -> None:
    with pytest.raises(DomainError) as caught:
        contacts.add_method(contact=contact(by), kind="pigeon", address="x", by=by, now=NOW)
    assert caught.value.field == "kind"


def test_groups_take_only_contacts_of_their_project(by: Actor) -> None:
    stranger = contact(by, project=builders.project("other"))

    with pytest.raises(DomainError) as caught:
        contacts.create_group(project=builders.project("default"), name="night", contacts=[stranger], by=by, now=NOW)

    assert caught.value.field == "contacts"


# --- policies


def plans(group: ContactGroup, **values: Any) -> list[policies.LevelPlan]:
    return [
        replace(policies.DEFAULTS[Level.P0], groups=[group], kinds=["phone", "feishu"], resolved_kinds=["feishu"]),
        replace(policies.DEFAULTS[Level.P1], groups=[group], kinds=["feishu"], **values),
    ]


def test_a_policy_says_what_each_level_does(by: Actor) -> None:
    project = builders.project("default")
    group = builders.contact_group(builders.contact())

    policy = policies.create_policy(project=project, name="On call", levels=plans(group), by=by, now=NOW)

    worst, bad = policy.levels.order_by("level")
    assert (worst.kinds, worst.resolved_kinds, worst.repeat_seconds) == (["phone", "feishu"], ["feishu"], 600)
    assert (bad.level, list(bad.groups.all()), bad.group_by) == ("P1", [group], "rule")
    with pytest.raises(DomainError) as caught:
        contacts.delete_group(group=group, by=by, now=NOW)
    assert "On call" in caught.value.message


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kinds": ["phone"]}, "P1-kinds"),
        ({"resolved_kinds": ["phone"]}, "P1-resolved_kinds"),
        ({"kinds": ["pigeon"]}, "P1-kinds"),
        ({"wait_seconds": -1}, "P1-wait_seconds"),
        ({"interval_seconds": 0}, "P1-interval_seconds"),
        ({"repeat_seconds": 59}, "P1-repeat_seconds"),
        ({"interval_seconds": 7200}, "P1-repeat_seconds"),
        ({"group_by": "moon"}, "P1-group_by"),
        ({"level": "P0"}, "levels"),
        ({"level": "P7"}, "levels"),
    ],
)
def test_what_a_policy_cannot_say(by: Actor, values: dict[str, Any], field: str) -> None:
    group = builders.contact_group()
    levels = plans(group)
    levels[1] = replace(levels[1], **values)

    with pytest.raises(DomainError) as caught:
        policies.create_policy(project=builders.project("default"), name="p", levels=levels, by=by, now=NOW)

    assert caught.value.field == field
    assert not NotificationPolicy.objects.exists()


def test_of_two_changes_at_once_the_second_is_told(by: Actor) -> None:
    group = builders.contact_group()
    policy = policies.create_policy(project=builders.project("default"), name="p", levels=plans(group), by=by, now=NOW)
    policies.update_policy(policy=policy, revision=0, name="q", levels=plans(group)[:1], by=by, now=NOW)

    with pytest.raises(Conflict):
        policies.update_policy(policy=policy, revision=0, name="r", levels=plans(group), by=by, now=NOW)

    policy.refresh_from_db()
    assert (policy.name, policy.revision, policy.levels.count()) == ("q", 1, 1)


def test_a_policy_in_use_stays(by: Actor) -> None:
    policy = builders.notification_policy()
    group = builders.rule_group(policy=policy, name="Default rules")

    with pytest.raises(DomainError) as caught:
        policies.delete_policy(policy=policy, by=by, now=NOW)
    assert "Default rules" in caught.value.message

    group.deleted_at = NOW
    group.save()
    policies.delete_policy(policy=policy, by=by, now=NOW + timedelta(seconds=1))
    policy.refresh_from_db()
    assert policy.deleted_at == NOW + timedelta(seconds=1)


# --- permissions

Act = Callable[[Actor], object]


def _acts() -> dict[str, Act]:
    project = builders.project("default")
    ann = builders.contact()
    method = builders.contact_method(contact=ann)
    group = builders.contact_group()
    policy = builders.notification_policy()
    return {
        actions.CREATE_CONTACT: lambda by: contact(by, name="New"),
        actions.UPDATE_CONTACT: lambda by: contacts.delete_method(method=method, by=by, now=NOW),
        actions.DELETE_CONTACT: lambda by: contacts.delete_contact(contact=ann, by=by, now=NOW),
        actions.CREATE_CONTACT_GROUP: lambda by: contacts.create_group(
            project=project, name="g", contacts=[], by=by, now=NOW
        ),
        actions.UPDATE_CONTACT_GROUP: lambda by: contacts.update_group(
            group=group, name="h", contacts=[], by=by, now=NOW
        ),
        actions.DELETE_CONTACT_GROUP: lambda by: contacts.delete_group(group=group, by=by, now=NOW),
        actions.CREATE_NOTIFY_POLICY: lambda by: policies.create_policy(
            project=project, name="p", levels=[], by=by, now=NOW
        ),
        actions.UPDATE_NOTIFY_POLICY: lambda by: policies.update_policy(
            policy=policy, revision=0, name="q", levels=[], by=by, now=NOW
        ),
        actions.DELETE_NOTIFY_POLICY: lambda by: policies.delete_policy(policy=policy, by=by, now=NOW),
    }


def test_each_act_needs_its_own_permission_and_every_refusal_is_recorded() -> None:
    project = builders.project("default")
    acts = _acts()
    outsider = builders.actor(builders.member(project, policy_name="VMPReadOnlyAccess"))
    elsewhere = builders.actor(builders.member(builders.project("other"), policy_name="VMPFullAccess"))
    for action, act in acts.items():
        for someone in (outsider, elsewhere):
            with pytest.raises(NotAllowed) as caught:
                act(someone)
            assert caught.value.action == action
    assert Event.objects.filter(outcome="denied").count() == 2 * len(acts)

    for action, act in acts.items():
        act(builders.actor(builders.member(project, action)))
        assert Event.objects.filter(action=action, outcome="allowed").count() == 1
