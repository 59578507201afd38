"""What Prometheus is told: a rule group as a rule file, one alert for each level of a rule. Pure but for reading rows.

JSON, which is YAML, written by a serialiser. What people wrote stands in it as data: their braces are escaped, since
Prometheus takes annotations and label values for templates (which could read other projects' series), and the labels
that say whose an alert is are put last, so that nothing replaces them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from alerts import promql
from alerts.models import Rule, RuleGroup
from alerts.reports import OPERATORS, WATCHDOG
from alerts.templates import LevelRule
from monitoring import config

SUFFIX = ".rules.json"
"""Ends every file of ours in the folder of rules; no other file is ever touched."""
PREFIX = "ark-"
OPERATORS_FILE = f"{PREFIX}{OPERATORS}{SUFFIX}"

DIGEST = "digest"
"""The annotation by which we know again what Prometheus has loaded."""


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """One rule, as it is rendered. `expression` is not confined yet; `alertname` is the same on every endpoint."""

    id: str
    alertname: str
    title: str
    expression: str
    comparator: str
    levels: Sequence[LevelRule]
    labels: Mapping[str, str]
    unit: str = ""
    is_ours: bool = False
    """Of a template, and shared by many endpoints."""


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """One group; `endpoint` "" watches the whole project, `policy` "" tells nobody."""

    id: str
    project: str
    endpoint: str
    policy: str
    rules: Sequence[RuleSpec]


def spec_of(group: RuleGroup) -> GroupSpec:
    """What the rows of a group say; none of its rules while it is switched off or deleted. Reads `group.rules`."""
    is_on = group.is_enabled and group.deleted_at is None
    return GroupSpec(
        id=str(group.pk), project=group.project_id, endpoint=group.endpoint_id,
        policy=str(group.policy_id or ""),
        rules=[_rule_spec(rule) for rule in group.rules.all() if rule.is_enabled and rule.levels] if is_on else [],
    )  # fmt: skip


def _rule_spec(rule: Rule) -> RuleSpec:
    is_template = rule.kind == Rule.Kind.TEMPLATE
    return RuleSpec(
        id=str(rule.pk), alertname=rule.key if is_template else f"own_{rule.pk}", title=rule.name,
        expression=rule.promql, comparator=rule.comparator,
        levels=[LevelRule.from_json(level) for level in rule.levels], labels=rule.labels, unit=rule.unit, is_ours=is_template and bool(rule.group.endpoint_id),
    )  # fmt: skip


def render(group: GroupSpec) -> dict[str, Any] | None:
    """The rule file of a group; None when there is nothing to evaluate. Raises `promql.Invalid`."""
    alerts = [alert for rule in group.rules for alert in _alerts(group, rule)]
    if not alerts:
        return None
    content = {"groups": [{"name": f"{PREFIX}{group.id}", "rules": alerts}]}
    digest = hashlib.sha256(text(content).encode()).hexdigest()[:12]
    for alert in alerts:
        alert["annotations"][DIGEST] = digest
    return content


def text(content: Mapping[str, Any]) -> str:
    """As it is written to the file; the same for the same content."""
    return json.dumps(content, ensure_ascii=False) + "\n"


def rendering() -> str:
    """A hash that changes when the same rows would be rendered otherwise: by other settings, or by newer code."""
    levels = [LevelRule("P0", 1, 60)]
    sample = RuleSpec(
        id="1", alertname="sample", title="sample", expression="sum(rate(ark_api_proxy_request_total[5m]))", comparator=">",
        levels=levels, labels={"team": "sample"}, is_ours=True,
    )  # fmt: skip
    content = render(GroupSpec(id="1", project="sample", endpoint="sample", policy="1", rules=[sample])) or {}
    return hashlib.sha256(text(content).encode()).hexdigest()[:12]


def file_name(group_id: int | str) -> str:
    """The name of a group's file, inside the folder of rules."""
    return f"{PREFIX}{group_id}{SUFFIX}"


def group_of_file(name: str) -> str | None:
    """The group that a file belongs to; None for files that are not a group's."""
    found = re.fullmatch(rf"{re.escape(PREFIX)}(\d+){re.escape(SUFFIX)}", name)
    return found[1] if found else None


def alert_expression(expression: str, comparator: str, threshold: float) -> str:
    """The condition of one level. The parentheses keep the comparison from binding to a part of the expression."""
    return f"({expression}) {comparator} {number(threshold)}"


def number(value: float) -> str:
    """A threshold as PromQL and people read it: 5, 0.2."""
    return f"{value:.12g}"


def _alerts(group: GroupSpec, rule: RuleSpec) -> list[dict[str, Any]]:
    confine = promql.confine_ours if rule.is_ours else promql.confine
    confined = confine(rule.expression, project=group.project, endpoint=group.endpoint)
    keep = settings.ALERT_KEEP_FIRING_SECONDS
    alerts = []
    for level in rule.levels:
        threshold = number(level.threshold)
        # No level's labels hold the threshold: an edited one would be another alert, and its history would end.
        labels = {name: escaped(value) for name, value in rule.labels.items() if name not in promql.OURS}
        labels |= _our_labels(group, rule, level.level)
        alert: dict[str, Any] = {
            "alert": rule.alertname,
            "expr": alert_expression(confined, rule.comparator, level.threshold),
        }
        if level.for_seconds:
            alert["for"] = f"{level.for_seconds}s"
        if keep:
            # Against flapping: over is what stays over for a while.
            alert["keep_firing_for"] = f"{keep}s"
        alert["labels"] = labels
        alert["annotations"] = {
            "value": "{{ $value }}",
            "threshold": threshold,
            "comparator": rule.comparator,
            "summary": escaped(f"[{level.level}] {group.endpoint or group.project}: {rule.title} ")
            + "{{ $value }}"
            + escaped(f"{rule.unit} {rule.comparator} {threshold}{rule.unit}"),
        }
        alerts.append(alert)
    return alerts


def _our_labels(group: GroupSpec, rule: RuleSpec, level: str) -> dict[str, str]:
    """Last, and complete: two that are both without a label count as equal where Alertmanager inhibits."""
    labels = {"project": group.project, "rule_id": rule.id, "group_id": group.id, "level": level,
              "notify_policy": group.policy}  # fmt: skip
    if group.endpoint:
        labels["ark_endpoint"] = group.endpoint
    return {name: escaped(value) for name, value in labels.items()}


def escaped(value: str) -> str:
    """Text that Prometheus' templates leave as it is."""
    return re.sub(r"\{\{|\}\}", lambda match: '{{"' + match[0] + '"}}', value)


# --- the installation's own ----------------------------------------------------------------------------------------------


def operators() -> dict[str, Any]:
    """Rules about the installation itself, for those who look after it: no project, no policy.

    `ArkWatchdog` always fires: where it does not arrive, the way of alerts is broken.
    """
    return {
        "groups": [
            {
                "name": f"{PREFIX}{OPERATORS}",
                "rules": [
                    {"alert": WATCHDOG, "expr": "vector(1)", "labels": {"group_id": OPERATORS},
                     "annotations": {"summary": "Always firing: the way of alerts works."}},
                    _operators_alert("ArkTargetDown", f'up{{job="{config.JOB}"}} == 0', 60,
                                     "Prometheus cannot read {{ $labels.instance }}: a gateway worker or the console is down."),
                    _operators_alert("ArkModelServerDown", "ark_gateway_upstream_up == 0", 60,
                                     "The model server {{ $labels.server_name }} does not answer."),
                ],
            }
        ]
    }  # fmt: skip


def _operators_alert(name: str, expression: str, seconds: int, summary: str) -> dict[str, Any]:
    return {
        "alert": name, "expr": expression, "for": f"{seconds}s",
        "labels": {"group_id": OPERATORS, "rule_id": f"{OPERATORS}/{name}", "level": "P0"},
        "annotations": {"value": "{{ $value }}", "threshold": "0", "comparator": "==", "summary": summary},
    }  # fmt: skip
