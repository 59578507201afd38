"""The tick of version switches, step by step; each tick is run twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
import redis as redis_client
from django.utils.translation import override
from pytest_django import DjangoAssertNumQueries

from audit.models import Event
from audit.services import verify
from catalog import probing
from catalog import services as catalog
from catalog.models import Deployment, ModelServer, ModelVersion
from common.models import RouteChange, TickHeartbeat
from endpoints import convergence, services, switch_services, switch_tick, switching
from endpoints.models import Endpoint, SwitchEvent, VersionSwitch
from endpoints.switching import DEFAULT_GATES, Code, Gates
from endpoints.tasks import switches as switches_task
from metering import events, health
from metering.models import HealthSum
from tests import builders
from tests.builders import NOW

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_redis")]
GATES = switching.stored_gates(Gates(error_rate_percent=5, min_samples=20))


@pytest.fixture(autouse=True)
def _in_english() -> Iterator[None]:
    with override("en", deactivate=True):
        yield


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def tick(seconds: float = 0) -> int:
    """A tick so many seconds after NOW, with metering up to date, and once more; how many moved."""
    now = at(seconds)
    TickHeartbeat.beat(name="metering.drain", now=now)
    ticked = switch_tick.tick(now=now)
    before = list(VersionSwitch.objects.order_by("pk").values()), SwitchEvent.objects.count()
    assert switch_tick.tick(now=now) == switch_tick.Ticked()
    assert (list(VersionSwitch.objects.order_by("pk").values()), SwitchEvent.objects.count()) == before
    return ticked.moved


def fresh(switch: VersionSwitch) -> VersionSwitch:
    return VersionSwitch.objects.get(pk=switch.pk)


def seen(switch: VersionSwitch) -> tuple[str, int, str]:
    """State, weight, and why."""
    stored = fresh(switch)
    assert "%(" not in switching.verdict_sentence(stored)
    return stored.state, stored.weight, stored.verdict


def ticks(switch: VersionSwitch, *, until: int, start: int = 0, every: int = 4) -> list[tuple[int, int]]:
    """Tick every few seconds; (second, weight) at each change of the weight."""
    changes = [(start, fresh(switch).weight)]
    for second in range(start, until + 1, every):
        tick(second)
        if (weight := fresh(switch).weight) != changes[-1][1]:
            changes.append((second, weight))
    return changes


def test_a_switch_climbs_its_ladder_by_time_and_ends_on_the_target() -> None:
    switch = builders.version_switch(state="preparing", rung=-1, soak=0, moves=0)

    changes = ticks(switch, until=280)

    assert [weight for _second, weight in changes] == [0, 10, 40, 70, 100]
    # 60 s each; a turn of the tick late at most.
    gaps = [later - earlier for (earlier, _w), (later, _x) in pairwise(changes[1:])]
    assert all(60 <= gap <= 68 for gap in gaps), changes
    stored = fresh(switch)
    assert (stored.state, stored.ended_reason, stored.soak, stored.moves) == ("completed", "completed", 4, 5)
    assert [event.kind for event in stored.events.all()] == [*["advanced"] * 4, "completed"]
    endpoint = Endpoint.objects.get(pk=switch.endpoint_id)
    assert (endpoint.version_id, endpoint.pk) == (switch.target_id, switch.endpoint_id)
    assert RouteChange.objects.filter(object_id=endpoint.pk).count() == 5
    record = Event.objects.get()
    assert (record.actor_id, record.action) == ("system", switch_services.FINISH)
    assert record.changes["version"] == [switch.source.public_id, switch.target.public_id]
    assert verify(project_id="default") is None


def test_nothing_moves_before_a_server_of_the_target_was_probed_since_the_start() -> None:
    switch = builders.version_switch(state="preparing", rung=-1)
    server = ModelServer.objects.get(deployments__version=switch.target)
    ModelServer.objects.filter(pk=server.pk).update(probed_at=at(-1))
    assert tick() == 0
    assert seen(switch) == ("preparing", 0, Code.WAITING_FOR_PROBE)
    outcome = catalog.ProbeOutcome(trouble=None, detail="", models=None)
    catalog.record_probe(server_id=server.pk, outcome=outcome, now=at(1))
    assert tick(2) == 1
    assert seen(switch) == ("climbing", 10, Code.PREPARED)


def test_a_server_on_another_deployment_that_is_off_does_not_count() -> None:
    switch = builders.version_switch()
    Deployment.objects.filter(version=switch.target).update(is_enabled=False)
    tick()
    assert seen(switch) == ("climbing", 40, Code.NO_SERVER)


def test_gates_read_this_soak_of_the_target_alone_and_the_whole_switch_of_the_source() -> None:
    switch = builders.version_switch(gates=switching.stored_gates(DEFAULT_GATES), soaked_seconds=60)
    builders.health_sum(switch, rung=switch.soak - 1, calls=100, errors=100)
    builders.health_sum(switch, rung=health.WHOLE, calls=100, errors=100)
    builders.health_sum(switch, side="source", rung=health.WHOLE, calls=500)
    tick()
    assert seen(switch) == ("climbing", 40, Code.SAMPLES)
    builders.health_sum(switch, calls=50)
    tick(11)
    assert seen(switch) == ("climbing", 70, Code.GATES_PASSED)


def test_a_breach_holds_with_its_figures_once_in_the_log_and_goes_on_when_it_is_over() -> None:
    switch = builders.version_switch(gates=GATES, soaked_seconds=60)
    row = builders.health_sum(switch, calls=40, errors=10)
    for second in (0, 11, 22):
        assert tick(second) == 0
    assert seen(switch) == ("climbing", 40, Code.ERROR_RATE)
    assert "25 % of 40 calls" in switching.verdict_sentence(fresh(switch))
    line = switch.events.get()
    assert (line.kind, line.code, line.actor_id) == ("held", Code.ERROR_RATE, "system")
    HealthSum.objects.filter(pk=row.pk).update(calls=400)
    assert tick(33) == 1
    assert seen(switch) == ("climbing", 70, Code.GATES_PASSED)


def test_figures_that_swing_around_a_gate_are_in_the_log_once_a_soak() -> None:
    switch = builders.version_switch(gates=GATES)
    row = builders.health_sum(switch, calls=40)
    for turn in range(6):
        HealthSum.objects.filter(pk=row.pk).update(errors=10 * (turn % 2))
        tick(turn * 11)
    assert [line.code for line in switch.events.filter(kind="held")] == [Code.ERROR_RATE]


def test_a_breach_rolls_back_within_a_turn_and_is_recorded() -> None:
    switch = builders.version_switch(gates=GATES, on_breach="roll_back", soaked_seconds=1)
    builders.health_sum(switch, calls=40, errors=10)
    assert tick() == 1
    assert seen(switch) == ("rolled_back", 0, Code.ERROR_RATE)
    assert Event.objects.get().action == switch_services.ROLL_BACK
    assert Endpoint.objects.get(pk=switch.endpoint_id).version_id == switch.source_id


def test_an_idle_endpoint_never_passes_a_gate() -> None:
    switch = builders.version_switch(gates=GATES)
    ticks(switch, until=200, every=12)
    assert seen(switch) == ("climbing", 40, Code.SAMPLES)


@pytest.mark.parametrize("why", ["no heartbeat", "an old heartbeat", "a heartbeat from the future", "a long stream"])
def test_figures_that_are_late_hold_everything_with_gates(why: str, fresh_redis: redis_client.Redis) -> None:
    gated = builders.version_switch(gates=GATES, soaked_seconds=60)
    builders.health_sum(gated, calls=100)
    by_time = builders.version_switch(soaked_seconds=60)
    if why == "a long stream":
        TickHeartbeat.beat(name="metering.drain", now=NOW)
        fresh_redis.set(events.GENERATION_KEY, "g1")
        fresh_redis.xadd(events.stream_key("g1"), {events.FIELD: b"{}"}, id="1-1")
    elif why != "no heartbeat":
        TickHeartbeat.beat(name="metering.drain", now=at(-16 if "old" in why else 16))
    switch_tick.tick(now=NOW)
    assert seen(gated) == ("climbing", 40, Code.FIGURES_LATE)
    assert seen(by_time) == ("climbing", 70, Code.TIME_OVER)


def test_a_redis_that_is_away_holds_what_has_gates(settings: Any) -> None:
    from common import redis

    switch = builders.version_switch(gates=GATES, soaked_seconds=60)
    builders.health_sum(switch, calls=100)
    TickHeartbeat.beat(name="metering.drain", now=NOW)
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    redis.client.cache_clear()
    try:
        switch_tick.tick(now=NOW)
    finally:
        redis.client.cache_clear()
    assert seen(switch) == ("climbing", 40, Code.FIGURES_LATE)


def test_a_paused_switch_stands_however_long() -> None:
    switch = builders.version_switch(state="paused", soaked_seconds=59)
    ticks(switch, until=120, every=12)
    stored = fresh(switch)
    assert (stored.state, stored.weight, stored.soaked_seconds) == ("paused", 40, 59)


def test_a_gradual_way_back_goes_down_every_rung() -> None:
    switch = builders.version_switch(state="returning", direction="down", rung=3, return_hold_seconds=30)
    changes = ticks(switch, until=140)
    assert [weight for _second, weight in changes] == [100, 70, 40, 10, 0]
    assert fresh(switch).state == "rolled_back"
    assert Endpoint.objects.get(pk=switch.endpoint_id).version_id == switch.source_id


# --- what happens around it


def test_a_retired_target_sends_everything_back_even_while_paused() -> None:
    switch = builders.version_switch(state="paused")
    ModelVersion.objects.filter(pk=switch.target_id).update(retires_at=NOW)
    tick()
    assert seen(switch) == ("rolled_back", 0, Code.TARGET_RETIRED)


def test_a_retired_source_makes_the_target_take_over_and_the_endpoint_serves_on() -> None:
    switch = builders.version_switch()
    ModelVersion.objects.filter(pk=switch.source_id).update(retires_at=NOW)
    convergence.converge(now=NOW)
    assert Endpoint.objects.get(pk=switch.endpoint_id).status == "Stopped"
    tick()
    assert seen(switch) == ("completed", 100, Code.SOURCE_RETIRED)
    convergence.converge(now=at(1))
    endpoint = Endpoint.objects.get(pk=switch.endpoint_id)
    assert (endpoint.version_id, endpoint.status) == (switch.target_id, "Running")


@pytest.mark.parametrize(("on_breach", "state"), [("hold", "climbing"), ("roll_back", "rolled_back")])
def test_a_target_without_a_server_is_a_breach(on_breach: str, state: str) -> None:
    switch = builders.version_switch(gates=GATES, on_breach=on_breach)
    ModelServer.objects.filter(deployments__version=switch.target).update(state="down")
    tick()
    assert seen(switch)[0::2] == (state, Code.NO_SERVER)


def test_a_stopped_endpoint_stands_still_and_goes_on_when_started() -> None:
    by = builders.actor()
    switch = builders.version_switch(soaked_seconds=30)
    endpoint = services.stop(endpoint=switch.endpoint, by=by, now=NOW)
    ticks(switch, until=120, every=12)
    stored = fresh(switch)
    assert (stored.weight, stored.verdict, stored.soaked_seconds) == (40, Code.ENDPOINT_STOPPED, 30)
    services.start(endpoint=endpoint, by=by, now=at(120))
    convergence.converge(now=at(121))
    changes = ticks(switch, start=122, until=180)
    assert changes[-1][1] == 70
    assert 150 <= changes[-1][0] <= 166


def test_a_switch_of_an_endpoint_that_is_gone_ends() -> None:
    switch = builders.version_switch()
    Endpoint.objects.filter(pk=switch.endpoint_id).update(deleted_at=NOW)
    tick()
    assert seen(switch) == ("rolled_back", 0, Code.ENDPOINT_DELETED)


# --- clocks, deaths


def test_a_clock_that_jumps_forward_skips_no_rung_and_hardly_any_time() -> None:
    switch = builders.version_switch(rung=0)
    tick()
    tick(86_400)
    assert fresh(switch).weight == 10
    assert fresh(switch).soaked_seconds == 15
    changes = ticks(switch, start=86_402, until=86_500)
    assert [weight for _second, weight in changes] == [10, 40]


def test_a_clock_that_is_set_back_neither_stops_nor_hurries_a_switch() -> None:
    switch = builders.version_switch(rung=0)
    tick()
    changes = ticks(switch, start=-86_400, until=-86_330)
    assert [weight for _second, weight in changes] == [10, 40]
    assert -86_340 <= changes[1][0] <= -86_334


def test_an_outage_of_the_worker_is_no_soak() -> None:
    switch = builders.version_switch(rung=0)
    tick()
    tick(3600)
    assert (fresh(switch).weight, fresh(switch).soaked_seconds) == (10, 15)


class Death(Exception):
    """The worker died here."""


@pytest.mark.parametrize("step", ["locked", "decided", "held", "moved", "recorded", "committed"])
def test_a_death_at_any_step_does_nothing_twice_and_nothing_by_halves(step: str) -> None:
    TickHeartbeat.beat(name="metering.drain", now=NOW)
    advancing = builders.version_switch(soaked_seconds=60)
    ending = builders.version_switch(soaked_seconds=60, rung=3)
    holding = builders.version_switch(gates=GATES, soaked_seconds=60)

    def die(name: str) -> None:
        if name == step:
            raise Death

    with pytest.raises(Death):
        switch_tick.tick(now=NOW, checkpoint=die)
    has_moved = step == "committed"
    assert (fresh(advancing).weight == 70) == has_moved
    assert (fresh(ending).state == "completed") == has_moved
    tick()
    assert seen(advancing) == ("climbing", 70, Code.TIME_OVER)
    assert seen(ending) == ("completed", 100, Code.COMPLETED)
    assert seen(holding) == ("climbing", 40, Code.SAMPLES)
    assert [switch.events.count() for switch in (advancing, ending, holding)] == [1, 1, 0]
    assert Event.objects.count() == 1


# --- the paid call


def answering(status: int) -> Any:
    """A client of model servers that all answer with this status; the calls it got."""
    calls: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return httpx.Response(status, json={"error": {"message": "no memory"}} if status >= 400 else {})

    def client(server: ModelServer) -> probing.ModelServerClient:
        return probing.ModelServerClient(
            base_url=server.base_url, transport=httpx.MockTransport(handle), resolver=lambda _h, _p: ["127.0.0.1"]
        )

    return client, calls


def test_the_paid_call_is_asked_for_after_the_probe_once_a_minute_until_it_is_answered() -> None:
    switch = builders.version_switch(state="preparing", rung=-1, warm="wanted")
    asked = {second: switch_tick.tick(now=at(second)).to_warm for second in (0, 2, 58, 62)}
    assert asked == {0: (switch.pk,), 2: (), 58: (), 62: (switch.pk,)}
    assert seen(switch) == ("preparing", 0, Code.WARMING)


def test_a_paid_call_that_is_answered_lets_the_switch_begin() -> None:
    switch = builders.version_switch(state="preparing", rung=-1, warm="wanted")
    client, calls = answering(200)
    switch_tick.warm(switch_id=switch.pk, now=at(1), client=client)
    switch_tick.warm(switch_id=switch.pk, now=at(1), client=client)
    assert len(calls) == 1
    assert b'"max_tokens":1' in calls[0].read()
    tick(2)
    assert seen(switch) == ("climbing", 10, Code.PREPARED)


def test_a_paid_call_that_fails_holds_with_what_the_server_said() -> None:
    switch = builders.version_switch(state="preparing", rung=-1, warm="wanted")
    client, _calls = answering(500)
    switch_tick.warm(switch_id=switch.pk, now=at(1), client=client)
    tick(2)
    assert seen(switch) == ("preparing", 0, Code.WARM_FAILED)
    assert "no memory" in switching.verdict_sentence(fresh(switch))
    assert [line.code for line in switch.events.all()] == [Code.WARM_FAILED]


def test_an_embedding_model_is_warmed_with_an_embedding() -> None:
    model = builders.foundation_model(domain="embedding")
    target = builders.model_version(model=model, servers=[builders.model_server(probed_at=NOW)])
    switch = builders.version_switch(state="preparing", rung=-1, warm="wanted", target=target)
    client, calls = answering(200)
    switch_tick.warm(switch_id=switch.pk, now=at(1), client=client)
    assert calls[0].url.path.endswith("/embeddings")


def test_no_paid_call_is_made_for_a_switch_that_has_begun_or_a_target_that_is_down() -> None:
    client, calls = answering(200)
    switch_tick.warm(switch_id=builders.version_switch(warm="wanted").pk, now=NOW, client=client)
    waiting = builders.version_switch(state="preparing", rung=-1, warm="wanted")
    ModelServer.objects.update(state="down")
    switch_tick.warm(switch_id=waiting.pk, now=NOW, client=client)
    assert calls == []
    assert fresh(waiting).warm == "wanted"


# --- cost


def test_a_tick_asks_as_many_questions_for_many_switches_as_for_few(
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    TickHeartbeat.beat(name="metering.drain", now=NOW)
    for number in range(40):
        switch = builders.version_switch(gates=GATES, soaked_seconds=0 if number % 2 else 60)
        builders.health_sum(switch, calls=100)
    # Savepoint and its end, due, heartbeat, servers, sums; one for the holds; for the moves switches, log, routes.
    with django_assert_num_queries(10):
        assert switch_tick.tick(now=NOW) == switch_tick.Ticked(looked_at=40, moved=20)


def test_a_tick_without_work_is_one_question(django_assert_num_queries: DjangoAssertNumQueries) -> None:
    builders.version_switch(check_at=at(5))
    with django_assert_num_queries(3):
        assert switch_tick.tick(now=NOW) == switch_tick.Ticked()


def test_many_switches_are_taken_batch_by_batch() -> None:
    TickHeartbeat.beat(name="metering.drain", now=NOW)
    endpoint, target = builders.endpoint(), builders.model_version(servers=[builders.model_server(probed_at=NOW)])
    endpoints = [builders.endpoint_row(project=endpoint.project, version=endpoint.version) for _ in range(405)]
    Endpoint.objects.bulk_create(endpoints)
    for each in endpoints:
        builders.version_switch(endpoint=each, target=target, soaked_seconds=60)
    committed: list[str] = []
    ticked = switch_tick.tick(now=NOW, checkpoint=lambda step: committed.append(step) if step == "committed" else None)
    assert (ticked.moved, len(committed)) == (405, 3)
    assert set(VersionSwitch.objects.values_list("weight", flat=True)) == {70}


def test_the_task_runs_the_tick() -> None:
    switch = builders.version_switch(created_at=NOW, soaked_seconds=60)
    switches_task()
    assert fresh(switch).weight == 70
