"""The console's two probes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import redis as redis_client
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client
from django.utils import timezone

from arkconsole import health, ticks
from common.models import TickHeartbeat

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not been asked yet."""
    monkeypatch.setattr(health, "watch", health.Watch())


@pytest.fixture
def all_well(fresh_redis: redis_client.Redis) -> Iterator[None]:
    for tick in ticks.TICKS:
        TickHeartbeat.beat(name=tick.name, now=timezone.now())
    return


def test_healthz_asks_nothing(client: Client, django_assert_num_queries: object) -> None:
    response = client.get("/healthz", headers={"host": "10.1.2.3"})

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.usefixtures("all_well")
def test_readyz_names_what_is_away_and_is_ready_all_the_same(client: Client) -> None:
    TickHeartbeat.objects.update(at=timezone.now() - timedelta(hours=2))

    response = client.get("/readyz", headers={"host": "10.1.2.3"})

    assert response.status_code == 200
    assert response.json() == {"status": "ok", "degraded": ["ticks"]}


@pytest.mark.usefixtures("all_well")
def test_a_missing_migration_is_not_ready(client: Client) -> None:
    MigrationRecorder(connection).record_unapplied("common", "0001_initial")

    response = client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["missing"] == ["migrations"]
