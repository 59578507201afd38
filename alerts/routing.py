"""What Alertmanager is told: who groups what, how often, and what is held back by what. Pure.

The configuration is JSON, which is YAML. A policy with the usual timings needs no route of its own: one route per level
and grouping serves all of them, told apart by the label that the groups are made by. So a new policy changes no route
of any other, and Alertmanager, which names its groups by their route, goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alerts.models import Level, PolicyLevel
from alerts.reports import WATCHDOG

GroupBy = PolicyLevel.GroupBy

MAX_ALERTS = 1000
"""Alerts of one post: a group may have more, and says how many are left out."""

WATCHDOG_SECONDS = 30

GROUP_LABELS: dict[str, tuple[str, ...]] = {
    GroupBy.RULE: ("notify_policy", "level", "project", "alertname"),
    GroupBy.ENDPOINT: ("notify_policy", "level", "project", "ark_endpoint"),
    GroupBy.POLICY: ("notify_policy", "level", "project"),
}

SERIES = ("api", "base_model", "ark_model", "code", "http_status_code", "server", "stream", "tier")
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
        "inhibit_rules": _inhibitions(ordered),
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


def _inhibitions(plans: Sequence[Plan]) -> list[dict[str, Any]]:
    """Only what somebody is told of may hold back what others would be told of."""
    told = {
        level: sorted({plan.policy_id for plan in plans if plan.level == level and plan.is_told}) for level in Level
    }
    rules = []
    for level, lower in ((Level.P0, "P1|P2"), (Level.P1, "P2")):
        if told[level]:
            rules.append(
                {
                    "source_matchers": [f'level="{level}"', _one_of("notify_policy", told[level])],
                    "target_matchers": [f'level=~"{lower}"'],
                    # A label that both lack counts as equal.
                    "equal": ["notify_policy", "project", "ark_endpoint", "rule_id", *SERIES],
                }
            )
        if told[level]:
            rules.append(
                {
                    "source_matchers": [
                        f'alertname="{CAUSE}"',
                        f'level="{level}"',
                        _one_of("notify_policy", told[level]),
                    ],
                    "target_matchers": [_one_of("alertname", CONSEQUENCES)],
                    "equal": ["notify_policy", "project", "ark_endpoint"],
                }
            )
    return rules


def _one_of(label: str, values: Iterable[Any]) -> str:
    return f'{label}=~"{"|".join(str(value) for value in values)}"'
