"""What is looked after every ten seconds: one thing that fails keeps no other from being done, and rules that fire for real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from alerts import alertmanager, events, reports, tending
from alerts.models import AlertEvent
from alerts.tending import Step
from monitoring import prometheus
from tests import builders
from tests.builders import NOW
from tests.servers import ON_SQLITE, PrometheusServer, prometheus_binary, wait_until

pytestmark = pytest.mark.django_db


def test_one_that_fails_keeps_no_other_from_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    def away(now: datetime) -> None:
        raise alertmanager.Trouble("nobody listens")

    def wrong(now: datetime) -> None:
        raise ZeroDivisionError

    steps = (Step("one", done.append), Step("two", away), Step("three", wrong), Step("four", done.append))
    monkeypatch.setattr(tending, "STEPS", steps)

    assert tending.tend(now=NOW) == ["two", "three"]
    assert done == [NOW, NOW]


def test_where_there_is_neither_prometheus_nor_alertmanager_there_is_nothing_to_do(settings: Any) -> None:
    settings.ALERTMANAGER_CONFIG = ""
    builders.rule_group()

    assert tending.tend(now=NOW) == []


@pytest.fixture(scope="module")
def server() -> Iterator[PrometheusServer]:
    if ON_SQLITE or prometheus_binary() is None:
        pytest.skip("needs Prometheus")
    server = PrometheusServer()
    server.start()
    yield server
    server.stop()


def test_what_is_pending_in_prometheus_is_an_event_here(server: PrometheusServer, settings: Any) -> None:
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, server.url
    settings.ALERTMANAGER_CONFIG = settings.ALERTMANAGER_URL = ""
    prometheus.forget()
    group = builders.rule_group()
    rule = builders.rule(group=group)
    labels = {"project": "default", "ark_endpoint": "ep-1", "rule_id": str(rule.pk), "level": "P1"}
    rules = [
        {"alert": "error_rate", "expr": "vector(7) > 5", "for": "1h", "labels": labels},
        {"alert": "of_others", "expr": "vector(7) > 5", "for": "1h"},
        {"alert": "fires", "expr": "vector(7) > 5", "labels": {**labels, "level": "P0"}},
    ]
    file = {"groups": [{"name": "g", "interval": "1s", "rules": rules}]}
    (server.rules_dir / "ark-test.rules.json").write_text(json.dumps(file))
    server.reload()
    since = datetime.now(UTC) - timedelta(seconds=2)

    def pending() -> AlertEvent | None:
        # On a machine that is busy one question may go without an answer.
        tending.tend(now=datetime.now(UTC))
        return AlertEvent.objects.first()

    event = wait_until(pending, seconds=30, what="the pending alert is an event")

    assert isinstance(event, AlertEvent)
    assert AlertEvent.objects.count() == 1
    assert (event.phase, event.rule_key, event.level) == ("pending", "error_rate", "P1")
    assert event.starts_at > since
    # It is the event that its firing will be told of.
    assert event.fingerprint == reports.fingerprint({"alertname": "error_rate", **labels})

    AlertEvent.objects.update(expires_at=NOW)
    (server.rules_dir / "ark-test.rules.json").unlink()
    server.reload()

    def is_gone() -> bool:
        AlertEvent.objects.filter(phase="pending").update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
        tending.tend(now=datetime.now(UTC))
        return not AlertEvent.objects.exists()

    wait_until(is_gone, seconds=30, what="the pending alert is forgotten")


def test_a_prometheus_that_does_not_answer_is_trouble_and_nothing_is_forgotten(settings: Any) -> None:
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, "http://127.0.0.1:1"
    settings.ALERTMANAGER_CONFIG = settings.ALERTMANAGER_URL = ""
    prometheus.forget()
    builders.rule_group()
    builders.alert_event(phase="pending", expires_at=NOW)

    assert tending.tend(now=NOW + timedelta(hours=1)) == ["pending alerts"]
    assert AlertEvent.objects.exists()
    assert events.counts(project_id="default")["P1"] == 0
