"""What a worker counts, and how Prometheus reads it: plain accumulators, rendered only when scraped.

Names are Ark's where Ark's are known. Labels are ids from our own tables, never a key, a user or anything a caller wrote.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

DURATION_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
IDLE_SECONDS = 3600.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, str, str, str, str]
LABEL_NAMES = ["project", "ark_endpoint", "api", "base_model", "ark_model"]


class Histogram:
    """Counts by bucket and a sum."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """`(le, count)` pairs as Prometheus wants them."""
        total = 0
        pairs: list[tuple[str, float]] = []
        for bound, count in zip([*map(repr, self._bounds), "+Inf"], self.counts, strict=True):
            total += count
            pairs.append((bound, total))
        return pairs


class Series:
    """Everything that is counted for one (project, endpoint, api, model, version)."""

    __slots__ = (
        "answered",
        "cache_hits",
        "cache_misses",
        "cached_tokens",
        "duration",
        "first_token",
        "in_flight",
        "input_tokens",
        "output_tokens",
        "overrun_tokens",
        "per_token",
        "reasoning_tokens",
        "requests",
        "touched_at",
    )

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {("Success", 200): 0}
        self.answered = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cached_tokens = 0
        self.reasoning_tokens = 0
        self.overrun_tokens = 0
        self.cache_hits = 0
        self.cache_misses = 0
        self.in_flight = 0
        self.duration = {False: Histogram(DURATION_BUCKETS), True: Histogram(DURATION_BUCKETS)}
        self.first_token: Histogram | None = None
        self.per_token: Histogram | None = None
        self.touched_at = 0.0

    def count(self, code: str, status: int) -> None:
        """One finished call."""
        key = (code, status)
        self.requests[key] = self.requests.get(key, 0) + 1

    def stream_times(self, first_token_seconds: float, per_token_seconds: float | None) -> None:
        """Time to the first token, and the mean time of each further one when there was more than one."""
        if self.first_token is None or self.per_token is None:
            self.first_token, self.per_token = Histogram(FIRST_TOKEN_BUCKETS), Histogram(PER_TOKEN_BUCKETS)
        self.first_token.observe(first_token_seconds)
        if per_token_seconds is not None:
            self.per_token.observe(per_token_seconds)


class Metrics(Collector):
    """The accumulators of a worker. Touched from the event loop only; `collect` may run in another thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._series: dict[Labels, Series] = {}
        self.unresolved: dict[tuple[str, int], int] = defaultdict(int)
        self.upstream_errors: dict[tuple[str, str], int] = defaultdict(int)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {}

    def series(self, labels: Labels) -> Series:
        """The accumulators of a label set; made when first asked for."""
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Series()
        found.touched_at = self._clock()
        return found

    def evict(self) -> None:
        """Forget label sets that were idle for an hour; they come back from 0, which `rate` understands."""
        limit = self._clock() - IDLE_SECONDS
        for labels in [k for k, s in self._series.items() if s.touched_at < limit and not s.in_flight]:
            del self._series[labels]

    def collect(self) -> Iterator[Metric]:
        series = list(self._series.items())
        yield self._requests(series)
        yield from _token_summaries(series)
        yield from _durations(series)
        yield from self._own(series)

    @staticmethod
    def _requests(series: list[tuple[Labels, Series]]) -> Metric:
        family = CounterMetricFamily(
            "ark_api_proxy_request",
            "Calls that resolved to an endpoint, by Ark's code.",
            labels=[*LABEL_NAMES, "code", "http_status_code"],
        )
        for labels, one in series:
            for (code, status), count in list(one.requests.items()):
                family.add_metric([*labels, code, str(status)], count)
        return family

    def _own(self, series: list[tuple[Labels, Series]]) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "ark_gateway_requests_in_flight", "Calls being served.", labels=["project", "ark_endpoint", "api"]
        )
        cache = CounterMetricFamily(
            "ark_gateway_cache_requests", "Answered calls by prefix-cache result.", labels=[*LABEL_NAMES, "result"]
        )
        overrun = CounterMetricFamily(
            "ark_gateway_limit_overrun_tokens", "Tokens used beyond their reservation.", labels=LABEL_NAMES
        )
        flights: dict[tuple[str, str, str], int] = defaultdict(int)
        for labels, one in series:
            flights[labels[:3]] += one.in_flight
            if one.cache_hits or one.cache_misses:
                cache.add_metric([*labels, "hit"], one.cache_hits)
                cache.add_metric([*labels, "miss"], one.cache_misses)
            if one.overrun_tokens:
                overrun.add_metric(labels, one.overrun_tokens)
        for key, count in flights.items():
            in_flight.add_metric(key, count)
        yield in_flight
        yield cache
        yield overrun
        unresolved = CounterMetricFamily(
            "ark_gateway_unresolved_requests",
            "Calls refused before their endpoint was known.",
            labels=["code", "http_status_code"],
        )
        for (code, status), count in list(self.unresolved.items()):
            unresolved.add_metric([code, str(status)], count)
        yield unresolved
        upstream = CounterMetricFamily(
            "ark_gateway_upstream_errors", "Failures of model servers.", labels=["server", "kind"]
        )
        for (server, kind), count in list(self.upstream_errors.items()):
            upstream.add_metric([server, kind], count)
        yield upstream
        for name, (text, read) in self.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())
        for name, (text, read) in self.counters.items():
            yield CounterMetricFamily(name, text, value=read())


def _token_summaries(series: list[tuple[Labels, Series]]) -> Iterator[Metric]:
    for name, text, field in (
        ("request", "Input tokens of answered calls.", "input_tokens"),
        ("response", "Output tokens of answered calls.", "output_tokens"),
        ("cached", "Input tokens that came from the prefix cache.", "cached_tokens"),
        ("reasoning", "Output tokens of reasoning.", "reasoning_tokens"),
    ):
        family = SummaryMetricFamily(f"ark_api_proxy_{name}_token_count", text, labels=[*LABEL_NAMES, "tier"])
        for labels, one in series:
            family.add_metric([*labels, ""], count_value=one.answered, sum_value=getattr(one, field))
        yield family


def _durations(series: list[tuple[Labels, Series]]) -> Iterator[Metric]:
    duration = HistogramMetricFamily(
        "ark_api_proxy_request_duration_seconds", "Duration of successful calls.", labels=[*LABEL_NAMES, "stream"]
    )
    per_token = HistogramMetricFamily(
        "ark_api_proxy_stream_per_token_duration_seconds",
        'Of streams: time to the first token (is_first="true"), mean time of each further one ("false").',
        labels=[*LABEL_NAMES, "is_first"],
    )
    for labels, one in series:
        for is_stream, histogram in one.duration.items():
            text = "true" if is_stream else "false"
            duration.add_metric([*labels, text], histogram.cumulative(), histogram.sum)
        if one.first_token is not None and one.per_token is not None:
            per_token.add_metric([*labels, "true"], one.first_token.cumulative(), one.first_token.sum)
            per_token.add_metric([*labels, "false"], one.per_token.cumulative(), one.per_token.sum)
    yield duration
    yield per_token


class Exposition:
    """`GET /metrics` on a port of the worker's own."""

    def __init__(self, metrics: Metrics, host: str = "127.0.0.1") -> None:
        self._host = host
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(metrics)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen on a free port; return `host:port`."""
        self._server = await asyncio.start_server(self._serve, self._host, 0, limit=16 * 1024)
        port = self._server.sockets[0].getsockname()[1]
        return f"{self._host}:{port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(10):
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /metrics"):
                    status = "200 OK"
                    # In a thread: many label sets take long, and calls must not wait for a scrape.
                    body = await asyncio.get_running_loop().run_in_executor(None, generate_latest, self._registry)
                else:
                    status, body = "404 Not Found", b"only /metrics\n"
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("a scrape was not finished")
        finally:
            writer.close()
