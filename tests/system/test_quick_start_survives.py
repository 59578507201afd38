"""The quick start, on SQLite and the embedded Valkey: every process of the table dies once while calls run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.sdk.arrange import Order, Wanted, arrange
from tests.stack import Stack
from tests.system.traffic import Books, Traffic, degraded, gateway_workers, lives

pytestmark = [pytest.mark.quickstart, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("survivor") / "data")
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture(scope="module")
def new_traffic(home: Stack) -> Callable[[], Traffic]:
    made = arrange(home, Order("survivor", f"{home.demo_url}/v1", [Wanted("chat", "demo-fast", rpm=100_000)]))
    return lambda: Traffic(home.gateway_url, made.api_key, made.endpoints["chat"], callers=4)


def test_each_process_dies_once_while_calls_run_and_the_books_agree(
    home: Stack, new_traffic: Callable[[], Traffic]
) -> None:
    traffic = new_traffic()
    books = Books(home, traffic.endpoint_id)
    with traffic:
        for name in ("valkey", "worker-ticks", "worker-slow", "beat", "console"):
            traffic.wait_for_more(8)
            home.wait_back(name, home.kill(name))
        traffic.wait_for_more(8)
        assert traffic.bad_since(0) == [], "none of these is in the way of a call"

        home.wait_back("demo", home.kill("demo"))
        home.wait_until(lambda: lives(home.demo_url), what="the demo server answers")
        traffic.wait_for_more(8)
        gateway_workers(home)[0].kill()
        traffic.wait_for_more(8)
        home.wait_until(lambda: len(gateway_workers(home)) == 2, what="a new gateway worker")

    books.must_agree(traffic.seen, excused={"lost", "cut", "upstream_error"})
    home.wait_until(lambda: degraded(home.console_url) == degraded(home.gateway_url) == [], what="all is back")


def test_ctrl_c_in_the_middle_of_calls_loses_none_of_them(home: Stack, new_traffic: Callable[[], Traffic]) -> None:
    traffic = new_traffic()
    traffic.output_tokens = 100
    books = Books(home, traffic.endpoint_id)
    with traffic:
        traffic.wait_for_more(4)
        assert home.interrupt() == 0
        home.start()
        traffic.wait_for_more(4)

    books.must_agree(traffic.seen)
    # An orderly end lets the calls under way come to theirs.
    assert {record["outcome"] for record in books.ledger().values()} <= {"success", "refused"}
