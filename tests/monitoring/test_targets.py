"""/monitoring/targets: the gateway workers that live, as Prometheus's http_sd wants them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
import redis
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from common import redis as house_redis
from gateway.workers import LIFETIME_MS, WORKER_PREFIX, WORKERS_KEY, WorkerInfo
from monitoring import scraped_views, targets
from tests import builders
from tests.builders import NOW

pytestmark = pytest.mark.django_db
TOKEN = {"Authorization": f"Bearer {settings.METRICS_TOKEN}"}
URL = "/monitoring/targets"


@pytest.fixture(autouse=True)
def empty(fresh_redis: redis.Redis) -> redis.Redis:
    return fresh_redis


def worker(name: str, metrics: str, *, started_at: float = 1.0, host: str = "host-1") -> None:
    """What a worker's heartbeat leaves."""
    info = WorkerInfo(id=name, host=host, pid=1, metrics=metrics, started_at=started_at)
    house_redis.client().sadd(WORKERS_KEY, name)
    house_redis.client().set(WORKER_PREFIX + name, msgspec.json.encode(info), px=LIFETIME_MS)


def asked(client: Client, **headers: str) -> Any:
    response = client.get(URL, headers={**TOKEN, **headers})
    assert response.status_code == 200, response.content
    assert response["Content-Type"] == "application/json"
    return response.json()


def test_nothing_is_to_be_read_before_somebody_opened_monitoring(client: Client) -> None:
    worker("w1", "127.0.0.1:9101")
    assert asked(client) == []
    assert targets.sightings() == targets.Sightings()


def test_what_could_not_be_opened_is_not_read(client: Client) -> None:
    worker("w1", "127.0.0.1:9101")
    builders.subscription(state="failed", opened_at=None)
    assert asked(client) == []


def test_strangers_write_nothing_and_a_wrong_token_once_a_second(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = [0.0]
    monkeypatch.setattr(scraped_views, "_refusals", scraped_views.Pace(clock=lambda: at[0]))
    assert client.get(URL).status_code == 401
    assert targets.sightings().refused_at is None
    seen = []
    for moment in (0.0, 0.9, 1.0):
        at[0] = moment
        assert client.get(URL, headers={"Authorization": "Bearer wrong"}).status_code == 401
        seen.append(targets.sightings().refused_at)
    assert seen[0] == seen[1] != seen[2]


def test_the_workers_of_all_hosts_and_the_console_itself_are_told(client: Client) -> None:
    builders.subscription()
    worker("w1", "10.0.0.5:9101", host="host-1")
    worker("w2", "10.0.0.6:9101", host="host-2")
    worker("w3", "[fd00::7]:9102", host="host-3")
    house_redis.client().sadd(WORKERS_KEY, "died")  # its heartbeat is over; the reaper has not come yet
    with CaptureQueriesContext(connection) as queries:
        found = asked(client, Host="localhost:8000")
    assert found == [
        {"targets": ["10.0.0.5:9101", "10.0.0.6:9101", "[fd00::7]:9102"], "labels": {"job": "ark-gateway"}},
        {"targets": ["localhost:8000"], "labels": {"job": "ark-console", "__scheme__": "http"}},
    ]
    assert len(queries) == 1


def test_a_port_that_was_used_again_is_one_target(client: Client) -> None:
    builders.subscription()
    worker("old", "10.0.0.5:9101", started_at=1)
    worker("new", "10.0.0.5:9101", started_at=2)
    assert asked(client)[0]["targets"] == ["10.0.0.5:9101"]


def test_a_worker_that_says_it_otherwise_is_left_out(client: Client) -> None:
    builders.subscription()
    worker("w1", "10.0.0.5:9101")
    worker("quiet", "")
    house_redis.client().sadd(WORKERS_KEY, "future")
    house_redis.client().set(WORKER_PREFIX + "future", b"\x93\x01")
    assert asked(client)[0]["targets"] == ["10.0.0.5:9101"]


def test_an_unknown_list_is_an_error_so_that_prometheus_keeps_its_own(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders.subscription()
    response = client.get(URL, headers=TOKEN)
    assert response.status_code == 503
    assert "no gateway worker" in response.content.decode()
    monkeypatch.setattr(house_redis, "client", lambda: redis.Redis.from_url("redis://127.0.0.1:1"))
    response = client.get(URL, headers=TOKEN)
    assert response.status_code == 503
    assert "Redis" in response.content.decode()
    assert targets.note_asked(now=NOW) is None  # quietly


def test_who_asked_is_remembered_for_the_page_that_waits_for_it(client: Client) -> None:
    builders.subscription()
    worker("w1", "10.0.0.5:9101")
    began = timezone.now() - timedelta(milliseconds=1)
    client.get(URL, headers={"Authorization": "Bearer wrong"})
    seen = targets.sightings()
    assert seen.served_at is None
    assert seen.refused_at is not None
    assert seen.refused_at >= began
    asked(client)
    seen = targets.sightings()
    assert seen.served_at is not None
    assert seen.served_at >= seen.refused_at  # type: ignore[operator]
