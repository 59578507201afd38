"""One incident told by all six kinds at once: one message when it fires, one when it is over, whoever answers badly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pytest_django import Settings

from alerts import deliveries, notifications
from alerts.contacts import digest_of
from alerts.models import AlertEvent, Delivery, MethodKind
from tests import builders
from tests.alerts import fakes
from tests.alerts.test_deliveries import Clock
from tests.builders import NOW

pytestmark = pytest.mark.django_db
SECRET = "SECa0b1c2d3e4f5"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(settings: Settings, clock: Clock) -> Iterator[dict[str, Any]]:
    settings.ALERT_BOT_HOSTS = ["127.0.0.1"]
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = True
    with ExitStack() as stack:
        made = {
            "feishu": stack.enter_context(fakes.running(fakes.Feishu(clock.timestamp, secret=SECRET))),
            "dingtalk": stack.enter_context(fakes.running(fakes.DingTalk(clock.timestamp, secret=SECRET))),
            "wecom": stack.enter_context(fakes.running(fakes.WeCom(clock.timestamp))),
            "webhook": stack.enter_context(fakes.running(fakes.Webhook(clock.timestamp, secret=SECRET))),
            "phone": stack.enter_context(fakes.running(fakes.Aliyun(clock.timestamp))),
            "email": stack.enter_context(fakes.running(fakes.Smtp())),
        }
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "aliyun", made["phone"].url
        settings.ALERT_PHONE_KEY, settings.ALERT_PHONE_SECRET = made["phone"].key, made["phone"].secret
        settings.ALERT_PHONE_TEMPLATE = "TTS_1001"
        settings.EMAIL_URL, settings.EMAIL_PORT = "smtp://127.0.0.1", made["email"].port
        settings.EMAIL_HOST, settings.EMAIL_BACKEND = "127.0.0.1", "django.core.mail.backends.smtp.EmailBackend"
        yield made


def methods(services: dict[str, Any]) -> dict[str, int]:
    """A contact with a verified method of each kind."""
    contact = builders.contact()
    for kind in MethodKind.values:
        address = {"phone": "+8613800001111", "email": "ann@example.com"}.get(kind) or services[kind].url
        builders.contact_method(
            contact=contact, kind=kind, address=address, address_digest=digest_of(kind, address),
            secret=SECRET if kind in {"feishu", "dingtalk", "webhook"} else "",
        )  # fmt: skip
    policy = builders.notification_policy(
        builders.contact_group(contact), level="P0", kinds=MethodKind.values,
        resolved_kinds=[kind for kind in MethodKind.values if kind != "phone"],
    )  # fmt: skip
    return {"policy_id": policy.pk}


def taken(services: dict[str, Any]) -> dict[str, int]:
    return {kind: len(service.mails if kind == "email" else service.taken) for kind, service in services.items()}


def test_one_message_of_each_kind_when_it_fires_and_when_it_is_over(services: dict[str, Any], clock: Clock) -> None:
    policy = methods(services)
    event = builders.alert_event(level="P0")
    labels = {"alertname": "error_rate"}
    notifications.tell(**policy, level="P0", labels=labels, lines=[(event, "firing")], now=NOW)
    # Alertmanager says it twice, and two workers look.
    notifications.tell(**policy, level="P0", labels=labels, lines=[(event, "firing")], now=NOW)
    for _ in range(2):
        deliveries.send_due(clock=clock)

    assert set(taken(services).values()) == {1}
    assert set(Delivery.objects.values_list("state", flat=True)) == {"sent"}

    clock.pass_(300)
    AlertEvent.objects.update(phase="resolved", ends_at=clock())
    event.refresh_from_db()
    notifications.tell(**policy, level="P0", labels=labels, lines=[(event, "resolved")], now=clock())
    deliveries.send_due(clock=clock)

    assert taken(services) == {**dict.fromkeys(services, 2), "phone": 1}
    firing, resolved = services["email"].mails
    assert firing["References"] == resolved["References"]
    assert firing["Message-ID"] != resolved["Message-ID"]


def test_a_bad_minute_of_all_of_them_ends_with_one_message_each(services: dict[str, Any], clock: Clock) -> None:
    policy = methods(services)
    for kind, how in {
        "feishu": "500", "dingtalk": "429", "wecom": "-1", "webhook": "500", "phone": "isp.SYSTEM_ERROR"
    }.items():  # fmt: skip
        services[kind].fail(how)
    services["email"].refuse["HELLO"] = "421 too busy"
    event = builders.alert_event(level="P0")
    notifications.tell(**policy, level="P0", labels={}, lines=[(event, "firing")], now=NOW)

    deliveries.send_due(clock=clock)
    assert set(taken(services).values()) == {0}
    services["email"].refuse.clear()
    for _ in range(2):
        clock.pass_(60)
        deliveries.send_due(clock=clock)

    assert set(taken(services).values()) == {1}
    assert set(Delivery.objects.values_list("state", "may_repeat")) == {("sent", False)}
