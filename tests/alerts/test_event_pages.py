"""The pages of events and silences: who sees what, what can be pressed, and how many queries it costs."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from alerts import (
    event_chart,
    event_forms,
    event_presentation,
    event_queries,
    event_services,
    firing,
    rule_forms,
    templates,
)
from alerts.chain import Chain
from alerts.event_queries import ORDER
from alerts.models import AlertEvent, Delivery, EventNote, Notification, Silence
from arkconsole import health
from audit.models import Event
from catalog.models import ServerEvent
from common.errors import DomainError
from common.paging import paginate
from endpoints.models import Endpoint, EndpointEvent, Status
from iam.models import Project, User
from monitoring import installation, prometheus
from monitoring.installation import Installation, Presence
from monitoring.models import Subscription
from monitoring.prometheus import Kind, Series, Trouble
from tests import builders
from tests.endpoints.pages.clients import events as triggers
from tests.endpoints.pages.clients import htmx, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _english(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    whole = health.Watch(remember_seconds=1e9)
    whole._seen = (0.0, health.Degraded(is_redis_away=False, are_ticks_late=False, alerts=Chain()))
    monkeypatch.setattr(health, "watch", whole)
    with translation.override("en"):
        yield


@pytest.fixture
def project() -> Project:
    return builders.project("default")


@pytest.fixture
def owner(project: Project) -> User:
    person = builders.member(project, policy_name="VMPFullAccess", username="li.wei")
    builders.Attachment.objects.create(policy=builders.policy(name="ArkFullAccess"), user=person, project=project)
    return person


@pytest.fixture
def browser(owner: User) -> Client:
    return signed_in(owner)


@pytest.fixture
def reader(project: Project) -> Client:
    return signed_in(builders.member(project, policy_name="VMPReadOnlyAccess", username="chen.fang"))


@pytest.fixture
def stranger() -> Client:
    return signed_in(builders.member(builders.project("elsewhere"), policy_name="VMPFullAccess", username="zhou.min"))


@pytest.fixture
def endpoint(project: Project) -> Endpoint:
    return builders.endpoint(project=project, name="客服助手", rpm=700, tpm=90_000)


@pytest.fixture
def event(endpoint: Endpoint) -> AlertEvent:
    now = timezone.now()
    rule = builders.rule()
    return builders.alert_event(
        endpoint_id=endpoint.pk, rule=rule, level="P0", value=7.34, starts_at=now - timedelta(minutes=12),
        last_at=now, has_policy=True, expression="(sum(rate(x[5m]))) > 5",
    )  # fmt: skip


def text(client: Client, url: str, **headers: str) -> str:
    response = client.get(url, headers=headers or None)
    assert response.status_code == 200, response.status_code
    return response.content.decode()


def words(page: str) -> str:
    """What is read: no tags, single blanks."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def tell(event: AlertEvent, *, state: str = "sent", name: str = "Li Wei", **values: Any) -> Delivery:
    policy = builders.notification_policy()
    number = Notification.objects.count()
    notification = Notification.objects.create(
        policy=policy, level=event.level, group_key=f"{number}", digest="d", status="firing", at=timezone.now(),
        told={str(event.pk): "firing"},
    )  # fmt: skip
    notification.events.add(event)
    return Delivery.objects.create(
        notification=notification, kind="email", contact_name=name, hint="l***@example.com", state=state,
        at=timezone.now(), **values,
    )  # fmt: skip


# --- the list ----------------------------------------------------------------------------------------------------------


def test_a_row_says_what_how_bad_where_how_long_and_who_was_told(browser: Client, event: AlertEvent) -> None:
    tell(event)
    page = words(text(browser, "/alerts/"))
    assert "P0 Error rate 7.34% > 5%" in page
    assert "客服助手" in page
    assert "Firing for 12 min" in page
    assert "Li Wei" in page


def test_what_nobody_heard_of_is_listed_and_marked(browser: Client, endpoint: Endpoint) -> None:
    builders.alert_event(endpoint_id=endpoint.pk)
    builders.alert_event(endpoint_id=endpoint.pk, is_silenced=True, is_inhibited=True, has_policy=True)
    page = words(text(browser, "/alerts/"))
    assert "nobody: no policy" in page
    assert "Silenced" in page
    assert "Inhibited" in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"fires", "waits", "over"}),
        ("phase=firing", {"fires"}),
        ("phase=pending", {"waits"}),
        ("phase=resolved", {"over"}),
        ("level=P2", {"waits"}),
        ("endpoint=ep-b", {"over"}),
        ("mark=told", {"fires"}),
        ("mark=untold", {"waits", "over"}),
        ("mark=silenced", {"over"}),
        ("mark=inhibited", {"waits"}),
        ("time=24h", {"fires", "waits"}),
        ("from={4 days ago}&to={2 days ago}", {"over"}),
        ("from={2 days ago}&time=1h", {"fires", "waits"}),
        ("to={2 days ago}", {"over"}),
        ("from={2 days ago}&to={4 days ago}", set()),
        ("from=x&to=9999-12-31T23:59", {"fires", "waits", "over"}),
        ("from=99999999999999999999&to=0001-01-01T00:00", {"fires", "waits", "over"}),
        ("time=x&level=y&phase=z&mark=%00&endpoint=%00", {"fires", "waits", "over"}),
    ],
)
def test_the_filters_let_through_what_they_name(browser: Client, project: Project, query: str, expected: Any) -> None:
    now = timezone.now()
    fires = builders.alert_event(rule_name="fires", endpoint_id="ep-a", starts_at=now)
    builders.alert_event(
        rule_name="waits", endpoint_id="ep-a", level="P2", phase="pending", starts_at=now, is_inhibited=True
    )
    builders.alert_event(
        rule_name="over", endpoint_id="ep-b", phase="resolved", starts_at=now - timedelta(days=3), is_silenced=True
    )
    tell(fires)
    tell(fires, state="failed")
    for days in (2, 4):
        at = timezone.localtime(now - timedelta(days=days))
        query = query.replace(f"{{{days} days ago}}", f"{at:%Y-%m-%dT%H:%M}")
    page = text(browser, f"/alerts/?{query}", **htmx("event-list"))
    assert set(re.findall(r'class="al-open"[^>]*>([^<]+)<', page)) == expected


def test_ten_thousand_events_cost_as_many_queries_as_two(browser: Client, project: Project) -> None:
    now = timezone.now()
    names = [f"ep-{number}" for number in range(50)]

    def some(first: int, count: int) -> None:
        AlertEvent.objects.bulk_create(
            AlertEvent(
                fingerprint=f"{number:064x}", starts_at=now - timedelta(minutes=number), project=project, rule_key="r",
                rule_name="Rule", endpoint_id=names[number % 50], level="P1", phase="resolved", last_at=now,
                ends_at=now, labels={},
            )
            for number in range(first, first + count)
        )  # fmt: skip

    some(0, 2)
    with CaptureQueriesContext(connection) as few:
        text(browser, "/alerts/")
    some(2, 9_998)
    with CaptureQueriesContext(connection) as many:
        page = text(browser, "/alerts/")
    assert len(many) == len(few) <= 13
    assert page.count("al-open") == 50
    following = re.search(r'rel="next" href="([^"]+)"', page)
    assert following is not None
    with CaptureQueriesContext(connection) as next_one:
        text(browser, following[1].replace("&amp;", "&"), **htmx("event-list"))
    assert len(next_one) <= 8


def test_with_many_endpoints_one_is_named_and_what_is_over_is_not_looked_through(
    browser: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_queries, "OFFERED", 3)
    endpoints = [builders.endpoint(project=project, name=f"assistant {number}") for number in range(3)]
    for each in endpoints:
        builders.alert_event(endpoint_id=each.pk, rule_name=f"of {each.name}", phase="resolved")
    page = text(browser, "/alerts/")
    assert '<select class="form-select" name="endpoint"' in page
    assert page.count("assistant 1</option>") == 1
    builders.endpoint(project=project, name="one more")
    builders.alert_event(endpoint_id=endpoints[2].pk, rule_name="fires")
    with CaptureQueriesContext(connection) as captured:
        page = text(browser, "/alerts/")
    assert '<input class="form-control" type="search" name="endpoint"' in page
    assert re.findall(r'<option value="(ep-[^"]+)">', page) == [endpoints[2].pk]
    asked = [each["sql"] for each in captured if 'FROM "alerts_alertevent"' in each["sql"]]
    # Each reads a page of rows at most, or what is open, for which there is an index of its own.
    assert all("LIMIT" in sql or "'firing'" in sql for sql in asked)
    assert not any("DISTINCT" in sql and "'pending'" not in sql for sql in asked)

    def found(typed: str) -> set[str]:
        page = text(browser, "/alerts/", **htmx("event-list")) if not typed else text(
            browser, f"/alerts/?endpoint={typed}", **htmx("event-list")
        )  # fmt: skip
        return set(re.findall(r'class="al-open"[^>]*>([^<]+)<', page))

    assert found("Assistant 1") == {"of assistant 1"}
    assert found(endpoints[0].pk) == {"of assistant 0"}
    assert found(endpoints[1].pk[-6:]) == {"of assistant 1"}
    assert found(endpoints[1].pk[:6]) == {"of assistant 0", "of assistant 1", "of assistant 2", "fires"}
    assert found("assistant") == {"of assistant 0", "of assistant 1", "of assistant 2", "fires"}
    assert found("nobody") == set()


def test_a_project_is_chosen_on_the_page_and_the_address_names_what_was_chosen(browser: Client, owner: User) -> None:
    assert '<select class="form-select" name="project"' not in text(browser, "/alerts/")
    other, closed = builders.project("other"), builders.project("closed")
    builders.Attachment.objects.create(policy=builders.policy(name="VMPFullAccess"), user=owner, project=other)
    builders.Attachment.objects.create(policy=builders.policy("ark:ListKeys"), user=owner, project=closed)
    secret = builders.endpoint(project=other, name="another one's")
    page = text(browser, f"/alerts/?endpoint={secret.pk}")
    assert '<select class="form-select" name="project"' in page
    assert '<option value="other">Other</option>' in page
    assert 'value="closed"' not in page.partition("al-filters")[2]
    assert "another one" not in html.unescape(page)
    answer = browser.get(
        "/alerts/?project=other&phase=&level=P1&endpoint=ep-1&from=&cursor=x",
        headers={"HX-Request": "true", "HX-Trigger-Name": "project"},
    )
    assert answer.headers["HX-Redirect"] == "/alerts/?project=other&level=P1"
    page = text(browser, "/alerts/?project=other&level=P1&from=2026-04-21T10:00")
    assert '<option value="other" selected>' in page
    assert '<option value="">Default</option>' in page
    assert 'name="from" value="2026-04-21T10:00"' in page
    assert '<details class="al-range" open>' in page


def test_each_event_is_on_one_page(project: Project) -> None:
    at = timezone.now()
    made = [builders.alert_event(starts_at=at).pk for _ in range(7)]
    seen, cursor = [], ""
    while True:
        page = paginate(AlertEvent.objects.filter(project=project), order=ORDER, cursor=cursor, size=3)
        seen += [row.pk for row in page.rows]
        cursor = page.next_cursor
        if not cursor:
            break
    assert sorted(seen) == made


def test_only_the_first_page_asks_for_itself(browser: Client, project: Project) -> None:
    for _ in range(51):
        builders.alert_event()
    page = text(browser, "/alerts/")
    assert 'hx-trigger="every 10s"' in page
    following = re.search(r'rel="next" href="([^"]+)"', page)
    assert following is not None
    assert "every 10s" not in text(browser, following[1].replace("&amp;", "&"))


def test_an_empty_list_and_an_empty_answer_say_what_to_do(browser: Client, project: Project) -> None:
    assert "No alert so far" in text(browser, "/alerts/")
    builders.alert_event()
    assert "No event matches" in text(browser, "/alerts/?level=P2")


def test_the_list_of_another_project_is_opened_by_a_message_s_link(
    browser: Client, owner: User, stranger: Client
) -> None:
    other = builders.project("other")
    builders.Attachment.objects.create(policy=builders.policy(name="VMPFullAccess"), user=owner, project=other)
    builders.alert_event(project=other, rule_name="over there")
    assert "over there" not in text(browser, "/alerts/")
    assert "over there" in text(browser, "/alerts/events?project=other&level=P1")
    assert stranger.get("/alerts/events?project=other").status_code == 404


def test_who_may_not_list_is_told_which_action_is_missing(project: Project) -> None:
    nobody = signed_in(builders.member(project, "ark:GetEndpoint"))
    for url, action in (("/alerts/", "vmp:ListAlerts"), ("/alerts/silences", "vmp:ListSilences")):
        response = nobody.get(url)
        assert response.status_code == 403
        assert action in response.content.decode()


# --- one event ---------------------------------------------------------------------------------------------------------


def test_the_page_says_what_how_bad_since_when_and_whether_still(browser: Client, event: AlertEvent) -> None:
    page = words(text(browser, event.get_absolute_url()))
    assert "P0 Error rate 7.34% > 5%" in page
    assert "Firing for 12 min" in page
    assert "客服助手" in page
    assert "700 RPM · 90,000 TPM" in page
    assert "1 of 1 answer" in page
    assert "Nobody yet" in page


def test_what_changed_before_is_there_with_its_distance(browser: Client, event: AlertEvent, endpoint: Endpoint) -> None:
    EndpointEvent.objects.create(
        endpoint=endpoint, at=event.starts_at - timedelta(minutes=9), from_status=Status.RUNNING,
        to_status=Status.ABNORMAL,
    )  # fmt: skip
    EndpointEvent.objects.create(
        endpoint=endpoint, at=event.starts_at - timedelta(hours=3), from_status=Status.STOPPED,
        to_status=Status.RUNNING,
    )  # fmt: skip
    EndpointEvent.objects.create(
        endpoint=endpoint, at=event.starts_at + timedelta(minutes=5), from_status=Status.ABNORMAL,
        to_status=Status.RUNNING,
    )  # fmt: skip
    server = endpoint.version.deployments.get().server
    for minutes, before, after, reason in ((8, "up", "down", "refused"), (2, "down", "up", "")):
        ServerEvent.objects.create(
            server=server, at=event.starts_at - timedelta(minutes=minutes), from_state=before, to_state=after,
            reason=reason,
        )  # fmt: skip
    page = words(text(browser, event.get_absolute_url()))
    assert "9 min before" in page
    assert "8 min before A model server stopped answering Nothing listens there" in page
    assert "2 min before A model server answers again" in page
    assert "5 min after" in page
    assert "3 h 0 min before" not in page


def test_who_was_told_when_by_what_with_which_answer(browser: Client, event: AlertEvent) -> None:
    now = timezone.now()
    tell(event, attempts=3, answer_status=200, answer_code="250", latency_ms=41, sent_at=now, may_repeat=True)
    tell(event, state="skipped", name="Room", answer_code="unverified")
    tell(event, state="queued", name="Bot", attempts=1, answer_status=500, next_at=now + timedelta(minutes=1))
    page = words(text(browser, event.get_absolute_url()))
    assert "Li Wei E-mail l***@example.com" in page
    assert "HTTP 200 · 250 · 41 ms · 3 attempts" in page
    assert "it may have arrived twice" in page
    assert "The address has not been verified." in page
    assert "HTTP 500" in page
    assert "next try in" in page


def test_what_went_within_a_summary_went_as_the_summary_did(browser: Client, event: AlertEvent) -> None:
    elsewhere = builders.alert_event(endpoint_id=event.endpoint_id, level="P2")
    head = tell(elsewhere, state="failed", name="Li Wei", answer_code="unreachable", attempts=4)
    tell(event, state="digested", name="Li Wei", digested_into=head)
    for mark, is_listed in (("told", False), ("untold", True)):
        assert (event.get_absolute_url() in text(browser, f"/alerts/?mark={mark}")) is is_listed
    line = event_presentation.told(event).messages[0].lines[0]
    assert (line.state, line.dot, line.is_waiting) == ("Failed", "ark-dot-bad", False)
    assert line.advice == "There is no way to the address from this machine."
    assert "Sent in a summary" not in text(browser, event.get_absolute_url())

    Delivery.objects.filter(pk=head.pk).update(state="queued", next_at=timezone.now())
    assert event_presentation.told(event).messages[0].lines[0].is_waiting

    Delivery.objects.filter(pk=head.pk).update(state="sent", answer_code="250", sent_at=timezone.now())
    line = event_presentation.told(event).messages[0].lines[0]
    assert (line.state, line.dot, line.advice) == ("Sent in a summary", "ark-dot-good", "")
    assert event.get_absolute_url() in text(browser, "/alerts/?mark=told")
    assert "Li Wei" in words(text(browser, "/alerts/?mark=told"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"phase": "pending"}, "Nobody yet: it is told when the condition has held"),
        ({"has_policy": False}, "no notification policy is chosen"),
        ({"is_silenced": True}, "Nobody: it is silenced"),
        ({"is_inhibited": True}, "a worse alert of the same cause"),
        ({}, "first wait has not passed"),
        ({"phase": "resolved"}, "over before"),
    ],
)
def test_why_nobody_was_told(project: Project, values: dict[str, Any], sentence: str) -> None:
    event = builders.alert_event(**{"has_policy": True, **values})
    assert sentence in event_presentation.told(event).nobody


def test_similar_events_of_the_month_before_are_listed(browser: Client, event: AlertEvent) -> None:
    for days in (1, 2, 40):
        builders.alert_event(
            endpoint_id=event.endpoint_id, phase="resolved", starts_at=event.starts_at - timedelta(days=days)
        )
    builders.alert_event(endpoint_id="ep-2", phase="resolved", starts_at=event.starts_at - timedelta(days=1))
    page = words(text(browser, event.get_absolute_url()))
    assert "2 times · half of them were over within 5 min" in page


def test_the_page_of_an_event_costs_so_many_queries(browser: Client, event: AlertEvent) -> None:
    for number in range(3):
        tell(event, name=f"{number}")
    with CaptureQueriesContext(connection) as captured:
        text(browser, event.get_absolute_url())
    assert len(captured) <= 38
    for number in range(20):
        tell(event, name=f"{number}")
        builders.alert_event(endpoint_id=event.endpoint_id, phase="resolved")
        builders.silence(matchers={"level": "P0"}, ends_at=timezone.now() + timedelta(hours=1))
    before = len(captured)
    with CaptureQueriesContext(connection) as captured:
        text(browser, event.get_absolute_url())
    assert len(captured) <= before + 1


def test_an_event_whose_rule_and_endpoint_are_gone_is_still_read(browser: Client, event: AlertEvent) -> None:
    AlertEvent.objects.filter(pk=event.pk).update(
        rule=None, endpoint_id="ep-gone", phase="resolved", ends_at=timezone.now()
    )
    page = words(text(browser, event.get_absolute_url()))
    assert "Error rate 7.34 > 5" in page
    assert "ep-gone" in page


def test_who_is_not_signed_in_comes_back_after_signing_in(client: Client, event: AlertEvent) -> None:
    response = client.get(event.get_absolute_url())
    assert response.status_code == 302
    assert response.headers["Location"].endswith(f"?next={event.get_absolute_url()}")


def test_another_project_s_event_is_not_there(stranger: Client, event: AlertEvent) -> None:
    for part in ("", "/now", "/actions", "/endpoint", "/told", "/log", "/chart", "/note", "/silence"):
        assert stranger.get(event.get_absolute_url() + part).status_code == 404
    assert stranger.post(f"{event.get_absolute_url()}/acknowledge").status_code == 404


def test_who_may_not_see_it_is_told_which_action_is_missing(project: Project, event: AlertEvent) -> None:
    someone = signed_in(builders.member(project, "vmp:ListAlerts"))
    response = someone.get(event.get_absolute_url())
    assert response.status_code == 403
    assert "vmp:GetAlert" in response.content.decode()


def test_a_reader_sees_it_all_and_presses_nothing(reader: Client, event: AlertEvent) -> None:
    page = text(reader, event.get_absolute_url())
    for button in ("event-acknowledge", "event-silence", "event-note", "event-roll-back", "event-raise"):
        assert f'id="{button}"' not in page
    assert reader.post(f"{event.get_absolute_url()}/acknowledge").status_code == 403
    assert reader.get(f"{event.get_absolute_url()}/silence").status_code == 403
    assert reader.get(f"{event.get_absolute_url()}/note").status_code == 403


def test_events_of_the_installation_are_for_staff(browser: Client) -> None:
    event = builders.alert_event(project=None, endpoint_id="", rule_name="ArkTargetDown")
    staff = signed_in(builders.user(is_superuser=True, is_staff=True))
    builders.project("default")
    assert "ArkTargetDown" in text(staff, event.get_absolute_url())
    assert "ArkTargetDown" in text(staff, "/alerts/?endpoint=-")
    assert browser.get(event.get_absolute_url()).status_code == 404
    assert browser.get("/alerts/?endpoint=-").status_code == 404


def test_a_running_switch_and_a_limit_can_be_answered_from_the_page(browser: Client, event: AlertEvent) -> None:
    page = text(browser, event.get_absolute_url())
    assert 'id="event-roll-back"' not in page
    assert 'id="event-raise"' not in page
    switch = builders.version_switch(endpoint=Endpoint.objects.get(pk=event.endpoint_id))
    AlertEvent.objects.filter(pk=event.pk).update(rule_key="throttle_rate")
    page = text(browser, event.get_absolute_url())
    assert f"/endpoints/{event.endpoint_id}/switch/{switch.pk}/roll_back" in page
    assert f'href="/endpoints/{event.endpoint_id}/edit"' in page


# --- what people do ----------------------------------------------------------------------------------------------------


def test_one_press_acknowledges_and_the_first_is_the_one(browser: Client, project: Project, event: AlertEvent) -> None:
    url = f"{event.get_absolute_url()}/acknowledge"
    answer = browser.post(url, headers=htmx("event-actions"))
    assert f"event-{event.pk}" in triggers(answer)
    assert "event-acknowledge" not in answer.content.decode()
    second = signed_in(builders.member(project, policy_name="VMPFullAccess", username="zhao"))
    assert "li.wei looks after it already" in triggers(second.post(url, headers=htmx("x")))["toast"]["message"]
    assert second.post(url).headers["Location"] == event.get_absolute_url()
    page = text(browser, event.get_absolute_url())
    assert "li.wei looks after it" in words(page)
    assert "Nobody is reminded of it" in words(page)
    assert 'id="event-take-back"' in page


def test_nobody_looks_after_what_is_over_or_gone(browser: Client, event: AlertEvent) -> None:
    AlertEvent.objects.filter(pk=event.pk).update(phase="resolved", ends_at=timezone.now())
    for press in ("acknowledge", "take-back"):
        assert browser.post(f"{event.get_absolute_url()}/{press}", headers=htmx("x")).status_code == 400
    event.refresh_from_db()
    assert event.acknowledged_at is None
    assert not event.notes.exists()
    AlertEvent.objects.filter(pk=event.pk).delete()
    for service in (event_services.acknowledge, event_services.take_back):
        with pytest.raises(DomainError):
            service(event=event, by=builders.actor(), now=timezone.now())


def test_taking_it_back_has_others_reminded_again(browser: Client, reader: Client, event: AlertEvent) -> None:
    browser.post(f"{event.get_absolute_url()}/acknowledge")
    url = f"{event.get_absolute_url()}/take-back"
    assert reader.post(url).status_code == 403
    assert 'id="event-take-back"' not in text(reader, event.get_absolute_url())
    assert f"event-{event.pk}" in triggers(browser.post(url, headers=htmx("x")))
    browser.post(url)
    event.refresh_from_db()
    assert (event.acknowledged_at, event.acknowledged_by_name) == (None, "")
    page = text(browser, event.get_absolute_url())
    assert 'id="event-acknowledge"' in page
    assert "No longer acknowledged li.wei" in words(page)
    assert event.notes.filter(kind="unacknowledged").count() == 1


def test_what_was_lost_makes_no_reminder_of_the_next_message(event: AlertEvent) -> None:
    for state in ("failed", "sent", "queued"):
        tell(event, state=state)
    titles = [message.title for message in event_presentation.told(event).messages]
    assert titles == ["It still fires (repeat 1)", "It fires", "It fires"]


def test_a_note_is_added_and_read(browser: Client, event: AlertEvent) -> None:
    url = f"{event.get_absolute_url()}/note"
    assert browser.post(url, {"text": " "}, headers=htmx("dialog")).status_code == 422
    answer = browser.post(url, {"text": "server 3 <restarted>"}, headers=htmx("dialog"))
    assert {"closeDialog", f"event-{event.pk}"} <= triggers(answer).keys()
    assert "server 3 &lt;restarted&gt;" in text(browser, f"{event.get_absolute_url()}/log")
    assert EventNote.objects.get(event=event, kind="note").by_name == "li.wei"


@pytest.mark.parametrize(
    ("scope", "matchers"),
    [
        ("this", {"alertname": "error_rate", "ark_endpoint": "?"}),
        ("endpoint", {"ark_endpoint": "?"}),
        ("rule", {"alertname": "error_rate"}),
    ],
)
def test_a_silence_covers_what_was_chosen(
    browser: Client, event: AlertEvent, scope: str, matchers: dict[str, str]
) -> None:
    answer = browser.post(
        f"{event.get_absolute_url()}/silence",
        {"span": "4h", "scope": scope, "reason": "looking", "ends_at": ""},
        headers=htmx("dialog"),
    )
    assert answer.status_code == 204
    made = Silence.objects.get()
    assert made.matchers == {name: event.endpoint_id if value == "?" else value for name, value in matchers.items()}
    assert made.ends_at - made.starts_at == timedelta(hours=4)
    page = text(browser, f"{event.get_absolute_url()}/now")
    assert "Silent now" in page
    assert f"/alerts/silences/{made.pk}/end" in page


def test_a_silence_lasts_until_the_time_in_the_reader_s_zone(browser: Client, event: AlertEvent) -> None:
    browser.cookies["arkconsole_zone"] = "Asia/Shanghai"
    until = timezone.localtime(timezone.now() + timedelta(days=1)).replace(second=0, microsecond=0)
    url = f"{event.get_absolute_url()}/silence"
    values = {"span": "until", "scope": "this", "reason": "load test"}
    refused = browser.post(url, {**values, "ends_at": ""}, headers=htmx("dialog"))
    assert refused.status_code == 422
    assert "Say until when" in refused.content.decode()
    past = f"{until - timedelta(days=3):%Y-%m-%dT%H:%M}"
    assert browser.post(url, {**values, "ends_at": past}, headers=htmx("dialog")).status_code == 422
    browser.post(url, {**values, "ends_at": f"{until:%Y-%m-%dT%H:%M}"}, headers=htmx("dialog"))
    assert Silence.objects.get().ends_at == until


def test_the_dialog_is_filled_in_for_one_press(browser: Client, event: AlertEvent) -> None:
    page = text(browser, f"{event.get_absolute_url()}/silence?for=4h", **htmx("dialog"))
    assert re.search(r'value="4h"[^>]*checked', page)
    assert "li.wei is looking after it" in page


def test_ending_a_silence_is_the_way_back(browser: Client, reader: Client, event: AlertEvent) -> None:
    now = timezone.now()
    silence = builders.silence(
        matchers={"ark_endpoint": event.endpoint_id}, starts_at=now, ends_at=now + timedelta(hours=1)
    )
    url = f"/alerts/silences/{silence.pk}/end"
    assert reader.post(url).status_code == 403
    answer = browser.post(url, {"event": str(event.pk)}, headers=htmx())
    assert f"event-{event.pk}" in triggers(answer)
    silence.refresh_from_db()
    assert silence.ended_by_name == "li.wei"
    assert browser.post(url, {"event": str(event.pk)}).headers["Location"] == event.get_absolute_url()
    assert browser.post(url).headers["Location"] == "/alerts/silences"


def test_refusals_are_in_the_record(reader: Client, event: AlertEvent) -> None:
    reader.post(f"{event.get_absolute_url()}/acknowledge")
    assert Event.objects.filter(action="vmp:UpdateAlert", outcome="denied").exists()


# --- silences ------------------------------------------------------------------------------------------------------------


def test_silences_are_listed_in_words_the_living_and_the_dead(
    browser: Client, project: Project, endpoint: Endpoint
) -> None:
    now = timezone.now()
    builders.silence(
        matchers={"ark_endpoint": endpoint.pk, "level": "P1"}, starts_at=now, ends_at=now + timedelta(days=30),
        weekly={"days": [0, 4], "from": "22:00", "to": "06:00", "zone": "Asia/Shanghai"},
    )  # fmt: skip
    builders.silence(matchers={"alertname": "error_rate"}, starts_at=now - timedelta(days=2), ends_at=now)
    page = words(text(browser, "/alerts/silences"))
    assert "endpoint 客服助手 · level P1" in page
    assert "Mon, Fri 22:00 to 06:00 (Asia/Shanghai)" in page
    assert page.index("maintenance") < page.index("Over") < page.rindex("maintenance")


def test_many_silences_cost_no_more_queries(browser: Client, project: Project) -> None:
    now = timezone.now()
    builders.silence(ends_at=now + timedelta(hours=1), starts_at=now)
    with CaptureQueriesContext(connection) as few:
        text(browser, "/alerts/silences")
    for _ in range(20):
        builders.silence(ends_at=now + timedelta(hours=1), starts_at=now)
    with CaptureQueriesContext(connection) as many:
        text(browser, "/alerts/silences")
    assert len(many) == len(few)


def test_the_rules_of_templates_are_read_once_however_many_endpoints_have_them(project: Project) -> None:
    for number in range(3):
        group = builders.rule_group(endpoint_id=f"ep-{number}", template_id=templates.CURRENT.id)
        builders.rule(group=group, key="error_rate", name="Fehlerrate")
        builders.rule(group=group, key="of_old", name="Of old")
    own = builders.rule(group=builders.rule_group(), key="r1", kind="promql", name="Mine")
    builders.rule(group=builders.rule_group(deleted_at=timezone.now()), key="r1", kind="promql", name="Gone")
    with CaptureQueriesContext(connection) as asked:
        found = event_forms.rules_of(project)
    item = templates.CURRENT.item("error_rate")
    assert item is not None
    assert found == {"error_rate": str(item.name), "of_old": "Of old", f"own_{own.pk}": "Mine"}
    assert len(asked) == 2
    assert "DISTINCT" in asked[0]["sql"]


def test_a_weekly_silence_is_made_in_the_reader_s_zone(browser: Client, project: Project, endpoint: Endpoint) -> None:
    page = text(browser, f"/alerts/silences/create?endpoint={endpoint.pk}")
    assert re.search(rf'value="{endpoint.pk}"[^>]*selected', page)
    now = timezone.localtime()
    values = {
        "endpoint": endpoint.pk, "rule": "", "level": "P1", "starts_at": f"{now:%Y-%m-%dT%H:%M}",
        "ends_at": f"{now + timedelta(days=60):%Y-%m-%dT%H:%M}", "days": ["5", "6"], "begin": "22:00", "stop": "06:00",
        "reason": "load tests",
    }  # fmt: skip
    answer = browser.post("/alerts/silences/create", values)
    assert answer.headers["Location"] == "/alerts/silences"
    made = Silence.objects.get()
    assert made.matchers == {"ark_endpoint": endpoint.pk, "level": "P1"}
    assert made.weekly is not None
    assert made.weekly["days"] == [5, 6]
    assert made.weekly["zone"] == timezone.get_current_timezone_name()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"endpoint": "", "level": ""}, "Say what is to be silent"),
        ({"begin": ""}, "Give both hours"),
        ({"ends_at": "2020-01-01T00:00"}, "It must end after it begins"),
        ({"starts_at": "9999-12-31T00:00", "ends_at": "9999-12-31T23:00"}, "At most a year"),
        ({"starts_at": "0001-01-01T00:00", "ends_at": "0001-01-01T00:01"}, "It must end after it begins"),
        ({"reason": " "}, "This field is required"),
        ({"endpoint": "ep-of-somebody-else"}, "not one of the available choices"),
    ],
)
def test_a_silence_that_cannot_be_comes_back_with_what_was_typed(
    browser: Client, project: Project, endpoint: Endpoint, changed: dict[str, str], sentence: str
) -> None:
    now = timezone.localtime()
    values = {
        "endpoint": endpoint.pk, "rule": "", "level": "P1", "starts_at": f"{now:%Y-%m-%dT%H:%M}",
        "ends_at": f"{now + timedelta(days=60):%Y-%m-%dT%H:%M}", "days": ["5"], "begin": "22:00", "stop": "06:00",
        "reason": "load tests", **changed,
    }  # fmt: skip
    answer = browser.post("/alerts/silences/create", values)
    assert answer.status_code == 422
    assert sentence in answer.content.decode()


def test_another_project_s_silence_cannot_be_ended(stranger: Client, project: Project) -> None:
    silence = builders.silence()
    assert stranger.post(f"/alerts/silences/{silence.pk}/end").status_code == 404


# --- the chart -----------------------------------------------------------------------------------------------------------


def test_a_silence_of_an_endpoint_never_becomes_one_of_all(
    monkeypatch: pytest.MonkeyPatch, browser: Client, project: Project, endpoint: Endpoint
) -> None:
    monkeypatch.setattr(rule_forms, "MAX_CHOICES", 1)
    builders.endpoint(project=project, name="aaa")
    assert f'<option value="{endpoint.pk}" selected' in text(browser, f"/alerts/silences/create?endpoint={endpoint.pk}")
    elsewhere = builders.endpoint(project=builders.project("elsewhere"))
    for pk in (elsewhere.pk, "%00"):
        assert browser.get(f"/alerts/silences/create?endpoint={pk}").status_code == 404


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("(sum(rate(x[5m]))) > 5", "(sum(rate(x[5m])))"),
        ('(a{b=")"} / on () (c)) <= -0.5', '(a{b=")"} / on () (c))'),
        ("(a) == +Inf", "(a)"),
        ("(a) > bool 1e-3", "(a)"),
        ("(a) > 5 or (b) > 6", "(a) > 5 or (b) > 6"),
        ("(a) + (b) > 6", "(a) + (b) > 6"),
        ("a > 6", "a > 6"),
        ("vector(1)", "vector(1)"),
        ("", ""),
    ],
)
def test_the_curve_is_the_left_side_of_the_condition(expression: str, left: str) -> None:
    assert event_chart.left_side(expression) == left


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    monkeypatch.setattr(installation, "look", lambda: Installation(Presence.ON, url="http://127.0.0.1:9"))
    now = timezone.now()
    Subscription.objects.create(
        project=project, state=Subscription.State.OPEN, asked_at=now, step_at=now, look_at=now, opened_at=now
    )


def _gone_and_back(count: int) -> list[float | None]:
    """Up, unknown for a while, down, up."""
    return [1.0, None, 0.0, *[1.0] * (count - 3)]


def _series(monkeypatch: pytest.MonkeyPatch, *labels: dict[str, str]) -> list[str]:
    asked: list[str] = []

    def fetch(asks: Any) -> dict[Any, list[Series]]:
        ask = asks[0]
        asked.append(ask[0])
        count = len(ask[1].times)
        of_servers = {
            each: [Series({"server": re.findall(r"\d+", each[0])[0]}, _gone_and_back(count))] for each in asks[1:]
        }
        return {ask: [Series(each, [float(place)] * count) for place, each in enumerate(labels)], **of_servers}

    monkeypatch.setattr(prometheus, "fetch", fetch)
    return asked


@pytest.mark.usefixtures("opened")
def test_the_chart_shows_the_series_that_fired_and_no_other(
    monkeypatch: pytest.MonkeyPatch, browser: Client, event: AlertEvent
) -> None:
    asked = _series(
        monkeypatch, {"ark_endpoint": "ep-other"}, {"ark_endpoint": event.endpoint_id}, {"project": "elsewhere"}
    )
    found = json.loads(text(browser, f"{event.get_absolute_url()}/chart"))
    assert asked == ["(sum(rate(x[5m])))"]
    assert set(found["values"]) == {1.0}
    assert found["threshold"] == 5.0
    assert found["time"][0] < found["starts_at"] - 3000
    assert found["summary"] == "Lowest 1%, highest 1%, last 1%."
    assert [(mark["at"], mark["title"]) for mark in found["marks"]] == [
        (found["time"][2], "A model server stopped answering"), (found["time"][3], "A model server answers again"),
    ]  # fmt: skip


@pytest.mark.usefixtures("opened")
def test_the_curve_of_a_project_s_rule_is_asked_for_its_endpoint_alone(
    monkeypatch: pytest.MonkeyPatch, browser: Client, event: AlertEvent
) -> None:
    asked = _series(monkeypatch, {"ark_endpoint": event.endpoint_id})
    metric = "ark_api_proxy_request_total"
    AlertEvent.objects.filter(pk=event.pk).update(
        expression=f'(sum by (project, ark_endpoint) (rate({metric}{{project="default"}}[5m]))) > 5'
    )
    text(browser, f"{event.get_absolute_url()}/chart")
    assert len(asked) == 1
    assert f'{metric}{{ark_endpoint="{event.endpoint_id}",project="default"}}[5m]' in asked[0]


@pytest.mark.usefixtures("opened")
@pytest.mark.parametrize(
    ("kind", "sentence"),
    [(Kind.UNREACHABLE, "Prometheus cannot be reached"), (Kind.TOO_MUCH, "more series"), (Kind.SLOW, "in time")],
)
def test_what_is_wrong_with_prometheus_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, browser: Client, event: AlertEvent, kind: Kind, sentence: str
) -> None:
    def fetch(_asks: Any) -> None:
        raise Trouble(kind)

    monkeypatch.setattr(prometheus, "fetch", fetch)
    found = json.loads(text(browser, f"{event.get_absolute_url()}/chart"))
    assert sentence in found["message"]
    assert found["time"] == []


@pytest.mark.usefixtures("opened")
def test_figures_that_are_gone_are_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, browser: Client, event: AlertEvent
) -> None:
    asked = _series(monkeypatch)
    assert "no figures" in text(browser, f"{event.get_absolute_url()}/chart")
    old = timezone.now() - timedelta(days=20)
    AlertEvent.objects.filter(pk=event.pk).update(starts_at=old, phase="resolved", ends_at=old + timedelta(hours=1))
    assert "15 days" in text(browser, f"{event.get_absolute_url()}/chart")
    assert len(asked) == 1


def test_without_monitoring_the_chart_says_so(
    monkeypatch: pytest.MonkeyPatch, browser: Client, event: AlertEvent
) -> None:
    monkeypatch.setattr(installation, "look", lambda: Installation(Presence.ON, url="http://127.0.0.1:9"))
    assert "not opened" in text(browser, f"{event.get_absolute_url()}/chart")
    monkeypatch.setattr(installation, "look", lambda: Installation(Presence.STARTING))
    assert "Prometheus is starting" in text(browser, f"{event.get_absolute_url()}/chart")


# --- the top of every page -----------------------------------------------------------------------------------------------


def test_what_fires_is_counted_on_every_page(
    monkeypatch: pytest.MonkeyPatch, browser: Client, event: AlertEvent
) -> None:
    builders.alert_event(level="P2")
    builders.alert_event(level="P2", phase="pending")
    builders.alert_event(level="P1", project=builders.project("elsewhere"))
    monkeypatch.setattr(firing, "watch", firing.Watch(remember_seconds=1e9))
    with CaptureQueriesContext(connection) as first:
        page = text(browser, "/models/")
    assert "P0 <b>1</b>" in page
    assert "P2 <b>1</b>" in page
    assert "P1 <b>" not in page
    assert 'aria-label="2 alerts fire"' in page
    with CaptureQueriesContext(connection) as again:
        text(browser, "/models/")
    assert len(first) == len(again) + 1


def test_who_may_not_list_alerts_is_told_no_count(monkeypatch: pytest.MonkeyPatch, project: Project) -> None:
    monkeypatch.setattr(firing, "watch", firing.Watch())
    builders.alert_event()
    someone = signed_in(builders.member(project, "ark:*"))
    assert "ark-firing" not in text(someone, "/models/")


def test_however_much_changes_afterwards_what_came_before_is_there(
    browser: Client, event: AlertEvent, endpoint: Endpoint
) -> None:
    begun, server = event.starts_at, endpoint.version.deployments.get().server
    ServerEvent.objects.create(
        server=server, at=begun - timedelta(minutes=8), from_state="up", to_state="down", reason="refused"
    )
    ServerEvent.objects.bulk_create(
        ServerEvent(server=server, at=begun + timedelta(seconds=3 * number), from_state="down", to_state="up")
        for number in range(1, 121)
    )
    page = words(text(browser, event.get_absolute_url()))
    assert "8 min before A model server stopped answering Nothing listens there" in page
    assert page.count("A model server answers again") == event_presentation.MOST_CHANGES - 1
    assert f"Only {event_presentation.MOST_CHANGES} changes, those before its beginning first; there were more." in page


def test_the_span_of_changes_ends_with_the_event() -> None:
    now = datetime.fromisoformat("2026-04-21T12:00:00+00:00")
    event = AlertEvent(starts_at=now - timedelta(hours=5), ends_at=now - timedelta(hours=4), phase="resolved")
    since, until = event_presentation.span(event, now=now)
    assert since == now - timedelta(hours=7)
    assert until == now - timedelta(hours=3, minutes=30)
