"""Opening monitoring: what is judged, what a press does, what the worker does, and what people see of it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
import redis
from django.conf import settings
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from audit.models import Event
from common import redis as house_redis
from common.errors import NotAllowed
from gateway.workers import WORKER_PREFIX, WORKERS_KEY, WorkerInfo
from iam.holders import holders
from iam.models import Attachment
from monitoring import installation, opening, prometheus, services, targets, tasks
from monitoring.installation import Installation, Presence, WhyOff
from monitoring.models import LOOK_LASTS, Subscription
from monitoring.opening import Found, Trouble
from monitoring.prometheus import Kind, Sample
from tests import builders
from tests.builders import NOW
from tests.endpoints.pages.clients import htmx, signed_in
from tests.servers import ON_SQLITE

State, Step = Subscription.State, Subscription.Step
HERE = Installation(Presence.ON, url="http://127.0.0.1:9090")
SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


# --- the judgement ---------------------------------------------------------------------------------------------------


def judged(
    trouble: Trouble, *, step: Step = Step.PROMETHEUS, waited: float = 0, asked: float = 100, **values: Any
) -> tuple[Any, ...]:
    values = {"scrape_seconds": 15, "is_external": False, "asked_at": NOW - asked * SECOND, **values}
    verdict = opening.judge(
        step=step, step_at=NOW - waited * SECOND, found=Found(trouble), now=NOW, **values
    )  # fmt: skip
    return verdict.state, verdict.step, verdict.step_at


@pytest.mark.parametrize(
    ("trouble", "step", "waited", "state", "new_step", "new_wait"),
    [
        (Trouble.NONE, Step.PROMETHEUS, 0, State.OPEN, Step.SAMPLES, 0),
        (Trouble.NONE, Step.TARGETS, 10_000, State.OPEN, Step.SAMPLES, 0),
        (Trouble.OFF, Step.PROMETHEUS, 0, State.FAILED, Step.PROMETHEUS, 0),
        (Trouble.UNREACHABLE, Step.PROMETHEUS, 90, State.OPENING, Step.PROMETHEUS, 90),
        (Trouble.UNREACHABLE, Step.PROMETHEUS, 91, State.FAILED, Step.PROMETHEUS, 91),
        (Trouble.GETTING, Step.PROMETHEUS, 91, State.OPENING, Step.PROMETHEUS, 91),
        (Trouble.GETTING, Step.PROMETHEUS, 601, State.FAILED, Step.PROMETHEUS, 601),
        # A step's patience begins with the step, but not with one back.
        (Trouble.NOT_ASKED, Step.PROMETHEUS, 91, State.OPENING, Step.TARGETS, 0),
        (Trouble.UNREACHABLE, Step.SAMPLES, 80, State.OPENING, Step.PROMETHEUS, 80),
        (Trouble.UNREACHABLE, Step.SAMPLES, 91, State.FAILED, Step.PROMETHEUS, 91),
        (Trouble.NO_SAMPLE, Step.SAMPLES, 90, State.OPENING, Step.SAMPLES, 90),
        (Trouble.NO_SAMPLE, Step.SAMPLES, 91, State.FAILED, Step.SAMPLES, 91),
        # A clock that was set back does not make people wait longer.
        (Trouble.NO_SAMPLE, Step.SAMPLES, -3600, State.OPENING, Step.SAMPLES, 0),
    ],
)
def test_an_opening_goes_step_by_step_and_gives_up_in_time(
    trouble: Trouble, step: Step, waited: float, state: State, new_step: Step, new_wait: float
) -> None:
    assert judged(trouble, step=step, waited=waited) == (state, new_step, NOW - new_wait * SECOND)


def test_an_operator_gets_time_to_configure_their_own_prometheus() -> None:
    assert judged(Trouble.NOT_ASKED, step=Step.TARGETS, waited=1799, is_external=True)[0] == State.OPENING
    assert judged(Trouble.NO_SAMPLE, step=Step.SAMPLES, waited=1801, is_external=True)[0] == State.FAILED
    assert judged(Trouble.UNREACHABLE, waited=91, is_external=True)[0] == State.FAILED
    # One that does not answer for a moment costs nobody their half hour.
    assert judged(Trouble.UNREACHABLE, step=Step.SAMPLES, waited=600, is_external=True)[0] == State.OPENING


@pytest.mark.parametrize("is_external", [False, True])
def test_what_goes_to_and_fro_is_given_up_as_well(is_external: bool) -> None:
    step, step_at, at = Step.PROMETHEUS, NOW, NOW
    for turn in range(10_000):
        at += SECOND
        verdict = opening.judge(
            asked_at=NOW, step=step, step_at=step_at, found=Found((Trouble.NOT_ASKED, Trouble.UNREACHABLE)[turn % 2]),
            now=at, scrape_seconds=15, is_external=is_external,
        )  # fmt: skip
        if verdict.state == State.FAILED:
            break
        step, step_at = verdict.step, verdict.step_at
    waited = (at - NOW).total_seconds()
    assert waited == (1 + 600 + 2 * 1800 if is_external else 1 + 600 + 2 * 90)


def test_each_trouble_belongs_to_a_step_and_is_said_in_a_sentence() -> None:
    for trouble in Trouble:
        assert Found(trouble).step in Step
        here = Installation(Presence.OFF, why=WhyOff.NOT_RUN)
        assert bool(opening.sentence(trouble, installation=here)) == (trouble != Trouble.NONE)
    assert opening.sentence("of a later release", installation=HERE) == ""
    # It came up after it was given up.
    assert opening.sentence(Trouble.OFF, installation=HERE, has_failed=True) == "Prometheus is there now. Try again."


def test_what_was_waited_for_in_vain_is_said_otherwise_than_while_it_is_waited_for() -> None:
    for trouble in (Trouble.NO_SAMPLE, Trouble.NOT_ASKED):
        assert "in time" not in opening.sentence(trouble, installation=HERE)
        assert "in time" in opening.sentence(trouble, installation=HERE, has_failed=True)
    refused = [opening.sentence(Trouble.REFUSED, installation=HERE, has_failed=each) for each in (False, True)]
    assert refused[0] == refused[1] != ""


# --- the look --------------------------------------------------------------------------------------------------------


def asks(*present: str, up: dict[str, float] | None = None) -> Callable[[str], list[Sample]]:
    """A Prometheus that has samples of `present` ("gateway", "console")."""

    def ask(query: str) -> list[Sample]:
        if query == opening.UP:
            return [Sample({"job": job}, 0.0, value) for job, value in (up or {}).items()]
        name = "gateway" if "gateway" in query else "console"
        found = [Sample({"worker": "w1"}, 0.0, 1.0)] if name in present else []
        if name == "gateway" and "another's" in present:
            found.append(Sample({"worker": "of another installation"}, 0.0, 1.0))
        return found

    return ask


def refusing(kind: Kind) -> Callable[[str], list[Sample]]:
    def ask(_query: str) -> list[Sample]:
        raise prometheus.Trouble(kind, "what it said")

    return ask


def seen(ask: Callable[[str], list[Sample]], here: Installation = HERE) -> Trouble:
    return opening.look(ask=ask, installation=here, asked_at=NOW).trouble


@pytest.mark.parametrize(("state", "trouble"), [("off", "off"), ("starting", "starting"), ("getting", "getting")])
def test_without_a_prometheus_nothing_is_asked(state: str, trouble: str) -> None:
    assert seen(refusing(Kind.ERROR), Installation(Presence(state))) == trouble


@pytest.mark.parametrize(
    ("kind", "trouble"),
    [(Kind.UNREACHABLE, Trouble.UNREACHABLE), (Kind.SLOW, Trouble.SLOW), (Kind.UNAUTHORIZED, Trouble.UNAUTHORIZED),
     (Kind.ERROR, Trouble.ANSWER), (Kind.GARBAGE, Trouble.ANSWER)],
)  # fmt: skip
def test_a_prometheus_that_does_not_answer_is_told_apart(kind: Kind, trouble: Trouble) -> None:
    assert opening.look(ask=refusing(kind), installation=HERE, asked_at=NOW) == Found(trouble, "what it said")


def worker() -> None:
    info = WorkerInfo(id="w1", host="host", pid=1, metrics="127.0.0.1:9101", started_at=1.0)
    house_redis.client().sadd(WORKERS_KEY, "w1")
    house_redis.client().set(WORKER_PREFIX + "w1", msgspec.json.encode(info))


def test_the_list_is_waited_for_and_then_the_figures(fresh_redis: redis.Redis) -> None:
    assert seen(asks()) == Trouble.NO_WORKERS
    worker()
    targets.note_asked(now=NOW - SECOND)  # before the press
    assert seen(asks()) == Trouble.NOT_ASKED
    targets.note_asked(now=NOW + SECOND, is_refused=True)
    assert seen(asks()) == Trouble.REFUSED
    targets.note_asked(now=NOW + SECOND)
    assert seen(asks()) == Trouble.NO_SAMPLE
    assert seen(asks("console", up={"ark-gateway": 0, "ark-console": 1})) == Trouble.GATEWAY_DOWN
    assert seen(asks("gateway", up={"ark-gateway": 1, "ark-console": 0})) == Trouble.CONSOLE_DOWN
    assert seen(asks("gateway", up={"ark-gateway": 1})) == Trouble.NO_SAMPLE
    assert seen(asks("gateway", "console")) == Trouble.NONE


def test_the_figures_of_another_installation_do_not_open_ours(fresh_redis: redis.Redis) -> None:
    worker()
    targets.note_asked(now=NOW + SECOND)
    assert seen(asks("another's", "console")) == Trouble.NO_SAMPLE
    assert seen(asks("another's", "gateway", "console")) == Trouble.NONE


def test_prometheus_is_asked_once_for_all_openings() -> None:
    asked: list[str] = []

    def slow(query: str) -> list[Sample]:
        asked.append(query)
        raise prometheus.Trouble(Kind.SLOW, "what it said")

    ask = opening.once(slow)
    found = [opening.look(ask=ask, installation=HERE, asked_at=NOW) for _project in range(20)]
    assert found == [Found(Trouble.SLOW, "what it said")] * 20
    assert len(asked) == 1


def test_who_reads_by_a_configuration_of_their_own_needs_no_list_of_ours(fresh_redis: redis.Redis) -> None:
    assert seen(asks(up={"ark-gateway": 1})) == Trouble.NO_SAMPLE


def test_redis_away_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_redis, "client", lambda: redis.Redis.from_url("redis://127.0.0.1:1"))
    assert seen(asks()) == Trouble.REDIS_AWAY
    assert seen(asks("gateway", "console")) == Trouble.REDIS_AWAY


# --- what people do --------------------------------------------------------------------------------------------------


def press(at: datetime = NOW, **values: Any) -> Subscription:
    project = values.pop("project", None) or builders.project("default")
    return services.open_monitoring(project=project, by=values.pop("by", None) or builders.actor(), now=at)


def advance(found: Trouble, at: datetime = NOW) -> Subscription:
    services.advance(project_id="default", look=lambda _at: Found(found), installation=HERE, now=lambda: at)
    return Subscription.objects.get()


@pytest.mark.django_db
def test_a_press_asks_for_it_and_is_in_the_record() -> None:
    by = builders.actor(builders.member(builders.project("default"), username="li.wei"))
    assert services.state_of(builders.project("default")).is_off
    press(by=by)
    state = services.state_of(builders.project("default"))
    assert state.is_opening
    assert state.subscription is not None
    assert state.subscription.opened_by_name == "li.wei"
    event = Event.objects.get()
    assert (event.action, event.outcome) == ("ark:OpenMonitoring", "allowed")
    assert event.changes == {"monitoring": [None, "opening"]}


@pytest.mark.django_db
def test_pressing_again_changes_nothing_but_begins_anew_after_a_failure() -> None:
    press()
    advance(Trouble.NOT_ASKED)
    assert press(NOW + SECOND).step == Step.TARGETS
    Subscription.objects.update(state=State.FAILED)
    again = press(NOW + 2 * SECOND)
    again.refresh_from_db()
    assert (again.state, again.step, again.trouble) == (State.OPENING, Step.PROMETHEUS, "")
    assert again.asked_at == again.look_at == NOW + 2 * SECOND
    advance(Trouble.NONE)
    assert press(NOW + 3 * SECOND).is_open


@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer at a time")
@pytest.mark.django_db(transaction=True)
def test_two_people_who_press_at_once_make_one_opening() -> None:
    project, people = builders.project("default"), [builders.actor() for _each in range(4)]
    start, errors = threading.Barrier(len(people)), []

    def pressed(by: Any) -> None:
        try:
            start.wait(10)
            press(by=by, project=project)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=pressed, args=(by,)) for by in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors
    assert Subscription.objects.get().is_opening
    assert sorted(event.changes.get("monitoring", [""])[0] or "" for event in Event.objects.all()) == ["", "", "", ""]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("policy", "may"),
    [
        ("ArkFullAccess", True),
        ("ArkStandardGlobalAccess", True),
        ("ArkReadOnlyAccess", False),
        ("VMPFullAccess", False),
    ],
)
def test_who_may_open_and_close_it(policy: str, may: bool) -> None:
    project = builders.project("default")
    by = builders.actor(builders.member(project, policy_name=policy))
    for do in (services.open_monitoring, services.close_monitoring):
        if may:
            do(project=project, by=by, now=NOW)
        else:
            with pytest.raises(NotAllowed):
                do(project=project, by=by, now=NOW)
            assert Event.objects.latest("pk").outcome == "denied"


@pytest.mark.django_db
def test_closing_forgets_it_and_closing_twice_changes_nothing() -> None:
    project, by = builders.project("default"), builders.actor()
    builders.subscription(project=project)
    services.close_monitoring(project=project, by=by, now=NOW)
    assert services.state_of(project).is_off
    assert Event.objects.latest("pk").changes["monitoring"] == ["open", None]
    services.close_monitoring(project=project, by=by, now=NOW)
    assert Event.objects.latest("pk").changes == {}
    assert press().is_opening


# --- what the worker does --------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_opening_is_claimed_once_and_again_when_its_worker_was_killed() -> None:
    press()
    builders.subscription(project=builders.project("open"))
    assert services.claim_due(now=NOW) == ["default"]
    assert services.claim_due(now=NOW + SECOND) == []
    assert services.claim_due(now=NOW + LOOK_LASTS) == ["default"]
    Subscription.objects.filter(pk="default").update(look_at=NOW + timedelta(hours=1))  # the clock went back
    assert services.claim_due(now=NOW) == ["default"]


@pytest.mark.django_db
def test_what_a_look_found_is_written_down_until_it_is_open() -> None:
    press()
    services.claim_due(now=NOW)
    row = advance(Trouble.NOT_ASKED, NOW + SECOND)
    assert (row.state, row.step, row.trouble, row.step_at) == (State.OPENING, Step.TARGETS, "not_asked", NOW + SECOND)
    assert services.claim_due(now=NOW + 2 * SECOND) == ["default"]
    row = advance(Trouble.NONE, NOW + 3 * SECOND)
    assert (row.state, row.trouble, row.opened_at) == (State.OPEN, "", NOW + 3 * SECOND)
    assert services.claim_due(now=NOW + 100 * SECOND) == []
    assert advance(Trouble.UNREACHABLE, NOW + 4 * SECOND).is_open  # a late one


@pytest.mark.django_db
@pytest.mark.parametrize("meanwhile", ["closed", "pressed again"])
def test_what_people_do_during_a_look_wins(meanwhile: str) -> None:
    project, by = builders.project("default"), builders.actor()
    press()

    def look(_asked_at: datetime) -> Found:
        services.close_monitoring(project=project, by=by, now=NOW)
        if meanwhile == "pressed again":
            services.open_monitoring(project=project, by=by, now=NOW + SECOND)
        return Found(Trouble.OFF)

    services.advance(project_id="default", look=look, installation=HERE, now=lambda: NOW)
    state = services.state_of(project)
    assert state.is_off if meanwhile == "closed" else state.is_opening


@pytest.mark.django_db
def test_the_task_says_that_there_is_no_prometheus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "look", lambda: Installation(Presence.OFF, why=WhyOff.NOT_RUN))
    press()
    tasks.advance_openings(["default"])
    row = Subscription.objects.get()
    assert (row.state, row.trouble) == (State.FAILED, "off")


@pytest.mark.django_db
def test_prometheus_is_watched_while_somebody_has_charts_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[None] = []
    monkeypatch.setattr(prometheus, "watch", lambda: watched.append(None))
    monkeypatch.setattr(installation, "look", lambda: HERE)
    press()
    tasks.watch()
    assert not watched
    advance(Trouble.NONE)
    tasks.watch()
    assert len(watched) == 1
    monkeypatch.setattr(installation, "look", lambda: Installation(Presence.OFF, why=WhyOff.NOT_RUN))
    tasks.watch()
    assert len(watched) == 1


# --- whom to ask -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_people_are_told_whom_to_ask() -> None:
    project = builders.project("default")
    for name in ("ArkFullAccess", "ArkStandardGlobalAccess", "ArkReadOnlyAccess"):
        builders.policy(name=name)
    builders.policy("ark:Get*", "ark:OpenMonitoring", name="watchers")
    builders.member(project, username="li.wei")
    builders.member(None, policy_name="ArkStandardGlobalAccess", username="zhao.lei")
    builders.member(project, policy_name="ArkReadOnlyAccess", username="reader")
    builders.member(builders.project("elsewhere"), username="stranger")
    builders.member(project, username="gone", is_active=False)
    builders.user(is_superuser=True, username="root")
    denied = builders.member(project, username="denied")
    Attachment.objects.create(policy=builders.policy("ark:OpenMonitoring", effect="Deny"), user=denied, project=project)
    found = holders("ark:OpenMonitoring", project)
    assert found.policies == ("ArkFullAccess", "ArkStandardGlobalAccess", "watchers")
    assert found.people == ("li.wei", "zhao.lei")
    assert not found.is_more


@pytest.mark.django_db
def test_members_of_a_group_that_may_are_told_too_and_many_are_cut_short() -> None:
    from django.contrib.auth.models import Group

    project, group = builders.project("default"), Group.objects.create(name="ops")
    Attachment.objects.create(policy=builders.policy(name="ArkFullAccess"), group=group, project=project)
    for number in range(7):
        builders.user(username=f"ops{number}").groups.add(group, Group.objects.create(name=f"other{number}"))
    with CaptureQueriesContext(connection) as queries:
        found = holders("ark:OpenMonitoring", project)
    assert found.people == ("ops0", "ops1", "ops2", "ops3", "ops4")
    assert found.is_more
    assert len(queries) == 3


# --- what people see -------------------------------------------------------------------------------------------------

STEPS = "/monitoring/opening"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[[Installation], None]:
    """Say which Prometheus is here; one that runs, until told otherwise."""

    def say(found: Installation) -> None:
        monkeypatch.setattr(installation, "look", lambda: found)

    say(HERE)
    return say


@pytest.fixture
def owner(db: None, here: object) -> Client:
    return signed_in(builders.member(builders.project("default"), username="li.wei"))


@pytest.fixture
def reader(owner: Client) -> Client:
    return signed_in(
        builders.member(builders.project("default"), policy_name="ArkReadOnlyAccess", username="chen.fang")
    )


def text(client: Client, url: str = "/monitoring/", **headers: str) -> str:
    response = client.get(url, headers=headers or None)
    assert response.status_code == 200
    return re.sub(r"\s+", " ", response.content.decode())


def test_who_may_sees_the_button_and_it_opens(owner: Client) -> None:
    page = text(owner)
    assert "Monitoring is not open in this project" in page
    assert "Open monitoring with one click" in page
    assert "every 1s" not in page
    response = owner.post("/monitoring/open", {"project": "default", "next": "/monitoring/?range=7d"})
    assert (response.status_code, response["Location"]) == (302, "/monitoring/?range=7d")
    page = text(owner)
    assert "Monitoring is being opened" in page
    assert 'hx-trigger="every 1s"' in page
    assert page.count('class="mo-step ') == 3


def test_others_are_told_who_can(reader: Client) -> None:
    page = text(reader)
    assert "Open monitoring with one click" not in page
    assert "ark:OpenMonitoring" in page
    assert "ArkFullAccess" in page
    assert "li.wei" in page
    response = reader.post("/monitoring/open", {"project": "default"})
    assert response.status_code == 403
    assert "ark:OpenMonitoring" in response.content.decode()


def test_without_a_prometheus_the_reason_stands_there_instead_of_the_button(
    owner: Client, here: Callable[[Installation], None]
) -> None:
    here(Installation(Presence.OFF, why=WhyOff.MACOS))
    page = text(owner)
    assert "brew install prometheus" in page
    assert "Open monitoring with one click" not in page
    here(Installation(Presence.GETTING))
    page = text(owner)
    assert "is being downloaded" in page
    assert "Open monitoring with one click" in page
    assert 'hx-trigger="every 5s"' in page


def test_htmx_gets_the_steps_and_each_change_of_them(owner: Client) -> None:
    response = owner.post("/monitoring/open", {"project": "default"}, headers=htmx("monitoring-opening"))
    assert response.status_code == 200
    assert "autofocus" in response.content.decode()
    first = re.search(r"seen=([\w.]*)", response.content.decode())
    assert first
    url = f"{STEPS}?project=default&next=/monitoring/&seen="
    assert owner.get(url + first[1], headers=htmx("monitoring-opening")).status_code == 204
    with CaptureQueriesContext(connection) as queries:
        owner.get(url + first[1], headers=htmx("monitoring-opening"))
    assert len(queries) <= 9  # asked for every second
    advance(Trouble.NOT_ASKED)
    page = text(owner, url + first[1], **htmx("monitoring-opening"))
    assert "Prometheus has not asked the console for the list yet." in page
    assert 'mo-step-done"' in page
    Subscription.objects.update(state=State.FAILED)
    response = owner.get(url, headers=htmx("monitoring-opening"))
    assert "Try again" in response.content.decode()
    assert "every 1s" not in response.content.decode()
    assert "could not be opened" in response["HX-Trigger"]
    Subscription.objects.update(state=State.OPEN, opened_at=NOW)
    response = owner.get(url, headers=htmx("monitoring-opening"))
    assert response["HX-Refresh"] == "true"
    assert owner.get(url).status_code == 302  # a plain browser


@pytest.mark.parametrize("next_url", ["https://evil.example", "//evil.example/", "javascript:alert(1)", "\\\\evil", ""])
def test_nobody_is_sent_elsewhere(owner: Client, next_url: str) -> None:
    response = owner.post("/monitoring/open", {"project": "default", "next": next_url})
    assert response["Location"] == "/monitoring/"


def test_strangers_find_nothing(owner: Client, client: Client) -> None:
    stranger = signed_in(builders.member(builders.project("elsewhere")))
    for method, url in (("post", "/monitoring/open"), ("get", STEPS), ("get", "/monitoring/close")):
        assert getattr(stranger, method)(url, {"project": "default"}).status_code == 404
        assert getattr(client, method)(url, {"project": "default"}).status_code == 302  # to sign in
    nobody = signed_in(builders.member(builders.project("default"), "ark:ListEndpoints"))
    assert nobody.get(f"{STEPS}?project=default").status_code == 403
    assert nobody.get("/monitoring/").status_code == 403


def test_an_operator_of_their_own_prometheus_gets_the_configuration_but_never_the_token(
    owner: Client, reader: Client, here: Callable[[Installation], None]
) -> None:
    here(Installation(Presence.ON, url="https://mimir.example.com", is_external=True))
    page = text(owner)
    assert "https://mimir.example.com" in page
    assert "http_sd_configs" in page
    assert "/monitoring/targets" in page
    assert "metrics-token" in page
    assert "http_sd_configs" not in text(reader)
    for client in (owner, reader):
        assert settings.METRICS_TOKEN not in text(client)


def test_closing_says_what_it_means_and_is_done(owner: Client, reader: Client) -> None:
    project = builders.project("default")
    builders.subscription(project=project)
    dialog = text(owner, "/monitoring/close?project=default", **htmx("dialog"))
    assert "the last project" in dialog
    assert "15 days" in dialog
    assert "Beyond 20GB on disk" in dialog
    builders.subscription(project=builders.project("elsewhere"))
    assert "1 other project has monitoring open" in text(owner, "/monitoring/close?project=default")
    assert reader.get("/monitoring/close?project=default").status_code == 403
    assert reader.post("/monitoring/close", {"project": "default"}).status_code == 403
    assert owner.post("/monitoring/close", {"project": "default"})["Location"] == "/monitoring/"
    assert services.state_of(project).is_off
    assert "It is closed already." in text(owner, "/monitoring/close?project=default")
