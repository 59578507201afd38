"""Who may do a thing: for the sentence that tells a person whom to ask."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from django.db.models import Q

from iam.actors import Resource
from iam.models import Attachment, Policy, User
from iam.policies import allows

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Holders:
    """Names of policies that allow it by themselves, built-in ones first; of people who may, at most `SHOWN`.

    `is_more`: there are others. Superusers, who may do everything, are not among the people.
    """

    policies: tuple[str, ...]
    people: tuple[str, ...]
    is_more: bool


def holders(action: str, resource: Resource) -> Holders:
    """Who may do `action` on `resource`; at most three queries. For people of the resource's own project."""
    policies = [
        policy.name
        for policy in Policy.objects.order_by("-is_builtin", "name")
        if allows(policy.statements, action=action, resource=resource.trn)
    ]
    held: dict[int, list[dict[str, Any]]] = defaultdict(list)
    of_groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    here = Attachment.objects.filter(Q(project=None) | Q(project=resource.project_id))
    for user_id, group_id, statements in here.values_list("user_id", "group_id", "policy__statements"):
        (held[user_id] if user_id else of_groups[group_id]).extend(statements)
    who = User.objects.filter(Q(pk__in=list(held)) | Q(groups__in=list(of_groups)), is_active=True, is_superuser=False)
    names: dict[int, str] = {}
    for pk, username, group_id in who.order_by("username").values_list("pk", "username", "groups"):
        names[pk] = username
        held[pk].extend(of_groups.get(group_id, ()))
    people = [name for pk, name in names.items() if allows(held[pk], action=action, resource=resource.trn)]
    return Holders(tuple(policies), tuple(people[:SHOWN]), is_more=len(people) > SHOWN)
