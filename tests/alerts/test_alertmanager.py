"""A real Alertmanager: it takes what we write, and what the database says is what it has."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from alerts import alertmanager, events, notifications, reports, routing, silences
from alerts.models import AlertEvent, Delivery, Level, Notification, Pulse, Silence
from alerts.routing import DEFAULT_TIMINGS, Plan, Timing
from tests import builders
from tests.alerts import fakes
from tests.servers import ON_SQLITE, AlertmanagerServer, alertmanager_binary, wait_until

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def server() -> Iterator[AlertmanagerServer]:
    if ON_SQLITE or alertmanager_binary() is None:
        pytest.skip("needs Alertmanager")
    server = AlertmanagerServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def here(server: AlertmanagerServer, settings: Any) -> AlertmanagerServer:
    program = alertmanager_binary()
    assert program is not None
    settings.ALERTMANAGER_URL = server.url
    # Only what somebody can be told of holds anything back.
    settings.EMAIL_URL = "smtp://127.0.0.1"
    settings.ALERTMANAGER_CONFIG = str(server.config_path)
    settings.AMTOOL_BIN = str(program.with_name("amtool"))
    return server


@pytest.fixture
def now() -> datetime:
    """Alertmanager goes by its own clock."""
    return datetime.now(UTC)


def fire(server: AlertmanagerServer, now: datetime, **labels: str) -> str:
    """Post an alert as Prometheus does; its name with us."""
    labels = {
        "alertname": "error_rate",
        "project": "default",
        "ark_endpoint": "ep-1",
        "rule_id": "1",
        "level": "P1",
        **labels,
    }
    body = [{"labels": labels, "startsAt": now.isoformat(), "endsAt": (now + HOUR).isoformat()}]
    httpx.post(f"{server.url}/api/v2/alerts", json=body, trust_env=False).raise_for_status()
    return reports.fingerprint(labels)


# --- its configuration -------------------------------------------------------------------------------------------------


def test_its_own_tool_has_nothing_against_what_we_write(here: AlertmanagerServer) -> None:
    plans = [
        Plan(number, level, group_by, Timing(0, number, 60 * number))
        for number in range(1, 40)
        for level in Level
        for group_by in routing.GroupBy
    ]
    usual = [Plan(99, level, "rule", timing) for level, timing in DEFAULT_TIMINGS.items()]
    made = routing.config([*plans, *usual], hook_url="https://console.example.com/hooks/alertmanager", token_file="/t")

    assert alertmanager.check(routing.text(made)) == ""
    assert "receiver" in alertmanager.check(routing.text({**made, "receivers": []}))


def test_a_change_is_in_force_and_the_same_again_is_not_loaded_again(here: AlertmanagerServer, now: datetime) -> None:
    builders.notification_policy(builders.contact_group(builders.contact("email")), interval_seconds=77)
    assert alertmanager.configure(now=now) == ""
    assert '"group_interval": "77s"' in here.config_path.read_text()
    loaded = loads(here)
    assert alertmanager.configure(now=now) == ""
    assert loads(here) == loaded
    assert Pulse.objects.get(name=alertmanager.CONFIGURED).text == ""


def loads(server: AlertmanagerServer) -> str:
    """When it last read its configuration, in its own words."""
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    (line,) = (
        line
        for line in text.splitlines()
        if line.startswith("alertmanager_config_last_reload_success_timestamp_seconds")
    )
    return line


def test_what_it_has_not_read_is_given_to_it_again(here: AlertmanagerServer, now: datetime) -> None:
    alertmanager.configure(now=now)
    right = here.config_path.read_text()
    here.config_path.write_text(right.replace("30s", "31s"))
    alertmanager.reload()
    here.config_path.write_text(right)

    assert alertmanager.configure(now=now) == ""
    assert alertmanager.has_loaded(right)


def test_what_it_refuses_is_said_and_the_one_before_stays(
    here: AlertmanagerServer, now: datetime, settings: Any, tmp_path: Path
) -> None:
    alertmanager.configure(now=now)
    before = here.config_path.read_text()
    amtool = tmp_path / "amtool"
    amtool.write_text("#!/bin/sh\nexit 0\n")
    amtool.chmod(0o755)
    settings.AMTOOL_BIN, settings.CONSOLE_INTERNAL_URL = str(amtool), "gopher://x"

    said = alertmanager.configure(now=now)

    assert "gopher" in said
    assert here.config_path.read_text() == before
    assert Pulse.objects.get(name=alertmanager.CONFIGURED).text == said


def test_what_its_tool_refuses_is_not_written(here: AlertmanagerServer, now: datetime, settings: Any) -> None:
    alertmanager.configure(now=now)
    before = here.config_path.read_text()
    settings.CONSOLE_INTERNAL_URL = "gopher://x"

    assert "gopher" in alertmanager.configure(now=now)
    assert here.config_path.read_text() == before


def test_one_that_is_away_is_said_and_catches_up(here: AlertmanagerServer, now: datetime, settings: Any) -> None:
    settings.ALERTMANAGER_URL = "http://127.0.0.1:1"
    builders.notification_policy(builders.contact_group(), interval_seconds=78)
    assert alertmanager.configure(now=now) != ""
    settings.ALERTMANAGER_URL = here.url
    assert alertmanager.configure(now=now) == ""
    assert alertmanager.has_loaded(alertmanager.wanted())


# --- silences, and what is held back -----------------------------------------------------------------------------------


def test_silences_are_handed_over_followed_and_ended(here: AlertmanagerServer, now: datetime) -> None:
    one = builders.silence(starts_at=now - HOUR, ends_at=now + HOUR)
    later = builders.silence(starts_at=now + HOUR, ends_at=now + 2 * HOUR)
    builders.silence(starts_at=now - 2 * HOUR, ends_at=now - HOUR)
    alertmanager.silence(now=now)
    (held,) = alertmanager.held_silences()
    one.refresh_from_db()
    assert (held.silence_id, held.id, one.sync_state) == (one.pk, one.alertmanager_id, "active")

    alertmanager.silence(now=now + timedelta(seconds=10))
    assert alertmanager.held_silences() == [held]

    alertmanager.silence(now=now + timedelta(minutes=55))
    assert {each.silence_id for each in alertmanager.held_silences()} == {one.pk, later.pk}

    Silence.objects.update(ended_at=now)
    alertmanager.silence(now=now)
    assert alertmanager.held_silences() == []


def test_an_alertmanager_that_lost_its_silences_gets_them_again(here: AlertmanagerServer, now: datetime) -> None:
    builders.silence(starts_at=now - HOUR, ends_at=now + HOUR)
    alertmanager.silence(now=now)
    (held,) = alertmanager.held_silences()
    httpx.delete(f"{here.url}/api/v2/silence/{held.id}", trust_env=False).raise_for_status()

    alertmanager.silence(now=now)

    assert len(alertmanager.held_silences()) == 1


def test_a_weekly_one_is_handed_over_stretch_by_stretch(here: AlertmanagerServer, now: datetime) -> None:
    begin = (now - timedelta(minutes=30)).strftime("%H:%M")
    end = (now + timedelta(minutes=30)).strftime("%H:%M")
    weekly = {"days": [*range(7)], "from": begin, "to": end, "zone": "UTC"}
    row = builders.silence(starts_at=now - 48 * HOUR, ends_at=now + 96 * HOUR, weekly=weekly)
    alertmanager.silence(now=now)

    (held,) = alertmanager.held_silences()
    window = silences.window(row, now=now)
    assert window is not None
    assert held.ends_at == window.ends_at

    # In the hours between nothing is held back.
    alertmanager.silence(now=now + HOUR)
    assert alertmanager.held_silences() == []


def test_silences_of_others_are_left_alone(here: AlertmanagerServer, now: datetime) -> None:
    ours = builders.silence(starts_at=now, ends_at=now + HOUR)
    alertmanager.silence(now=now)
    (held,) = alertmanager.held_silences()
    # A person's, and one of another installation that happens to have our number.
    made = []
    for creator in ("somebody", f"arkconsole:{ours.pk}", f"arkconsole:0123456789abcdef:{ours.pk}"):
        body = {
            "matchers": [{"name": "a", "value": "b", "isRegex": False}],
            "startsAt": now.isoformat(),
            "endsAt": (now + HOUR).isoformat(),
            "createdBy": creator,
            "comment": "x",
        }
        made.append(httpx.post(f"{here.url}/api/v2/silences", json=body, trust_env=False).json()["silenceID"])
    Silence.objects.update(ended_at=now)
    alertmanager.silence(now=now)

    for pk, state in [*((pk, "active") for pk in made), (held.id, "expired")]:
        told = httpx.get(f"{here.url}/api/v2/silence/{pk}", trust_env=False).json()
        assert told["status"]["state"] == state
    assert alertmanager.held_silences() == []


def test_what_is_silenced_or_inhibited_is_known(here: AlertmanagerServer, now: datetime) -> None:
    policy = builders.notification_policy(builders.contact_group(builders.contact("email")), level="P0")
    alertmanager.configure(now=now)
    builders.silence(starts_at=now - HOUR, ends_at=now + HOUR, matchers={"ark_endpoint": "ep-s"})
    alertmanager.silence(now=now)
    told = {"notify_policy": str(policy.pk)}
    silenced = fire(here, now, ark_endpoint="ep-s", **told)
    cause = fire(here, now, ark_endpoint="ep-i", alertname="abnormal", level="P0", rule_id="2", **told)
    consequence = fire(here, now, ark_endpoint="ep-i", **told)
    lower = fire(here, now, ark_endpoint="ep-i", alertname="abnormal", level="P2", rule_id="2", **told)
    elsewhere = fire(here, now, ark_endpoint="ep-j", **told)
    untold = fire(here, now, ark_endpoint="ep-i", notify_policy="")

    def held() -> dict[str, tuple[bool, bool]]:
        found = alertmanager.held_back()
        return found if all(any(found.get(name, ())) for name in (silenced, consequence, lower)) else {}

    found = wait_until(held, seconds=15, what="Alertmanager holds back what it should")

    wanted = {
        silenced: (True, False), consequence: (False, True), lower: (False, True),
        cause: (False, False), elsewhere: (False, False), untold: (False, False),
    }  # fmt: skip
    assert {name: found.get(name) for name in wanted} == wanted


# --- what it posts -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hook(here: AlertmanagerServer, settings: Any) -> Iterator[fakes.Service]:
    """Where it posts to: what came is in `taken`."""
    with fakes.running(fakes.Service()) as service:
        settings.CONSOLE_INTERNAL_URL = f"http://{service.host}"
        settings.ALERT_HOOK_TOKEN_FILE = str(here.token_path)
        yield service


def receive_all(hook: fakes.Service, now: datetime) -> None:
    for request in hook.taken:
        assert request.path == "/hooks/alertmanager"
        assert request.headers["authorization"].startswith("Bearer ")
        notifications.receive(reports.of_alertmanager(request.body), now=now)


def test_five_hundred_endpoints_that_fail_at_once_are_few_messages(
    here: AlertmanagerServer, hook: fakes.Service, now: datetime
) -> None:
    people = builders.contact_group(builders.contact("email"))
    policy = builders.notification_policy(people, wait_seconds=1, interval_seconds=2)
    assert alertmanager.configure(now=now) == ""
    labels = [
        {"alertname": "error_rate", "project": "default", "ark_endpoint": f"many-{number}", "rule_id": str(number),
         "level": "P1", "notify_policy": str(policy.pk)}
        for number in range(1, 501)
    ]  # fmt: skip
    for first in range(0, 500, 64):
        body = [
            {"labels": each, "startsAt": now.isoformat(), "endsAt": (now + HOUR).isoformat()}
            for each in labels[first : first + 64]
        ]
        httpx.post(f"{here.url}/api/v2/alerts", json=body, trust_env=False, timeout=15).raise_for_status()

    def told() -> set[str]:
        return {
            report.labels["ark_endpoint"]
            for request in hook.taken
            for report in reports.of_alertmanager(request.body).reports
        }

    wait_until(
        lambda: sum(name.startswith("many-") for name in told()) == 500, seconds=30, what="all of them are posted"
    )
    receive_all(hook, now)

    assert AlertEvent.objects.filter(endpoint_id__startswith="many-").count() == 500
    assert 1 <= Delivery.objects.count() == Notification.objects.count() <= len(hook.taken) <= 6


def test_one_that_lost_its_memory_posts_again_and_nobody_hears_it_twice(
    here: AlertmanagerServer, hook: fakes.Service, now: datetime
) -> None:
    policy = builders.notification_policy(
        builders.contact_group(builders.contact("email")), wait_seconds=0, interval_seconds=1
    )
    alertmanager.configure(now=now)
    fire(here, now, notify_policy=str(policy.pk), ark_endpoint="ep-9")
    wait_until(lambda: hook.taken, seconds=15, what="it is posted")
    here.kill()
    shutil.rmtree(here.folder / "data")
    here.start()
    fire(here, now, notify_policy=str(policy.pk), ark_endpoint="ep-9")
    wait_until(lambda: len(hook.taken) > 1, seconds=15, what="it is posted again")
    receive_all(hook, now)

    assert Notification.objects.filter(events__endpoint_id="ep-9").count() == 1


def test_trouble_is_one_error_whatever_it_is(settings: Any, now: datetime) -> None:
    settings.ALERTMANAGER_URL = "http://127.0.0.1:1"
    with pytest.raises(alertmanager.Trouble):
        alertmanager.held_back()
    with pytest.raises(alertmanager.Trouble):
        alertmanager.silence(now=now)
    assert events.mark({}, now=now) == 0
