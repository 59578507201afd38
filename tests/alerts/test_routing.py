"""What Alertmanager is told: routes, timings and inhibitions, judged by its own tool where there is one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from alerts import alertmanager, routing
from alerts.metrics import METRICS
from alerts.models import Level
from alerts.routing import DEFAULT_TIMINGS, Plan, Timing
from tests import builders


def config(*plans: Plan) -> dict[str, Any]:
    return routing.config(plans, hook_url="http://127.0.0.1:8000/hooks/alertmanager", token_file="/data/hook-token")


def routes(*plans: Plan) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = config(*plans)["route"]["routes"]
    return found


USUAL = [Plan(number, level, "rule", DEFAULT_TIMINGS[level]) for number in range(1, 6) for level in Level]
OWN = Plan(12, "P0", "endpoint", Timing(0, 10, 60))


def test_policies_with_the_usual_timings_share_one_route_for_each_level() -> None:
    assert routes(*USUAL) == routes()
    assert [route["matchers"] for route in routes()] == [
        ['alertname="ArkWatchdog"'],
        ['notify_policy!=""', 'level="P0"'],
        ['notify_policy!=""', 'level="P1"'],
        ['notify_policy!=""', 'level="P2"'],
    ]


def test_a_policy_of_its_own_mind_has_a_route_before_the_shared_ones_and_changes_no_other() -> None:
    own = routes(OWN, *USUAL)

    assert own[1] == {
        "receiver": "console", "matchers": ['notify_policy="12"', 'level="P0"'],
        "group_by": ["notify_policy", "level", "project", "ark_endpoint"],
        "group_wait": "0s", "group_interval": "10s", "repeat_interval": "60s",
    }  # fmt: skip
    assert [own[0], *own[2:]] == routes(*USUAL)


def test_every_group_says_whose_it_is() -> None:
    for group_by in routing.GroupBy:
        for route in routes(dataclasses.replace(OWN, group_by=group_by))[1:]:
            assert {"notify_policy", "level", "project"} <= set(route["group_by"])


def test_what_has_no_policy_is_told_to_nobody() -> None:
    made = config(*USUAL)

    assert made["route"]["receiver"] == "nobody"
    assert made["receivers"][0] == {"name": "nobody"}


def test_only_what_somebody_is_told_of_holds_others_back() -> None:
    assert config()["inhibit_rules"] == []
    told = config(
        Plan(1, "P0", "rule", DEFAULT_TIMINGS[Level.P0]), Plan(2, "P0", "rule", Timing(0, 9, 9), is_told=False)
    )
    by_level, by_cause = told["inhibit_rules"]

    assert by_level["source_matchers"] == ['level="P0"', 'notify_policy="1"']
    assert by_level["target_matchers"] == ['level=~"P1|P2"']
    assert {"project", "ark_endpoint", "rule_id", "notify_policy"} <= set(by_level["equal"])
    assert by_cause["source_matchers"][0] == 'alertname="abnormal"'
    assert by_cause["equal"] == ["notify_policy", "project", "ark_endpoint"]


PLAN = Plan(1, "P0", "rule", DEFAULT_TIMINGS[Level.P0])
WORSE = {
    "notify_policy": "1",
    "project": "default",
    "ark_endpoint": "ep-1",
    "rule_id": "7",
    "level": "P0",
    "alertname": "x",
}


@pytest.mark.parametrize(
    ("worse", "other", "is_held"),
    [
        ({}, {"level": "P1"}, True),
        ({}, {"level": "P2"}, True),
        ({}, {}, False),
        # Somebody else hears of it, it is of another rule, or of another series of the same one.
        ({}, {"level": "P1", "notify_policy": "2"}, False),
        ({"notify_policy": "2"}, {"level": "P1", "notify_policy": "2"}, False),
        ({}, {"level": "P1", "rule_id": "8"}, False),
        ({}, {"level": "P1", "ark_endpoint": "ep-2"}, False),
        ({}, {"level": "P1", "api": "chat"}, False),
        ({"api": "chat"}, {"level": "P1", "api": "chat"}, True),
        # An abnormal endpoint makes others of any level and rule.
        ({"alertname": "abnormal"}, {"alertname": "error_rate", "rule_id": "8"}, True),
        ({"alertname": "abnormal"}, {"alertname": "error_rate", "rule_id": "8", "ark_endpoint": "ep-2"}, False),
        ({"alertname": "abnormal"}, {"alertname": "tpm_headroom", "rule_id": "8"}, False),
    ],
)
def test_what_holds_back_what(worse: dict[str, str], other: dict[str, str], is_held: bool) -> None:
    firing, wanted = [WORSE | worse], [WORSE | other]
    held = {place for each in routing.inhibitions([PLAN]) for place in each.held_back(firing, wanted)}

    assert held == ({0} if is_held else set())


@pytest.mark.parametrize("label", sorted({label for metric in METRICS.values() for label in metric.labels}))
def test_another_series_of_the_rule_is_held_back_by_none(label: str) -> None:
    [by_level, _by_cause] = routing.inhibitions([PLAN])

    assert by_level.held_back([WORSE | {label: "a"}], [WORSE | {"level": "P1", label: "b"}]) == set()
    assert by_level.held_back([WORSE | {label: "a"}], [WORSE | {"level": "P1", label: "a"}]) == {0}


def test_the_same_plans_in_another_order_are_the_same_text() -> None:
    assert routing.text(config(*USUAL, OWN)) == routing.text(config(OWN, *reversed(USUAL)))


@pytest.mark.django_db
def test_the_plans_are_those_of_living_policies_in_one_query(django_assert_num_queries: Any, settings: Any) -> None:
    settings.EMAIL_URL = "smtp://127.0.0.1"
    people = builders.contact_group(builders.contact("email"))
    told = builders.notification_policy(people, level="P0", wait_seconds=0)
    untold = builders.notification_policy(builders.contact_group(), level="P1")
    gone = builders.notification_policy(builders.contact_group(builders.contact("email", deleted_at=builders.NOW)))
    builders.notification_policy(people, deleted_at=builders.NOW)
    with django_assert_num_queries(1):
        plans = alertmanager.plans()

    assert [(plan.policy_id, plan.is_told) for plan in plans] == [(told.pk, True), (untold.pk, False), (gone.pk, False)]
    assert plans[0].timing == Timing(0, 60, 3600)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("kind", "values", "kinds", "level", "is_told"),
    [
        ("email", {}, ["webhook", "email"], "P0", True),
        ("email", {"state": "failing"}, ["email"], "P0", True),
        ("email", {}, ["webhook"], "P0", False),
        ("email", {}, [], "P0", False),
        ("email", {"state": "unverified"}, ["email"], "P0", False),
        ("email", {"state": "disabled"}, ["email"], "P0", False),
        ("phone", {}, ["phone"], "P0", False),
        ("phone", {"has_provider": True}, ["phone"], "P0", True),
        ("phone", {"has_provider": True}, ["phone"], "P1", False),
    ],
)
def test_who_hears_nothing_speaks_for_nobody(
    kind: str, values: dict[str, Any], kinds: list[str], level: str, is_told: bool, settings: Any
) -> None:
    settings.EMAIL_URL = "smtp://127.0.0.1"
    if values.pop("has_provider", False):
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "webhook", "https://phones.example.com"
        settings.ALERT_PHONE_SECRET = "secret"
    contact = builders.contact()
    builders.contact_method(contact=contact, kind=kind, **values)
    builders.notification_policy(builders.contact_group(contact), kinds=kinds, resolved_kinds=["email"], level=level)

    assert [plan.is_told for plan in alertmanager.plans()] == [is_told]
