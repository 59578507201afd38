"""The figures of version switches: what the drain writes of stamped calls, once each, and what is read of them."""

from __future__ import annotations

import random
import statistics
import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_client
from django.db import connections
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import DjangoAssertNumQueries

from common.models import TickHeartbeat
from metering import drain, events, health, ledger, pruning
from metering.events import Outcome, UsageEvent
from metering.health import BOUNDS_MS, WHOLE, Sums, bucket, p95
from metering.models import DrainPosition, HealthSlice, HealthSum, ParameterHour
from tests.builders import NOW, usage_event
from tests.metering.conftest import GENERATION, Send
from tests.metering.test_drain import Death, dying_at, millis
from tests.servers import ON_SQLITE

STEPS = ["read", "locked", "records", "sums", "health", "position", "committed", "trimmed"]


def stamped(**values: Any) -> UsageEvent:
    """A call of switch 7 in its third soak, answered by version 1."""
    return usage_event(**{"switch_id": 7, "rung": 3, "first_token_ms": 40, "duration_ms": 900, **values})


# --- percentiles


@pytest.mark.parametrize(
    ("milliseconds", "index"), [(0, 0), (5, 0), (5.1, 1), (600_000, 39), (600_001, 40), (10**9, 40)]
)
def test_a_time_goes_into_the_bucket_whose_bound_it_does_not_pass(milliseconds: float, index: int) -> None:
    assert bucket(milliseconds) == index


def test_a_percentile_is_interpolated_and_none_of_nothing() -> None:
    assert p95({}) is None
    assert p95({0: 100}) == pytest.approx(5 * 0.95)
    assert p95({40: 1}) == BOUNDS_MS[-1]
    assert p95({3: 95, 20: 5}) == pytest.approx(BOUNDS_MS[3])
    assert BOUNDS_MS[19] < (p95({3: 90, 20: 10}) or 0) < BOUNDS_MS[20]


@given(st.lists(st.floats(5, 600_000), min_size=20, max_size=300))
def test_a_percentile_is_no_further_off_than_its_bucket_is_wide(values: list[float]) -> None:
    exact = sorted(values)[int(0.95 * len(values)) - (0.95 * len(values) == int(0.95 * len(values)))]
    found = p95(Counter(bucket(value) for value in values))
    assert found is not None
    width = BOUNDS_MS[1] / BOUNDS_MS[0]
    assert exact / width / 1.01 <= found <= exact * width * 1.01


def test_a_percentile_of_many_calls_is_near_the_true_one() -> None:
    rng = random.Random(7)
    values = [rng.lognormvariate(6, 0.8) for _ in range(20_000)]
    found = p95(Counter(bucket(value) for value in values))
    assert found == pytest.approx(statistics.quantiles(values, n=20)[-1], rel=0.1)


def test_sums_add_up() -> None:
    both = Sums(10, 1, 2, {1: 3}, {4: 5}) + Sums(5, 1, 0, {1: 1, 2: 2}, {})
    assert both == Sums(15, 2, 2, {1: 4, 2: 2}, {4: 5})
    assert (both.succeeded, both.streamed) == (11, 6)
    assert (Sums().error_percent, both.rejection_percent) == (None, pytest.approx(100 * 2 / 15))


# --- what the drain writes


@pytest.mark.django_db
def test_a_stamped_call_is_in_its_slice_its_soak_and_the_whole_switch(send: Send) -> None:
    send(stamped(version_id=5))
    drain.drain(now=NOW)
    row = HealthSlice.objects.get()
    assert (row.at, row.endpoint_id, row.switch_id, row.rung, row.version_id) == (
        NOW.replace(second=40),
        "ep-1",
        7,
        3,
        5,
    )
    assert (row.calls, row.errors, row.rejections) == (1, 0, 0)
    expected = Sums(1, 0, 0, {bucket(40): 1}, {bucket(900): 1})
    assert health.by_soak(7) == {(3, 5): expected, (WHOLE, 5): expected}


@pytest.mark.django_db
def test_calls_without_a_switch_leave_no_figures(send: Send) -> None:
    send(usage_event(), stamped(version_id=None), stamped(rung=None))
    assert drain.drain(now=NOW).counted == 3
    assert not HealthSlice.objects.exists()
    assert not HealthSum.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("outcome", "status", "counts"),
    [
        (Outcome.SUCCESS, 200, (1, 0, 0)),
        (Outcome.UPSTREAM_ERROR, 500, (1, 1, 0)),
        (Outcome.UPSTREAM_ERROR, 504, (1, 1, 0)),
        (Outcome.CUT, 200, (1, 1, 0)),
        (Outcome.UPSTREAM_ERROR, 400, (1, 0, 1)),
        (Outcome.UPSTREAM_ERROR, 429, (1, 0, 1)),
        (Outcome.REFUSED, 503, None),
        (Outcome.REFUSED, 400, None),
        (Outcome.REJECTED, 429, None),
        (Outcome.CLIENT_CLOSED, 499, None),
        (Outcome.LOST, 500, None),
    ],
)
def test_only_what_the_model_server_did_counts(
    send: Send, outcome: Outcome, status: int, counts: tuple[int, int, int] | None
) -> None:
    send(stamped(outcome=outcome, status=status))
    drain.drain(now=NOW)
    found = [(row.calls, row.errors, row.rejections) for row in HealthSlice.objects.all()]
    assert found == ([] if counts is None else [counts])
    # How fast a server fails says nothing of how fast it answers.
    if counts is not None:
        assert sum(health.by_soak(7)[3, 1].duration.values()) == (1 if outcome is Outcome.SUCCESS else 0)


@pytest.mark.django_db
def test_a_call_that_ends_late_counts_in_the_soak_that_chose_it(send: Send) -> None:
    send(stamped(rung=3))
    drain.drain(now=NOW)
    send(stamped(rung=4), stamped(rung=3, at=millis(NOW - timedelta(minutes=9))))
    drain.drain(now=NOW)
    found = {soak: sums.calls for (soak, _version), sums in health.by_soak(7).items()}
    assert found == {3: 2, 4: 1, WHOLE: 3}


@pytest.mark.django_db
@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_counts_no_figure_twice(step: str, send: Send) -> None:
    for _batch in range(2):
        send(*[stamped(parameters=["seed"]) for _ in range(5)])
        with pytest.raises(Death):
            drain.drain(now=NOW, checkpoint=dying_at(step))
        drain.drain(now=NOW)
    assert HealthSlice.objects.get().calls == 10
    assert health.by_soak(7)[3, 1] == Sums(10, 0, 0, {bucket(40): 10}, {bucket(900): 10})
    assert ledger.parameters_used("ep-1", since=NOW, now=NOW) == {"seed": 10}


@pytest.mark.django_db
def test_a_call_that_comes_twice_counts_once(send: Send) -> None:
    event = stamped(parameters=["seed"])
    send(event, event)
    drain.drain(now=NOW)
    send(event)
    drain.drain(now=NOW)
    assert health.by_soak(7)[3, 1].calls == HealthSlice.objects.get().calls == ParameterHour.objects.get().calls == 1


@pytest.mark.django_db
def test_an_event_with_a_soak_that_none_has_is_kept_as_dead(send: Send) -> None:
    send(stamped(rung=-1))
    assert drain.drain(now=NOW).dead == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(ON_SQLITE, reason="SQLite has one writer at a time")
def test_two_drains_at_once_add_to_the_same_rows(send: Send, stream: redis_client.Redis) -> None:
    generations = ["g1", "g2", "g3"]
    for generation in generations:
        DrainPosition.objects.create(generation=generation)
        send(*[stamped(duration_ms=number) for number in range(60)], generation=generation)

    def run() -> None:
        try:
            for _round in range(4):
                drain.drain(now=NOW, limit=7)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in generations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    while drain.drain(now=NOW).read:
        pass
    assert health.by_soak(7)[3, 1].calls == 180
    assert sum(health.by_soak(7)[WHOLE, 1].duration.values()) == 180
    assert sum(HealthSlice.objects.values_list("calls", flat=True)) == 180


# --- parameters


@pytest.mark.django_db
def test_parameters_are_counted_once_a_call_by_hour_and_without_their_values(send: Send) -> None:
    send(
        usage_event(parameters=["seed", "seed", "top_p"]),
        usage_event(parameters=["seed"], at=millis(NOW - timedelta(hours=1))),
        usage_event(parameters=["seed"], endpoint_id="ep-2"),
        usage_event(parameters=["x" * 70, "\0", ""]),
        usage_event(parameters=[f"p{number}" for number in range(100)], endpoint_id="ep-3"),
    )
    drain.drain(now=NOW)
    since = NOW - timedelta(hours=1)
    assert ledger.parameters_used("ep-1", since=since, now=NOW) == {"seed": 2, "top_p": 1, "x" * 64: 1}
    assert ledger.parameters_used("ep-1", since=NOW, now=NOW)["seed"] == 1
    assert len(ledger.parameters_used("ep-3", since=NOW, now=NOW)) == drain.MAX_PARAMETERS


# --- what is read


@pytest.mark.django_db
def test_sums_are_read_for_many_switches_in_one_question(
    send: Send, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    send(*[stamped(switch_id=switch, rung=rung, version_id=version) for switch in (1, 2, 3) for rung in (0, 1) for version in (5, 6)])  # fmt: skip
    drain.drain(now=NOW)
    with django_assert_num_queries(1):
        found = health.sums([(1, 1, 5), (2, 0, 6), (2, WHOLE, 5), (9, 0, 5)])
    assert {key: sums.calls for key, sums in found.items()} == {(1, 1, 5): 1, (2, 0, 6): 1, (2, WHOLE, 5): 2}
    with django_assert_num_queries(0):
        assert health.sums([]) == {}


@pytest.mark.django_db
@pytest.mark.parametrize(("span", "steps"), [(timedelta(hours=1), 3), (timedelta(hours=6), 2), (timedelta(days=3), 1)])
def test_shares_come_in_steps_that_fit_the_span(send: Send, span: timedelta, steps: int) -> None:
    # 10:00:09, 10:00:49 and 10:01:49: three slices, two minutes, one hour.
    for seconds in (-40, 0, 60):
        send(stamped(at=millis(NOW + timedelta(seconds=seconds))), stamped(at=millis(NOW + timedelta(seconds=seconds))))
    later = NOW + timedelta(minutes=2)
    drain.drain(now=later)
    found = health.shares(7, since=later - span, now=later)
    assert len(found) == steps
    assert sum(share.calls for share in found) == 6
    assert [share.at for share in found] == sorted(share.at for share in found)


@pytest.mark.django_db
def test_figures_are_late_without_the_drain_or_behind_it(fresh_redis: redis_client.Redis) -> None:
    assert health.is_late(NOW)
    for seconds, is_late in ((0, False), (15, False), (16, True), (-16, True)):
        TickHeartbeat.beat(name="metering.drain", now=NOW - timedelta(seconds=seconds))
        assert health.is_late(NOW) is is_late
    TickHeartbeat.beat(name="metering.drain", now=NOW)
    fresh_redis.set(events.GENERATION_KEY, GENERATION)
    assert not health.is_late(NOW)
    fresh_redis.xadd(events.stream_key(GENERATION), {"e": "just now"})
    assert not health.is_late(NOW)
    fresh_redis.delete(events.stream_key(GENERATION))
    fresh_redis.xadd(events.stream_key(GENERATION), {"e": "long ago"}, id="1000-0")
    assert health.is_late(NOW)


# --- forgetting


@pytest.mark.django_db
@pytest.mark.usefixtures("stream")
@pytest.mark.parametrize(
    ("model", "days", "values"),
    [
        (HealthSlice, 8, {"switch_id": 1, "version_id": 1, "rung": 0}),
        (HealthSum, 90, {"switch_id": 1, "version_id": 1, "rung": 0}),
        (ParameterHour, 9, {"parameter": "seed", "endpoint_id": "ep-1"}),
    ],
)
def test_each_is_kept_for_its_days(model: Any, days: int, values: dict[str, Any]) -> None:
    old = NOW - timedelta(days=days)
    model.objects.create(at=old - timedelta(seconds=1), **values)
    name = "rung" if "rung" in values else "parameter"
    kept = model.objects.create(at=old, **{**values, name: 2})
    assert pruning.prune(now=NOW) == 1
    assert model.objects.get() == kept
