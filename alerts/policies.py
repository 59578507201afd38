"""Notification policies: which level goes to which groups, by which methods, how often."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from alerts import actions, routing
from alerts.contacts import MAX_NAME
from alerts.models import ContactGroup, Level, MethodKind, NotificationPolicy, PolicyLevel, RuleGroup
from audit.services import Attempt, attempt
from common.errors import Conflict, DomainError
from iam.actors import Actor
from iam.models import Project

MAX_WAIT = 3600
MAX_INTERVAL = 86_400
MAX_REPEAT = 7 * 86_400


@dataclass(frozen=True, slots=True)
class LevelPlan:
    """What a policy does with one level. No groups or no kinds: nobody is told of it, the events are kept."""

    level: str
    groups: Sequence[ContactGroup] = ()
    kinds: Sequence[str] = ()
    resolved_kinds: Sequence[str] = ()
    group_by: str = PolicyLevel.GroupBy.RULE
    wait_seconds: int = 30
    interval_seconds: int = 60
    repeat_seconds: int = 3600


# A policy begins so: the worse, the sooner and the more often.
DEFAULTS: dict[str, LevelPlan] = {
    level: LevelPlan(level, wait_seconds=timing.wait, interval_seconds=timing.interval, repeat_seconds=timing.repeat)
    for level, timing in routing.DEFAULT_TIMINGS.items()
}


def create_policy(
    *, project: Project, name: str, levels: Iterable[LevelPlan], by: Actor, now: datetime
) -> NotificationPolicy:
    """A new policy; a tick takes it to Alertmanager within seconds. Raises `NotAllowed`, or `DomainError` with `field`.

    `field` of a level's value is such as "P0-kinds".
    """
    with attempt(
        by=by, action=actions.CREATE_NOTIFY_POLICY, project_id=project.pk, project_name=project.name,
        resource_name=name.strip(), now=now,
    ) as noted:  # fmt: skip
        by.require(actions.CREATE_NOTIFY_POLICY, project)
        plans = _clean(project, levels)
        policy = NotificationPolicy(
            project=project, name=_clean_name(name), created_by_name=by.name, created_at=now, updated_at=now
        )
        _save(policy)
        _write_levels(policy, plans)
        noted.resource = policy.trn
        noted.changed(name=(None, policy.name), **{plan.level: (None, _told(plan)) for plan in plans})
    return policy


def update_policy(
    *, policy: NotificationPolicy, revision: int, name: str, levels: Iterable[LevelPlan], by: Actor, now: datetime
) -> NotificationPolicy:
    """Change a policy as it was at `revision`. Raises `Conflict` when somebody was faster, else as creating does."""
    with _of_policy(policy, actions.UPDATE_NOTIFY_POLICY, by=by, now=now) as (stored, noted):
        if stored.revision != revision:
            raise Conflict(_("Somebody else has changed this policy. Load the page anew."), current={})
        before = {row.level: _told(plan_of(row)) for row in stored.levels.prefetch_related("groups")}
        plans = _clean(stored.project, levels)
        after = {plan.level: _told(plan) for plan in plans}
        noted.changed(
            name=(stored.name, name.strip()),
            **{level: (before.get(level), after.get(level)) for level in sorted({*before, *after})},
        )
        stored.name, stored.updated_at = _clean_name(name), now
        stored.revision += 1
        _save(stored)
        _write_levels(stored, plans)
    return stored


def delete_policy(*, policy: NotificationPolicy, by: Actor, now: datetime) -> None:
    """Delete a policy that no rule group uses. Raises `NotAllowed`, or `DomainError` with the groups."""
    with _of_policy(policy, actions.DELETE_NOTIFY_POLICY, by=by, now=now) as (stored, noted):
        users = RuleGroup.objects.filter(policy=stored, deleted_at__isnull=True).values_list("name", flat=True)[:5]
        if names := list(users):
            raise DomainError(
                _("These rule groups use this policy; give them another one first: %(names)s")
                % {"names": ", ".join(names)}
            )
        noted.changed(name=(stored.name, None))
        stored.deleted_at = stored.updated_at = now
        stored.save(update_fields=["deleted_at", "updated_at"])


@contextmanager
def _of_policy(
    policy: NotificationPolicy, action: str, *, by: Actor, now: datetime
) -> Iterator[tuple[NotificationPolicy, Attempt]]:
    with attempt(
        by=by, action=action, project_id=policy.project_id, resource=policy.trn, resource_name=policy.name, now=now
    ) as noted:
        by.require(action, policy)
        rows = NotificationPolicy.objects.select_for_update()
        stored = rows.filter(pk=policy.pk, deleted_at__isnull=True).first()
        if stored is None:
            raise DomainError(_("This policy has been deleted."))
        yield stored, noted


def _save(policy: NotificationPolicy) -> None:
    try:
        with transaction.atomic():
            policy.save()
    except IntegrityError:
        raise DomainError(_("There is one of this name already in this project."), field="name") from None


def _write_levels(policy: NotificationPolicy, plans: Iterable[LevelPlan]) -> None:
    policy.levels.all().delete()
    for plan in plans:
        row = PolicyLevel.objects.create(
            policy=policy, level=plan.level, kinds=list(plan.kinds), resolved_kinds=list(plan.resolved_kinds),
            group_by=plan.group_by, wait_seconds=plan.wait_seconds, interval_seconds=plan.interval_seconds,
            repeat_seconds=plan.repeat_seconds,
        )  # fmt: skip
        row.groups.set(plan.groups)


def plan_of(row: PolicyLevel) -> LevelPlan:
    """A level as it stands."""
    return LevelPlan(
        row.level, list(row.groups.all()), row.kinds, row.resolved_kinds, row.group_by, row.wait_seconds,
        row.interval_seconds, row.repeat_seconds,
    )  # fmt: skip


def _told(plan: LevelPlan) -> dict[str, Any]:
    """A level as the record keeps it."""
    return {
        "groups": [group.name for group in plan.groups], "kinds": list(plan.kinds),
        "resolved_kinds": list(plan.resolved_kinds), "group_by": str(plan.group_by), "wait_seconds": plan.wait_seconds,
        "interval_seconds": plan.interval_seconds, "repeat_seconds": plan.repeat_seconds,
    }  # fmt: skip


def _clean_name(name: str) -> str:
    name = name.strip()
    if not name or not name.isprintable():
        raise DomainError(_("Give it a name."), field="name")
    if len(name) > MAX_NAME:
        raise DomainError(_("At most %(count)s characters.") % {"count": MAX_NAME}, field="name")
    return name


def _clean(project: Project, levels: Iterable[LevelPlan]) -> list[LevelPlan]:
    plans = sorted(levels, key=lambda plan: plan.level)
    names = [plan.level for plan in plans]
    if len(set(names)) != len(names) or not set(names) <= set(Level.values):
        raise DomainError(_("Each level once: P0, P1, P2."), field="levels")
    for plan in plans:
        _check(project, plan)
    return plans


def _check(project: Project, plan: LevelPlan) -> None:
    level = plan.level
    if any(group.project_id != project.pk or group.deleted_at for group in plan.groups):
        raise DomainError(_("One of the groups has been deleted. Load the page anew."), field=f"{level}-groups")
    for name in ("kinds", "resolved_kinds"):
        kinds: Sequence[str] = getattr(plan, name)
        if not set(kinds) <= set(MethodKind.values):
            raise DomainError(_("Choose one of the kinds."), field=f"{level}-{name}")
        if MethodKind.PHONE in kinds and level != Level.P0:
            raise DomainError(_("Phones ring for P0 only."), field=f"{level}-{name}")
    if plan.group_by not in PolicyLevel.GroupBy.values:
        raise DomainError(_("Choose how alerts are put together."), field=f"{level}-group_by")
    for name, low, high in (
        ("wait_seconds", 0, MAX_WAIT), ("interval_seconds", 1, MAX_INTERVAL), ("repeat_seconds", 60, MAX_REPEAT),
    ):  # fmt: skip
        if not low <= getattr(plan, name) <= high:
            raise DomainError(
                _("Between %(low)s and %(high)s seconds.") % {"low": low, "high": high}, field=f"{level}-{name}"
            )
    if plan.repeat_seconds < plan.interval_seconds:
        raise DomainError(_("Repeating cannot come sooner than the interval."), field=f"{level}-repeat_seconds")
