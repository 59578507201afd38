"""What people are told: each state of a group once, repeats when it is time, nothing lost and nothing twice."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from alerts import event_services, events, notifications, policies, reports
from alerts.models import AlertEvent, Delivery, Notification, NotificationPolicy, Phase, Pulse
from alerts.notifications import Told, is_news, times_told
from alerts.reports import GroupPost, Report
from tests import builders
from tests.alerts.test_events import side_by_side
from tests.builders import NOW
from tests.servers import PostgresServer

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def at(minutes: float) -> datetime:
    return NOW + minutes * MINUTE


# --- the decision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "told", "news"),
    [
        ({"1": "firing"}, [], True),
        ({"1": "resolved"}, [], True),
        # Alertmanager tries again, or was restarted, or its routes changed.
        ({"1": "firing"}, [(-1, {"1": "firing"})], False),
        ({"1": "firing"}, [(-50, {"1": "firing"})], False),
        ({"1": "firing"}, [(-1, {"1": "firing", "2": "firing"})], False),
        ({"1": "firing", "2": "firing"}, [(-1, {"1": "firing"}), (-2, {"2": "firing"})], False),
        # It is time to repeat; a moment early is not.
        ({"1": "firing"}, [(-60, {"1": "firing"})], True),
        ({"1": "firing"}, [(-55, {"1": "firing"})], True),
        ({"1": "firing"}, [(-1, {"1": "firing"}), (-60, {"1": "firing"})], False),
        # Something more.
        ({"1": "firing", "2": "firing"}, [(-1, {"1": "firing"})], True),
        ({"1": "firing", "2": "resolved"}, [(-1, {"1": "firing", "2": "firing"})], True),
        # A recovery is told once, however often it is posted.
        ({"1": "resolved"}, [(-1, {"1": "firing"})], True),
        ({"1": "resolved"}, [(-1, {"1": "resolved"}), (-2, {"1": "firing"})], False),
        ({"1": "resolved"}, [(-600, {"1": "resolved"})], False),
        ({"1": "firing", "2": "resolved"}, [(-1, {"1": "firing", "2": "resolved"})], False),
        # It was said to be over, and is not.
        ({"1": "firing"}, [(-1, {"1": "resolved"}), (-2, {"1": "firing"})], True),
    ],
)
def test_what_is_news(statuses: Mapping[str, str], told: list[tuple[float, dict[str, str]]], news: bool) -> None:
    before = [Told(at(minutes), each) for minutes, each in told]

    assert is_news(statuses, before, now=NOW, repeat=HOUR) is news


def test_what_was_said_before_its_end_and_came_after_it_is_no_news() -> None:
    before = [Told(at(-1), {"1": "resolved"}), Told(at(-2), {"1": "firing"})]

    assert not is_news({"1": "firing"}, before, over={"1"}, now=NOW, repeat=HOUR)
    assert is_news({"1": "firing"}, before, over=set(), now=NOW, repeat=HOUR)
    # Whoever heard nothing of it yet hears of it, and then of its end.
    assert is_news({"1": "firing"}, [], over={"1"}, now=NOW, repeat=HOUR)


def test_nobody_is_reminded_of_what_somebody_looks_after() -> None:
    before = [Told(at(-90), {"1": "firing", "2": "firing"})]

    assert not is_news({"1": "firing"}, before, seen={"1"}, now=NOW, repeat=HOUR)
    assert is_news({"1": "firing", "2": "firing"}, before, seen={"1"}, now=NOW, repeat=HOUR)
    # What is new is told all the same: its end, and what joins it.
    assert is_news({"1": "resolved"}, before, seen={"1"}, now=NOW, repeat=HOUR)
    assert is_news({"1": "firing", "3": "firing"}, before, seen={"1"}, now=NOW, repeat=HOUR)


@pytest.mark.parametrize(
    ("before", "times"),
    [
        ([], 0),
        ([({"1": "firing"}, True)], 1),
        # Lost on the way, and of another one.
        ([({"1": "firing"}, False)], 0),
        ([({"2": "firing"}, True)], 0),
        ([({"1": "firing"}, True), ({"1": "firing"}, False), ({"1": "firing"}, True)], 2),
        # It was over in between.
        ([({"1": "resolved"}, True), ({"1": "firing"}, True)], 0),
        ([({"1": "firing"}, True), ({"1": "resolved"}, False), ({"1": "firing"}, True)], 1),
    ],
)
def test_how_often_it_was_told(before: list[tuple[dict[str, str], bool]], times: int) -> None:
    assert times_told("1", before) == times


# --- what is posted ----------------------------------------------------------------------------------------------------


def report(
    starts: float = 0, ends: float | None = None, *, is_over: bool = False, policy: NotificationPolicy, **labels: str
) -> Report:
    labels = {
        "alertname": "error_rate", "project": "default", "ark_endpoint": "ep-1", "rule_id": "1", "level": "P1",
        "notify_policy": str(policy.pk), **labels,
    }  # fmt: skip
    return Report(
        reports.fingerprint(labels), at(starts), None if ends is None else at(ends), labels, {"value": "7"},
        has_ended=is_over,
    )  # fmt: skip


def group(*told: Report, policy: NotificationPolicy, level: str = "P1", **labels: str) -> GroupPost:
    names = {"notify_policy": str(policy.pk), "level": level, "project": "default", "alertname": "error_rate", **labels}
    return GroupPost(names, told)


def receive(post: GroupPost, minute: float = 0) -> Notification | None:
    return notifications.receive(post, now=at(minute))


@pytest.fixture
def policy() -> NotificationPolicy:
    people = builders.contact_group(builders.contact("email", "webhook"), builders.contact("email"))
    return builders.notification_policy(people)


@pytest.mark.django_db
def test_a_group_is_told_to_every_address_of_its_level(policy: NotificationPolicy) -> None:
    events.record([report(ends=4, policy=policy)], now=NOW)
    notification = receive(group(report(policy=policy), policy=policy))

    assert notification is not None
    assert (notification.status, notification.slot, notification.level) == ("firing", 0, "P1")
    event = AlertEvent.objects.get()
    assert list(notification.events.all()) == [event]
    assert notification.payload["alerts"][0]["event_id"] == event.pk
    assert (notification.payload["total"], notification.payload["firing"]) == (1, 1)
    assert sorted(Delivery.objects.values_list("kind", "state")) == [
        ("email", "queued"), ("email", "queued"), ("webhook", "queued"),
    ]  # fmt: skip
    assert Delivery.objects.due(NOW).count() == 3


@pytest.mark.django_db
def test_one_firing_and_one_resolved_however_often_they_are_posted(policy: NotificationPolicy) -> None:
    for minute in (0, 0.1, 1, 5):
        receive(group(report(policy=policy), policy=policy), minute)
    for minute in (10, 11, 75):
        receive(group(report(0, 9, is_over=True, policy=policy), policy=policy), minute)

    assert list(Notification.objects.order_by("pk").values_list("status", flat=True)) == ["firing", "resolved"]
    assert Delivery.objects.count() == 6
    assert AlertEvent.objects.get().phase == "resolved"


@pytest.mark.django_db
def test_repeats_are_told_each_in_a_slot_of_its_own(policy: NotificationPolicy) -> None:
    for minute in (0, 1, 60, 60.1, 121):
        receive(group(report(policy=policy), policy=policy), minute)

    assert list(Notification.objects.order_by("pk").values_list("slot", flat=True)) == [0, 1, 2]
    assert Notification.objects.values("digest").distinct().count() == 1


@pytest.mark.django_db
def test_a_reminder_is_one_of_what_had_arrived(policy: NotificationPolicy) -> None:
    made = [receive(group(report(policy=policy), policy=policy), minute) for minute in (0, 60, 120)]
    first, second, third = [each for each in made if each is not None]
    first.deliveries.update(state="failed")
    second.deliveries.filter(kind="webhook").update(state="sent")
    assert [notifications.repeats(each) for each in (first, second, third)] == [0, 0, 1]
    # Something new in it is news.
    joined = receive(group(report(policy=policy), report(policy=policy, ark_endpoint="ep-2"), policy=policy), 121)
    assert joined is not None
    assert notifications.repeats(joined) == 0
    # Another grouping makes no first message of it.
    alone = receive(group(report(policy=policy), policy=policy, ark_endpoint="ep-1"), 190)
    assert alone is not None
    assert (alone.slot, notifications.repeats(alone)) == (0, 1)


@pytest.mark.django_db
def test_acknowledging_stops_the_reminders_until_it_is_over(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    event, by = AlertEvent.objects.get(), builders.actor()
    event_services.acknowledge(event=event, by=by, now=at(5))
    assert receive(group(report(policy=policy), policy=policy), 70) is None
    event_services.take_back(event=event, by=by, now=at(71))
    assert receive(group(report(policy=policy), policy=policy), 72) is not None
    event_services.acknowledge(event=event, by=by, now=at(73))
    assert receive(group(report(0, 140, is_over=True, policy=policy), policy=policy), 141) is not None


@pytest.mark.django_db
def test_what_fires_for_weeks_and_is_looked_after_is_no_news(policy: NotificationPolicy) -> None:
    policy.levels.update(repeat_seconds=7 * 86_400)
    days = 24 * 60
    first = receive(group(report(policy=policy), policy=policy))
    assert first is not None
    first.deliveries.update(state="sent")
    second = receive(group(report(policy=policy), policy=policy), 8 * days)
    # Told every seven days, it is a reminder all the same.
    assert second is not None
    assert notifications.repeats(second) == 1
    event_services.acknowledge(event=AlertEvent.objects.get(), by=builders.actor(), now=at(8 * days + 1))

    assert receive(group(report(policy=policy), policy=policy), 30 * days) is None


@pytest.mark.django_db
def test_a_deleted_policy_tells_the_end_of_what_it_told_and_nothing_else(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    policies.delete_policy(policy=policy, by=builders.actor(builders.user(is_superuser=True)), now=at(1))
    others = [report(policy=policy, ark_endpoint=f"ep-{number}") for number in (2, 3)]

    assert receive(group(*others, policy=policy), 2) is None
    ended = [report(0, 3, is_over=True, policy=policy), report(0, 3, is_over=True, policy=policy, ark_endpoint="ep-2")]
    told = receive(group(*ended, others[1], policy=policy), 4)
    assert told is not None
    assert (told.status, told.payload["total"], told.deliveries.count()) == ("resolved", 1, 3)
    assert receive(group(*ended, policy=policy), 5) is None


@pytest.mark.django_db
def test_an_alertmanager_that_lost_its_memory_makes_no_second_message(policy: NotificationPolicy) -> None:
    first, second = report(policy=policy), report(policy=policy, ark_endpoint="ep-2")
    receive(group(first, second, policy=policy))
    # After its start it hears of one before the other, and Prometheus' restart moved the start.
    receive(group(first, policy=policy), 1)
    receive(group(report(1, policy=policy), second, policy=policy), 2)

    assert Notification.objects.count() == 1


@pytest.mark.django_db
def test_another_grouping_of_the_same_alerts_is_no_news(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    receive(group(report(policy=policy), policy=policy, ark_endpoint="ep-1"), 1)

    assert Notification.objects.count() == 1


@pytest.mark.django_db
def test_who_joins_the_group_is_told_of(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    receive(group(report(policy=policy), report(1, policy=policy, ark_endpoint="ep-2"), policy=policy), 1)

    assert [note.payload["total"] for note in Notification.objects.order_by("pk")] == [1, 2]


@pytest.mark.django_db
def test_the_next_incident_of_the_same_rule_is_told_anew(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    receive(group(report(0, 5, is_over=True, policy=policy), policy=policy), 6)
    receive(group(report(7, policy=policy), policy=policy), 7)

    assert list(Notification.objects.order_by("pk").values_list("status", flat=True)) == [
        "firing", "resolved", "firing",
    ]  # fmt: skip
    assert AlertEvent.objects.count() == 2


@pytest.mark.django_db
def test_five_hundred_endpoints_are_one_message(policy: NotificationPolicy) -> None:
    many = [report(policy=policy, ark_endpoint=f"ep-{number}") for number in range(500)]
    events.record(many, now=NOW)
    with CaptureQueriesContext(connection) as queries:
        receive(group(*many, policy=policy))

    notification = Notification.objects.get()
    assert notification.events.count() == 500
    assert notification.payload["total"] == 500
    assert len(notification.payload["alerts"]) == notifications.SHOWN
    assert Delivery.objects.count() == 3
    assert len(queries) <= 16, [query["sql"][:80] for query in queries]


@pytest.mark.django_db
def test_what_prometheus_did_not_tell_us_is_written_down_from_alertmanager(policy: NotificationPolicy) -> None:
    receive(
        group(report(policy=policy), report(-9, -2, is_over=True, policy=policy, ark_endpoint="ep-2"), policy=policy)
    )

    assert set(AlertEvent.objects.values_list("endpoint_id", "phase")) == {
        ("ep-1", Phase.FIRING), ("ep-2", Phase.RESOLVED),
    }  # fmt: skip
    assert Notification.objects.get().events.count() == 2


@pytest.mark.django_db
def test_who_cannot_be_written_to_is_listed_with_why(policy: NotificationPolicy) -> None:
    level = policy.levels.get()
    contact = level.groups.get().contacts.first()
    builders.contact_method(contact=contact, state="unverified")
    builders.contact_method(contact=contact, state="disabled")
    builders.contact_method(contact=contact, state="failing")
    receive(group(report(policy=policy), policy=policy))

    skipped = Delivery.objects.filter(state="skipped")
    assert sorted(skipped.values_list("answer_code", flat=True)) == ["disabled", "unverified"]
    assert Delivery.objects.filter(state="queued").count() == 4


@pytest.mark.django_db
def test_deleted_contacts_and_groups_hear_nothing() -> None:
    gone = builders.contact("email", deleted_at=NOW)
    group_of_gone = builders.contact_group(gone)
    gone_group = builders.contact_group(builders.contact("email"), deleted_at=NOW)
    policy = builders.notification_policy(group_of_gone, gone_group)

    assert receive(group(report(policy=policy), policy=policy)) is not None
    assert not Delivery.objects.exists()


@pytest.mark.django_db
def test_an_address_in_two_groups_is_written_to_once() -> None:
    contact = builders.contact("email")
    policy = builders.notification_policy(builders.contact_group(contact), builders.contact_group(contact))
    receive(group(report(policy=policy), policy=policy))

    assert Delivery.objects.count() == 1


@pytest.mark.django_db
@pytest.mark.parametrize(("level", "rings"), [("P0", 1), ("P1", 0)])
def test_the_phone_rings_for_p0_only(level: str, rings: int) -> None:
    people = builders.contact_group(builders.contact("phone"))
    policy = builders.notification_policy(people, level=level, kinds=["phone"])
    receive(group(report(policy=policy, level=level), policy=policy, level=level))

    assert Delivery.objects.count() == rings


@pytest.mark.django_db
def test_recovery_goes_to_the_kinds_that_are_told_of_it(policy: NotificationPolicy) -> None:
    policy.levels.update(resolved_kinds=["webhook"])
    receive(group(report(policy=policy), policy=policy))
    told = receive(group(report(0, 5, is_over=True, policy=policy), policy=policy), 6)

    assert told is not None
    assert list(told.deliveries.values_list("kind", flat=True)) == ["webhook"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "labels",
    [{"notify_policy": "999999"}, {"notify_policy": "x"}, {"notify_policy": ""}, {"level": "P2"}, {"level": "P9"}],
)
def test_a_group_that_nobody_is_to_be_told_of_is_told_to_nobody(
    policy: NotificationPolicy, labels: dict[str, Any]
) -> None:
    post = group(report(policy=policy), policy=policy)

    assert receive(GroupPost({**post.labels, **labels}, post.reports)) is None
    assert not Notification.objects.exists()


@pytest.mark.django_db
def test_a_policy_never_tells_of_another_project(policy: NotificationPolicy) -> None:
    builders.project("others")

    assert receive(group(report(policy=policy, project="others"), policy=policy)) is None


@pytest.mark.django_db
def test_the_watchdog_is_a_pulse_and_tells_nobody() -> None:
    watchdog = Report("w", NOW, None, {"alertname": reports.WATCHDOG})

    assert receive(GroupPost({"alertname": reports.WATCHDOG}, [watchdog])) is None
    assert Pulse.objects.get().name == events.TOLD


@pytest.mark.django_db(transaction=True)
def test_the_same_group_posted_at_once_is_told_once(postgres: PostgresServer, policy: NotificationPolicy) -> None:
    def work(number: int) -> None:
        for minute in (0.0, 0.1):
            receive(group(report(policy=policy), report(policy=policy, ark_endpoint="ep-2"), policy=policy), minute)
        receive(group(report(0, 5, is_over=True, policy=policy), policy=policy), 6)

    builders.project("default")
    side_by_side(4, work)

    assert sorted(Notification.objects.values_list("status", flat=True)) == ["firing", "resolved"]
    assert Delivery.objects.count() == 6


# --- what Alertmanager forgot --------------------------------------------------------------------------------------------


def end_of(event: AlertEvent, minute: float, **values: Any) -> None:
    AlertEvent.objects.filter(pk=event.pk).update(phase="resolved", ends_at=at(minute), **values)


@pytest.mark.django_db
def test_a_recovery_that_alertmanager_forgot_is_told_in_the_end(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    end_of(AlertEvent.objects.get(), 10)

    assert notifications.tell_forgotten(now=at(14)) == 0
    assert notifications.tell_forgotten(now=at(16)) == 1
    assert notifications.tell_forgotten(now=at(16)) == 0
    # And when it remembers after all, that is no news.
    assert receive(group(report(0, 10, is_over=True, policy=policy), policy=policy), 17) is None
    assert [note.status for note in Notification.objects.order_by("pk")] == ["firing", "resolved"]


@pytest.mark.django_db
@pytest.mark.parametrize(("ended_after", "is_deleted"), [(10, True), (30 * 24 * 60, False)])
def test_the_end_is_told_by_a_deleted_policy_and_of_what_was_told_long_ago(
    policy: NotificationPolicy, ended_after: int, is_deleted: bool
) -> None:
    receive(group(report(policy=policy), policy=policy))
    end_of(AlertEvent.objects.get(), ended_after)
    if is_deleted:
        NotificationPolicy.objects.update(deleted_at=at(5))

    assert notifications.tell_forgotten(now=at(ended_after + 6)) == 1
    assert notifications.tell_forgotten(now=at(ended_after + 7)) == 0


@pytest.mark.django_db
def test_the_end_is_told_however_long_the_interval_is(policy: NotificationPolicy) -> None:
    policy.levels.update(interval_seconds=86_400, repeat_seconds=86_400)
    hours = 60
    receive(group(report(policy=policy), policy=policy))
    end_of(AlertEvent.objects.get(), 10)

    assert notifications.tell_forgotten(now=at(48 * hours + 10)) == 0
    assert notifications.tell_forgotten(now=at(54 * hours + 11)) == 0
    assert notifications.tell_forgotten(now=at(48 * hours + 14)) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("values", [{"is_silenced": True}, {"is_inhibited": True}])
def test_who_heard_the_beginning_before_it_was_held_back_hears_the_end(
    policy: NotificationPolicy, values: dict[str, bool]
) -> None:
    receive(group(report(policy=policy), policy=policy))
    end_of(AlertEvent.objects.get(), 10, **values)

    assert notifications.tell_forgotten(now=at(16)) == 1
    assert notifications.tell_forgotten(now=at(16)) == 0
    assert [note.status for note in Notification.objects.order_by("pk")] == ["firing", "resolved"]


@pytest.mark.django_db
@pytest.mark.parametrize("values", [{"is_silenced": True}, {"is_inhibited": True}, {}])
def test_what_ended_before_anybody_heard_of_it_is_not_told(values: dict[str, bool]) -> None:
    builders.alert_event(phase="resolved", starts_at=at(0), ends_at=at(10), has_policy=True, **values)

    assert notifications.tell_forgotten(now=at(16)) == 0


@pytest.fixture
def ranked(settings: Any) -> NotificationPolicy:
    """Tells of P0 and of P1; the configuration of Alertmanager is ours."""
    settings.ALERTMANAGER_CONFIG = "/data/alertmanager.yml"
    people = builders.contact_group(builders.contact("webhook"))
    policy = builders.notification_policy(people, level="P0")
    builders.policy_level(policy, people, level="P1")
    return policy


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("worse", "level"),
    [({}, "P1"), ({"alertname": "abnormal", "rule_id": "9"}, "P1"), ({"alertname": "abnormal", "rule_id": "9"}, "P0")],
)
def test_what_is_inhibited_is_not_told_even_where_alertmanager_was_just_started(
    ranked: NotificationPolicy, worse: dict[str, str], level: str
) -> None:
    """It looks at old groups at once, before it has read what holds them back."""
    cause = {"level": "P0", "ark_endpoint": "ep-1", **worse}
    events.record([report(ends=4, policy=ranked, **cause)], now=NOW)
    posted = group(report(policy=ranked, level=level), report(policy=ranked, level=level, ark_endpoint="ep-2"),
                   policy=ranked, level=level)  # fmt: skip

    with pytest.raises(notifications.HeldBack) as raised:
        receive(posted)
    assert raised.value.told is not None
    assert [event.endpoint_id for event in raised.value.told.events.all()] == ["ep-2"], "the others wait for nothing"
    events.record([report(ends=1, is_over=True, policy=ranked, **cause)], now=at(1))
    told = receive(posted, 1)
    assert told is not None
    assert {event.endpoint_id for event in told.events.all()} == {"ep-1", "ep-2"}


@pytest.mark.django_db
def test_what_was_inhibited_to_its_end_is_not_told_by_what_alertmanager_saw_before(ranked: NotificationPolicy) -> None:
    """It tries again and again with what it saw at first."""
    both = [report(policy=ranked, level=level, ends=4) for level in ("P0", "P1")]
    events.record(both, now=NOW)
    posted = group(report(policy=ranked), policy=ranked)
    with pytest.raises(notifications.HeldBack):
        receive(posted)
    events.record([report(ends=2, is_over=True, policy=ranked, level=level) for level in ("P0", "P1")], now=at(2))

    with pytest.raises(notifications.HeldBack):
        receive(posted, 2.5)
    assert not Notification.objects.exists()


@pytest.mark.django_db
def test_what_nobody_speaks_of_any_more_holds_nothing_back(ranked: NotificationPolicy) -> None:
    events.record([report(ends=4, policy=ranked, level="P0")], now=NOW)
    posted = group(report(policy=ranked), policy=ranked)

    with pytest.raises(notifications.HeldBack):
        receive(posted, 6)
    assert receive(posted, 8) is not None


@pytest.mark.django_db
def test_what_nobody_hears_of_holds_nothing_back(settings: Any) -> None:
    settings.ALERTMANAGER_CONFIG = "/data/alertmanager.yml"
    people = builders.contact_group(builders.contact("webhook"))
    policy = builders.notification_policy(people, level="P1")
    builders.policy_level(policy, builders.contact_group(), level="P0")
    events.record([report(ends=4, policy=policy, level="P0")], now=NOW)

    assert receive(group(report(policy=policy), policy=policy)) is not None


@pytest.mark.django_db
def test_where_the_configuration_is_not_ours_alertmanager_alone_says_what_holds_back(
    ranked: NotificationPolicy, settings: Any
) -> None:
    settings.ALERTMANAGER_CONFIG = ""
    events.record([report(ends=4, policy=ranked, level="P0")], now=NOW)

    assert receive(group(report(policy=ranked), policy=ranked)) is not None


@pytest.mark.django_db
def test_what_was_told_by_alertmanager_is_not_told_again(policy: NotificationPolicy) -> None:
    receive(group(report(policy=policy), policy=policy))
    receive(group(report(0, 10, is_over=True, policy=policy), policy=policy), 10.5)

    assert notifications.tell_forgotten(now=at(20)) == 0
