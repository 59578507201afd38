"""The Celery entry points of probes."""

from __future__ import annotations

import pytest
import redis

from catalog import tasks
from catalog.models import ModelServer
from tests import builders
from tests.servers import free_port

pytestmark = pytest.mark.django_db


def test_the_tick_sends_each_due_probe_once_to_the_slow_queue(fresh_redis: redis.Redis) -> None:
    builders.model_server(next_probe_at=None)
    builders.model_server(next_probe_at=None)
    builders.model_server(next_probe_at=None, is_enabled=False)
    tasks.probe_due()
    tasks.probe_due()
    assert fresh_redis.llen("slow") == 2


def test_a_probe_of_a_dead_server_is_written_down_and_three_make_it_down() -> None:
    server = builders.model_server(base_url=f"http://127.0.0.1:{free_port()}/v1")
    for _round in range(3):
        tasks.probe_server(server.pk)
    server.refresh_from_db()
    assert (server.state, server.state_reason) == (ModelServer.State.DOWN, "refused")


def test_a_server_disabled_or_removed_meanwhile_is_left_alone() -> None:
    server = builders.model_server(is_enabled=False)
    tasks.probe_server(server.pk)
    tasks.probe_server(server.pk + 1)
    server.refresh_from_db()
    assert server.probed_at is None
