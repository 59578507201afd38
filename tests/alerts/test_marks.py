"""What fired, as marks on the charts of its endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.http import QueryDict
from django.test import Client
from django.utils import timezone, translation

from alerts import actions
from iam.actors import Actor
from monitoring import marks
from monitoring.filters import MonitoringFilters
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with translation.override("en"):
        yield


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def marked(endpoint: Any, *held: str) -> list[dict[str, Any]]:
    """The marks of the last hour as somebody with these permissions gets them."""
    by: Actor = builders.actor(builders.member(endpoint.project, "ark:GetMonitoring", *held))
    found = marks.marks(endpoint, MonitoringFilters.of(QueryDict("range=1h"), now=NOW), by=by)
    return list(found["marks"])


def test_an_alert_is_marked_where_it_fired_and_where_it_ended_with_rule_level_and_who_looks_after_it() -> None:
    endpoint = builders.endpoint(created_at=ago(600))
    event = builders.alert_event(
        endpoint_id=endpoint.pk, level="P0", starts_at=ago(40), phase="resolved", ends_at=ago(10),
        acknowledged_at=ago(30), acknowledged_by_name="li.wei",
    )  # fmt: skip
    older = builders.alert_event(
        endpoint_id=endpoint.pk, starts_at=ago(90), phase="resolved", ends_at=ago(50), has_expired=True
    )
    builders.alert_event(endpoint_id=endpoint.pk, starts_at=ago(200), phase="resolved", ends_at=ago(100))
    builders.alert_event(endpoint_id=endpoint.pk, starts_at=ago(5), phase="pending")
    builders.alert_event(endpoint_id="ep-other", starts_at=ago(5))
    found = marked(endpoint, actions.LIST_ALERTS, actions.GET_ALERT)
    assert [(each["kind"], each["at"], each["title"], each["url"]) for each in found] == [
        ("alert", ago(50).timestamp(), "P1 Error rate · No longer heard of", older.get_absolute_url()),
        ("alert", ago(40).timestamp(), "P0 Error rate · Firing", event.get_absolute_url()),
        ("alert", ago(10).timestamp(), "P0 Error rate · Resolved", event.get_absolute_url()),
    ]
    assert found[1]["detail"] == "7.5 > 5 · Acknowledged: li.wei"
    assert "Acknowledged" not in found[0]["detail"]


def test_alerts_are_marked_for_those_alone_who_may_see_them() -> None:
    endpoint = builders.endpoint(created_at=ago(600))
    builders.alert_event(endpoint_id=endpoint.pk, starts_at=ago(5))
    assert marked(endpoint) == []
    (mark,) = marked(endpoint, actions.LIST_ALERTS)
    assert mark["url"] == "", "its page would refuse"
    own = marks.marks(endpoint, MonitoringFilters.of(QueryDict("range=1h"), now=NOW))["marks"]
    assert own == [], "the page of an alert lists what else changed"


def test_the_page_asks_for_whoever_looks_at_it() -> None:
    endpoint = builders.endpoint(created_at=ago(600))
    builders.alert_event(endpoint_id=endpoint.pk, starts_at=timezone.now() - timedelta(minutes=5))
    client = Client()
    client.force_login(builders.member(endpoint.project, "ark:GetMonitoring", actions.LIST_ALERTS))
    answer = client.get(f"/endpoints/{endpoint.pk}/monitoring/marks?range=1h").json()
    assert [mark["kind"] for mark in answer["marks"]] == ["alert"]
    assert answer["to"] - answer["from"] == 3600
