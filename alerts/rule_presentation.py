"""What the pages of rules show: conditions in words, how a rule stands now, and rows of the list."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db.models import Count
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from alerts import rule_services, sync, templates
from alerts.messages import figure
from alerts.metrics import Both
from alerts.models import AlertEvent, Phase, Rule, RuleGroup, SyncState
from alerts.previews import Fired
from alerts.rule_forms import TemplateRuleForm, minutes
from alerts.rule_services import Filled
from alerts.templates import Difference, LevelRule
from common.templatetags import ark
from endpoints.models import Endpoint


@dataclass(frozen=True, slots=True)
class Condition:
    """One level in words: "P1", "> 5%", "for 2 min"."""

    level: str
    says: str
    held: str


def sign(comparator: str) -> str:
    """A comparison as people write it."""
    return {">=": "≥", "<=": "≤", "==": "=", "!=": "≠"}.get(comparator, comparator)


def conditions(levels: Iterable[LevelRule], *, comparator: str, unit: str) -> list[Condition]:
    """The levels in words, worst first."""
    found = sorted(levels, key=lambda level: level.level)
    return [
        Condition(level.level, f"{sign(comparator)} {figure(level.threshold, unit)}", minutes(level.for_seconds))
        for level in found
    ]


def levels_of(rule: Rule) -> list[LevelRule]:
    """The levels as the rule keeps them."""
    return [LevelRule.from_json(level) for level in rule.levels]


# --- the drawer and the editor of a template's rules ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TemplateLine:
    """One default rule with its fields; `limits` say what percentages of the endpoint's own limit come to."""

    key: str
    name: str
    help: str
    comparator: str
    unit: str
    form: TemplateRuleForm
    conditions: Sequence[Condition]
    limits: str = ""


def filled_line(filled: Filled, form: TemplateRuleForm) -> TemplateLine:
    """A default rule that is not made yet."""
    item = filled.item
    return TemplateLine(
        item.id, str(item.name), str(item.help), sign(item.comparator), item.unit, form,
        conditions(item.levels, comparator=item.comparator, unit=item.unit), _limits(filled),
    )  # fmt: skip


def _limits(filled: Filled) -> str:
    if filled.limit is None:
        return ""
    parts = [
        f"{level.level} {figure(level.threshold, filled.item.unit)} = {ark.count(filled.absolute(level))}"
        for level in filled.item.levels
    ]
    return _("The limit is %(limit)s: %(levels)s") % {
        "limit": ark.count(filled.limit), "levels": " · ".join(parts),
    }  # fmt: skip


def stored_line(rule: Rule, group: RuleGroup, form: TemplateRuleForm) -> TemplateLine:
    """A default rule as its group has it."""
    item = _item(rule, group)
    return TemplateLine(
        rule.key, rule_name(rule, group), str(item.help) if item else "", sign(rule.comparator), rule.unit, form,
        conditions(levels_of(rule), comparator=rule.comparator, unit=rule.unit),
    )  # fmt: skip


def _item(rule: Rule, group: RuleGroup) -> templates.Item | None:
    template = templates.get(group.template_id, group.template_version)
    return template.item(rule.key) if template else None


def rule_name(rule: Rule, group: RuleGroup) -> str:
    """In the reader's language, where it came from a template."""
    return templates.name_of(template_id=group.template_id, key=rule.key, default=rule.name)


# --- a group -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RuleRow:
    """One rule as it stands: `dot` is the class of its state, `events` the open ones, worst first."""

    rule: Rule
    name: str
    help: str
    conditions: Sequence[Condition]
    dot: str
    state: str
    detail: str
    events: Sequence[AlertEvent]


EVENTS_SHOWN = 3


def rule_rows(group: RuleGroup) -> list[RuleRow]:
    """The rules of a group with what fires now; two queries."""
    events: dict[int, list[AlertEvent]] = defaultdict(list)
    for event in AlertEvent.objects.open().filter(rule__group=group).order_by("level", "starts_at"):
        events[event.rule_id or 0].append(event)
    return [_rule_row(rule, group, events.get(rule.pk, [])) for rule in group.rules.all()]


def _rule_row(rule: Rule, group: RuleGroup, events: Sequence[AlertEvent]) -> RuleRow:
    item = _item(rule, group)
    dot, state, detail = _standing(rule, group, events)
    return RuleRow(
        rule, rule_name(rule, group), str(item.help) if item else "",
        conditions(levels_of(rule), comparator=rule.comparator, unit=rule.unit), dot, state, detail,
        events[:EVENTS_SHOWN],
    )  # fmt: skip


def _standing(rule: Rule, group: RuleGroup, events: Sequence[AlertEvent]) -> tuple[str, str, str]:
    firing = [event for event in events if event.phase == Phase.FIRING]
    if firing:
        words = {"n": len(firing), "level": firing[0].level}
        return "ark-dot-bad", ngettext("%(n)d firing, %(level)s", "%(n)d firing, %(level)s", len(firing)) % words, ""
    if not (group.is_enabled and rule.is_enabled):
        return "ark-dot-idle", _("Off"), ""
    if rule.health == "err":
        return "ark-dot-warn", _("Cannot be evaluated"), rule.last_error
    if events:
        return "ark-dot-warn", _("About to fire"), ""
    if rule.health == "ok":
        return "ark-dot-good", _("Quiet"), ""
    return "ark-dot-idle", _("Not evaluated yet"), ""


@dataclass(frozen=True, slots=True)
class State:
    """Whether a group is in force: class of the dot, word, and a sentence where there is more to say."""

    dot: str
    label: str
    sentence: str
    is_moving: bool
    is_bad: bool


def state_of(group: RuleGroup) -> State:
    """How far a group has come on its way to Prometheus."""
    sentence = sync.sentence(group)
    if group.sync_state == SyncState.FAILED:
        return State("ark-dot-bad", str(SyncState.FAILED.label), sentence, is_moving=False, is_bad=True)
    if group.sync_state == SyncState.PENDING:
        return State("ark-dot-busy", str(SyncState.PENDING.label), sentence, is_moving=True, is_bad=False)
    if not group.is_enabled:
        return State("ark-dot-idle", _("Off"), _("None of its rules is evaluated."), is_moving=False, is_bad=False)
    return State("ark-dot-good", str(SyncState.ACTIVE.label), "", is_moving=False, is_bad=False)


def seen(group: RuleGroup, rows: Sequence[RuleRow]) -> str:
    """What the page shows that moves by itself, in a word: while it stays the same nothing is drawn anew."""
    told = "|".join(
        f"{row.rule.pk} {row.state} {row.detail} {','.join(f'{event.pk} {event.value}' for event in row.events)}"
        for row in rows
    )
    return f"{group.revision}.{group.sync_state}.{zlib.crc32(f'{group.sync_message} {told}'.encode()):08x}"


# --- the list ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One group of the list. `endpoint` is its name; "" for the whole project."""

    group: RuleGroup
    endpoint: str
    state: State
    rules_on: int
    rules: int
    errors: int
    firing: int
    is_upgradable: bool


def group_rows(groups: Sequence[RuleGroup]) -> list[GroupRow]:
    """Rows for groups that come with their rules and policy; two queries, however many."""
    names = endpoint_names(groups)
    firing: Mapping[Any, int] = dict(
        AlertEvent.objects.filter(rule__group__in=groups, phase=Phase.FIRING)
        .order_by()
        .values_list("rule__group")
        .annotate(count=Count("pk"))
    )
    return [_group_row(group, names, firing.get(group.pk, 0)) for group in groups]


def _group_row(group: RuleGroup, names: Mapping[str, str], firing: int) -> GroupRow:
    rules = list(group.rules.all())
    on = [rule for rule in rules if rule.is_enabled]
    return GroupRow(
        group, names.get(group.endpoint_id, group.endpoint_id), state_of(group),
        rules_on=len(on) if group.is_enabled else 0, rules=len(rules),
        errors=sum(rule.health == "err" for rule in on) if group.is_enabled else 0,
        firing=firing, is_upgradable=rule_services.is_upgradable(group),
    )  # fmt: skip


def endpoint_names(groups: Iterable[RuleGroup]) -> dict[str, str]:
    """The names of the endpoints that the groups watch, by id; those that are gone are missing."""
    wanted = {group.endpoint_id for group in groups} - {""}
    return dict(Endpoint.objects.alive().filter(pk__in=wanted).values_list("pk", "name")) if wanted else {}


# --- an upgrade --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that an upgrade changes, in words; `is_code` where the values are expressions."""

    name: str
    what: str
    before: str
    after: str
    is_code: bool
    is_kept: bool


def changes(found: Iterable[Difference]) -> list[Change]:
    """What an upgrade would change, as the page says it."""
    words = {
        "added": _("New rule"), "removed": _("Removed"), "name": _("Name"), "expression": _("Expression"),
        "comparator": _("Comparison"), "levels": _("Thresholds"), "text": _("Text of the message"), "unit": _("Unit"),
        "kept": _("No longer a default rule"),
    }  # fmt: skip
    return [
        Change(
            str(one.name), words.get(one.field or one.kind, one.field), _value(one.before), _value(one.after),
            is_code=one.field == "expression", is_kept=one.is_kept,
        )
        for one in found
    ]  # fmt: skip


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Both | str):
        return str(value)
    return " · ".join(f"{level.level} {figure(level.threshold, '')} {minutes(level.for_seconds)}" for level in value)


# --- a preview ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FiredTime:
    """One time at which a rule would have fired."""

    level: str
    start: datetime
    end: datetime


def fired(span: Fired) -> FiredTime:
    """With times that pages can write."""
    return FiredTime(span.level, datetime.fromtimestamp(span.start, UTC), datetime.fromtimestamp(span.end, UTC))
