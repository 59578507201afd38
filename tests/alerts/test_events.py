"""The history: written once from what Prometheus posts, however often and from however many sides."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.test.utils import CaptureQueriesContext

from alerts import events, reports
from alerts.models import AlertEvent, EventNote, Notification, Pulse
from alerts.reports import Report
from tests import builders
from tests.builders import NOW
from tests.servers import PostgresServer

MINUTE = timedelta(minutes=1)
pytestmark = pytest.mark.django_db


def at(minutes: float) -> datetime:
    return NOW + minutes * MINUTE


def report(starts: float = 0, ends: float | None = 4, *, value: str = "7.5", **labels: str) -> Report:
    labels = {"alertname": "error_rate", "project": "default", "ark_endpoint": "ep-1", "rule_id": "1", "level": "P1",
              **labels}  # fmt: skip
    labels = {name: value for name, value in labels.items() if value}
    return Report(
        reports.fingerprint(labels), at(starts), None if ends is None else at(ends), labels,
        {"value": value, "threshold": "5", "comparator": ">", "summary": "many errors"}, "sum(x) > 5",
    )  # fmt: skip


def post(*told: Report, minute: float = 0) -> events.Recorded:
    builders.project("default")
    return events.record_post(told, now=at(minute))


def kinds(event: AlertEvent) -> list[str]:
    return list(event.notes.values_list("kind", flat=True))


def test_a_firing_alert_is_an_event_with_what_its_rule_says() -> None:
    rule = builders.rule()
    post(report(rule_id=str(rule.pk), notify_policy="3"))

    event = AlertEvent.objects.get()
    assert (event.rule, event.rule_name, event.group_name) == (rule, "Error rate", rule.group.name)
    assert (event.project_id, event.endpoint_id, event.level) == ("default", "ep-1", "P1")
    assert (event.value, event.comparator, event.threshold, event.expression) == (7.5, ">", 5.0, "sum(x) > 5")
    assert (event.phase, event.starts_at, event.expires_at) == ("firing", NOW, at(4))
    assert (event.has_policy, event.is_silenced) == (True, False)
    assert kinds(event) == ["firing"]


def test_it_is_refreshed_while_it_lasts_and_ends_once() -> None:
    post(report())
    post(report(ends=5, value="9"), minute=1)
    post(report(ends=6, value="12"), minute=2)
    for minute in (3, 4, 5):
        post(report(ends=3, value="12"), minute=minute)

    event = AlertEvent.objects.get()
    assert (event.phase, event.ends_at, event.value) == ("resolved", at(3), 12.0)
    assert kinds(event) == ["firing", "resolved"]


def test_prometheus_is_believed_more_than_who_passes_it_on() -> None:
    post(report(0, None, value="5"))
    assert AlertEvent.objects.get().expires_at == at(4)
    post(report(0, 2, value="6"), minute=1)
    post(report(0, None, value="5"), minute=1.5)

    event = AlertEvent.objects.get()
    assert (event.expires_at, event.value, event.last_at) == (at(2), 6.0, at(1.5))


def test_one_post_may_hold_an_end_and_the_next_beginning() -> None:
    post(report())
    post(report(ends=2), report(3, 9), report(3, 9), report(3, 9, ark_endpoint="ep-2"), minute=3)

    assert list(AlertEvent.objects.order_by("pk").values_list("endpoint_id", "phase")) == [
        ("ep-1", "resolved"), ("ep-1", "firing"), ("ep-2", "firing"),
    ]  # fmt: skip


def test_a_prometheus_that_was_restarted_tells_of_the_same_incident() -> None:
    post(report())
    post(report(2, 6), minute=2)
    post(report(2, 3), minute=3)

    event = AlertEvent.objects.get()
    assert (event.starts_at, event.ends_at) == (NOW, at(3))


def test_two_prometheus_that_watch_the_same_thing_tell_of_one_event() -> None:
    post(report(replica="a"), report(replica="b"))

    assert AlertEvent.objects.count() == 1


def test_what_ended_while_nobody_listened_is_in_the_history_all_the_same() -> None:
    post(report(0, 3), minute=10)

    event = AlertEvent.objects.get()
    assert (event.phase, event.starts_at, event.ends_at) == ("resolved", NOW, at(3))
    assert kinds(event) == ["firing", "resolved"]


@pytest.mark.parametrize(
    "labels", [{"rule_id": ""}, {"project": "of-nobody"}, {"project": ""}, {"alertname": reports.WATCHDOG}]
)
def test_what_is_not_ours_is_left_alone(labels: dict[str, str]) -> None:
    recorded = post(report(**labels))

    assert recorded.foreign == 1
    assert not AlertEvent.objects.exists()


def test_rules_of_the_installation_belong_to_no_project() -> None:
    post(report(project="", group_id=reports.OPERATORS, rule_id="operators/gateway"))

    assert AlertEvent.objects.get().project is None


def test_a_label_that_names_another_projects_rule_is_not_believed() -> None:
    others = builders.rule(group=builders.rule_group(project=builders.project("others")))
    post(report(rule_id=str(others.pk)))

    event = AlertEvent.objects.get()
    assert (event.rule, event.rule_name) == (None, "error_rate")


def test_odd_labels_break_nothing() -> None:
    post(report(rule_id="9" * 40), report(rule_id="²", ark_endpoint="e" * 500, level="P7"))

    assert set(AlertEvent.objects.values_list("level", flat=True)) == {"P1", "P2"}


def test_a_silence_marks_the_event_from_its_beginning() -> None:
    builders.silence(matchers={"ark_endpoint": "ep-1"})
    post(report(), report(ark_endpoint="ep-2"), minute=1)

    assert dict(AlertEvent.objects.values_list("endpoint_id", "is_silenced")) == {"ep-1": True, "ep-2": False}


def test_sixty_four_alerts_cost_a_handful_of_queries() -> None:
    rule = builders.rule()
    many = [report(ark_endpoint=f"ep-{number}", rule_id=str(rule.pk)) for number in range(64)]
    post(many[0])
    with CaptureQueriesContext(
        connection,
    ) as first:
        events.record_post(many, now=at(1))
    with CaptureQueriesContext(connection) as again:
        events.record_post(many, now=at(1.5))

    assert len(first) <= 17, [query["sql"][:80] for query in first]
    assert len(again) <= 12, [query["sql"][:80] for query in again]


# --- what nobody speaks of any more ------------------------------------------------------------------------------------


def hear(*minutes: float) -> None:
    for minute in minutes:
        events.beat(events.POSTED, now=at(minute))


def test_what_prometheus_no_longer_speaks_of_has_ended_when_its_promise_ran_out() -> None:
    post(report())
    hear(1, 2, 3, 4, 5)

    assert events.expire(now=at(4.4)) == 0
    assert events.expire(now=at(5)) == 1
    assert events.expire(now=at(5)) == 0
    event = AlertEvent.objects.get()
    assert (event.phase, event.ends_at, event.has_expired) == ("resolved", at(4), True)
    assert kinds(event) == ["firing", "expired"]


def test_a_prometheus_that_is_silent_ends_nothing() -> None:
    post(report())

    assert events.expire(now=at(60)) == 0


def test_after_a_pause_prometheus_has_time_to_speak_of_everything() -> None:
    post(report())
    hear(60, 61)
    assert events.expire(now=at(61.5)) == 0
    hear(62)
    assert events.expire(now=at(62.1)) == 1


def test_what_was_given_up_too_early_goes_on_as_the_same_event() -> None:
    post(report())
    hear(1, 2, 3, 4, 5)
    events.expire(now=at(5))
    post(report(ends=10), minute=6)

    event = AlertEvent.objects.get()
    assert (event.phase, event.ends_at, event.has_expired) == ("firing", None, False)
    assert kinds(event) == ["firing", "expired", "firing"]


# --- pending -----------------------------------------------------------------------------------------------------------


def test_a_pending_alert_is_shown_and_becomes_the_event_that_fires() -> None:
    builders.project("default")
    events.note_pending([report(0, None)], now=NOW)
    events.note_pending([report(0, None)], now=at(0.2))
    pending = AlertEvent.objects.get()
    assert pending.phase == "pending"

    post(report(2, 6), minute=2)

    event = AlertEvent.objects.get()
    assert (event.pk, event.phase, event.pending_at, event.starts_at) == (pending.pk, "firing", NOW, at(2))
    assert kinds(event) == ["pending", "firing"]


def test_a_pending_alert_that_never_fires_is_forgotten_after_a_moment() -> None:
    builders.project("default")
    events.note_pending([report(0, None)], now=NOW)
    events.note_pending([], now=at(0.2))
    assert AlertEvent.objects.exists()
    events.note_pending([], now=at(1))
    assert not AlertEvent.objects.exists()


def test_what_fires_already_is_not_pending() -> None:
    post(report())
    events.note_pending([report(0, None)], now=at(1))

    assert AlertEvent.objects.get().phase == "firing"


# --- held back, forgotten ------------------------------------------------------------------------------------------------


def test_what_alertmanager_holds_back_is_marked_and_written_into_the_log() -> None:
    event, other = builders.alert_event(), builders.alert_event()
    assert events.mark({event.fingerprint: (True, False), other.fingerprint: (False, True)}, now=at(1)) == 2
    assert events.mark({event.fingerprint: (True, False), other.fingerprint: (False, True)}, now=at(1)) == 0
    assert events.mark({other.fingerprint: (False, False)}, now=at(2)) == 1

    event.refresh_from_db()
    assert event.is_silenced
    assert kinds(event) == ["silenced"]
    assert kinds(other) == ["inhibited", "uninhibited"]


def test_events_are_kept_for_ninety_days_after_their_end() -> None:
    builders.alert_event(phase="resolved", ends_at=at(5))
    kept = builders.alert_event(phase="resolved", starts_at=at(0), ends_at=at(60))
    long = builders.alert_event()

    events.prune(now=at(6) + timedelta(days=90))

    assert set(AlertEvent.objects.all()) == {kept, long}


def test_what_was_sent_is_kept_as_long_as_an_event_that_it_speaks_of() -> None:
    over = builders.alert_event(phase="resolved", ends_at=at(5))
    late = builders.alert_event(phase="resolved", starts_at=at(0), ends_at=at(60))
    firing, pending = builders.alert_event(), builders.alert_event(phase="pending")
    policy = builders.notification_policy()

    def sent(number: int, *about: AlertEvent, minute: float = 1) -> Notification:
        made = Notification.objects.create(
            policy=policy, level="P1", group_key="g", digest="d", slot=number, status="firing", at=at(minute)
        )
        made.events.add(*about)
        return made

    sent(0, over)
    sent(1)
    kept = {sent(2, over, late), sent(3, firing), sent(4, pending), sent(5, over, minute=7)}

    for _again in range(2):
        events.prune(now=at(6) + timedelta(days=90))
        assert set(Notification.objects.all()) == kept
    events.prune(now=at(61) + timedelta(days=90))
    assert {notification.slot for notification in Notification.objects.all()} == {3, 4}


def test_the_counter_counts_what_fires_in_the_project() -> None:
    builders.alert_event(level="P0")
    builders.alert_event(level="P0")
    builders.alert_event(level="P0", phase="resolved")
    builders.alert_event(level="P2", project=builders.project("others"))

    assert events.counts(project_id="default") == {"P0": 2, "P1": 0, "P2": 0}


# --- side by side --------------------------------------------------------------------------------------------------------


def side_by_side(count: int, work: Any) -> None:
    errors: list[BaseException] = []
    gate = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            gate.wait(15)
            work(number)
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []


@pytest.mark.django_db(transaction=True)
def test_workers_that_are_told_the_same_at_once_make_one_event(postgres: PostgresServer) -> None:
    builders.project("default")
    many = [report(ark_endpoint=f"ep-{number}") for number in range(20)]
    ended = [report(ends=2, ark_endpoint=f"ep-{number}") for number in range(20)]

    def work(number: int) -> None:
        events.note_pending([report(0, None, ark_endpoint=f"ep-{each}") for each in range(20)], now=NOW)
        events.record_post(many if number % 2 else [*reversed(many)], now=at(0.1))
        events.record_post(ended, now=at(2))
        events.record_post(many, now=at(2))

    side_by_side(4, work)

    assert AlertEvent.objects.count() == 20
    assert set(AlertEvent.objects.values_list("phase", flat=True)) == {"resolved"}
    assert EventNote.objects.filter(kind="firing").count() == 20
    assert EventNote.objects.filter(kind="resolved").count() == 20
    assert Pulse.objects.filter(name=events.POSTED).count() == 1
