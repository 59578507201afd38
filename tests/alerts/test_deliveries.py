"""What becomes of a delivery: sent, tried again, given up, put together, picked up from a dead worker. Once each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import translation
from pytest_django import Settings

from alerts import channels, deliveries
from alerts.channels import base
from alerts.channels.base import Answer, Outcome
from alerts.contacts import digest_of
from alerts.models import AlertEvent, ContactMethod, Delivery, Notification, NotificationPolicy, SendMark
from tests import builders
from tests.alerts import fakes
from tests.builders import NOW

pytestmark = pytest.mark.django_db
SECRET = "SECa0b1c2d3e4f5"


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at

    def timestamp(self) -> float:
        return self.at.timestamp()

    def pass_(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _local(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.ALERT_BOT_HOSTS = ["127.0.0.1"]
    settings.ALERT_ALLOW_HTTP = settings.ALERT_ALLOW_PRIVATE_ADDRESSES = True
    monkeypatch.setattr(base, "READ_SECONDS", 0.4)
    with translation.override("en"):
        yield


@pytest.fixture
def feishu(clock: Clock) -> Iterator[fakes.Feishu]:
    with fakes.running(fakes.Feishu(clock.timestamp, secret=SECRET)) as service:
        yield service


def method_of(kind: str, address: str, secret: str = "", **values: Any) -> ContactMethod:
    values = {"kind": kind, "address": address, "secret": secret, "address_digest": digest_of(kind, address), **values}
    values.setdefault("contact", builders.contact(language="en"))
    return builders.contact_method(**values)


@pytest.fixture
def method(feishu: fakes.Feishu) -> ContactMethod:
    return method_of("feishu", feishu.url, SECRET)


def queued(
    method: ContactMethod, *, level: str = "P1", status: str = "firing", policy: NotificationPolicy | None = None,
    event: AlertEvent | None = None,
) -> Delivery:  # fmt: skip
    """A delivery to the method, due now, of a notification of one event."""
    event = event or builders.alert_event(level=level)
    notification = Notification.objects.create(
        policy=policy or builders.notification_policy(level=level), level=level, status=status, at=NOW,
        group_key="g" * 64, digest=f"{Notification.objects.count():064d}", told={str(event.pk): status},
        payload={"total": 1},
    )  # fmt: skip
    notification.events.add(event)
    return Delivery.objects.create(
        notification=notification, method=method, kind=method.kind, hint=method.hint, next_at=NOW, at=NOW
    )


def run(clock: Clock) -> int:
    return deliveries.send_due(clock=clock)


# --- the good case


def test_a_delivery_is_sent_and_its_answer_kept(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    delivery = queued(method)

    assert run(clock) == 1
    assert run(clock) == 0

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.answer_code, delivery.answer_status) == ("sent", 1, "0", 200)
    assert delivery.latency_ms is not None
    assert not delivery.may_repeat
    assert "ep-1 Error rate 7.5 > 5" in str(feishu.taken[0].json)
    method.refresh_from_db()
    assert method.last_sent_at == NOW


def test_what_is_not_due_yet_waits(method: ContactMethod, clock: Clock) -> None:
    delivery = queued(method)
    Delivery.objects.update(next_at=NOW + timedelta(seconds=1))

    assert run(clock) == 0

    delivery.refresh_from_db()
    assert delivery.state == "queued"


# --- answers that are not good


def waits_of(delivery: Delivery, clock: Clock) -> list[float]:
    """The seconds between the tries at a delivery, until there is none any more."""
    waits = []
    while True:
        assert run(clock) == 1
        delivery.refresh_from_db()
        if delivery.next_at is None:
            return waits
        waits.append((delivery.next_at - clock.at).total_seconds())
        clock.at = delivery.next_at


def test_a_failing_provider_is_tried_for_an_hour_and_then_given_up(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    delivery = queued(method)
    feishu.fail("500", times=0)

    waits = waits_of(delivery, clock)

    assert waits == [2, 10, 60] + [300] * 12
    assert (delivery.state, delivery.attempts, delivery.answer_code) == ("failed", 16, "500")
    # A provider's bad hour does not cost anybody their address.
    method.refresh_from_db()
    assert (method.state, method.failures) == ("verified", 0)
    assert method.last_error.startswith("500")


def test_what_had_to_wait_long_before_its_first_try_is_tried_again_too(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    delivery = queued(method)
    feishu.fail("500", times=0)
    clock.pass_(7200)

    assert waits_of(delivery, clock) == [2, 10, 60]


def test_what_came_behind_one_that_is_tried_for_long_goes_with_it_and_is_not_given_up_with_it(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    head = queued(method)
    feishu.fail("500", times=0)
    for _ in range(4):
        run(clock)
        head.refresh_from_db()
        assert head.next_at is not None
        clock.at = head.next_at
    behind = queued(method, status="resolved")
    late = queued(method)
    Delivery.objects.filter(pk=late.pk).update(at=NOW + timedelta(minutes=50))
    run(clock)
    assert [Delivery.objects.get(pk=row.pk).digested_into_id for row in (behind, late)] == [head.pk] * 2

    clock.at = NOW + timedelta(hours=1)
    run(clock)

    # It was tried at once, and will be again.
    assert [Delivery.objects.get(pk=row.pk).state for row in (head, behind, late)] == ["failed", "digested", "queued"]
    feishu.work()
    clock.pass_(2)
    run(clock)
    assert Delivery.objects.get(pk=late.pk).state == "sent"


def test_a_summary_of_another_level_is_not_lost_in_a_summary(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    minor, within, urgent = (queued(method, level=level) for level in ("P2", "P2", "P0"))
    Delivery.objects.filter(pk=minor.pk).update(attempts=1, next_at=NOW + timedelta(hours=1))
    Delivery.objects.filter(pk=within.pk).update(state="digested", digested_into=minor, next_at=None)
    Delivery.objects.filter(pk=urgent.pk).update(attempts=1, answer_code=deliveries.HELD)

    run(clock)

    assert set(Delivery.objects.filter(digested_into=urgent).values_list("pk", flat=True)) == {minor.pk, within.pk}
    assert "3 messages in one" in str(feishu.taken[0].json)


def test_a_provider_that_recovers_gets_it_once(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    delivery = queued(method)
    feishu.fail("500")
    run(clock)
    clock.pass_(2)

    run(clock)

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.may_repeat, len(feishu.taken)) == ("sent", 2, False, 1)


def test_the_providers_own_pause_is_kept(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    delivery = queued(method)
    feishu.fail("429")

    run(clock)

    delivery.refresh_from_db()
    assert delivery.next_at == NOW + timedelta(seconds=30)


@pytest.mark.parametrize("how", ["nothing", "garbage"])
def test_a_lost_answer_is_repeated_once_and_marked(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock, how: str
) -> None:
    delivery = queued(method)
    feishu.fail(how, times=0)

    run(clock)
    delivery.refresh_from_db()
    assert (delivery.state, delivery.may_repeat) == ("queued", True)
    clock.pass_(2)
    run(clock)
    clock.pass_(600)
    run(clock)

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, len(feishu.seen)) == ("failed", 2, 2)


def test_a_lost_answer_and_then_a_good_one(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    delivery = queued(method)
    feishu.fail("nothing")
    run(clock)
    clock.pass_(2)

    run(clock)

    delivery.refresh_from_db()
    assert (delivery.state, delivery.may_repeat, len(feishu.taken)) == ("sent", True, 2)


def test_a_wrong_secret_is_not_tried_again_and_counts(method: ContactMethod, clock: Clock) -> None:
    ContactMethod.objects.update(secret="wrong")
    delivery = queued(method)

    run(clock)

    delivery.refresh_from_db()
    method.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.answer_code) == ("failed", 1, "19021")
    assert (method.state, method.failures) == ("failing", 1)
    assert "secret" in channels.sentence(method.kind, method.last_error)


def test_five_permanent_failures_in_a_row_switch_the_method_off_and_the_rest_is_skipped(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    ContactMethod.objects.update(secret="wrong")
    rows = [queued(method) for _ in range(7)]

    run(clock)
    clock.pass_(2)
    run(clock)

    states = [Delivery.objects.get(pk=row.pk).state for row in rows]
    method.refresh_from_db()
    assert states == ["failed"] * 5 + ["skipped"] * 2
    assert (method.state, len(feishu.seen)) == ("disabled", 5)
    assert Delivery.objects.get(pk=rows[6].pk).answer_code == "disabled"


def test_a_success_in_between_begins_the_count_anew(method: ContactMethod, clock: Clock) -> None:
    ContactMethod.objects.update(state="failing", failures=4, last_error="19021")
    queued(method)

    run(clock)

    method.refresh_from_db()
    assert (method.state, method.failures, method.last_error) == ("verified", 0, "")


def test_an_address_that_is_gone_is_switched_off_at_once(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    feishu.fail("19001")
    queued(method)

    run(clock)

    method.refresh_from_db()
    assert method.state == "disabled"
    assert channels.sentence(method.kind, method.last_error).startswith("This bot is gone")


def test_what_this_installation_lacks_is_nobodys_fault(clock: Clock, settings: Settings) -> None:
    settings.EMAIL_URL = ""
    method = method_of("email", "ann@example.com")
    delivery = queued(method)

    run(clock)

    delivery.refresh_from_db()
    method.refresh_from_db()
    assert (delivery.state, delivery.answer_code) == ("skipped", "not_set_up")
    assert "EMAIL_URL" in delivery.answer_text
    assert (method.state, method.failures) == ("verified", 0)


def test_a_message_that_cannot_be_written_does_not_stop_the_others(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    broken, fine = queued(method, level="P0"), queued(method)
    Notification.objects.filter(pk=broken.notification_id).update(payload={"total": "a lot"})

    run(clock)

    assert Delivery.objects.get(pk=broken.pk).answer_code == "defect"
    assert Delivery.objects.get(pk=fine.pk).state == "sent"


def test_what_an_administrator_allows_no_more_is_not_the_addresses_fault(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock, settings: Settings
) -> None:
    settings.ALERT_BOT_HOSTS = []
    rows = [queued(method) for _ in range(5)]

    for _ in rows:
        run(clock)
        clock.pass_(1)

    method.refresh_from_db()
    assert {row.state for row in Delivery.objects.all()} == {"failed"}
    assert (method.state, method.failures, feishu.seen) == ("verified", 0, [])


def test_what_the_other_side_repeats_of_address_and_secret_is_not_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, token = "https://example.com/hooks/T0123456789?key=abcdef0123", "Bearer tok-0123456789"
    method = method_of("webhook", address, token)
    delivery = queued(method)
    text = f"no such hook /hooks/T0123456789?key=abcdef0123 for tok-0123456789 ({address}); key abcdef01"
    monkeypatch.setattr(
        type(channels.of("webhook")), "send",
        lambda *_args, **_values: Answer(Outcome.PERMANENT, 400, "400", text),
    )  # fmt: skip

    run(clock)

    delivery.refresh_from_db()
    method.refresh_from_db()
    assert delivery.answer_text == "no such hook … for … (…); key …"
    assert method.last_error == f"400 · {delivery.answer_text}"


# --- who is not written to any more


@pytest.mark.parametrize(
    ("values", "code"), [({"state": "unverified"}, "unverified"), ({"state": "disabled"}, "disabled")]
)
def test_a_method_that_changed_meanwhile_is_not_written_to(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock, values: dict[str, str], code: str
) -> None:
    delivery = queued(method)
    ContactMethod.objects.update(**values)

    run(clock)

    delivery.refresh_from_db()
    assert (delivery.state, delivery.answer_code, feishu.seen) == ("skipped", code, [])
    assert channels.explain(method.kind, code)


def test_a_deleted_method_and_a_deleted_contact_are_not_written_to(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    other = method_of("feishu", feishu.url + "x", SECRET)
    rows = [queued(method), queued(other)]
    method.delete()
    other.contact.deleted_at = NOW
    other.contact.save()

    run(clock)

    assert {Delivery.objects.get(pk=row.pk).answer_code for row in rows} == {"deleted"}
    assert feishu.seen == []


# --- order


def test_a_recovery_never_overtakes_the_failure(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    queued(method)
    queued(method, status="resolved")
    feishu.fail("500")

    run(clock)
    assert feishu.taken == []
    clock.pass_(2)
    run(clock)

    assert [one.json["card"]["header"]["template"] for one in feishu.taken] == ["red", "green"]


def test_a_p0_does_not_wait_for_a_p2s_next_try(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    minor = queued(method, level="P2")
    feishu.fail("500")
    run(clock)
    urgent = queued(method, level="P0")

    run(clock)

    assert Delivery.objects.get(pk=urgent.pk).state == "sent"
    assert Delivery.objects.get(pk=minor.pk).state == "queued"


def claimed(clock: Clock, *, leaves_deaf: bool = False) -> ContactMethod | None:
    claim = deliveries._next_claim(clock(), leaves_deaf=leaves_deaf)
    return claim and claim.method


def test_the_deaf_addresses_of_one_project_keep_no_other_project_waiting(clock: Clock) -> None:
    deaf = [method_of("webhook", f"https://example.com/{number}") for number in range(3)]
    for method in deaf:
        queued(method)
    other = builders.project("others")
    prompt = method_of("webhook", "https://example.com/b", contact=builders.contact(project=other))
    queued(prompt, policy=builders.notification_policy(project=other))

    assert [claimed(clock) for _ in range(3)] == [deaf[0], prompt, deaf[1]]


def test_addresses_that_did_not_answer_come_last_and_a_thread_leaves_them_alone(clock: Clock) -> None:
    deaf, prompt, tried = (method_of("webhook", f"https://example.com/{number}") for number in range(3))
    rows = [queued(method) for method in (tried, deaf, prompt)]
    Delivery.objects.filter(pk=rows[0].pk).update(attempts=1)
    ContactMethod.objects.filter(pk=deaf.pk).update(last_error="timeout · read")

    assert [claimed(clock, leaves_deaf=True) for _ in range(3)] == [prompt, tried, None]
    assert claimed(clock) == deaf


# --- limits


def test_what_a_bot_may_not_get_any_more_comes_as_one_message(clock: Clock) -> None:
    with fakes.running(fakes.WeCom(clock.timestamp)) as wecom:
        method = method_of("wecom", wecom.url)
        rows = [queued(method) for _ in range(40)]

        run(clock)
        assert len(wecom.taken) == 18
        assert Delivery.objects.filter(answer_code="held", state="queued").count() == 1
        clock.pass_(60)
        run(clock)

    assert len(wecom.taken) == len(wecom.seen) == 19
    text = wecom.taken[18].json["markdown"]["content"]
    assert "22 messages in one" in text
    assert "… and 12 more" in text
    states = [Delivery.objects.get(pk=row.pk).state for row in rows]
    assert states == ["sent"] * 19 + ["digested"] * 21
    assert Delivery.objects.filter(digested_into=rows[18]).count() == 21


def test_two_contacts_with_the_same_bot_share_its_limit(clock: Clock) -> None:
    with fakes.running(fakes.WeCom(clock.timestamp)) as wecom:
        methods = [method_of("wecom", wecom.url), method_of("wecom", wecom.url)]
        for _ in range(10):
            for method in methods:
                queued(method)

        run(clock)

    assert len(wecom.taken) == 18


def test_a_short_breath_between_messages_is_no_reason_to_put_them_together(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    for _ in range(6):
        queued(method)

    run(clock)
    assert len(feishu.taken) == 4
    clock.pass_(1)
    run(clock)

    assert len(feishu.taken) == 6
    assert not Delivery.objects.filter(state="digested").exists()


def test_a_digest_that_fails_is_tried_again_as_the_same_digest(clock: Clock) -> None:
    with fakes.running(fakes.WeCom(clock.timestamp)) as wecom:
        method = method_of("wecom", wecom.url)
        for _ in range(20):
            queued(method)
        run(clock)
        clock.pass_(60)
        wecom.fail("500")
        run(clock)
        clock.pass_(2)

        run(clock)

    assert "2 messages in one" in wecom.taken[-1].json["markdown"]["content"]


@contextmanager
def phone_calls(clock: Clock, settings: Settings) -> Iterator[fakes.Aliyun]:
    with fakes.running(fakes.Aliyun(clock.timestamp)) as aliyun:
        settings.ALERT_PHONE_PROVIDER, settings.ALERT_PHONE_URL = "aliyun", aliyun.url
        settings.ALERT_PHONE_KEY, settings.ALERT_PHONE_SECRET = aliyun.key, aliyun.secret
        settings.ALERT_PHONE_TEMPLATE = "TTS_1001"
        yield aliyun


def _digest_that_waits(clock: Clock) -> list[Delivery]:
    """Two calls that became one, which could not be made yet and is due in a minute."""
    method = method_of("phone", "+8613800001111")
    head, other = queued(method, level="P0"), queued(method, level="P0")
    Delivery.objects.filter(pk=head.pk).update(attempts=1, next_at=clock() + timedelta(seconds=60))
    Delivery.objects.filter(pk=other.pk).update(state="digested", digested_into=head, next_at=None)
    clock.pass_(60)
    return [head, other]


def test_a_phone_rings_once_a_minute_and_never_for_what_is_over(clock: Clock, settings: Settings) -> None:
    with phone_calls(clock, settings) as aliyun:
        method = method_of("phone", "+8613800001111")
        first, second = queued(method, level="P0"), queued(method, level="P0")
        run(clock)
        second.notification.events.update(phase="resolved", ends_at=NOW)
        clock.pass_(60)

        run(clock)

        third = queued(method, level="P1")
        run(clock)

    found = {row.pk: (row.state, row.answer_code) for row in Delivery.objects.all()}
    assert found == {first.pk: ("sent", "OK"), second.pk: ("skipped", "over"), third.pk: ("skipped", "level")}
    assert len(aliyun.seen) == 1


@pytest.mark.parametrize(
    ("over", "states"),
    [
        ((0,), ["sent", "digested"]),
        ((0, 1), ["skipped", "skipped"]),
    ],
)
def test_a_call_about_several_is_over_when_all_of_them_are(
    clock: Clock, settings: Settings, over: tuple[int, ...], states: list[str]
) -> None:
    with phone_calls(clock, settings):
        rows = _digest_that_waits(clock)
        for position in over:
            rows[position].notification.events.update(phase="resolved", ends_at=NOW)
        run(clock)
        clock.pass_(60)
        run(clock)

    found = [Delivery.objects.get(pk=row.pk) for row in rows]
    assert [row.state for row in found] == states
    assert {row.answer_code for row in found if row.state == "skipped"} <= {"over"}


def test_what_was_to_go_with_one_that_is_not_sent_goes_by_itself(clock: Clock) -> None:
    with fakes.running(fakes.WeCom(clock.timestamp)) as wecom:
        method = method_of("wecom", wecom.url)
        head, *others = [queued(method) for _ in range(3)]
        Delivery.objects.filter(pk__in=[row.pk for row in others]).update(
            state="digested", digested_into=head, next_at=None
        )
        assert deliveries._settle_unsent(head, "over", method, now=NOW)
        run(clock)

    assert [Delivery.objects.get(pk=row.pk).state for row in (head, *others)] == ["skipped", "sent", "sent"]
    assert len(wecom.taken) == 2
    assert not Delivery.objects.exclude(digested_into=None).exists()


@pytest.mark.parametrize(("calls", "seconds", "free_after"), [(1, 60, 60), (5, 3600, 3600), (20, 86_400, 86_400)])
def test_a_number_is_left_in_peace(calls: int, seconds: int, free_after: int) -> None:
    apart = timedelta(seconds=seconds / (calls + 1))
    for position in range(calls):
        deliveries.mark(kind="phone", address_digest="d", now=NOW + position * apart)
    now = NOW + (calls - 1) * apart + timedelta(milliseconds=1)

    assert deliveries.free_at(kind="phone", address_digest="d", now=now) == NOW + timedelta(seconds=free_after)


def test_marks_are_forgotten_when_no_limit_counts_them() -> None:
    deliveries.mark(kind="phone", address_digest="d", now=NOW - timedelta(hours=26))
    deliveries.mark(kind="phone", address_digest="d", now=NOW - timedelta(hours=24))

    assert deliveries.prune(now=NOW) == 1
    assert SendMark.objects.count() == 1


# --- workers that die, workers that race


def test_what_a_dead_worker_left_behind_is_sent_by_another_and_marked(
    method: ContactMethod, feishu: fakes.Feishu, clock: Clock
) -> None:
    delivery = queued(method)
    assert deliveries._next_claim(clock()) is not None  # and then it was killed
    clock.pass_(89)
    assert run(clock) == 0
    clock.pass_(2)

    assert run(clock) == 1

    delivery.refresh_from_db()
    assert (delivery.state, delivery.attempts, delivery.may_repeat, len(feishu.taken)) == ("sent", 2, True, 1)


def test_two_deaths_are_enough(method: ContactMethod, feishu: fakes.Feishu, clock: Clock) -> None:
    delivery = queued(method)
    for _ in range(2):
        assert deliveries._next_claim(clock()) is not None
        clock.pass_(91)

    assert run(clock) == 0

    delivery.refresh_from_db()
    assert (delivery.state, delivery.answer_code, feishu.seen) == ("failed", "lost", [])


def test_a_worker_that_was_thought_dead_changes_nothing_when_it_comes_back(method: ContactMethod, clock: Clock) -> None:
    delivery = queued(method)
    slow = deliveries._next_claim(clock())
    assert slow is not None
    clock.pass_(91)
    run(clock)

    assert not deliveries.record(slow, Answer(Outcome.PERMANENT, code="19021"), now=clock())

    delivery.refresh_from_db()
    method.refresh_from_db()
    assert (delivery.state, method.failures) == ("sent", 0)


@pytest.mark.django_db(transaction=True)
def test_two_workers_never_send_one_delivery_twice(postgres: object, clock: Clock) -> None:
    services = [fakes.Webhook(clock.timestamp) for _ in range(4)]
    try:
        rows = [queued(method_of("webhook", service.url)) for service in services for _ in range(10)]
        start = threading.Barrier(3)
        tried: list[int] = []

        def work() -> None:
            try:
                start.wait(15)
                tried.append(run(clock))
            finally:
                connection.close()

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert sum(tried) == len(rows)
        assert {row.state for row in Delivery.objects.all()} == {"sent"}
        for service in services:
            references = [one.headers["x-arkconsole-delivery"] for one in service.taken]
            assert len(references) == len(set(references)) == 10
    finally:
        for service in services:
            service.stop()


@pytest.mark.django_db(transaction=True)
def test_two_workers_keep_one_address_limit(postgres: object, clock: Clock) -> None:
    with fakes.running(fakes.WeCom(clock.timestamp, per_minute=1000)) as wecom:
        for _ in range(3):
            method = method_of("wecom", wecom.url)
            for _ in range(10):
                queued(method)

        def work() -> None:
            try:
                run(clock)
            finally:
                connection.close()

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)

    assert len(wecom.taken) == 18
