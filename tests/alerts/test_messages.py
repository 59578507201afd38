"""What messages say: alone, in groups, again, when over, in one for many, for programs, for the ear."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import translation
from pytest_django import Settings

from alerts import messages, templates
from alerts.channels.base import Message, Tone
from alerts.models import AlertEvent, ContactMethod, Delivery, Notification
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english(settings: Settings) -> Iterator[None]:
    settings.CONSOLE_URL = "https://ark.example.com"
    # The reader's language counts, not that of whoever sends.
    with translation.override("zh-hans"):
        yield


@pytest.fixture
def method() -> ContactMethod:
    return builders.contact_method(contact=builders.contact(language="en", time_zone="Asia/Shanghai", name="Ann"))


def event_of(**values: Any) -> AlertEvent:
    values.setdefault(
        "rule", builders.rule(texts={"en": "Look at {name}: {value} > {threshold} {odd}", "zh": "看看 {name}"})
    )
    values.setdefault("endpoint_id", builders.endpoint(name="客服助手").pk)
    return builders.alert_event(**{"level": "P0", **values})


def notification_of(*events: AlertEvent, status: str = "firing", **values: Any) -> Notification:
    told = values.pop("told", {str(event.pk): status for event in events})
    made = Notification.objects.create(
        **{
            "policy": builders.notification_policy(level="P0", name=f"policy of {events[0].pk}"), "level": "P0",
            "status": status, "at": NOW + timedelta(minutes=12), "group_key": "g" * 64, "digest": "d" * 64, "told": told,
            "payload": {"total": len(events)}, **values,
        }
    )  # fmt: skip
    made.events.add(*events)
    return made


def message_of(notification: Notification, method: ContactMethod) -> Message:
    return messages.of_notification(
        notification, method=method, reference="delivery-1", now=NOW + timedelta(minutes=12)
    )


def test_one_alert_says_how_bad_what_where_since_when_and_where_to_look(method: ContactMethod) -> None:
    event = event_of(labels={"alertname": "error_rate", "code": "InternalServiceError", "rule_id": "7"})

    message = message_of(notification_of(event), method)

    assert message.title == "[P0] 客服助手 Error rate 7.5% > 5%"
    assert message.lines == (
        f"Endpoint: 客服助手 ({event.endpoint_id})",
        "Value: 7.5% > 5%",
        "Since: 2026-04-21 18:00:49 UTC+8, for 12 min",
        "Look at 客服助手: 7.5% > 5% {odd}",
        "code=InternalServiceError",
        "Project: Default",
    )
    assert (message.url, message.tone) == (f"https://ark.example.com/alerts/events/{event.pk}", Tone.FIRING)
    assert message.thread == f"alert-{event.pk}"
    assert message.spoken == ("ArkConsole alert, level P0. 客服助手 Error rate 7.5% > 5%. Please open the console.")
    assert message.words == {"level": "P0", "endpoint": "客服助手", "rule": "Error rate"}
    assert message.unsubscribe_url.startswith("https://ark.example.com/alerts/unsubscribe/")


def test_a_recovery_says_how_long_it_was(method: ContactMethod) -> None:
    event = event_of(phase="resolved", ends_at=NOW + timedelta(hours=1, minutes=5))

    message = message_of(notification_of(event, status="resolved"), method)

    assert message.title == "[P0 resolved] 客服助手 Error rate 7.5% > 5%"
    assert message.lines[1:4] == (
        "Over since: 2026-04-21 19:05:49 UTC+8",
        "It lasted: 1 h 5 min (from 2026-04-21 18:00:49 UTC+8)",
        "Last value while firing: 7.5% > 5%",
    )
    assert message.tone == Tone.RESOLVED


def test_a_repeat_says_that_it_is_one(method: ContactMethod) -> None:
    event = event_of()
    first = notification_of(event)
    again = Notification.objects.create(
        policy=first.policy, level="P0", status="firing", at=first.at, group_key=first.group_key, digest=first.digest,
        told=first.told, payload=first.payload, slot=1,
    )  # fmt: skip
    again.events.add(event)
    # The first one was lost: whatever its number, this is the first that anybody reads.
    assert message_of(again, method).title.startswith("[P0] 客服助手")
    Delivery.objects.create(notification=first, kind="email", state="sent", at=NOW)
    assert message_of(again, method).title.startswith("[P0 still firing] 客服助手")
    assert message_of(again, method).payload["repeat"] == 1
    assert message_of(first, method).payload["repeat"] == 0


def test_a_message_that_waited_says_what_is_over_meanwhile(method: ContactMethod) -> None:
    event = event_of()
    notification = notification_of(event)
    AlertEvent.objects.update(phase="resolved", ends_at=NOW + timedelta(minutes=15))

    assert "It is over since 2026-04-21 18:15:49 UTC+8." in message_of(notification, method).lines


def test_five_hundred_endpoints_are_ten_lines_and_a_count(
    method: ContactMethod, django_assert_max_num_queries: Any
) -> None:
    rule = builders.rule()
    events = AlertEvent.objects.bulk_create(
        AlertEvent(
            fingerprint=f"f{number}", starts_at=NOW, rule=rule, rule_name="Error rate", level="P0", value=100.0,
            project=builders.project("default"), endpoint_id=f"ep-{number}", threshold=5.0, comparator=">",
            phase="firing", last_at=NOW,
        )
        for number in range(500)
    )  # fmt: skip
    notification = notification_of(*events)
    method = ContactMethod.objects.select_related("contact__project").get(pk=method.pk)
    notification = Notification.objects.select_related("policy__project").get(pk=notification.pk)

    with django_assert_max_num_queries(4):
        message = message_of(notification, method)

    assert message.title == "[P0] Error rate: 500 endpoints"
    assert len(message.lines) == 12
    assert message.lines[0] == "• ep-0 · Error rate · 100% > 5% · 2026-04-21 18:00:49 UTC+8"
    assert message.lines[10] == "… and 490 more"
    assert message.url == "https://ark.example.com/alerts/events?project=default&level=P0"
    assert (len(message.payload["alerts"]), message.payload["total"]) == (100, 500)


def test_a_group_says_what_is_over_and_shows_what_fires_first(method: ContactMethod) -> None:
    over, firing = event_of(phase="resolved"), event_of(endpoint_id="ep-gone")
    notification = notification_of(over, firing, told={str(over.pk): "resolved", str(firing.pk): "firing"})

    message = message_of(notification, method)

    assert message.title == "[P0] Error rate: 2 endpoints"
    assert message.lines[0] == "1 of them are firing, 1 are over."
    assert message.lines[1].startswith("• ep-gone · Error rate")
    assert message.lines[2].endswith("· over")
    assert [alert["status"] for alert in message.payload["alerts"]] == ["firing", "resolved"]


def test_several_rules_of_one_endpoint(method: ContactMethod) -> None:
    first = event_of()
    second = event_of(rule=None, rule_name="Throttled", endpoint_id=first.endpoint_id)

    assert message_of(notification_of(first, second), method).title == "[P0] 客服助手: 2 alerts"


def test_what_concerns_no_endpoint_and_has_no_value(method: ContactMethod) -> None:
    event = event_of(rule=None, rule_name="Gateway down", endpoint_id="", value=None, threshold=None)

    message = message_of(notification_of(event), method)

    assert message.title == "[P0] ArkConsole Gateway down"
    assert not any(line.startswith(("Endpoint", "Value")) for line in message.lines)
    assert message.payload["alerts"][0]["endpoint"] is None


def test_the_rules_own_text_comes_in_the_readers_language(method: ContactMethod) -> None:
    method.contact.language = "zh-hans"

    message = message_of(notification_of(event_of()), method)

    assert "看看 客服助手" in message.lines
    assert message.language == "zh-hans"


def test_a_default_rule_is_named_in_the_readers_language_unless_people_renamed_it(method: ContactMethod) -> None:
    template = templates.newest("endpoint")
    assert template is not None
    group = builders.rule_group(template_id=template.id, template_version=template.version)
    rule = builders.rule(group=group, key="error_rate", name="as stored")
    item = template.item("error_rate")
    assert item is not None
    notification = notification_of(event_of(rule=rule, rule_name="as stored"))

    for language, name in (("en", item.name.en), ("zh-hans", item.name.zh)):
        method.contact.language = language
        message = message_of(notification, method)
        assert name in message.title
        assert not any("{" in line for line in message.lines)
    rule.changed = ["name"]
    rule.save()
    assert "as stored" in message_of(notification, method).title


def test_a_program_gets_ids_figures_and_times(method: ContactMethod) -> None:
    event = event_of(summary="error rate 7.5%")

    payload = message_of(notification_of(event), method).payload

    (alert,) = payload.pop("alerts")
    policy = payload.pop("policy")
    assert policy["name"] == f"policy of {event.pk}"
    assert payload == {
        "version": "1", "type": "alert", "id": "delivery-1", "status": "firing", "level": "P0", "repeat": 0, "total": 1,
        "at": "2026-04-21T10:12:49.000Z", "project": {"id": "default", "name": "Default"},
        "url": f"https://ark.example.com/alerts/events/{event.pk}",
    }  # fmt: skip
    assert alert == {
        "id": event.pk, "status": "firing", "level": "P0", "unit": "%", "value": 7.5, "comparator": ">", "threshold": 5.0,
        "rule": {"id": event.rule_id, "key": "error_rate", "name": "Error rate"}, "labels": event.labels,
        "endpoint": {"id": event.endpoint_id, "name": "客服助手"}, "starts_at": "2026-04-21T10:00:49.000Z",
        "ends_at": None, "summary": "error rate 7.5%", "url": f"https://ark.example.com/alerts/events/{event.pk}",
    }  # fmt: skip


def test_one_message_for_many_shows_the_worst_first(method: ContactMethod) -> None:
    minor = notification_of(event_of(), level="P2")
    worst = notification_of(event_of(), status="resolved", digest="e" * 64)

    message = messages.digest([minor, worst], method=method, reference="delivery-1", now=NOW)

    assert message.title == "[P0] 2 messages in one"
    assert message.lines[1:] == (
        "1. [P0 resolved] 客服助手 Error rate 7.5% > 5%",
        "2. [P2] 客服助手 Error rate 7.5% > 5%",
    )
    assert message.tone == Tone.FIRING
    assert [one["level"] for one in message.payload["notifications"]] == ["P2", "P0"]


def test_a_test_message_names_who_sent_it(method: ContactMethod) -> None:
    message = messages.test(method, by_name="li.wei", reference="test-1", now=NOW)

    assert message.lines[0] == "li.wei is trying out whether alerts arrive here."
    assert message.payload["type"] == "test"


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (31.2345, "%", "31.23%"), (100, "%", "100%"), (1234567.8, "", "1,234,568"), (0.35, "s", "0.35 s"),
        (0.00042, "s", "0.00042 s"), (0, "", "0"), (-3, "", "-3"), (float("nan"), "%", "–%"), (float("inf"), "", "∞"),
        (250.5, "", "250.5"),
    ],
)  # fmt: skip
def test_figures_are_read_at_a_glance(value: float, unit: str, shown: str) -> None:
    assert messages.figure(value, unit) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0 s"), (40, "40 s"), (125, "2 min"), (3905, "1 h 5 min"), (90_000, "1 d 1 h")]
)
def test_durations_in_their_two_largest_units(seconds: int, shown: str) -> None:
    with translation.override("en"):
        assert messages.duration(timedelta(seconds=seconds)) == shown
