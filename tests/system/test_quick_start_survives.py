"""The quick start, on SQLite and the embedded Valkey: every process of the table dies once while calls run."""

from __future__ import annotations

from collections.abc import Iterator

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


def test_each_process_dies_once_while_calls_run_and_the_books_agree(home: Stack) -> None:
    made = arrange(home, Order("survivor", f"{home.demo_url}/v1", [Wanted("chat", "demo-fast", rpm=100_000)]))
    traffic = Traffic(home.gateway_url, made.api_key, made.endpoints["chat"], callers=4)
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
