"""Alerts through the running product: a real Prometheus, a real Alertmanager, and the six kinds of address as they are."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from tests.alerts import fakes
from tests.conftest import Outside
from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.stack import Stack
from tests.system.alerting import arrange_alerts

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240), pytest.mark.usefixtures("whole_again")]

SECRET = "SECa0b1c2d3e4f5"
# The rule is scraped and evaluated every second, and nothing keeps it firing: the window lies over what a busy machine
# leaves out, or one incident would be two.
ERRORS = 'sum by (project, ark_endpoint) (increase(ark_api_proxy_request_total{http_status_code=~"5.."}[15s]))'
KINDS = {"email", "phone", "feishu", "dingtalk", "wecom", "webhook"}


@dataclass
class Watched:
    """An endpoint on a model of its own, and who is told of its errors."""

    stack: Stack
    key: str
    endpoint_id: str
    upstream: str
    rule: int
    services: dict[str, Any]

    def call(self) -> int:
        body = {"model": self.endpoint_id, "max_tokens": 3, "messages": [{"role": "user", "content": "hello"}]}
        url = f"{self.stack.gateway_url}/api/v3/chat/completions"
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(url, json=body, headers=headers, timeout=20, trust_env=False).status_code

    @contextmanager
    def failing(self) -> Iterator[None]:
        """The model answers every call with 500 meanwhile, and is called again and again; yields after the first."""
        is_over = threading.Event()

        def call_on() -> None:
            while not is_over.wait(1):
                with contextlib.suppress(httpx.HTTPError):
                    self.call()

        self._behave(error_rate=1.0)
        caller = threading.Thread(target=call_on)
        try:
            deadline = time.monotonic() + 30
            while self.call() < 500:
                assert time.monotonic() < deadline, "the model answers well, though it is told to fail"
                time.sleep(0.2)
            caller.start()
            yield
        finally:
            is_over.set()
            if caller.ident:
                caller.join(30)
            self._behave(error_rate=0.0)

    def _behave(self, **values: float) -> None:
        url = f"{self.stack.demo_url}/demo/models/{self.upstream}"
        httpx.post(url, json=values, timeout=10, trust_env=False).raise_for_status()

    def rows(self, query: str) -> list[dict[str, Any]]:
        with psycopg.connect(self.stack.env["DATABASE_URL"], row_factory=dict_row) as connection:
            return connection.execute(query, {"rule": self.rule}).fetchall()

    def events(self) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM alerts_alertevent WHERE rule_id = %(rule)s ORDER BY id")

    def deliveries(self) -> list[dict[str, Any]]:
        return self.rows(
            "SELECT d.*, n.status FROM alerts_delivery d JOIN alerts_notification n ON n.id = d.notification_id"
            " WHERE n.id IN (SELECT notification_id FROM alerts_notification_events ne"
            " JOIN alerts_alertevent e ON e.id = ne.alertevent_id WHERE e.rule_id = %(rule)s) ORDER BY d.id"
        )

    def taken(self) -> dict[str, int]:
        """How many messages each address took."""
        return {kind: len(each.mails if kind == "email" else each.taken) for kind, each in self.services.items()}

    def wait_phase(self, phase: str, *, count: int = 1, seconds: float = 60) -> dict[str, Any]:
        def last() -> dict[str, Any] | None:
            found = self.events()
            return found[-1] if len(found) == count and found[-1]["phase"] == phase else None

        found: Any = self.stack.wait_until(last, seconds=seconds, what=f"event {count} is {phase}: {self.events()}")
        assert isinstance(found, dict)
        return found

    def wait_told(self, status: str, count: int, *, seconds: float = 60) -> None:
        def is_told() -> bool:
            sent = [row for row in self.deliveries() if row["status"] == status and row["state"] == "sent"]
            return len(sent) >= count

        self.stack.wait_until(is_told, seconds=seconds, what=f"{count} are told that it is {status}")


@pytest.fixture(scope="module")
def made(stack: Stack) -> Made:
    wanted = [
        Wanted("told", "demo-fast"),
        Wanted("untold", "demo-fast-2"),
        Wanted("hushed", "demo-fast-2"),
        Wanted("hardy", "demo-fast-2"),
    ]
    return arrange(stack, Order("alerted", f"{stack.demo_url}/v1", wanted))


@pytest.fixture(scope="module")
def watched(stack: Stack, made: Made, outside: Outside) -> Iterator[Watched]:
    with ExitStack() as running:
        services = {
            "feishu": running.enter_context(fakes.running(fakes.Feishu(secret=SECRET))),
            "dingtalk": running.enter_context(fakes.running(fakes.DingTalk(secret=SECRET))),
            "wecom": running.enter_context(fakes.running(fakes.WeCom())),
            "webhook": running.enter_context(fakes.running(fakes.Webhook(secret=SECRET))),
            "phone": outside.phone,
            "email": outside.mail,
        }
        addresses = {kind: (services[kind].url, SECRET) for kind in ("feishu", "dingtalk", "webhook")}
        addresses |= {
            "wecom": (services["wecom"].url, ""), "email": ("ann@example.com", ""), "phone": ("+8613800001111", ""),
        }  # fmt: skip
        endpoint_id = made.endpoints["told"]
        ids = arrange_alerts(stack, name="told", endpoint_id=endpoint_id, promql=ERRORS, addresses=addresses)
        watched = Watched(stack, made.api_key, endpoint_id, "demo-fast", ids["rule"], services)
        wait_in_force(watched, ids["group"])
        assert watched.call() == 200
        yield watched


def wait_in_force(watched: Watched, group: int) -> None:
    def is_active() -> bool:
        rows = watched.rows(f"SELECT sync_state, sync_message FROM alerts_rulegroup WHERE id = {group}")
        assert rows[0]["sync_state"] != "failed", rows
        return bool(rows[0]["sync_state"] == "active")

    watched.stack.wait_until(is_active, seconds=90, what="the rule is in force")


def test_an_incident_is_told_once_by_every_kind_and_its_end_once(watched: Watched) -> None:
    before = watched.taken()
    with watched.failing():
        event = watched.wait_phase("firing")
        watched.wait_told("firing", 6)
    watched.wait_phase("resolved")
    watched.wait_told("resolved", 5)

    assert {kind: count - before[kind] for kind, count in watched.taken().items()} == {
        **dict.fromkeys(KINDS, 2), "phone": 1,
    }  # fmt: skip
    deliveries = watched.deliveries()
    assert len(deliveries) == 11
    assert {row["state"] for row in deliveries} == {"sent"}
    assert (event["endpoint_id"], event["level"], event["has_policy"]) == (watched.endpoint_id, "P0", True)


def test_an_incident_is_told_once_whatever_dies_on_the_way(stack: Stack, made: Made) -> None:
    with fakes.running(fakes.Webhook(secret=SECRET)) as hook:
        endpoint_id = made.endpoints["hardy"]
        ids = arrange_alerts(
            stack, name="hardy", endpoint_id=endpoint_id, promql=ERRORS, addresses={"webhook": (hook.url, SECRET)}
        )
        hardy = Watched(stack, made.api_key, endpoint_id, "demo-fast-2", ids["rule"], {"webhook": hook})
        wait_in_force(hardy, ids["group"])
        hardy.call()
        with hardy.failing():
            event = hardy.wait_phase("firing", seconds=90)
            for name in ("alertmanager", "worker-slow"):
                stack.wait_back(name, stack.kill(name))
            stack.wait_until(lambda: sent(hardy, event["id"], "firing"), seconds=150, what="it is told")
            for name in ("alertmanager", "worker-ticks", "beat"):
                stack.wait_back(name, stack.kill(name))
            # What ends before Alertmanager has heard of it again is told minutes later, by the console itself.
            stack.wait_until(lambda: is_known(hardy), seconds=90, what="Alertmanager has heard of it again")
        hardy.wait_phase("resolved", seconds=90)
        stack.wait_until(lambda: sent(hardy, event["id"], "resolved"), seconds=150, what="its end is told")

        assert len(sent(hardy, event["id"], "firing")) == len(sent(hardy, event["id"], "resolved")) == 1


def is_known(watched: Watched) -> bool:
    """Whether Alertmanager has an alert of the rule now."""
    with contextlib.suppress(httpx.HTTPError, ValueError):
        found = httpx.get(f"{watched.stack.alertmanager_url}/api/v2/alerts", timeout=10, trust_env=False).json()
        return str(watched.rule) in {alert["labels"].get("rule_id") for alert in found}
    return False


def sent(watched: Watched, event_id: int, status: str) -> list[dict[str, Any]]:
    """What was sent of an event to one of the addresses."""
    return watched.rows(
        "SELECT d.* FROM alerts_delivery d JOIN alerts_notification n ON n.id = d.notification_id"
        " JOIN alerts_notification_events e ON e.notification_id = n.id"
        f" WHERE e.alertevent_id = {event_id} AND n.status = '{status}' AND d.kind = 'webhook' AND d.state = 'sent'"
    )


def test_the_chain_is_heard_from_end_to_end(watched: Watched) -> None:
    def heard() -> set[str]:
        rows = watched.rows("SELECT name FROM alerts_pulse WHERE at > now() - interval '60 seconds' AND text = ''")
        return {row["name"] for row in rows}

    whole = {"prometheus.posts", "prometheus.watchdog", "alertmanager.watchdog", "alertmanager.config"}
    watched.stack.wait_until(lambda: heard() >= whole, seconds=90, what="every part of the chain is heard of")


@dataclass
class Quiet:
    """Two incidents at once of which nobody hears: the one has no policy, the other is silenced."""

    untold: dict[str, Any]
    hushed: dict[str, Any]
    deliveries: list[dict[str, Any]]
    messages: list[fakes.Request]


@pytest.fixture(scope="module")
def quiet(stack: Stack, made: Made, watched: Watched) -> Quiet:
    hook = watched.services["webhook"]
    told = {"untold": {}, "hushed": {"webhook": (hook.url, SECRET)}}
    both = {}
    for name, addresses in told.items():
        endpoint_id = made.endpoints[name]
        ids = arrange_alerts(
            stack, name=name, endpoint_id=endpoint_id, promql=ERRORS, addresses=addresses, is_hushed=name == "hushed"
        )
        both[name] = Watched(stack, made.api_key, endpoint_id, "demo-fast-2", ids["rule"], {})
        wait_in_force(both[name], ids["group"])
    untold, hushed = both["untold"], both["hushed"]
    silences = f"{stack.alertmanager_url}/api/v2/silences"
    stack.wait_until(
        lambda: hushed.endpoint_id in httpx.get(silences, timeout=10, trust_env=False).text,
        what="Alertmanager is told to be silent",
    )
    assert [each.call() for each in both.values()] == [200, 200]
    with untold.failing(), hushed.failing():
        for each in both.values():
            each.wait_phase("firing")
        # Goes on failing until Alertmanager has been asked what it holds back.
        stack.wait_until(lambda: hushed.events()[-1]["is_silenced"], seconds=60, what="it is marked")
    events = {name: each.wait_phase("resolved") for name, each in both.items()}
    names = [each.endpoint_id.encode() for each in both.values()]
    return Quiet(
        **events,
        deliveries=[row for each in both.values() for row in each.deliveries()],
        messages=[request for request in hook.taken if any(each in request.body for each in names)],
    )


def test_without_a_policy_there_is_an_event_and_no_message(quiet: Quiet) -> None:
    assert not quiet.untold["has_policy"]
    assert quiet.deliveries == []


def test_a_silenced_incident_is_an_event_and_no_message(quiet: Quiet) -> None:
    assert quiet.hushed["has_policy"]
    assert quiet.hushed["is_silenced"]
    assert quiet.messages == []
