"""What people do with rule groups: the default rules in one press, rules of their own, upgrades, and a look beforehand."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils.translation import gettext as _

from alerts import actions, nudges, previews, promql, promtool, templates
from alerts.metrics import Both
from alerts.models import Level, NotificationPolicy, Rule, RuleGroup, SyncState
from alerts.previews import Preview
from alerts.promql import Invalid, MetricForm
from alerts.templates import COMPARATORS, FOR_SECONDS, Difference, Item, LevelRule, Template
from audit.services import Attempt, attempt
from common.errors import Conflict, DomainError
from endpoints.models import Endpoint
from iam.actors import Actor
from iam.models import Project

MAX_NAME = 128
MAX_RULES = 20
MAX_GROUPS = 2_000
"""Of one project."""
MAX_LABELS = 10
MAX_LABEL_VALUE = 128
MAX_TEXT = 500
MAX_UNIT = 16
MAX_THRESHOLD = 1e15


class AlreadyThere(Conflict):
    """The endpoint has a group of this template; `group` is it, `address` its page."""

    def __init__(self, group: RuleGroup) -> None:
        super().__init__(_("This endpoint has these rules already: %(name)s.") % {"name": group.name})
        self.group = group

    @property
    def address(self) -> str:
        return reverse("alerts:rule_group", args=[self.group.pk])


@dataclass(frozen=True, slots=True)
class RuleChange:
    """What a person wants otherwise in a rule of a template; None leaves it as it is."""

    is_enabled: bool | None = None
    levels: Sequence[LevelRule] | None = None
    labels: Mapping[str, str] | None = None
    texts: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class OwnRule:
    """A rule without a template: of a `form`, or of `promql` where that is None. `key` names the one that it replaces."""

    name: str
    levels: Sequence[LevelRule]
    comparator: str = ">"
    form: MetricForm | None = None
    promql: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    unit: str = ""
    is_enabled: bool = True
    key: str = ""


@dataclass(frozen=True, slots=True)
class Filled:
    """A default rule as the drawer shows it for one endpoint; `limit` is the endpoint's own, where the rule is about one."""

    item: Item
    limit: int | None

    def absolute(self, level: LevelRule) -> float | None:
        """What a percentage of the limit comes to, per minute."""
        return None if self.limit is None else self.limit * level.threshold / 100


# --- to look at --------------------------------------------------------------------------------------------------------


def prefilled(endpoint: Endpoint) -> list[Filled]:
    """The default rules that make sense for the endpoint's model, with its own limits."""
    return [
        Filled(item, getattr(endpoint, item.limit) if item.limit else None)
        for item in _items(templates.CURRENT, endpoint)
    ]


def covering(endpoint: Endpoint) -> QuerySet[RuleGroup]:
    """Groups that watch the endpoint already: its own, and those of the whole project."""
    return (
        RuleGroup.objects.filter(
            project_id=endpoint.project_id, endpoint_id__in=["", endpoint.pk], deleted_at__isnull=True
        )
        .select_related("policy")
        .prefetch_related("rules")
    )


def is_upgradable(group: RuleGroup) -> bool:
    """Whether a newer version of its template has been shipped."""
    newest = templates.newest(group.template_id) if group.template_id else None
    return newest is not None and newest.version > group.template_version


def upgrade_preview(group: RuleGroup) -> list[Difference]:
    """What upgrading would change, and what it would leave because a person changed it."""
    newest, old = templates.newest(group.template_id), templates.get(group.template_id, group.template_version)
    if newest is None:
        return []
    endpoint, rules = _endpoint_of(group), list(group.rules.all())
    before = _items(old, endpoint) if old else []
    known = {item.id for item in before}
    # A version that this release no longer knows is judged by what it made, and so is what an earlier upgrade kept.
    before += [_as_stored(rule, newest) for rule in rules if rule.key not in known]
    return templates.diff(before, _items(newest, endpoint), kept={rule.key: _kept_fields(rule) for rule in rules})


def check(expression: str, *, project: Project, endpoint_id: str = "") -> str:
    """The expression as it would be evaluated. Raises `Invalid` with line and column; starts promtool once."""
    try:
        confined = promql.confine(expression, project=project.pk, endpoint=endpoint_id)
    except promql.NotPromql as error:
        if found := promtool.position(expression):
            message = _("This is not PromQL: %(said)s") % {"said": found.said}
            raise Invalid(message, line=found.line, column=found.column) from None
        raise error from None
    if found := promtool.position(confined):
        raise Invalid(_("Prometheus does not take this: %(said)s") % {"said": found.said})
    return confined


def preview(
    *,
    expression: str,
    comparator: str,
    levels: Sequence[LevelRule],
    project: Project,
    endpoint_id: str = "",
    unit: str = "",
    by: Actor,
    now: datetime,
) -> Preview:
    """What the rule sees now, whether it would fire, and the last day with the times at which it would have.

    Raises `NotAllowed`, `Invalid`, or `DomainError` with `field`. Where Prometheus does not answer, the preview says so.
    """
    if not by.can(actions.UPDATE_RULE_GROUP, project):
        by.require(actions.CREATE_RULE_GROUP, project)
    _refuse_comparator(comparator)
    cleaned = _clean_levels(levels, comparator)
    confined = check(expression, project=project, endpoint_id=endpoint_id)
    return previews.look(confined, comparator=comparator, levels=cleaned, unit=unit, now=now)


# --- groups from a template ----------------------------------------------------------------------------------------------


def create_group_from_template(
    *,
    endpoint: Endpoint,
    by: Actor,
    now: datetime,
    changes: Mapping[str, RuleChange] | None = None,
    policy: NotificationPolicy | None = None,
    name: str = "",
) -> RuleGroup:
    """The default rules for an endpoint, changed as `changes` says by the items' ids; within seconds they are evaluated.

    Raises `NotAllowed`, `AlreadyThere` when the endpoint has them, or `DomainError` with `field` ("error_rate-levels").
    """
    template = templates.CURRENT
    title = name.strip() or _("Default rules of %(name)s") % {"name": endpoint.name}
    with attempt(
        by=by, action=actions.CREATE_RULE_GROUP, project_id=endpoint.project_id, project_name=endpoint.project.name,
        resource_name=title, now=now,
    ) as noted:  # fmt: skip
        by.require(actions.CREATE_RULE_GROUP, endpoint)
        if not Endpoint.objects.alive().filter(pk=endpoint.pk).exists():
            raise DomainError(_("This endpoint has been deleted."))
        if found := _same(endpoint, template.id):
            raise AlreadyThere(found)
        group = RuleGroup(
            project=endpoint.project, endpoint_id=endpoint.pk, template_id=template.id,
            template_version=template.version, name=_clean_name(title), policy=_clean_policy(policy, endpoint.project),
            created_by_name=by.name, created_at=now, updated_at=now,
        )  # fmt: skip
        items = _items(template, endpoint)
        _refuse_unknown(changes or {}, items)
        rows = [_of_item(item, (changes or {}).get(item.id), position) for position, item in enumerate(items)]
        try:
            with transaction.atomic():
                _create(group, rows)
        except IntegrityError:
            if found := _same(endpoint, template.id):
                raise AlreadyThere(found) from None
            raise
        _note_created(noted, group, rows)
    return group


def update_template_group(
    *,
    group: RuleGroup,
    revision: int,
    by: Actor,
    now: datetime,
    changes: Mapping[str, RuleChange],
    policy: NotificationPolicy | None,
    name: str,
) -> RuleGroup:
    """Change name, policy and rules of a group that was made from a template and read at `revision`.

    Raises `NotAllowed`, `Conflict`, or `DomainError` with `field`.
    """
    with _acting(group, actions.UPDATE_RULE_GROUP, by=by, now=now, revision=revision) as (stored, noted):
        template = templates.get(stored.template_id, stored.template_version)
        rows = {rule.key: rule for rule in stored.rules.all()}
        _refuse_unknown(changes, rows)
        _note_head(noted, stored, name=name, policy=policy)
        for key, change in changes.items():
            rule = rows[key]
            before = _told(rule)
            item = template.item(key) if template else None
            _apply(rule, change, item)
            if _told(rule) != before:
                noted.changed(**{key: (before, _told(rule))})
                rule.save()
        _touch(stored, now=now)
    return stored


def upgrade_groups(*, groups: Sequence[RuleGroup], by: Actor, now: datetime) -> list[RuleGroup]:
    """Bring groups to the newest version of their template; what people changed stays as they had it.

    A rule that the newest version dropped stays as a whole where people changed anything of it.
    Each by itself; those that are at the newest version are left alone. Raises `NotAllowed` at the first that may not.
    """
    return [_upgrade(group, by=by, now=now) for group in groups]


def _upgrade(group: RuleGroup, *, by: Actor, now: datetime) -> RuleGroup:
    with _acting(group, actions.UPGRADE_RULE_GROUPS, by=by, now=now) as (stored, noted):
        newest = templates.newest(stored.template_id) if stored.template_id else None
        if newest is None:
            raise DomainError(_("This group was not made from a template."))
        if newest.version <= stored.template_version:
            return stored
        items = _items(newest, _endpoint_of(stored))
        rows = {rule.key: rule for rule in stored.rules.all()}
        for position, key in enumerate(sorted(set(rows) - {item.id for item in items}), start=len(items)):
            dropped = rows[key]
            if dropped.changed:
                dropped.position = position
                dropped.save(update_fields=["position"])
            else:
                noted.changed(**{key: (_told(dropped), None)})
                dropped.delete()
        for position, item in enumerate(items):
            rule = rows.get(item.id)
            if rule is None:
                rule = _of_item(item, None, position)
                rule.group = stored
                noted.changed(**{item.id: (None, _told(rule))})
            else:
                before = _told(rule)
                _upgrade_rule(rule, item, position)
                noted.changed(**{item.id: (before, _told(rule))})
            rule.save()
        noted.changed(template_version=(stored.template_version, newest.version))
        stored.template_version = newest.version
        _touch(stored, now=now)
    return stored


# --- groups of people's own rules ---------------------------------------------------------------------------------------


def create_own_group(
    *,
    project: Project,
    name: str,
    rules: Sequence[OwnRule],
    by: Actor,
    now: datetime,
    endpoint: Endpoint | None = None,
    policy: NotificationPolicy | None = None,
) -> RuleGroup:
    """A group of own rules for an endpoint, or for the whole project.

    Raises `NotAllowed`; `DomainError` with `field` ("0-name": of the first rule); `Invalid` with the place in the PromQL.
    """
    with attempt(
        by=by, action=actions.CREATE_RULE_GROUP, project_id=project.pk, project_name=project.name,
        resource_name=name.strip(), now=now,
    ) as noted:  # fmt: skip
        by.require(actions.CREATE_RULE_GROUP, endpoint or project)
        if endpoint is not None and endpoint.project_id != project.pk:
            raise DomainError(_("This endpoint belongs to another project."), field="endpoint")
        own = RuleGroup.objects.filter(project=project, template_id="", deleted_at__isnull=True)
        if own.count() >= MAX_GROUPS:
            raise DomainError(_("A project has at most %(count)d rule groups.") % {"count": MAX_GROUPS})
        group = RuleGroup(
            project=project, endpoint_id=endpoint.pk if endpoint else "", name=_clean_name(name),
            policy=_clean_policy(policy, project), created_by_name=by.name, created_at=now, updated_at=now,
        )  # fmt: skip
        rows = _own_rows(group, rules, {})
        _create(group, rows)
        _note_created(noted, group, rows)
    return group


def update_own_group(
    *,
    group: RuleGroup,
    revision: int,
    name: str,
    rules: Sequence[OwnRule],
    policy: NotificationPolicy | None,
    by: Actor,
    now: datetime,
) -> RuleGroup:
    """Change a group of own rules that was read at `revision`; rules that are not among `rules` are removed.

    Raises as creating does, and `Conflict`.
    """
    with _acting(group, actions.UPDATE_RULE_GROUP, by=by, now=now, revision=revision) as (stored, noted):
        if stored.template_id:
            raise DomainError(_("This group was made from a template; its expressions cannot be changed."))
        before = {rule.key: rule for rule in stored.rules.all()}
        told = {key: _told(rule) for key, rule in before.items()}
        _note_head(noted, stored, name=name, policy=policy)
        rows = _own_rows(stored, rules, before)
        after = {rule.key: rule for rule in rows}
        for key in sorted({*before, *after}):
            noted.changed(**{key: (told.get(key), _told(after[key]) if key in after else None)})
            if key not in after:
                before[key].delete()
        for rule in rows:
            rule.group = stored
            rule.save()
        _touch(stored, now=now)
    return stored


# --- any group ---------------------------------------------------------------------------------------------------------


def set_enabled(*, group: RuleGroup, is_enabled: bool, by: Actor, now: datetime) -> RuleGroup:
    """Have a group evaluated, or not. Raises `NotAllowed`."""
    with _acting(group, actions.UPDATE_RULE_GROUP, by=by, now=now) as (stored, noted):
        if stored.is_enabled != is_enabled:
            noted.changed(is_enabled=(stored.is_enabled, is_enabled))
            stored.is_enabled = is_enabled
            _touch(stored, now=now)
    return stored


def set_rule_enabled(*, rule: Rule, is_enabled: bool, by: Actor, now: datetime) -> Rule:
    """Have one rule of a group evaluated, or not. Raises `NotAllowed`, or `DomainError` when it is gone."""
    with _acting(rule.group, actions.UPDATE_RULE_GROUP, by=by, now=now) as (group, noted):
        stored = group.rules.filter(pk=rule.pk).first()
        if stored is None:
            raise DomainError(_("This rule has been deleted."))
        if stored.is_enabled != is_enabled:
            noted.changed(**{f"{stored.key}.is_enabled": (stored.is_enabled, is_enabled)})
            if stored.kind == Rule.Kind.TEMPLATE:
                _apply(stored, RuleChange(is_enabled=is_enabled), _item_of(stored, group))
            stored.is_enabled = is_enabled
            stored.save()
            _touch(group, now=now)
    return stored


def delete_group(*, group: RuleGroup, by: Actor, now: datetime) -> None:
    """Delete a group; what it told of stays in the history. Raises `NotAllowed`."""
    with _acting(group, actions.DELETE_RULE_GROUP, by=by, now=now) as (stored, noted):
        noted.changed(name=(stored.name, None))
        stored.deleted_at = now
        _touch(stored, now=now)


@contextmanager
def _acting(
    group: RuleGroup, action: str, *, by: Actor, now: datetime, revision: int | None = None
) -> Iterator[tuple[RuleGroup, Attempt]]:
    """The stored group, locked, inside an audited transaction in which `by` may do `action`."""
    with attempt(
        by=by, action=action, project_id=group.project_id, resource=group.trn, resource_name=group.name, now=now
    ) as noted:
        by.require(action, group)
        stored = RuleGroup.objects.select_for_update().filter(pk=group.pk, deleted_at__isnull=True).first()
        if stored is None:
            raise DomainError(_("This rule group has been deleted."))
        if revision is not None and stored.revision != revision:
            raise Conflict(_("Somebody else has changed this rule group. Load the page anew."))
        yield stored, noted


def _touch(group: RuleGroup, *, now: datetime) -> None:
    """Save it as on its way to Prometheus."""
    group.revision += 1
    group.updated_at = now
    group.sync_state, group.sync_message = SyncState.PENDING, ""
    group.save()
    nudges.nudge("alerts.sync_rules")


def _create(group: RuleGroup, rows: Sequence[Rule]) -> None:
    group.save(force_insert=True)
    for rule in rows:
        rule.group = group
        rule.save(force_insert=True)
    nudges.nudge("alerts.sync_rules")


def _same(endpoint: Endpoint, template_id: str) -> RuleGroup | None:
    return RuleGroup.objects.filter(
        project_id=endpoint.project_id, endpoint_id=endpoint.pk, template_id=template_id, deleted_at__isnull=True
    ).first()


def _note_created(noted: Attempt, group: RuleGroup, rows: Sequence[Rule]) -> None:
    noted.resource, noted.resource_name = group.trn, group.name
    noted.changed(
        name=(None, group.name), endpoint=(None, group.endpoint_id or None),
        policy=(None, group.policy.name if group.policy else None), **{rule.key: (None, _told(rule)) for rule in rows},
    )  # fmt: skip


def _note_head(noted: Attempt, stored: RuleGroup, *, name: str, policy: NotificationPolicy | None) -> None:
    noted.changed(
        name=(stored.name, name.strip()),
        policy=(stored.policy.name if stored.policy else None, policy.name if policy else None),
    )
    stored.name = _clean_name(name)
    # One that was deleted since may stay where it was; a new choice must be there.
    stored.policy = policy if policy and policy.pk == stored.policy_id else _clean_policy(policy, stored.project)


def _told(rule: Rule) -> dict[str, Any]:
    """A rule as the audit record keeps it."""
    told = {"promql": rule.promql, "comparator": rule.comparator, "levels": rule.levels, "is_enabled": rule.is_enabled}
    more = {"name": rule.name, "labels": rule.labels, "texts": rule.texts, "unit": rule.unit}
    return told | {name: value for name, value in more.items() if value}


# --- rules of a template -------------------------------------------------------------------------------------------------


def _items(template: Template, endpoint: Endpoint) -> list[Item]:
    version = endpoint.version
    return template.items_for(domain=version.model.domain, has_cache=version.supports_caching)


def _endpoint_of(group: RuleGroup) -> Endpoint:
    found = Endpoint.objects.alive().select_related("version__model").filter(pk=group.endpoint_id).first()
    if found is None:
        raise DomainError(_("This endpoint has been deleted."))
    return found


def _item_of(rule: Rule, group: RuleGroup) -> Item | None:
    template = templates.get(group.template_id, group.template_version)
    return template.item(rule.key) if template else None


def _of_item(item: Item, change: RuleChange | None, position: int) -> Rule:
    rule = Rule(key=item.id, kind=Rule.Kind.TEMPLATE, position=position)
    _upgrade_rule(rule, item, position)
    _apply(rule, change or RuleChange(), item)
    return rule


def _as_stored(rule: Rule, template: Template) -> Item:
    known = template.item(rule.key)
    return Item(
        id=rule.key, name=known.name if known else Both(rule.name, rule.name), help=Both("", ""),
        text=Both(rule.texts.get("en", ""), rule.texts.get("zh", "")), expression=rule.promql, comparator=rule.comparator,
        levels=tuple(LevelRule.from_json(level) for level in rule.levels), unit=rule.unit,
    )  # fmt: skip


def _kept_fields(rule: Rule) -> list[str]:
    """What people changed of a rule, by the names that differences have."""
    return ["text" if name == "texts" else name for name in rule.changed]


def _upgrade_rule(rule: Rule, item: Item, position: int) -> None:
    """As the item says, but for what people changed."""
    rule.name, rule.promql, rule.comparator, rule.unit = str(item.name), item.expression, item.comparator, item.unit
    rule.position = position
    if "levels" not in rule.changed:
        rule.levels = [level.to_json() for level in item.levels]
    if "texts" not in rule.changed:
        rule.texts = item.text.to_json()


def _apply(rule: Rule, change: RuleChange, item: Item | None) -> None:
    """Take the change into the rule; `changed` then names what is not as the template has it.

    Where the template's item is not known any more, what changes here is added to it.
    """
    where = rule.key
    before = {name: getattr(rule, name) for name in ("levels", "texts", "labels", "is_enabled")}
    if change.levels is not None:
        rule.levels = [level.to_json() for level in _clean_levels(change.levels, rule.comparator, where=where)]
    if change.is_enabled is not None:
        rule.is_enabled = change.is_enabled
    if change.labels is not None:
        rule.labels = _clean_labels(change.labels, where=where)
    if change.texts is not None:
        rule.texts = _clean_texts(change.texts, where=where)
    if item is None:
        rule.changed += [
            name for name, value in before.items() if getattr(rule, name) != value and name not in rule.changed
        ]
        return
    as_shipped = {
        "levels": [level.to_json() for level in item.levels], "texts": item.text.to_json(), "labels": {},
        "is_enabled": True,
    }  # fmt: skip
    rule.changed = [name for name, value in as_shipped.items() if getattr(rule, name) != value]


def _refuse_unknown(changes: Mapping[str, RuleChange], known: Sequence[Item] | Mapping[str, Rule]) -> None:
    names = set(known) if isinstance(known, Mapping) else {item.id for item in known}
    if unknown := sorted(set(changes) - names):
        raise DomainError(_("There is no rule %(name)s here.") % {"name": unknown[0]})


# --- own rules -----------------------------------------------------------------------------------------------------------


def _own_rows(group: RuleGroup, wanted: Sequence[OwnRule], before: Mapping[str, Rule]) -> list[Rule]:
    if not wanted:
        raise DomainError(_("A group has at least one rule."), field="rules")
    if len(wanted) > MAX_RULES:
        raise DomainError(_("A group has at most %(count)d rules.") % {"count": MAX_RULES}, field="rules")
    numbers = [int(key[1:]) for key in before if re.fullmatch(r"r\d+", key)]
    fresh = max(numbers, default=0)
    rows: list[Rule] = []
    for position, each in enumerate(wanted):
        rule = before.get(each.key)
        if rule is None or any(rule is row for row in rows):
            fresh += 1
            rule = Rule(key=f"r{fresh}")
        rule.position = position
        with _in_rule(position):
            _fill(rule, each, group)
        rows.append(rule)
    return rows


@contextmanager
def _in_rule(position: int) -> Iterator[None]:
    """Faults inside name the rule that they are in."""
    try:
        yield
    except DomainError as error:
        error.field = f"{position}-{error.field}" if error.field else str(position)
        raise


def _fill(rule: Rule, wanted: OwnRule, group: RuleGroup) -> None:
    rule.name = _clean_name(wanted.name)
    _refuse_comparator(wanted.comparator)
    rule.comparator = wanted.comparator
    rule.levels = [level.to_json() for level in _clean_levels(wanted.levels, wanted.comparator)]
    if wanted.form is not None:
        rule.kind, rule.form, expression = Rule.Kind.METRIC, wanted.form.to_json(), promql.of_form(wanted.form)
    else:
        rule.kind, rule.form, expression = Rule.Kind.PROMQL, {}, wanted.promql.strip()
    if wanted.form is not None:
        promql.confine(expression, project=group.project_id, endpoint=group.endpoint_id)
    elif rule.promql != expression or rule.pk is None:
        check(expression, project=group.project, endpoint_id=group.endpoint_id)
    rule.promql = expression
    rule.labels, rule.texts = _clean_labels(wanted.labels), _clean_texts(wanted.texts)
    rule.unit, rule.is_enabled = _clean_line(wanted.unit, MAX_UNIT, "unit"), wanted.is_enabled


# --- what may be written -------------------------------------------------------------------------------------------------


def _field(name: str, where: str) -> str:
    return f"{where}-{name}" if where else name


def _clean_line(text: str, length: int, name: str) -> str:
    text = text.strip()
    if len(text) > length:
        raise DomainError(_("At most %(count)d characters.") % {"count": length}, field=name)
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text):
        raise DomainError(_("This character cannot be used."), field=name)
    return text


def _clean_name(name: str) -> str:
    if not name.strip():
        raise DomainError(_("Give it a name."), field="name")
    return _clean_line(name, MAX_NAME, "name")


def _clean_policy(policy: NotificationPolicy | None, project: Project) -> NotificationPolicy | None:
    if policy is None:
        return None
    found = NotificationPolicy.objects.filter(pk=policy.pk, project=project, deleted_at__isnull=True).first()
    if found is None:
        raise DomainError(_("There is no such notification policy in this project."), field="policy")
    return found


def _refuse_comparator(comparator: str) -> None:
    if comparator not in COMPARATORS:
        raise DomainError(_("Choose how the value is compared."), field="comparator")


def _clean_levels(levels: Sequence[LevelRule], comparator: str, *, where: str = "") -> list[LevelRule]:
    """The levels, worst first; each once, with a threshold that is at least as bad as the next one's."""
    name = _field("levels", where)
    found = sorted(levels, key=lambda level: level.level)
    if not found:
        raise DomainError(_("Give at least one level a threshold."), field=name)
    if len({level.level for level in found}) != len(found) or any(level.level not in Level.values for level in found):
        raise DomainError(_("The levels are P0, P1 and P2, each at most once."), field=name)
    for level in found:
        if not math.isfinite(level.threshold) or abs(level.threshold) > MAX_THRESHOLD:
            raise DomainError(_("The threshold is not a number that can be used."), field=name)
        if level.for_seconds not in FOR_SECONDS:
            raise DomainError(_("Choose how long the condition must hold: 0, 1, 2, 5 or 10 minutes."), field=name)
    for worse, milder in itertools.pairwise(found):
        is_wrong = (comparator in (">", ">=") and worse.threshold < milder.threshold) or (
            comparator in ("<", "<=") and worse.threshold > milder.threshold
        )
        if is_wrong:
            raise DomainError(
                _("%(worse)s is worse than %(milder)s, but its threshold is reached sooner.")
                % {"worse": worse.level, "milder": milder.level},
                field=name,
            )
    return [replace(level, threshold=float(level.threshold)) for level in found]


def _clean_labels(labels: Mapping[str, str], *, where: str = "") -> dict[str, str]:
    name = _field("labels", where)
    if len(labels) > MAX_LABELS:
        raise DomainError(_("At most %(count)d labels.") % {"count": MAX_LABELS}, field=name)
    found = {}
    for label, value in labels.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", label) or label.startswith("__"):
            raise DomainError(
                _("“%(label)s” is no name of a label: letters, digits and _, not beginning with a digit.")
                % {"label": label[:64]},
                field=name,
            )
        if label in promql.OURS | promql.FREE_LABELS:
            raise DomainError(_("The label %(label)s is set by the system.") % {"label": label}, field=name)
        found[label] = _clean_line(value, MAX_LABEL_VALUE, name)
    return found


def _clean_texts(texts: Mapping[str, str], *, where: str = "") -> dict[str, str]:
    name = _field("texts", where)
    if set(texts) - {"en", "zh"}:
        raise DomainError(_("Texts are in English and Chinese."), field=name)
    for text in texts.values():
        if len(text) > MAX_TEXT or re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text):
            raise DomainError(_("At most %(count)d characters.") % {"count": MAX_TEXT}, field=name)
    return {language: text.strip() for language, text in texts.items() if text.strip()}
