"""The doors for programs: who may post, what is refused and with which answer, and how long it takes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client, TestCase
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from kombu.exceptions import OperationalError

from alerts import hook_views, nudges
from alerts.models import AlertEvent, Delivery, Notification, Pulse, Silence
from tests import builders

PROMETHEUS, ALERTMANAGER = "/hooks/prom/api/v2/alerts", "/hooks/alertmanager"
TOKEN = "a-token-of-the-test-run-alone"

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _token(settings: Any) -> None:
    settings.ALERT_HOOK_TOKEN = TOKEN


def post(path: str, body: Any, *, token: str = TOKEN, **values: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    # As a browser's would be: a form from elsewhere gets no further than anybody else.
    client = Client(enforce_csrf_checks=True)
    return client.post(path, content, content_type="application/json", headers=headers, **values)


def alert(**labels: str) -> dict[str, Any]:
    return {
        "labels": {"alertname": "error_rate", "project": "default", "ark_endpoint": "ep-1", "rule_id": "1",
                   "level": "P1", **labels},
        "annotations": {"value": "7"}, "startsAt": "2026-04-21T10:00:00.000Z", "endsAt": "2099-01-01T00:00:00Z",
    }  # fmt: skip


def group(*alerts: dict[str, Any], **labels: str) -> dict[str, Any]:
    return {"version": "4", "groupLabels": labels, "alerts": [{**each, "status": "firing"} for each in alerts]}


def test_what_prometheus_posts_becomes_an_event() -> None:
    builders.project("default")
    answer = post(PROMETHEUS, [alert(), {**alert(), "labels": {"alertname": "ArkWatchdog"}}])

    assert answer.status_code == 200
    assert AlertEvent.objects.get().endpoint_id == "ep-1"
    assert set(Pulse.objects.exclude(name="events").values_list("name", flat=True)) == {
        "prometheus.posts", "prometheus.watchdog",
    }  # fmt: skip


def test_what_alertmanager_posts_becomes_a_notification() -> None:
    policy = builders.notification_policy(builders.contact_group(builders.contact("email")))
    labels = {"notify_policy": str(policy.pk), "level": "P1", "project": "default"}
    answer = post(ALERTMANAGER, group(alert(notify_policy=str(policy.pk)), **labels))

    assert answer.status_code == 200
    assert Notification.objects.count() == 1
    assert Delivery.objects.get().state == "queued"


def test_what_is_silenced_is_not_told_even_where_alertmanager_has_forgotten_that() -> None:
    """It is asked to come again: taken as heard, it would never be told of when the silence ends."""
    policy = builders.notification_policy(builders.contact_group(builders.contact("email")))
    labels = {"notify_policy": str(policy.pk), "level": "P1", "project": "default"}
    silence = builders.silence(ends_at=timezone.now() + timedelta(hours=1))
    both = [alert(notify_policy=str(policy.pk), ark_endpoint=name) for name in ("ep-1", "ep-2")]

    assert [post(ALERTMANAGER, group(*both, **labels)).status_code for _ in range(2)] == [503, 503]
    [event] = Notification.objects.get().events.all()
    assert event.endpoint_id == "ep-2"

    over = {**group(*both, **labels), "alerts": [{**each, "status": "resolved"} for each in both]}
    Silence.objects.filter(pk=silence.pk).update(ended_at=timezone.now())
    assert post(ALERTMANAGER, group(*both, **labels)).status_code == 200
    builders.silence(ends_at=timezone.now() + timedelta(hours=1))
    assert post(ALERTMANAGER, over).status_code == 200, "an end is told whatever covers it"
    assert list(Notification.objects.order_by("pk").values_list("status", flat=True)) == [
        "firing",
        "firing",
        "resolved",
    ]


@pytest.mark.parametrize("path", [PROMETHEUS, ALERTMANAGER])
@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN}x", "ä"])
def test_nobody_posts_without_the_token(path: str, token: str) -> None:
    answer = post(path, [], token=token.encode().decode("latin-1"))

    assert answer.status_code == 401
    assert b"ALERT_HOOK_TOKEN" in answer.content
    assert not Pulse.objects.exists()


def test_without_a_token_of_our_own_nobody_has_it(settings: Any) -> None:
    settings.ALERT_HOOK_TOKEN = ""

    assert post(PROMETHEUS, [], token="").status_code == 401
    assert Client().post(PROMETHEUS, b"[]", "application/json", headers={"Authorization": "Bearer "}).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (PROMETHEUS, b"{", b"The body is not JSON.\n"),
        (PROMETHEUS, {}, b"The body must be a list of alerts.\n"),
        (PROMETHEUS, [{"labels": {}}], b"Alert 1 has no alertname.\n"),
        (ALERTMANAGER, [], b"The body must be an object with a list of alerts.\n"),
        (ALERTMANAGER, {"alerts": [], "version": "3"}, b"The version must be 4.\n"),
        (ALERTMANAGER, {"alerts": [], "version": "4", "groupLabels": 5}, b"groupLabels must be texts by name.\n"),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_sentence(path: str, body: Any, sentence: bytes) -> None:
    answer = post(path, body)

    assert (answer.status_code, answer.content) == (400, sentence)


@pytest.mark.parametrize("path", [PROMETHEUS, ALERTMANAGER])
def test_a_body_without_end_is_not_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_views, "MAX_BYTES", 1000)

    assert post(path, b" " * 1001).status_code == 413


@pytest.mark.parametrize("path", [PROMETHEUS, ALERTMANAGER])
def test_a_hook_is_for_posts_only(path: str) -> None:
    assert Client().get(path).status_code == 405


def test_a_large_post_is_taken() -> None:
    """Django's own cap on bodies is far below what a thousand alerts need."""
    builders.project("default")
    many = [{**alert(ark_endpoint=f"ep-{number}"), "annotations": {"summary": "x" * 4000}} for number in range(700)]

    assert post(PROMETHEUS, many).status_code == 200
    assert AlertEvent.objects.count() == 700


def cost(path: str, body: Any) -> int:
    """How many queries the answer to the post took."""
    with CaptureQueriesContext(connection) as queries:
        assert post(path, body).status_code == 200
    return len(queries)


def test_five_hundred_alerts_cost_as_many_queries_as_two() -> None:
    builders.project("default")
    policy = builders.notification_policy(builders.contact_group(builders.contact("email")))
    labels = {"notify_policy": str(policy.pk), "level": "P1", "project": "default"}
    # What Prometheus tells again costs a little less than what it tells first; what Alertmanager does, much less.
    costs = []
    for count in (2, 500):
        many = [alert(notify_policy=str(policy.pk), ark_endpoint=f"ep-{count}-{number}") for number in range(count)]
        group_of_them = group(*many, **labels)
        costs.append(
            [
                cost(PROMETHEUS, many), cost(PROMETHEUS, many), cost(ALERTMANAGER, group_of_them),
                cost(ALERTMANAGER, group_of_them),
            ]
        )  # fmt: skip
    small, large = costs

    # SQLite takes so many values in one statement, and no more.
    batches = 40 if connection.vendor == "sqlite" else 0
    assert all(more - less <= batches for less, more in zip(small, large, strict=True)), costs
    assert max(small) <= 20
    assert Notification.objects.count() == Delivery.objects.count() == 2


def test_a_nudge_that_gets_nowhere_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Away:
        @staticmethod
        def send_task(name: str, **options: object) -> None:
            asked.append(name)
            raise OperationalError("nobody listens")

    monkeypatch.setattr(nudges, "current_app", Away)
    with TestCase.captureOnCommitCallbacks(execute=True):
        nudges.nudge("alerts.deliver")

    assert asked == ["alerts.deliver"]
