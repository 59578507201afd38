"""Administration: policies are checked, built-in ones stay, and each change is recorded."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.test import Client

from audit import services as audit_services
from audit.models import Event
from common.errors import NotAllowed
from iam import services
from iam.actors import SYSTEM
from iam.models import Attachment, Policy, Project, User
from iam.policies import BUILT_IN
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
STATEMENTS = [{"effect": "Allow", "actions": ["ark:Get*"], "resources": ["*"]}]


@pytest.fixture
def admin() -> Client:
    client = Client(headers={"accept-language": "en"})
    client.force_login(builders.user(username="root", is_superuser=True, is_staff=True))
    return client


def last() -> Event:
    return Event.objects.latest("id")


def inline(prefix: str = "attachments", **values: Any) -> dict[str, Any]:
    total = 1 if values else 0
    rows = {f"{prefix}-0-{name}": value for name, value in values.items()}
    return {f"{prefix}-TOTAL_FORMS": total, f"{prefix}-INITIAL_FORMS": 0, **rows}


def test_a_policy_is_written_and_recorded(admin: Client) -> None:
    admin.post("/admin/iam/policy/add/", {"name": "Readers", "description": "", "statements": json.dumps(STATEMENTS)})

    assert Policy.objects.get().statements == STATEMENTS
    assert (last().action, last().actor_name, last().project_id) == ("iam:CreatePolicy", "root", "*")
    assert last().changes["statements"] == [None, STATEMENTS]


def test_a_policy_that_makes_no_sense_is_refused_with_the_reason(admin: Client) -> None:
    wrong = [{"effect": "Maybe", "actions": ["StopEndpoint"], "resources": ["*"]}]

    page = admin.post("/admin/iam/policy/add/", {"name": "x", "statements": json.dumps(wrong)}).content.decode()

    assert "Statement 1: effect must be Allow or Deny." in page
    assert "“StopEndpoint” is no action" in page
    assert not Policy.objects.exists()


def test_a_change_is_recorded_with_before_and_after(admin: Client) -> None:
    policy = builders.policy("ark:Get*", name="Readers")

    admin.post(
        f"/admin/iam/policy/{policy.pk}/change/",
        {"name": "Readers", "description": "all of them", "statements": json.dumps(STATEMENTS)},
    )

    assert (last().action, last().changes) == ("iam:UpdatePolicy", {"description": ["", "all of them"]})


def test_built_in_policies_are_read_only(admin: Client) -> None:
    services.sync_builtin_policies()
    policy = Policy.objects.get(name="ArkFullAccess")

    admin.post(f"/admin/iam/policy/{policy.pk}/change/", {"name": "Mine", "statements": json.dumps(STATEMENTS)})
    admin.post(f"/admin/iam/policy/{policy.pk}/delete/", {"post": "yes"})
    admin.post("/admin/iam/policy/", {"action": "delete_selected", "_selected_action": [policy.pk], "post": "yes"})

    assert Policy.objects.get(pk=policy.pk).name == "ArkFullAccess"


def test_the_built_in_policies_follow_the_code_at_each_start() -> None:
    services.sync_builtin_policies()
    Policy.objects.filter(name="ArkReadOnlyAccess").update(statements=[], is_builtin=False)

    services.sync_builtin_policies()

    stored = {policy.name: policy.statements for policy in Policy.objects.filter(is_builtin=True)}
    assert stored == {name: statements for name, (_text, statements) in BUILT_IN.items()}


def test_a_policy_is_attached_and_detached_in_the_projects_own_chain(admin: Client) -> None:
    project, person, policy = builders.project("default"), builders.user(username="li.wei"), builders.policy("ark:*")

    admin.post(
        "/admin/iam/attachment/add/", {"policy": policy.pk, "user": person.pk, "group": "", "project": "default"}
    )
    attachment = Attachment.objects.get()
    assert (last().action, last().project_id) == ("iam:CreateAttachment", project.pk)
    assert last().changes["user"] == [None, "li.wei"]
    admin.post(f"/admin/iam/attachment/{attachment.pk}/delete/", {"post": "yes"})

    assert (last().action, last().changes["user"]) == ("iam:DeleteAttachment", ["li.wei", None])
    assert audit_services.verify(project_id="default") is None


def test_the_same_attachment_twice_is_a_sentence_and_no_crash(admin: Client) -> None:
    person, policy = builders.user(), builders.policy("ark:*")
    values = {"policy": policy.pk, "user": person.pk, "group": "", "project": ""}
    admin.post("/admin/iam/attachment/add/", values)

    response = admin.post("/admin/iam/attachment/add/", values)

    assert response.status_code == 200
    assert Attachment.objects.count() == 1


def test_an_attachment_to_nobody_or_to_both_is_refused(admin: Client) -> None:
    person, group, policy = builders.user(), Group.objects.create(name="g"), builders.policy("ark:*")

    for holders in ({"user": "", "group": ""}, {"user": person.pk, "group": group.pk}):
        response = admin.post("/admin/iam/attachment/add/", {"policy": policy.pk, "project": "", **holders})
        assert response.status_code == 200
    assert not Attachment.objects.exists()


def test_a_person_is_changed_with_policies_and_groups_in_one_event(admin: Client) -> None:
    builders.project("default")
    person, group, policy = (
        builders.user(username="li.wei"),
        Group.objects.create(name="ops"),
        builders.policy("ark:*", name="Ops"),
    )

    response = admin.post(
        f"/admin/iam/user/{person.pk}/change/",
        {
            "username": "li.wei", "first_name": "", "last_name": "", "email": "", "language": "en", "time_zone": "",
            "is_active": "on", "groups": [group.pk], **inline(policy=policy.pk, project="default", user=person.pk),
        },
    )  # fmt: skip

    assert response.status_code == 302, response.context["adminform"].form.errors
    assert last().action == "iam:UpdateUser"
    assert last().changes == {
        "language": ["", "en"], "groups": [[], ["ops"]], "policies": [[], ["Ops @ default"]],
    }  # fmt: skip
    assert "password" not in last().changes


def test_a_new_password_is_recorded_without_the_password(admin: Client) -> None:
    person = builders.user()

    admin.post(
        f"/admin/iam/user/{person.pk}/password/",
        {"password1": "another long password", "password2": "another long password", "usable_password": "true"},
    )

    assert User.objects.get(pk=person.pk).check_password("another long password")
    assert (last().action, last().changes) == ("iam:UpdateUser", {"password": ["set", "set anew"]})


def test_a_project_keeps_its_id(admin: Client) -> None:
    admin.post("/admin/iam/project/add/", {"id": "research", "name": "Research"})
    assert (last().action, last().project_id) == ("iam:CreateProject", "research")

    admin.post("/admin/iam/project/research/change/", {"id": "other", "name": "Research 2"})

    assert Project.objects.get(pk="research").name == "Research 2"
    assert last().changes == {"name": ["Research", "Research 2"]}


@pytest.mark.parametrize("slug", ["Research", "1st", "a b", "", "a" * 64])
def test_a_project_id_is_a_slug(admin: Client, slug: str) -> None:
    assert admin.post("/admin/iam/project/add/", {"id": slug, "name": "x"}).status_code == 200
    assert not Project.objects.exists()


def test_the_record_is_read_and_never_changed_in_the_administration(admin: Client) -> None:
    with audit_services.attempt(by=SYSTEM, action="ark:X", project_id="default", now=NOW):
        pass
    event = Event.objects.get()

    assert "ark:X" in admin.get("/admin/audit/event/").content.decode()
    assert admin.get(f"/admin/audit/event/{event.pk}/change/").status_code == 200
    assert admin.post(f"/admin/audit/event/{event.pk}/change/", {"reason": "x"}).status_code == 403
    assert admin.post(f"/admin/audit/event/{event.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin.get("/admin/audit/event/add/").status_code == 403


# --- services and commands --------------------------------------------------------------------------------------------------


def test_a_policy_is_attached_by_those_who_may() -> None:
    project, person, policy = builders.project(), builders.user(), builders.policy("ark:*")
    boss = builders.actor(builders.member(project, "iam:AttachPolicy", "iam:DetachPolicy"))

    attachment = services.attach_policy(policy=policy, user=person, project=project, by=boss, now=NOW)
    again = services.attach_policy(policy=policy, user=person, project=project, by=boss, now=NOW)
    assert attachment == again
    services.detach_policy(attachment=attachment, by=boss, now=NOW)

    assert not Attachment.objects.filter(user=person).exists()
    with pytest.raises(NotAllowed):
        services.attach_policy(policy=policy, user=person, by=boss, now=NOW)


def test_nobody_gives_themselves_more_than_they_have() -> None:
    project = builders.project()
    person = builders.member(project)

    with pytest.raises(NotAllowed):
        services.attach_policy(
            policy=builders.policy("iam:*"), user=person, project=project, by=builders.actor(person), now=NOW
        )


def test_the_first_start_makes_an_administrator_once(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.ADMIN_PASSWORD = ""

    call_command("ensure_admin")
    password = capsys.readouterr().out.strip()
    call_command("ensure_admin")

    assert capsys.readouterr().out == ""
    assert User.objects.get(is_superuser=True).check_password(password)
    assert len(password) >= 16


def test_a_given_password_is_not_printed(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.ADMIN_PASSWORD = "a given password"

    call_command("ensure_admin")

    assert capsys.readouterr().out == "created\n"
    assert User.objects.get(username="admin").check_password("a given password")


def test_a_lost_password_is_set_anew(settings: Any, capsys: pytest.CaptureFixture[str]) -> None:
    settings.ADMIN_PASSWORD = ""
    call_command("ensure_admin")
    first = capsys.readouterr().out.strip()

    call_command("ensure_admin", "--reset")

    second = capsys.readouterr().out.strip()
    assert first != second
    assert User.objects.get(username="admin").check_password(second)


def test_bootstrap_may_be_repeated_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("bootstrap")
    Project.objects.filter(pk="default").update(name="Renamed")
    call_command("bootstrap")

    assert capsys.readouterr().out == ""
    assert [project.name for project in Project.objects.all()] == ["Renamed"]
    assert Policy.objects.filter(is_builtin=True).count() == len(BUILT_IN)


def test_the_administration_names_its_rooms_in_chinese_too(admin: Client) -> None:
    index = admin.get("/admin/", headers={"accept-language": "zh"}).content.decode()
    record = admin.get("/admin/audit/event/", headers={"accept-language": "zh"}).content.decode()

    assert all(name in index for name in ("审计记录", "成员与权限", "模型目录"))
    assert "操作人" in record
    assert not re.search(r">\s*(Audit|Iam|Events|Account)\s*<", index)


def test_the_administration_offers_nothing_that_stays_empty(admin: Client) -> None:
    assert admin.get("/admin/account/emailaddress/").status_code == 404
