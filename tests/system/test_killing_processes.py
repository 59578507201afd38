"""Any one process dies while calls run: the others go on, it comes back, and the books agree afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import httpx
import pytest
import redis

from tests.servers import RedisServer
from tests.stack import Stack
from tests.system.traffic import Books, Traffic, degraded, gateway_workers, lives

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400), pytest.mark.usefixtures("whole_again")]


def test_without_a_background_process_or_the_console_every_call_goes_on(
    stack: Stack, traffic: Traffic, books: Books
) -> None:
    with traffic:
        traffic.wait_for_more(10)
        for name in ("worker-ticks", "worker-slow", "beat", "console"):
            pid = stack.kill(name)
            stack.wait_back(name, pid, seconds=60)
            # It has just been started: most of these calls find it not ready yet.
            traffic.wait_for_more(20)
            assert traffic.bad_since(0) == [], name

    assert traffic.bad_since(0) == []
    books.must_agree(traffic.seen)


def test_with_redis_dead_calls_go_on_and_its_usage_is_replayed_when_it_is_back(
    stack: Stack, stack_redis: RedisServer, traffic: Traffic, books: Books, browser: httpx.Client
) -> None:
    with traffic:
        traffic.wait_for_more(10)
        stack_redis.kill()
        try:
            traffic.wait_for_more(40)
            for url in (stack.console_url, stack.gateway_url):
                stack.wait_until(lambda: "redis" in (degraded(url) or []), seconds=60, what=f"{url} says so")  # noqa: B023
            # Each console process looks for itself, every few seconds.
            page = lambda: browser.get("/endpoints/").raise_for_status().text  # noqa: E731
            stack.wait_until(lambda: "Redis does not answer" in page(), seconds=60, what="every page says so")
        finally:
            stack_redis.start()
        traffic.wait_for_more(10)

    assert traffic.bad_since(0) == []
    books.must_agree(traffic.seen)


def test_a_wiped_redis_loses_no_call_that_is_under_way_and_ticks_go_on(
    stack: Stack, stack_redis: RedisServer, traffic: Traffic, books: Books
) -> None:
    # Long enough for a machine that stalls: all are in the middle of their first call, and none has reached the ledger's
    # stream.
    traffic.callers, traffic.output_tokens = 3, 500
    with traffic:
        stack.wait_until(lambda: books.running() == traffic.callers, what="every caller's first call is under way")
        assert traffic.seen == []
        with redis.Redis.from_url(stack_redis.url) as client:
            client.flushall()
        traffic.output_tokens = 20
        traffic.wait_for_more(6)

    assert traffic.bad_since(0) == []
    books.must_agree(traffic.seen)


def test_a_dead_model_server_fails_the_calls_that_it_had_and_no_others_once_it_is_back(
    stack: Stack, traffic: Traffic, books: Books
) -> None:
    with traffic:
        traffic.wait_for_more(10)
        pid = stack.kill("demo")
        stack.wait_back("demo", pid, seconds=60)
        stack.wait_until(lambda: lives(stack.demo_url), seconds=60, what="demo server answers")
        traffic.wait_for_more(10)
        # Each gateway worker finds out for itself: one may answer already while the other still keeps away.
        stack.wait_until(
            lambda: all(each.is_good for each in traffic.seen[-20:]), seconds=60, what="both workers call it again"
        )
        back_at = time.monotonic()
        traffic.wait_for_more(20)

    assert traffic.bad_since(back_at) == []
    assert {each.status for each in traffic.seen} <= {200, 500, 502, 503}, "a caller always gets an answer"
    # The server writes an answer down before it sends it: what it was sending when it died counts for it and not for us.
    assert len(books.must_agree(traffic.seen, excused={"cut", "upstream_error"})) <= traffic.callers
    outcomes = {record["outcome"] for record in books.ledger().values()}
    assert outcomes <= {"success", "cut", "upstream_error", "refused"}
    assert outcomes & {"cut", "upstream_error"}


def test_a_dead_gateway_worker_loses_its_calls_and_nobody_elses_and_the_ledger_knows_them(
    stack: Stack, traffic: Traffic, books: Books
) -> None:
    traffic.callers = 12
    with traffic:
        traffic.wait_for_more(20)
        worker = gateway_workers(stack)[0]
        worker.kill()
        dead_at = time.monotonic()
        traffic.wait_for_more(40)
        stack.wait_until(lambda: len(gateway_workers(stack)) == 2, seconds=60, what="a new gateway worker")
        traffic.wait_for_more(20)

    assert [each for each in traffic.bad_since(dead_at + 0.5) if each.error == ""] == []
    books.must_agree(traffic.seen, excused={"lost"})
    lost = [record for record in books.ledger().values() if record["outcome"] == "lost"]
    assert 0 < len(lost) <= traffic.callers
    assert {record["status"] for record in lost} == {500}


def test_a_beat_that_hangs_is_noticed_said_and_restarted_and_a_dead_gateway_comes_back_without_it(
    stack: Stack, traffic: Traffic, books: Books, browser: httpx.Client
) -> None:
    said = stack.output.count("Ticks stand still")
    with traffic:
        traffic.wait_for_more(10)
        beat = stack.kill("beat", signal.SIGSTOP)

        # It takes half a minute until that is noticed, and the gateway comes back meanwhile, without any tick.
        gateway = stack.kill("gateway")
        # Others need the processor.
        traffic.pause_seconds = 1
        stack.wait_until(
            lambda: "Background work is late" in browser.get("/endpoints/").raise_for_status().text,
            seconds=120,
            what="the pages say so",
        )
        stack.wait_back("gateway", gateway, seconds=60)
        stack.wait_until(lambda: len(gateway_workers(stack)) == 2, seconds=60, what="all its workers")
        traffic.pause_seconds = 0.05
        traffic.wait_for_more(30)
        back_at = time.monotonic()
        stack.wait_until(
            lambda: stack.output.count("Ticks stand still") > said, seconds=120, what="the supervisor says so"
        )
        # That who does not hear is killed after 12 s is proven elsewhere (`test_supervisor`): let it hear.
        with contextlib.suppress(ProcessLookupError):
            os.kill(beat, signal.SIGCONT)
        stack.wait_back("beat", beat, seconds=120)

    assert traffic.bad_since(back_at) == []
    books.must_agree(traffic.seen, excused={"lost"})
