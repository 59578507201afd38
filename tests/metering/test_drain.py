"""Each call into the ledger once, whatever dies, repeats or is broken."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
import redis as redis_client
from django.db import connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metering import drain, events
from metering.events import Outcome, UsageEvent
from metering.models import CallRecord, DeadEvent, DrainPosition, UsageHour, UsageMinute
from tests import builders
from tests.builders import NOW, usage_event
from tests.metering.conftest import GENERATION, Send
from tests.servers import ON_SQLITE

STEPS = ["read", "locked", "records", "sums", "health", "position", "committed", "trimmed"]


class Death(Exception):
    """The worker died here."""


def dying_at(*steps: str) -> drain.Checkpoint:
    """Die at the first of these steps, once each."""
    left = list(steps)

    def checkpoint(step: str) -> None:
        if step in left:
            left.remove(step)
            raise Death(step)

    return checkpoint


def millis(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def minute_sums(**where: object) -> dict[str, int]:
    names = ("calls", "succeeded", "limited", "rejected", "failed", "cancelled", "input_tokens", "output_tokens")
    totals = dict.fromkeys(names, 0)
    for row in UsageMinute.objects.filter(**where).values(*names):
        for name in names:
            totals[name] += row[name]
    return totals


pytestmark = pytest.mark.django_db


def test_a_call_lands_in_its_record_its_minute_and_its_hour(send: Send) -> None:
    send(usage_event(call_id="a", input_tokens=100, cached_tokens=40, output_tokens=7, reasoning_tokens=3))

    drained = drain.drain(now=NOW)

    assert drained == drain.Drained(read=1, counted=1)
    record = CallRecord.objects.get()
    assert (record.call_id, record.at, record.outcome, record.input_tokens) == ("a", NOW, "success", 100)
    for model, at in ((UsageMinute, NOW.replace(second=0)), (UsageHour, NOW.replace(minute=0, second=0))):
        row = model.objects.get()
        assert (row.at, row.calls, row.succeeded) == (at, 1, 1)
        assert (row.input_tokens, row.cached_tokens, row.output_tokens, row.reasoning_tokens) == (100, 40, 7, 3)


def test_an_empty_stream_and_a_redis_without_a_generation_are_no_work(
    stream: redis_client.Redis, fresh_redis: redis_client.Redis
) -> None:
    assert drain.drain(now=NOW) == drain.Drained()
    fresh_redis.flushall()
    assert drain.drain(now=NOW) == drain.Drained()


def test_counted_entries_leave_the_stream(send: Send, stream: redis_client.Redis) -> None:
    send(*[usage_event() for _ in range(25)])

    drain.drain(now=NOW, limit=10)

    assert stream.xlen(events.stream_key(GENERATION)) == 15


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_step_counts_nothing_twice_and_loses_nothing(step: str, send: Send) -> None:
    sent = [usage_event() for _ in range(5)]
    send(*sent)
    with pytest.raises(Death):
        drain.drain(now=NOW, checkpoint=dying_at(step))
    send(usage_event(), sent[0])

    drain.drain(now=NOW)
    drain.drain(now=NOW)

    assert CallRecord.objects.count() == 6
    assert minute_sums() == {
        "calls": 6, "succeeded": 6, "limited": 0, "rejected": 0, "failed": 0, "cancelled": 0,
        "input_tokens": 60, "output_tokens": 30,
    }  # fmt: skip


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    script=st.lists(
        st.one_of(
            st.lists(
                st.tuples(st.integers(0, 12), st.sampled_from(list(Outcome)), st.integers(0, 900)),
                min_size=1,
                max_size=8,
            ),
            st.sampled_from([*STEPS, "", "wipe"]),
        ),
        max_size=12,
    )
)
def test_whatever_comes_repeats_and_dies_the_first_event_of_each_call_counts(
    script: list[list[tuple[int, Outcome, int]] | str], send: Send, stream: redis_client.Redis
) -> None:
    for model in (CallRecord, UsageMinute, UsageHour, DrainPosition):
        model.objects.all().delete()
    stream.flushall()
    generation, wipes = "h0", 0
    expected: dict[str, UsageEvent] = {}
    for part in [*script, ""]:
        stream.set(events.GENERATION_KEY, generation, nx=True)
        if part == "wipe":
            drain.drain(now=NOW)  # what is in a Redis when it is wiped is gone, so count it first
            stream.flushall()
            wipes += 1
            generation = f"h{wipes}"
        elif isinstance(part, str):
            try:
                drain.drain(now=NOW, limit=6, checkpoint=dying_at(part))
            except Death:
                pass
        else:
            for number, outcome, minutes_ago in part:
                event = usage_event(
                    call_id=f"call-{number}", outcome=outcome, status=500, at=millis(NOW - timedelta(minutes=minutes_ago)),
                    input_tokens=minutes_ago,
                )  # fmt: skip
                send(event, generation=generation)
                expected.setdefault(event.call_id, event)
    while drain.drain(now=NOW).read:
        pass

    records = {record.call_id: record for record in CallRecord.objects.all()}
    assert {each: records[each].outcome for each in records} == {each: expected[each].outcome for each in expected}
    assert minute_sums()["calls"] == len(expected)
    tokens = sum(event.input_tokens for event in expected.values())
    assert minute_sums()["input_tokens"] == tokens
    assert sum(UsageHour.objects.values_list("input_tokens", flat=True)) == tokens


@pytest.mark.parametrize(
    ("outcome", "status", "sum_name"),
    [
        (Outcome.SUCCESS, 200, "succeeded"),
        (Outcome.REJECTED, 429, "limited"),
        (Outcome.REFUSED, 400, "rejected"),
        (Outcome.REFUSED, 503, "failed"),
        (Outcome.UPSTREAM_ERROR, 422, "rejected"),
        (Outcome.UPSTREAM_ERROR, 502, "failed"),
        (Outcome.CLIENT_CLOSED, 499, "cancelled"),
        (Outcome.CUT, 200, "failed"),
        (Outcome.LOST, 500, "failed"),
    ],
)
def test_each_outcome_is_in_one_sum(outcome: Outcome, status: int, sum_name: str, send: Send) -> None:
    send(usage_event(outcome=outcome, status=status))

    drain.drain(now=NOW)

    sums = minute_sums()
    assert sums["calls"] == sums[sum_name] == 1
    assert sum(sums[name] for name in ("succeeded", "limited", "rejected", "failed", "cancelled")) == 1


def test_every_outcome_of_the_contract_is_one_of_the_record() -> None:
    assert {outcome.value for outcome in Outcome} == set(CallRecord.Outcome.values)


GARBAGE = [
    b"",
    b"not json",
    b"[]",
    b'{"call_id": "x"}',
    b"\xff\xfe",
    b'{"a":' * 5_000,
    events.encode(usage_event(call_id="")),
    events.encode(usage_event(call_id="x" * 65)),
    events.encode(usage_event(endpoint_id="e\0p")),
    events.encode(usage_event(input_tokens=-1)),
    events.encode(usage_event(output_tokens=2**62)),
    events.encode(usage_event(key_id=2**63)),
    events.encode(usage_event(at=millis(NOW + timedelta(days=2)))),
    events.encode(usage_event(at=-5)),
    events.encode(usage_event(status=100_000)),
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_no_event_is_kept_apart_and_blocks_nothing(
    garbage: bytes, send: Send, stream: redis_client.Redis
) -> None:
    send(usage_event(call_id="before"))
    [bad] = send(garbage)
    send(usage_event(call_id="after"))

    drained = drain.drain(now=NOW)

    assert drained == drain.Drained(read=3, counted=2, dead=1)
    dead = DeadEvent.objects.get()
    assert (dead.entry_id, dead.generation, dead.at) == (bad.decode(), GENERATION, NOW)
    assert bytes(dead.data)[:100] == (garbage or repr({b"e": b""}).encode())[:100]
    assert dead.detail
    assert stream.xlen(events.stream_key(GENERATION)) == 0


def test_a_dead_event_is_kept_once_though_the_drain_dies_over_it(send: Send) -> None:
    send(b"garbage")
    with pytest.raises(Death):
        drain.drain(now=NOW, checkpoint=dying_at("committed"))

    drain.drain(now=NOW)

    assert DeadEvent.objects.count() == 1


def test_texts_that_callers_send_are_cut_and_cleaned_to_fit(send: Send) -> None:
    send(usage_event(request_id="r\0" + "é" * 500, code="c" * 100, source_ip="x" * 99, duration_ms=-3))

    assert drain.drain(now=NOW).counted == 1

    record = CallRecord.objects.get()
    assert record.client_request_id == "r" + "é" * 127
    assert (len(record.code), len(record.source_ip), record.duration_ms) == (64, 45, 0)


def test_what_only_the_database_refuses_is_found_by_halves(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    if ON_SQLITE:
        pytest.skip("SQLite takes any text")
    # As if a check were missing: PostgreSQL takes no NUL, and the batch must not stand still over it.
    monkeypatch.setattr(drain, "_checked", lambda event, now: event)
    send(*[usage_event() for _ in range(5)], usage_event(call_id="bad", request_id="\0"), *[usage_event()] * 2)

    drained = drain.drain(now=NOW)

    assert drained == drain.Drained(read=8, counted=6, duplicates=1, dead=1)
    assert CallRecord.objects.count() == 6
    assert DeadEvent.objects.get().reason == DeadEvent.Reason.INVALID


def test_a_late_event_lands_in_its_own_minute(send: Send) -> None:
    then = NOW - timedelta(hours=7)
    send(usage_event(at=millis(then)))

    drain.drain(now=NOW)

    assert UsageMinute.objects.get().at == then.replace(second=0)


def test_a_replay_older_than_the_records_is_kept_apart_since_it_may_be_a_duplicate(send: Send, settings) -> None:  # type: ignore[no-untyped-def]
    settings.CALL_RECORD_DAYS = 3
    send(
        usage_event(call_id="old", at=millis(NOW - timedelta(days=3, seconds=1))),
        usage_event(call_id="new", at=millis(NOW - timedelta(days=3) + timedelta(seconds=1))),
    )

    assert drain.drain(now=NOW) == drain.Drained(read=2, counted=1, dead=1)

    dead = DeadEvent.objects.get()
    assert (dead.reason, dead.detail) == (DeadEvent.Reason.TOO_OLD, "old")
    assert events.decode(bytes(dead.data)).call_id == "old"


def test_a_wiped_redis_begins_a_new_generation_and_replays_change_nothing(
    send: Send, stream: redis_client.Redis
) -> None:
    first = usage_event()
    send(first)
    drain.drain(now=NOW)
    stream.flushall()
    stream.set(events.GENERATION_KEY, "g2")
    send(first, usage_event(), generation="g2")

    assert drain.drain(now=NOW) == drain.Drained(read=2, counted=1, duplicates=1)

    assert set(DrainPosition.objects.values_list("generation", flat=True)) == {GENERATION, "g2"}


def test_a_generation_that_nobody_remembers_is_found_and_drained(send: Send, stream: redis_client.Redis) -> None:
    send(usage_event(call_id="forgotten"), generation="g0")
    send(usage_event(call_id="present"))

    drain.drain(now=NOW)

    assert set(CallRecord.objects.values_list("call_id", flat=True)) == {"forgotten", "present"}


def test_entries_whose_ids_go_back_after_a_failover_are_still_read(send: Send, stream: redis_client.Redis) -> None:
    send(usage_event())
    drain.drain(now=NOW)
    stream.delete(events.stream_key(GENERATION))
    stream.xadd(events.stream_key(GENERATION), {events.FIELD: events.encode(usage_event())}, id="5-1")

    assert drain.drain(now=NOW).counted == 1


def test_positions_of_generations_that_are_gone_are_forgotten_after_a_day(
    send: Send, stream: redis_client.Redis
) -> None:
    for generation in ("gone", "waiting", GENERATION):
        DrainPosition.objects.create(generation=generation, drained_at=NOW - timedelta(days=2))
    DrainPosition.objects.create(generation="recent", drained_at=NOW)
    send(usage_event(), generation="waiting")

    assert drain.forget_finished(now=NOW) == 1

    assert not DrainPosition.objects.filter(generation="gone").exists()


@pytest.mark.parametrize(
    ("input_tokens", "days_ago", "expected"),
    [
        (10, 0, "small"),
        (1_000, 0, "small"),
        (1_001, 0, "large"),
        (10, 10, "small"),
        (10, 11, "old"),
        (10, 25, None),
        (0, 0, "small"),
    ],
)
def test_a_call_is_priced_by_its_length_and_its_time(
    input_tokens: int, days_ago: int, expected: str | None, send: Send
) -> None:
    version = builders.model_version()
    tiers = {
        "old": builders.price_tier(version=version, valid_from=NOW - timedelta(days=20)),
        "small": builders.price_tier(version=version, valid_from=NOW - timedelta(days=10), input_price=Decimal(9)),
        "large": builders.price_tier(version=version, valid_from=NOW - timedelta(days=10), input_over_tokens=1_000),
        "coming": builders.price_tier(version=version, valid_from=NOW + timedelta(milliseconds=1)),
    }
    send(usage_event(version_id=version.pk, input_tokens=input_tokens, at=millis(NOW - timedelta(days=days_ago))))

    drain.drain(now=NOW + timedelta(seconds=1))

    price_id = tiers[expected].pk if expected else 0
    assert CallRecord.objects.get().price_id == UsageMinute.objects.get().price_id == price_id


def test_the_rooms_below_hear_of_keys_and_servers(send: Send) -> None:
    key, server = builders.api_key(), builders.model_server(next_probe_at=NOW + timedelta(hours=1))
    later = NOW + timedelta(seconds=3)
    failed = {"outcome": Outcome.UPSTREAM_ERROR, "status": 502, "server_id": server.pk}
    send(
        usage_event(key_id=key.pk, at=millis(later), **failed),
        usage_event(key_id=key.pk, **failed),
        usage_event(key_id=987_654, server_id=987_654),
    )

    drain.drain(now=later)

    key.refresh_from_db()
    server.refresh_from_db()
    assert key.last_used_at == later
    assert server.next_probe_at == later


@pytest.mark.django_db(transaction=True)
def test_two_drains_at_once_count_each_call_once_and_do_not_queue_up(send: Send) -> None:
    if ON_SQLITE:
        pytest.skip(
            "the tests' SQLite is in memory and locks by table; in a file BEGIN IMMEDIATE makes the second wait"
        )
    sent = [usage_event() for _ in range(300)]
    send(*sent)
    inside, other_done = threading.Event(), threading.Event()
    results: list[drain.Drained] = []

    def wait_inside(step: str) -> None:
        if step == "sums":
            inside.set()
            assert other_done.wait(20)

    def run(checkpoint: drain.Checkpoint) -> None:
        try:
            results.append(drain.drain(now=NOW, checkpoint=checkpoint))
        finally:
            connections.close_all()

    first = threading.Thread(target=run, args=(wait_inside,))
    first.start()
    assert inside.wait(20)
    second = threading.Thread(target=run, args=(lambda _step: None,))
    second.start()
    second.join(20)
    other_done.set()
    first.join(20)

    assert CallRecord.objects.count() == minute_sums()["calls"] == 300
    assert sum(result.counted for result in results) == 300
    assert any(result.is_busy for result in results)
