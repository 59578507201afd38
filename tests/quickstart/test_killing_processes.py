"""The quick start, on SQLite and the embedded Valkey: every process of the table dies once while calls run."""

from __future__ import annotations

import pytest

from tests.quickstart.terminal import left_over, says
from tests.sdk.arrange import Made, Order, Wanted, arrange
from tests.stack import Stack
from tests.system.traffic import Books, Traffic, degraded, gateway_workers, lives

pytestmark = [pytest.mark.quickstart, pytest.mark.timeout(480)]
PATIENCE = 90


@pytest.fixture(scope="module")
def made(home: Stack) -> Made:
    """An endpoint for these tests alone; the data outlive every start."""
    if not home.is_running:
        home.start()
    return arrange(home, Order("survivor", f"{home.demo_url}/v1", [Wanted("chat", "demo-fast", rpm=100_000)]))


@pytest.fixture
def traffic(running: Stack, made: Made) -> Traffic:
    """Callers of that endpoint: few, since each call is compared, and what dies needs the processors to come back."""
    return Traffic(running.gateway_url, made.api_key, made.endpoints["chat"], callers=3)


def test_each_process_dies_once_while_calls_run_and_the_books_agree(running: Stack, traffic: Traffic) -> None:
    books = Books(running, traffic.endpoint_id)
    with traffic:
        for name in ("valkey", "worker-ticks", "worker-slow", "beat", "console"):
            traffic.wait_for_more(8)
            running.wait_back(name, running.kill(name), seconds=PATIENCE)
        traffic.wait_for_more(8)
        assert traffic.bad_since(0) == [], "none of these is in the way of a call"

        running.wait_back("demo", running.kill("demo"), seconds=PATIENCE)
        running.wait_until(lambda: lives(running.demo_url), seconds=PATIENCE, what="the demo server answers")
        traffic.wait_for_more(8)
        gateway_workers(running)[0].kill()
        traffic.wait_for_more(8)
        running.wait_until(lambda: len(gateway_workers(running)) == 2, seconds=PATIENCE, what="a new gateway worker")

    books.must_agree(traffic.seen, excused={"lost", "cut", "upstream_error"})
    running.wait_until(
        lambda: degraded(running.console_url) == degraded(running.gateway_url) == [],
        seconds=PATIENCE,
        what="all is back",
    )


def test_ctrl_c_ends_everything_after_the_calls_under_way_and_the_next_start_keeps_its_data(
    running: Stack, traffic: Traffic
) -> None:
    key, endpoint = running.demo_key, running.demo_endpoint
    traffic.output_tokens = 100
    books = Books(running, traffic.endpoint_id)
    with traffic:
        traffic.wait_for_more(4)
        assert running.interrupt() == 0
        assert left_over(running) == []
        running.start()
        traffic.wait_for_more(4)

    assert (running.demo_key, running.demo_endpoint) == (key, endpoint)
    assert "shown this once" not in running.output
    running.wait_until(lambda: says(running.output, "Monitoring", "on: "), seconds=PATIENCE, what="monitoring is on")
    books.must_agree(traffic.seen)
    # An orderly end lets the calls under way come to theirs.
    assert {record["outcome"] for record in books.ledger().values()} <= {"success", "refused"}
