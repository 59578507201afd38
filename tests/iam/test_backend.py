"""`user.has_perm("ark:StopEndpoint", resource)`: by attached policies, per project."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group
from django.db import IntegrityError, transaction

from iam.models import Attachment, Project, User
from tests import builders

pytestmark = pytest.mark.django_db


def fresh(user: User) -> User:
    """The same person in another request."""
    return User.objects.get(pk=user.pk)


def test_a_policy_counts_in_its_project_only() -> None:
    here, there = builders.project("here"), builders.project("there")
    person = builders.member(here, "ark:StopEndpoint")

    assert person.has_perm("ark:StopEndpoint", here)
    assert not person.has_perm("ark:StartEndpoint", here)
    assert not person.has_perm("ark:StopEndpoint", there)


def test_a_policy_without_a_project_counts_everywhere() -> None:
    person = builders.member(None, "ark:StopEndpoint")

    assert person.has_perm("ark:StopEndpoint", builders.project("anywhere"))


def test_a_resource_is_judged_by_its_own_project_and_name() -> None:
    key = builders.api_key(project=builders.project("here"))
    person = builders.user()
    policy = builders.policy("ark:UpdateApiKey")
    policy.statements[0]["resources"] = [key.trn]
    policy.save()
    Attachment.objects.create(policy=policy, user=person, project=key.project)

    assert person.has_perm("ark:UpdateApiKey", key)
    assert not person.has_perm("ark:UpdateApiKey", builders.api_key(project=key.project))


def test_a_group_gives_its_policies_to_its_members() -> None:
    project, person, group = builders.project(), builders.user(), Group.objects.create(name="operators")
    Attachment.objects.create(policy=builders.policy("ark:StopEndpoint"), group=group, project=project)
    assert not person.has_perm("ark:StopEndpoint", project)

    person.groups.add(group)

    assert fresh(person).has_perm("ark:StopEndpoint", project)


def test_a_deny_by_one_policy_wins_over_an_allow_by_another() -> None:
    project = builders.project()
    person = builders.member(project, "ark:*")
    Attachment.objects.create(policy=builders.policy("ark:Delete*", effect="Deny"), user=person, project=None)

    assert person.has_perm("ark:StopEndpoint", project)
    assert not person.has_perm("ark:DeleteEndpoint", project)


def test_a_superuser_passes_everything_even_a_deny() -> None:
    project = builders.project()
    person = builders.user(is_superuser=True)
    Attachment.objects.create(policy=builders.policy("*", effect="Deny"), user=person, project=project)

    assert person.has_perm("ark:DeleteEndpoint", project)


@pytest.mark.parametrize("values", [{"is_active": False}, {"is_active": False, "is_superuser": True}])
def test_somebody_switched_off_may_nothing(values: dict[str, Any]) -> None:
    project = builders.project()
    person = builders.member(project, "*", **values)

    assert not person.has_perm("ark:GetEndpoint", project)
    assert list(Project.objects.visible_to(person)) == []


def test_nobody_may_nothing() -> None:
    assert not AnonymousUser().has_perm("ark:GetEndpoint", builders.project())
    assert list(Project.objects.visible_to(AnonymousUser())) == []


def test_an_action_without_a_resource_is_never_allowed() -> None:
    assert not builders.member(None, "*").has_perm("ark:GetEndpoint")


def test_policies_are_read_once_per_request(django_assert_num_queries: Any) -> None:
    project = builders.project()
    person = builders.member(project, "ark:*")

    with django_assert_num_queries(1):
        for action in ("ark:GetEndpoint", "ark:StopEndpoint", "ark:DeleteEndpoint"):
            person.has_perm(action, project)


def test_people_see_the_projects_in_which_they_hold_any_policy() -> None:
    here, _there = builders.project("here"), builders.project("there")
    group = Group.objects.create(name="readers")
    in_group = builders.user()
    in_group.groups.add(group)
    Attachment.objects.create(policy=builders.policy("ark:Get*"), group=group, project=here)

    assert set(Project.objects.visible_to(builders.member(here, "vmp:Get*"))) == {here}
    assert set(Project.objects.visible_to(in_group)) == {here}
    assert set(Project.objects.visible_to(builders.member(None, "ark:Get*"))) >= set(Project.objects.all())
    assert set(Project.objects.visible_to(builders.user())) == set()


@pytest.mark.parametrize("who", ["user", "group"])
@pytest.mark.parametrize("is_everywhere", [True, False])
def test_the_same_policy_is_attached_once(who: str, *, is_everywhere: bool) -> None:
    holder = builders.user() if who == "user" else Group.objects.create(name="g")
    values = {"policy": builders.policy("ark:*"), who: holder, "project": None if is_everywhere else builders.project()}
    Attachment.objects.create(**values)

    with pytest.raises(IntegrityError), transaction.atomic():
        Attachment.objects.create(**values)


@pytest.mark.parametrize("both", [True, False])
def test_an_attachment_belongs_to_a_user_or_a_group(*, both: bool) -> None:
    holders = {"user": builders.user(), "group": Group.objects.create(name="g")} if both else {}

    with pytest.raises(IntegrityError), transaction.atomic():
        Attachment.objects.create(policy=builders.policy("ark:*"), **holders)
