"""The nudge to the worker, and what is written together or not at all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import kombu.exceptions
import pytest
from django.db import connection, connections, transaction

from audit.models import Event
from common import redis, routing
from common.models import RouteChange
from endpoints import convergence, lifecycle, services, tasks
from endpoints.lifecycle import Reason
from endpoints.models import Endpoint, EndpointEvent, Status
from tests import builders
from tests.builders import NOW


@pytest.fixture(autouse=True)
def _closed_circuit() -> Iterator[None]:
    tasks.circuit.close()
    yield
    tasks.circuit.close()


def waiting() -> int:
    return int(redis.client().llen("ticks"))


@pytest.mark.django_db
def test_the_task_converges_at_the_present_time() -> None:
    endpoint = builders.endpoint(status=Status.SCHEDULING, status_reason=Reason.CREATED)
    tasks.converge()
    endpoint.refresh_from_db()
    assert endpoint.status == Status.RUNNING


@pytest.mark.django_db(transaction=True)
def test_a_saved_change_wakes_the_worker_once_and_one_rolled_back_does_not() -> None:
    by = builders.actor()
    endpoint = builders.endpoint(status=Status.STOPPED, desired="stopped")
    redis.client().delete("ticks")
    with transaction.atomic():
        services.start(endpoint=endpoint, by=by, now=NOW)
        transaction.set_rollback(True)
    assert waiting() == 0
    services.start(endpoint=endpoint, by=by, now=NOW)
    assert waiting() == 1
    redis.client().delete("ticks")


@pytest.mark.parametrize("error", [kombu.exceptions.OperationalError, OSError, redis.Error, RuntimeError])
@pytest.mark.django_db(transaction=True)
def test_a_broker_that_fails_never_turns_a_saved_change_into_an_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_options: object) -> None:
        raise error("away")

    monkeypatch.setattr(tasks.converge, "apply_async", fails)
    endpoint = builders.endpoint(status=Status.STOPPED, desired="stopped")
    services.start(endpoint=endpoint, by=builders.actor(), now=NOW)
    assert Endpoint.objects.get().status == Status.SCHEDULING


@pytest.mark.django_db(transaction=True)
def test_after_a_failure_pages_are_not_held_up_again_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def is_alive() -> bool:
        asked.append(time.monotonic())
        return False

    monkeypatch.setattr(redis, "is_alive", is_alive)
    for _ in range(5):
        tasks.nudge()
    assert len(asked) == 1


@pytest.mark.django_db(transaction=True)
def test_a_stop_its_event_its_route_and_its_record_come_together_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint, by = builders.endpoint(), builders.actor()

    def fails(**_values: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(routing, "announce", fails)
    with pytest.raises(ZeroDivisionError):
        services.stop(endpoint=endpoint, by=by, now=NOW)
    stored = Endpoint.objects.get()
    assert (stored.status, stored.desired, stored.status_version) == (Status.RUNNING, "running", 0)
    assert not EndpointEvent.objects.exists()
    assert not RouteChange.objects.exists()
    assert [event.outcome for event in Event.objects.all()] == ["failed"]


@pytest.mark.django_db(transaction=True)
def test_a_batch_that_fails_half_way_is_undone_and_done_by_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    server = builders.model_server(state="down")
    version, project = builders.model_version(servers=[server]), builders.project("default")
    Endpoint.objects.bulk_create([builders.endpoint_row(project=project, version=version) for _ in range(3)])
    announce = routing.announce
    monkeypatch.setattr(lifecycle, "BATCH", 2)
    calls: list[int] = []

    def fails_once(**values: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        announce(**values)  # type: ignore[arg-type]

    monkeypatch.setattr(routing, "announce", fails_once)
    with pytest.raises(ZeroDivisionError):
        convergence.converge(now=NOW)
    assert Endpoint.objects.filter(status=Status.ABNORMAL).count() == 2
    assert EndpointEvent.objects.count() == RouteChange.objects.count() == 2
    assert convergence.converge(now=NOW) == 1
    assert EndpointEvent.objects.count() == RouteChange.objects.count() == 3


@pytest.mark.django_db(transaction=True)
def test_a_row_that_somebody_holds_is_left_for_the_next_tick() -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite locks the whole database, so nobody holds a row alone")
    version = builders.model_version(servers=[builders.model_server(state="down")])
    held = builders.endpoint(version=version)
    builders.endpoint(version=version)
    moved: list[int] = []

    def tick() -> None:
        moved.append(convergence.converge(now=NOW))
        connections.close_all()

    thread = threading.Thread(target=tick)
    with transaction.atomic():
        Endpoint.objects.select_for_update().get(pk=held.pk)
        thread.start()
        thread.join(timeout=30)
    tick()
    assert moved == [1, 1]
