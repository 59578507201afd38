"""What a restarted gateway worker does to the curves: its own text, read second by second, asked by the page's queries."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator

import pytest

from gateway.exposition import render
from gateway.metrics import Metrics
from monitoring.queries import Matchers, Spans, promql
from tests.servers import PrometheusServer

CALLS = 10
"""A second, of each worker."""
WORKER_DIES = 40
SECONDS = 80


class Worker:
    """Serves `CALLS` calls a second from `born_at`, by a clock of its own."""

    def __init__(self, endpoint_id: str, born_at: int) -> None:
        self.now = float(born_at)
        self._labels = ("default", endpoint_id, "chat", "m", "m-1")
        self._metrics = Metrics(lambda: self.now, expected=lambda: [self._labels])

    def serve_a_second(self) -> None:
        for _call in range(CALLS):
            self.now += 1 / CALLS
            self._metrics.series(self._labels).count("Success", 200)

    def scraped(self) -> int:
        async def read() -> str:
            return b"".join([piece async for piece in render(self._metrics)]).decode()

        found = re.search(r'ark_api_proxy_request_total\{[^}]*code="Success"[^}]*\} (\d+)', asyncio.run(read()))
        assert found
        return int(found[1])


@pytest.mark.parametrize(
    ("name", "second_instance", "read_from"),
    [("the same port", "one", WORKER_DIES + 3), ("a new target, found late", "two", WORKER_DIES + 12)],
)
def test_a_restarted_worker_costs_what_was_not_read_yet_and_nothing_is_counted_twice(
    name: str, second_instance: str, read_from: int, prometheus: PrometheusServer
) -> None:
    endpoint_id = f"ep-restart-{second_instance}"
    start = int(time.time()) // 20 * 20 - 2 * SECONDS
    samples: dict[str, list[tuple[float, float]]] = {}
    other, dying, successor = Worker(endpoint_id, 0), Worker(endpoint_id, 0), Worker(endpoint_id, WORKER_DIES + 2)
    for second in range(SECONDS):
        reads: list[tuple[str, Worker]] = [("other", other)]
        if second < WORKER_DIES:
            reads.append(("one", dying))
        elif second >= read_from:
            reads.append((second_instance, successor))
        for instance, worker in reads:
            selector = (
                f'ark_api_proxy_request_total{{project="default",ark_endpoint="{endpoint_id}",instance="{instance}"}}'
            )
            samples.setdefault(selector, []).append((start + second, worker.scraped()))
        if second < SECONDS - 10:  # the last seconds are quiet, so that every window sees all
            other.serve_a_second()
            if second < WORKER_DIES:
                dying.serve_a_second()
            elif second >= WORKER_DIES + 2:
                successor.serve_a_second()
    prometheus.write(samples)

    served = CALLS * ((SECONDS - 10) + WORKER_DIES + (SECONDS - 10 - WORKER_DIES - 2))
    unread = CALLS  # of the second after the last scrape
    query = promql("rpm", Matchers.of(project="default", endpoint=endpoint_id), _spans())
    points = list(_curve(prometheus, query, start))
    assert min(points) >= 0
    assert sum(points) * 20 / 60 == pytest.approx(served - unread, rel=0.02), name


def _spans() -> Spans:
    return Spans.of(step=20, range_seconds=SECONDS, scrape_seconds=1)


def _curve(prometheus: PrometheusServer, query: str, start: int) -> Iterator[float]:
    for at in range(start + 20, start + SECONDS + 20, 20):
        found = prometheus.query(f"last_over_time(({query})[1s:1s] @ {at})")
        yield found.get(json.dumps({}), 0.0)
