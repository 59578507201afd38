"""Alerts through the running product: a real Prometheus, a real Alertmanager, and the six kinds of address as they are.

One bad hour, made short, is what most of these look at: a model fails while the console is away, Alertmanager dies
twice, there are two of every worker, and the other sides of some addresses have troubles of their own.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.alerts import fakes
from tests.conftest import Outside
from tests.sdk.arrange import Order, Wanted, arrange
from tests.servers import ROOT, dying_with_us
from tests.stack import Stack
from tests.system.alerting import INTERVAL_SECONDS, Address, AlertOrder, MadeAlert, arrange_alerts
from tests.system.traffic import degraded

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600), pytest.mark.usefixtures("whole_again")]

SECRET = "SECa0b1c2d3e4f5"
UPSTREAM = "demo-fast"
ADMIN = "ops@example.com"
BROKEN = "Alertmanager no longer tells this console of alerts"
PATIENCE = 120
AWAY_SECONDS = 60
# The rule is scraped and evaluated every second, and nothing keeps it firing: the window lies over what a busy machine
# leaves out, or one incident would be two.
ERRORS = 'sum by (project, ark_endpoint) (increase(ark_api_proxy_request_total{http_status_code=~"5.."}[30s]))'
NEVER = "0 * sum by (project, ark_endpoint) (ark_api_proxy_request_total)"
# What the other side of an address does to the first message, or ("!") to each.
TROUBLES = {
    "500": "500", "429": "429", "garbage": "garbage", "nothing": "nothing", "hangup": "hangup", "gone": "410!",
    "refuses": "400!",
}  # fmt: skip


@dataclass
class Site:
    """The product, the endpoints on one model, and what is looked up in its database."""

    stack: Stack
    key: str
    endpoints: dict[str, str]
    rules: dict[str, MadeAlert] = field(default_factory=dict)

    def call(self, name: str) -> int:
        body = {"model": self.endpoints[name], "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
        url = f"{self.stack.gateway_url}/api/v3/chat/completions"
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(url, json=body, headers=headers, timeout=20, trust_env=False).status_code

    @contextmanager
    def failing(self) -> Iterator[None]:
        """The model answers every call with 500 meanwhile; every endpoint is called again and again."""
        is_over = threading.Event()

        def call_on() -> None:
            while not is_over.wait(1):
                for name in self.endpoints:
                    with contextlib.suppress(httpx.HTTPError):
                        self.call(name)

        self._behave(error_rate=1.0)
        caller = threading.Thread(target=call_on)
        caller.start()
        try:
            yield
        finally:
            is_over.set()
            caller.join(60)
            self._behave(error_rate=0.0)

    def _behave(self, **values: float) -> None:
        url = f"{self.stack.demo_url}/demo/models/{UPSTREAM}"
        httpx.post(url, json=values, timeout=10, trust_env=False).raise_for_status()

    def rows(self, query: str, **values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.stack.env["DATABASE_URL"], row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()

    def change(self, query: str, **values: object) -> None:
        with psycopg.connect(self.stack.env["DATABASE_URL"]) as connection:
            connection.execute(query, values)

    def events(self, name: str) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT * FROM alerts_alertevent WHERE rule_id = %(rule)s ORDER BY id", rule=self.rules[name].rule
        )

    def deliveries(self, name: str) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT d.*, n.status, n.level, m.state AS method_state, m.failures FROM alerts_delivery d"
            " JOIN alerts_notification n ON n.id = d.notification_id JOIN alerts_contactmethod m ON m.id = d.method_id"
            " WHERE n.policy_id = %(policy)s ORDER BY d.id",
            policy=self.rules[name].policy,
        )

    def settled(self, name: str, status: str) -> list[dict[str, Any]]:
        """Its deliveries of that status once there are some and none of them waits any more."""
        rows = [row for row in self.deliveries(name) if row["status"] == status]
        return [] if any(row["state"] in {"queued", "sending"} for row in rows) else rows

    def heard(self) -> set[str]:
        """The parts of the chain that were heard of in the last minutes; four silent ones would be a break."""
        rows = self.rows("SELECT name FROM alerts_pulse WHERE at > now() - interval '2 minutes' AND text = ''")
        return {row["name"] for row in rows}

    def forget_alertmanager(self) -> None:
        """Let the console have last heard of Alertmanager five minutes ago."""
        query = "UPDATE alerts_pulse SET at = now() - interval '5 minutes' WHERE name = 'alertmanager.watchdog'"
        self.change(f"{query} AND at > now() - interval '5 minutes'")

    def wait_phase(self, phase: str, names: Sequence[str]) -> None:
        self.stack.wait_until(
            lambda: all({event["phase"] for event in self.events(name)} == {phase} for name in names),
            seconds=PATIENCE,
            what=f"all are {phase}",
        )

    def wait_scraped(self) -> None:
        """Until Prometheus has figures of every endpoint: the console tells it where to look, and will be away."""
        query = {"query": "count by (ark_endpoint) (ark_api_proxy_request_total)"}

        def is_scraped() -> bool:
            url = f"{self.stack.prometheus_url}/api/v1/query"
            with contextlib.suppress(httpx.HTTPError, LookupError, ValueError):
                found = httpx.get(url, params=query, timeout=10, trust_env=False).json()["data"]["result"]
                return {each["metric"].get("ark_endpoint") for each in found} >= {*self.endpoints.values()}
            return False

        self.stack.wait_until(is_scraped, seconds=PATIENCE, what="Prometheus reads figures of the endpoints")

    def wait_known(self) -> None:
        """Until Alertmanager itself has heard of every incident that somebody is to be told of."""
        wanted = {str(self.rules[name].rule) for name in ("told", "hushed")}

        def is_known() -> bool:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                found = httpx.get(f"{self.stack.alertmanager_url}/api/v2/alerts", timeout=10, trust_env=False).json()
                return wanted <= {alert["labels"].get("rule_id") for alert in found}
            return False

        self.stack.wait_until(is_known, seconds=PATIENCE, what="Alertmanager has heard of it")

    def wait_refused(self) -> None:
        """Until Alertmanager has knocked at the console in vain."""
        name = 'alertmanager_notification_requests_failed_total{integration="webhook"'

        def is_refused() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                text = httpx.get(f"{self.stack.alertmanager_url}/metrics", timeout=10, trust_env=False).text
                return any(line.startswith(name) and float(line.split()[-1]) > 0 for line in text.splitlines())
            return False

        self.stack.wait_until(is_refused, seconds=PATIENCE, what="Alertmanager could not reach the console")


@contextmanager
def second_of_each(stack: Stack, folder: Path) -> Iterator[Callable[[], bool]]:
    """A second worker for all queues and a second beat on the same database and Redis; yields whether they are up."""
    celery = (sys.executable, "-m", "celery", "--quiet", "--app")
    worker = (
        *celery,
        "arkconsole.celery:app",
        "worker",
        "-Q",
        "ticks,slow",
        "-n",
        "second@%h",
        "-P",
        "threads",
        "-c",
        "4",
        "--loglevel",
        "INFO",
    )
    beat = (*celery, "arkconsole.beat:app", "beat", "--pidfile=", "--schedule", str(folder / "schedule"))
    log = folder / "second.log"
    with log.open("wb") as out:
        running = [
            subprocess.Popen(dying_with_us(*command), cwd=ROOT, env=stack.env, stdout=out, stderr=subprocess.STDOUT)
            for command in (worker, beat)
        ]
    try:
        yield lambda: b" ready." in log.read_bytes()
        assert [each.poll() for each in running] == [None, None], log.read_text()
    finally:
        for each in running:
            each.terminate()
        for each in running:
            try:
                each.wait(30)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()


@dataclass
class Hour:
    """What there was to see of the bad hour."""

    site: Site
    services: dict[str, Any]
    troubled: dict[str, fakes.Service]
    crowd: fakes.Webhook
    before: dict[str, int]
    pages: dict[str, str]
    mails: list[str]

    @property
    def event_page(self) -> str:
        return next(text for path, text in self.pages.items() if path.startswith("/alerts/events/"))

    def taken(self) -> dict[str, int]:
        """How many messages each of the six kinds took since it began."""
        return {kind: len(taken(service)) - self.before[kind] for kind, service in self.services.items()}

    def of(self, address: fakes.Service, status: str) -> dict[str, Any]:
        """The one delivery of that status to the address."""
        rows = [row for row in self.site.deliveries("told") if row["status"] == status and address.host in row["hint"]]
        assert len(rows) == 1, rows
        return rows[0]


def taken(service: Any) -> list[Any]:
    return service.mails_to("ann@example.com") if isinstance(service, fakes.Smtp) else service.taken


@pytest.fixture(scope="module")
def site(stack: Stack) -> Site:
    wanted = [Wanted(name, UPSTREAM) for name in ("told", "untold", "hushed")]
    made = arrange(stack, Order("alerted", f"{stack.demo_url}/v1", wanted))
    return Site(stack, made.api_key, made.endpoints)


@pytest.fixture(scope="module")
def hour(
    site: Site, outside: Outside, browser: httpx.Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hour]:
    stack = site.stack
    with ExitStack() as running:
        services = {
            "feishu": running.enter_context(fakes.running(fakes.Feishu(secret=SECRET))),
            "dingtalk": running.enter_context(fakes.running(fakes.DingTalk(secret=SECRET))),
            "wecom": running.enter_context(fakes.running(fakes.WeCom())),
            "webhook": running.enter_context(fakes.running(fakes.Webhook(secret=SECRET))),
            "phone": outside.phone,
            "email": outside.mail,
        }
        crowd = running.enter_context(fakes.running(fakes.Webhook(secret=SECRET)))
        troubled: dict[str, fakes.Service] = {}
        for name, how in TROUBLES.items():
            # A webhook's answer may be anything as long as it is 2xx; garbage of a bot says nothing.
            kind = fakes.Feishu if name == "garbage" else fakes.Webhook
            troubled[name] = running.enter_context(fakes.running(kind(secret=SECRET, retry_after=4)))
            troubled[name].fail(how.rstrip("!"), times=0 if how.endswith("!") else 1)
        addresses = [
            *(Address(kind, services[kind].url, SECRET) for kind in ("feishu", "dingtalk", "webhook")),
            *(
                Address("feishu" if name == "garbage" else "webhook", each.url, SECRET)
                for name, each in troubled.items()
            ),
            Address("wecom", services["wecom"].url),
            Address("email", "ann@example.com"),
            Address("phone", "+8613800001111"),
        ]
        orders = [
            AlertOrder("told", site.endpoints["told"], ERRORS, addresses, levels=("P0", "P1")),
            AlertOrder("untold", site.endpoints["untold"], ERRORS),
            AlertOrder(
                "hushed", site.endpoints["hushed"], ERRORS, [Address("webhook", services["webhook"].url, SECRET)],
                is_hushed=True,
            ),
            AlertOrder("crowd", site.endpoints["told"], NEVER, [Address("webhook", crowd.url, SECRET)]),
        ]  # fmt: skip
        site.rules = dict(zip((order.name for order in orders), arrange_alerts(stack, *orders), strict=True))
        wait_in_force(site, *site.rules)
        assert [site.call(name) for name in site.endpoints] == [200, 200, 200]
        site.wait_scraped()
        before = {kind: len(taken(each)) for kind, each in services.items()}
        hour = Hour(site, services, troubled, crowd, before, {}, [])
        folder = tmp_path_factory.mktemp("second")
        live_through(hour, browser, outside, lambda: running.enter_context(second_of_each(stack, folder)))
        yield hour


def wait_in_force(site: Site, *names: str) -> None:
    """Until Prometheus evaluates the rules and says so, and Alertmanager has their policies and the silence."""
    made = [site.rules[name] for name in names]
    policies = [f'notify_policy="{each.policy}"' for each in made if each.policy]
    silenced = [site.endpoints[name] for name in names if name == "hushed"]
    url = f"{site.stack.alertmanager_url}/api/v2"

    def states() -> list[dict[str, Any]]:
        query = "SELECT sync_state, sync_message FROM alerts_rulegroup WHERE id = ANY(%(ids)s)"
        return site.rows(query, ids=[each.group for each in made])

    def is_in_force() -> bool:
        # What the console never heard of the rule that always fires would be another break than the one looked at here.
        if {row["sync_state"] for row in states()} != {"active"} or not site.heard() >= {"prometheus.watchdog"}:
            return False
        # Nobody has waited for it yet.
        with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=10, trust_env=False) as client:
            routes = client.get(f"{url}/status").raise_for_status().json()["config"]["original"].replace("\\", "")
            silences = client.get(f"{url}/silences").text
            return all(each in routes for each in policies) and all(each in silences for each in silenced)
        return False

    try:
        site.stack.wait_until(is_in_force, seconds=PATIENCE, what="rules, policies and silence are in force")
    except AssertionError as error:
        raise AssertionError(f"{error}: {states()}") from None


def live_through(
    hour: Hour, browser: httpx.Client, outside: Outside, start_second: Callable[[], Callable[[], bool]]
) -> None:
    """It begins while the console is away, Alertmanager dies twice, and it ends."""
    site, stack = hour.site, hour.site.stack
    with ExitStack() as failing:
        with stack.without("console"):
            until = time.monotonic() + AWAY_SECONDS
            failing.enter_context(site.failing())
            # There for all that is told, which nothing is before the console is back.
            are_up = start_second()
            site.wait_known()
            site.wait_refused()
            stack.wait_until(are_up, seconds=PATIENCE, what="the second worker is ready")
            time.sleep(max(0.0, until - time.monotonic()))
            pid = stack.kill("alertmanager")
        stack.wait_back("alertmanager", pid)
        site.wait_phase("firing", ["told", "untold", "hushed"])
        stack.wait_until(lambda: site.deliveries("told"), seconds=PATIENCE, what="Alertmanager has told the console")
        with without_alertmanager(hour, outside):
            # Those who could not take it at once are told though Alertmanager is dead again.
            stack.wait_until(
                lambda: site.settled("told", "firing"), seconds=PATIENCE, what="all are told that it fires"
            )
            look_at_pages(hour, browser)
        for name in ("worker-slow", "worker-ticks", "beat"):
            stack.wait_back(name, stack.kill(name))
        # What ends before Alertmanager has heard of it again is told minutes later, by the console itself.
        site.wait_known()
        stack.wait_until(
            lambda: [event["is_inhibited"] for event in site.events("told")] == [False, True],
            seconds=PATIENCE,
            what="what it holds back is marked",
        )
    # It fires until the window of the rule is past the last error; the rest comes meanwhile.
    wait_mailed_back(hour, outside)
    site.wait_phase("resolved", ["told", "untold", "hushed"])
    stack.wait_until(lambda: site.settled("told", "resolved"), seconds=PATIENCE, what="all are told that it is over")


def mails_of_admin(outside: Outside) -> list[str]:
    return [str(mail["Subject"]) for mail in outside.mail.mails_to(ADMIN)]


@contextmanager
def without_alertmanager(hour: Hour, outside: Outside) -> Iterator[None]:
    """Alertmanager is dead, and what was last heard of it made to be five minutes ago; the administrator has an address."""
    site = hour.site
    site.change("UPDATE iam_user SET email = %(to)s WHERE username = 'admin'", to=ADMIN)
    # Nothing is said of a chain that nobody has needed for long.
    site.change("UPDATE alerts_rulegroup SET created_at = created_at - interval '10 minutes'")
    with site.stack.without("alertmanager"):
        site.forget_alertmanager()
        yield
        site.stack.wait_until(lambda: mails_of_admin(outside), seconds=PATIENCE, what="the administrator is mailed")


def wait_mailed_back(hour: Hour, outside: Outside) -> None:
    """Until the administrator is told that Alertmanager is back; without an address from then on."""
    hour.site.stack.wait_until(
        lambda: len(mails_of_admin(outside)) > 1, seconds=PATIENCE, what="the administrator is told that it is back"
    )
    hour.mails += mails_of_admin(outside)
    hour.site.change("UPDATE iam_user SET email = '' WHERE username = 'admin'")


def look_at_pages(hour: Hour, browser: httpx.Client) -> None:
    """Keep what pages of all kinds say once they know, and an event's page while it fires."""
    stack = hour.site.stack
    event = hour.site.events("told")[0]["id"]
    for path in ("/endpoints/", "/alerts/", "/alerts/me", "/alerts/contacts", f"/alerts/events/{event}"):

        def is_told(path: str = path) -> bool:
            # Its last words may have been on their way when it was made to be silent.
            hour.site.forget_alertmanager()
            hour.pages[path] = browser.get(path).raise_for_status().text
            return BROKEN in hour.pages[path]

        # Each process of the console looks every few seconds.
        stack.wait_until(is_told, seconds=PATIENCE, what=f"{path} says that the chain is broken")
    stack.wait_until(
        lambda: "alerts" in (degraded(stack.console_url) or []), seconds=PATIENCE, what="/readyz says it as well"
    )


# --- exactly once ------------------------------------------------------------------------------------------------------


def test_it_is_an_event_and_told_once_by_every_kind_and_its_end_once(hour: Hour) -> None:
    [event, _lower] = hour.site.events("told")

    assert (event["endpoint_id"], event["level"], event["has_policy"]) == (hour.site.endpoints["told"], "P0", True)
    assert hour.taken() == {**dict.fromkeys(hour.services, 2), "phone": 1}


def test_every_address_has_one_delivery_of_the_beginning_and_one_of_the_end(hour: Hour) -> None:
    deliveries = hour.site.deliveries("told")
    told = Counter((row["method_id"], row["status"]) for row in deliveries)

    assert set(told.values()) == {1}
    assert Counter(row["status"] for row in deliveries) == {
        "firing": len(hour.services) + len(TROUBLES), "resolved": len(hour.services) - 1 + len(TROUBLES),
    }  # fmt: skip
    assert len({row["notification_id"] for row in deliveries}) == 2


@pytest.mark.parametrize("name", ["500", "429"])
def test_who_says_that_he_does_not_want_it_now_gets_it_once_later(hour: Hour, name: str) -> None:
    row = hour.of(hour.troubled[name], "firing")

    assert (row["state"], row["attempts"], row["may_repeat"], row["method_state"]) == ("sent", 2, False, "verified")
    assert len(hour.troubled[name].taken) == 2, "the beginning and the end"


@pytest.mark.parametrize("name", ["garbage", "nothing", "hangup"])
def test_who_does_not_say_whether_he_has_it_gets_it_once_more_and_that_is_marked(hour: Hour, name: str) -> None:
    row = hour.of(hour.troubled[name], "firing")

    assert (row["state"], row["attempts"], row["may_repeat"], row["method_state"]) == ("sent", 2, True, "verified")
    assert len(hour.troubled[name].taken) == 3, "the beginning twice, and the end"


def test_an_address_that_is_gone_is_switched_off_at_once_and_the_page_says_why(hour: Hour) -> None:
    beginning, end = (hour.of(hour.troubled["gone"], status) for status in ("firing", "resolved"))

    assert (beginning["state"], beginning["answer_status"], beginning["attempts"]) == ("failed", 410, 1)
    assert (end["state"], end["answer_code"], end["method_state"]) == ("skipped", "disabled", "disabled")
    assert "410" in hour.event_page


def test_an_address_that_refuses_is_not_tried_again_but_not_yet_switched_off_either(hour: Hour) -> None:
    rows = [hour.of(hour.troubled["refuses"], status) for status in ("firing", "resolved")]

    assert [(row["state"], row["answer_status"], row["attempts"]) for row in rows] == [("failed", 400, 1)] * 2
    assert {row["method_state"] for row in rows} == {"failing"}
    assert "what is this" in hour.event_page


# --- of which nobody hears ---------------------------------------------------------------------------------------------


def test_what_a_worse_level_holds_back_is_an_event_and_no_message(hour: Hour) -> None:
    [worst, lower] = hour.site.events("told")

    assert (worst["level"], worst["is_inhibited"]) == ("P0", False)
    assert (lower["level"], lower["has_policy"], lower["is_inhibited"]) == ("P1", True, True)
    assert {row["level"] for row in hour.site.deliveries("told")} == {"P0"}


def test_without_a_policy_there_is_an_event_and_no_message(hour: Hour) -> None:
    [event] = hour.site.events("untold")

    assert not event["has_policy"]
    assert hour.site.rows(
        "SELECT 1 FROM alerts_notification_events WHERE alertevent_id = %(event)s", event=event["id"]
    ) == []  # fmt: skip


def test_a_silenced_incident_is_an_event_and_no_message(hour: Hour) -> None:
    [event] = hour.site.events("hushed")

    assert (event["has_policy"], event["is_silenced"]) == (True, True)
    assert hour.site.deliveries("hushed") == []
    name = hour.site.endpoints["hushed"].encode()
    assert [request for request in hour.services["webhook"].taken if name in request.body] == []


def test_five_hundred_endpoints_that_fail_at_once_are_few_messages(hour: Hour) -> None:
    site, wait_until = hour.site, hour.site.stack.wait_until
    count, begun, began = 500, datetime.now(UTC), time.monotonic()

    def are_told(status: str) -> bool:
        rows = site.rows(
            "SELECT DISTINCT e.alertevent_id FROM alerts_notification_events e JOIN alerts_notification n"
            " ON n.id = e.notification_id WHERE n.policy_id = %(policy)s"
            # One message may say of some that they fire and of others that they are over.
            " AND n.told ->> e.alertevent_id::text = %(status)s",
            policy=site.rules["crowd"].policy,
            status=status,
        )
        return len(rows) == count and bool(site.settled("crowd", status))

    try:
        post_as_prometheus(site, count, starts_at=begun, ends_at=begun + timedelta(minutes=4))
        wait_until(lambda: are_told("firing"), seconds=PATIENCE, what="all of them are told")
        post_as_prometheus(site, count, starts_at=begun, ends_at=datetime.now(UTC))
        wait_until(lambda: are_told("resolved"), seconds=PATIENCE, what="all are told to be over")

        # A group is told at once and then at most every five seconds, however long the five hundred take to arrive.
        rounds = (time.monotonic() - began) / INTERVAL_SECONDS
        assert 2 <= len(hour.crowd.taken) == len(site.deliveries("crowd")) <= max(8, 3 + rounds)
    finally:
        forget(site, "crowd")


def post_as_prometheus(site: Site, count: int, *, starts_at: datetime, ends_at: datetime) -> None:
    """That many endpoints' alerts of the rule "crowd", to Alertmanager and to the console, 64 at a time."""
    made = site.rules["crowd"]
    labels = {
        "alertname": "crowd", "project": "default", "level": "P0", "notify_policy": str(made.policy),
        "rule_id": str(made.rule), "group_id": str(made.group),
    }  # fmt: skip
    when = {"startsAt": starts_at.isoformat(), "endsAt": ends_at.isoformat()}
    alerts = [{"labels": {**labels, "ark_endpoint": f"crowd-{number}"}, **when} for number in range(count)]
    token = (site.stack.data_dir / "alert-hook-token").read_text().strip()
    with httpx.Client(timeout=20, trust_env=False, headers={"Authorization": f"Bearer {token}"}) as client:
        for first in range(0, count, 64):
            for url in (site.stack.alertmanager_url, f"{site.stack.console_url}/hooks/prom"):
                client.post(f"{url}/api/v2/alerts", json=alerts[first : first + 64]).raise_for_status()


def forget(site: Site, name: str) -> None:
    """Leave no trace of the events of the rule: other tests read lists."""
    ids = {"rule": site.rules[name].rule, "policy": site.rules[name].policy}
    notified = "(SELECT id FROM alerts_notification WHERE policy_id = %(policy)s)"
    for query in (
        f"DELETE FROM alerts_notification_events WHERE notification_id IN {notified}",
        f"DELETE FROM alerts_delivery WHERE notification_id IN {notified}",
        "DELETE FROM alerts_notification WHERE policy_id = %(policy)s",
        "DELETE FROM alerts_eventnote WHERE event_id IN (SELECT id FROM alerts_alertevent WHERE rule_id = %(rule)s)",
        "DELETE FROM alerts_alertevent WHERE rule_id = %(rule)s",
    ):
        site.change(query, **ids)


# --- the chain ---------------------------------------------------------------------------------------------------------


def test_with_alertmanager_dead_every_page_says_that_nobody_is_told(hour: Hour) -> None:
    assert len(hour.pages) == 5
    assert [path for path, text in hour.pages.items() if BROKEN not in text] == []


def test_the_administrator_is_mailed_of_that_once_and_once_when_it_is_back(hour: Hour, browser: httpx.Client) -> None:
    assert hour.mails == ["[ArkConsole] 告警链路异常", "[ArkConsole] 告警链路已恢复"]
    # Each process of the console looks every few seconds.
    hour.site.stack.wait_until(
        lambda: all(BROKEN not in browser.get(path).raise_for_status().text for path in hour.pages),
        seconds=PATIENCE,
        what="no page says so any more",
    )


def test_the_chain_is_heard_from_end_to_end(hour: Hour) -> None:
    whole = {"prometheus.posts", "prometheus.watchdog", "alertmanager.watchdog", "alertmanager.config"}
    hour.site.stack.wait_until(
        lambda: hour.site.heard() >= whole, seconds=PATIENCE, what="every part of the chain is heard of"
    )
