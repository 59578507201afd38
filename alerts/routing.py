"""What Alertmanager is told: who groups what, how often, and what is held back by what. Pure.

The configuration is JSON, which is YAML. A policy with the usual timings needs no route of its own: one route per level
and grouping serves all of them, told apart by the label that the groups are made by. So a new policy changes no route
of any other, and Alertmanager, which names its groups by their route, goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alerts.metrics import METRICS
from alerts.models import Level, PolicyLevel
from alerts.reports import WATCHDOG

GroupBy = PolicyLevel.GroupBy
Labels = Mapping[str, str]

MAX_ALERTS = 1000
"""Alerts of one post: a group may have more, and says how many are left out."""

WATCHDOG_SECONDS = 30

GROUP_LABELS: dict[str, tuple[str, ...]] = {
    GroupBy.RULE: ("notify_policy", "level", "project", "alertname"),
    GroupBy.ENDPOINT: ("notify_policy", "level", "project", "ark_endpoint"),
    GroupBy.POLICY: ("notify_policy", "level", "project"),
}

SERIES = tuple(sorted({"server", "stream", "tier"}.union(*(metric.labels for metric in METRICS.values()))))
"""Labels that tell apart several series of one rule."""

CAUSE = "abnormal"
CONSEQUENCES = ("error_rate", "throttle_rate", "ttft_p95", "tpot_p95", "e2e_p99", "no_traffic", "cache_drop")
"""What follows when an endpoint is abnormal, by the items of the default rules."""


@dataclass(frozen=True, slots=True)
class Timing:
    """When a group is told of, in seconds: first, of changes, and again."""

    wait: int
    interval: int
    repeat: int


DEFAULT_TIMINGS = {
    Level.P0: Timing(0, 30, 600),
    Level.P1: Timing(30, 60, 3_600),
    Level.P2: Timing(30, 300, 14_400),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """One level of one policy. `is_told`: somebody hears of it."""

    policy_id: int
    level: str
    group_by: str
    timing: Timing
    is_told: bool = True


def config(plans: Iterable[Plan], *, hook_url: str, token_file: str) -> dict[str, Any]:
    """The whole configuration. `token_file` holds the bearer, by its path as Alertmanager sees it."""
    ordered = sorted(plans, key=lambda plan: (plan.policy_id, plan.level))
    return {
        "route": {
            "receiver": "nobody",
            "group_by": list(GROUP_LABELS[GroupBy.POLICY]),
            "routes": [_watchdog(), *_own(ordered), *_usual()],
        },
        "receivers": [
            {"name": "nobody"},
            {
                "name": "console",
                "webhook_configs": [
                    {
                        "url": hook_url,
                        "send_resolved": True,
                        "max_alerts": MAX_ALERTS,
                        "http_config": {"authorization": {"credentials_file": token_file}, "follow_redirects": False},
                    }
                ],
            },
        ],
        "inhibit_rules": [each.rule() for each in inhibitions(ordered)],
    }


def text(configuration: dict[str, Any]) -> str:
    """As it is written to the file; the same for the same configuration."""
    return json.dumps(configuration, indent=1, ensure_ascii=False) + "\n"


def _watchdog() -> dict[str, Any]:
    return _route([f'alertname="{WATCHDOG}"'], ["alertname"], Timing(0, WATCHDOG_SECONDS, WATCHDOG_SECONDS))


def _own(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    return [
        _route(
            [f'notify_policy="{plan.policy_id}"', f'level="{plan.level}"'],
            list(GROUP_LABELS[plan.group_by]),
            plan.timing,
        )
        for plan in plans
        if (plan.group_by, plan.timing) != (GroupBy.RULE, DEFAULT_TIMINGS[Level(plan.level)])
    ]


def _usual() -> list[dict[str, Any]]:
    return [
        _route(['notify_policy!=""', f'level="{level}"'], list(GROUP_LABELS[GroupBy.RULE]), timing)
        for level, timing in DEFAULT_TIMINGS.items()
    ]


def _route(matchers: list[str], group_by: list[str], timing: Timing) -> dict[str, Any]:
    return {
        "receiver": "console",
        "matchers": matchers,
        "group_by": group_by,
        "group_wait": f"{timing.wait}s",
        "group_interval": f"{timing.interval}s",
        "repeat_interval": f"{timing.repeat}s",
    }


@dataclass(frozen=True, slots=True)
class Inhibition:
    """What holds back what while it fires: the values of some labels of either, and the labels that both have in common."""

    source: Mapping[str, tuple[str, ...]]
    target: Mapping[str, tuple[str, ...]]
    equal: tuple[str, ...]

    def rule(self) -> dict[str, Any]:
        """As Alertmanager reads it. A label that both lack counts as equal."""
        return {
            "source_matchers": [_one_of(name, values) for name, values in self.source.items()],
            "target_matchers": [_one_of(name, values) for name, values in self.target.items()],
            "equal": list(self.equal),
        }

    def held_back(self, firing: Iterable[Labels], wanted: Sequence[Labels]) -> set[int]:
        """The places of those `wanted` that something `firing` holds back, as Alertmanager would do it."""
        common = {self._common(labels) for labels in firing if _fits(self.source, labels)}
        return {
            place
            for place, labels in enumerate(wanted)
            if _fits(self.target, labels) and self._common(labels) in common
        }

    def _common(self, labels: Labels) -> tuple[str, ...]:
        return tuple(labels.get(name, "") for name in self.equal)


def inhibitions(plans: Iterable[Plan]) -> list[Inhibition]:
    """Only what somebody is told of may hold back what others would be told of."""
    told: dict[str, set[int]] = {}
    for plan in plans:
        if plan.is_told:
            told.setdefault(plan.level, set()).add(plan.policy_id)
    made = []
    for level, lower in ((Level.P0, ("P1", "P2")), (Level.P1, ("P2",))):
        if level in told:
            policies = tuple(map(str, sorted(told[level])))
            made.append(
                Inhibition(
                    {"level": (level,), "notify_policy": policies},
                    {"level": lower},
                    ("notify_policy", "project", "ark_endpoint", "rule_id", *SERIES),
                )
            )
            made.append(
                Inhibition(
                    {"alertname": (CAUSE,), "level": (level,), "notify_policy": policies},
                    {"alertname": CONSEQUENCES},
                    ("notify_policy", "project", "ark_endpoint"),
                )
            )
    return made


def _fits(wanted: Mapping[str, tuple[str, ...]], labels: Labels) -> bool:
    return all(labels.get(name, "") in values for name, values in wanted.items())


def _one_of(name: str, values: Sequence[str]) -> str:
    return f'{name}="{values[0]}"' if len(values) == 1 else f'{name}=~"{"|".join(values)}"'
