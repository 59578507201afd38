"""The same against a Prometheus of its own: what we write is what it evaluates, and what it says reaches the page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.utils import timezone, translation

from alerts import promql, rule_services, rules, sync
from alerts.models import RuleGroup
from alerts.rule_services import OwnRule
from alerts.templates import CURRENT, LevelRule
from monitoring import installation, prometheus
from monitoring.installation import Installation, Presence
from tests import builders
from tests.alerts.test_promql import R
from tests.servers import ON_SQLITE, PrometheusServer, prometheus_binary, wait_until

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def own_prometheus() -> Iterator[PrometheusServer]:
    """Its rules are these tests' alone."""
    if ON_SQLITE or prometheus_binary() is None:
        pytest.skip("needs Prometheus")
    server = PrometheusServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(
    own_prometheus: PrometheusServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrometheusServer]:
    here = Installation(Presence.ON, url=own_prometheus.url)
    monkeypatch.setattr(installation, "look", lambda: here)
    settings.PROMETHEUS_RULES_DIR = str(own_prometheus.rules_dir)
    settings.PROMTOOL_BIN = str((prometheus_binary() or own_prometheus.folder).with_name("promtool"))
    prometheus.forget()
    with translation.override("en"):
        yield own_prometheus
    prometheus.forget()
    RuleGroup.objects.update(deleted_at=timezone.now(), sync_state="pending")
    sync.sync(now=timezone.now(), everything=True)


def synced() -> sync.Outcome:
    """Synced without waiting for the five seconds between two."""
    marker = sync.folder()
    assert marker is not None
    if (marker / sync.RELOADED).exists():
        os.utime(marker / sync.RELOADED, (time.time() - 60, time.time() - 60))
    return sync.sync(now=timezone.now())


def healths(group: RuleGroup) -> set[str]:
    sync.read_back(now=timezone.now())
    return set(group.rules.values_list("health", flat=True))


def test_the_default_rules_are_evaluated_and_an_abnormal_endpoint_fires(server: PrometheusServer) -> None:
    endpoint = builders.endpoint(version=builders.model_version(supports_caching=True))
    group = rule_services.create_group_from_template(endpoint=endpoint, by=builders.actor(), now=timezone.now())
    assert synced().active == 1
    who = f'project="default",ark_endpoint="{endpoint.pk}"'
    now = time.time()
    samples = [(now + offset, 1.0) for offset in range(-100, 100, 10)]
    server.write({f'ark_endpoint_status{{{who},status="Abnormal",instance="console"}}': samples})
    wait_until(lambda: healths(group) == {"ok"}, what="all rules were evaluated")

    def pending() -> Any:
        alerts = httpx.get(f"{server.url}/api/v1/alerts", timeout=10, trust_env=False).json()["data"]["alerts"]
        return [alert for alert in alerts if alert["labels"].get("group_id") == str(group.pk)]

    [alert] = wait_until(pending, what="the alert is pending")  # type: ignore[misc]
    rule = group.rules.get(key="abnormal")
    assert alert["labels"] == {
        "alertname": "abnormal", "project": "default", "ark_endpoint": endpoint.pk, "level": "P0",
        "rule_id": str(rule.pk), "group_id": str(group.pk),
    }  # fmt: skip
    assert alert["annotations"]["value"] == "1"
    group.refresh_from_db()
    assert (group.sync_state, sync.sentence(group)) == ("active", "")


def test_what_prometheus_alone_refuses_stops_nobody_else(server: PrometheusServer, settings: Any) -> None:
    settings.PROMTOOL_BIN = "/nowhere/promtool"
    good = [builders.rule_group(sync_state="pending") for _number in range(3)]
    bad = builders.rule_group(sync_state="pending")
    for group in (*good, bad):
        builders.rule(group=group, key="r1", kind="promql", promql=f"sum({R})")
    bad.rules.update(labels={"9wrong": "x"})
    outcome = synced()
    assert (outcome.active, outcome.failed, outcome.is_unchecked) == (3, 1, True)
    loaded = httpx.get(f"{server.url}/api/v1/rules", timeout=10, trust_env=False).json()["data"]["groups"]
    names = {group["name"] for group in loaded}
    assert {f"ark-{group.pk}" for group in good} <= names
    assert f"ark-{bad.pk}" not in names
    bad.refresh_from_db()
    assert bad.sync_state == "failed"
    assert not (server.rules_dir / rules.file_name(bad.pk)).exists()


def test_a_rule_that_fails_when_it_is_evaluated_says_why(server: PrometheusServer) -> None:
    who = 'project="default",ark_endpoint="ep-many"'
    series = {f'{R}{{{who},code="{code}",instance="a"}}': [(time.time(), 1.0)] for code in ("x", "y")}
    server.write(series)
    # Two on each side: Prometheus finds that out only with figures.
    expression = f"sum by (ark_endpoint, code) ({R}) * on (ark_endpoint) sum by (ark_endpoint, code) ({R})"
    group = rule_services.create_own_group(
        project=builders.project("default"), name="Mine", rules=[OwnRule("Many", [LevelRule("P1", 5, 0)], promql=expression)],
        by=builders.actor(), now=timezone.now(),
    )  # fmt: skip
    synced()
    wait_until(lambda: healths(group) == {"err"}, what="the rule was evaluated")
    group.refresh_from_db()
    assert group.sync_state == "failed"
    assert "many-to-many" in sync.sentence(group)


def test_every_expression_of_ours_can_be_previewed(server: PrometheusServer) -> None:
    end = int(time.time()) // 60 * 60
    who = 'project="default",ark_endpoint="ep-preview"'
    points = [(float(end - 60 * back), 0.0 if back > 10 else 9.0) for back in range(60, -1, -1)]
    server.write({f'ark_endpoint_status{{{who},status="Abnormal",instance="console"}}': points})
    levels = [LevelRule("P0", 5, 300)]
    found = rule_services.preview(
        expression='max by (project, ark_endpoint) (ark_endpoint_status{status="Abnormal"})', comparator=">",
        levels=levels, project=builders.project("default"), endpoint_id="ep-preview", by=builders.actor(),
        now=timezone.now(),
    )  # fmt: skip
    assert found.trouble is None
    assert found.sentence == "Now: 9, would fire as P0."
    [fired] = found.fired
    assert abs(fired.start - (end - 300)) <= 60
    for item in CURRENT.items:
        confined = promql.confine(item.expression, project="default", endpoint="ep-preview")
        assert isinstance(prometheus.instant(confined), list)
