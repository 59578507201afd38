"""Prometheus as the console asks it, and an hour of traffic of which everything is known."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pytest_django import Settings

from monitoring import prometheus as door
from tests.monitoring.worker import Worker
from tests.servers import PrometheusServer

SCRAPE = 15
LAG = 4


@dataclass(frozen=True)
class Known:
    """An hour that ends at `end`. Each 15 s of it the old version has two streamed calls and a plain one; in its second
    half the new version has one streamed call, and one call is limited. Once a call fails, once a caller leaves."""

    endpoint: str
    start: int
    end: int
    rounds: int = 240
    old: str = "fast-1"
    new: str = "fast-2"
    tpm_limit: float = 100_000
    rpm_limit: float = 600


STREAMED = {
    "input_tokens": 100, "output_tokens": 41, "cached_tokens": 40, "reasoning_tokens": 10, "seconds": 2.0,
    "first_token": 0.3,
}  # fmt: skip
PLAIN = {"input_tokens": 50, "output_tokens": 20, "seconds": 0.8}
NEW = {"input_tokens": 200, "output_tokens": 11, "seconds": 4.0, "first_token": 0.9}


@pytest.fixture(scope="session")
def known(prometheus: PrometheusServer) -> Known:
    """The traffic, put into Prometheus once; two workers, of which the second is started anew half-way."""
    end = int(time.time()) // 60 * 60
    hour = Known(endpoint="ep-20261122000000-known", start=end - 3600, end=end)
    old, new = (("default", hour.endpoint, "chat", "fast", version) for version in (hour.old, hour.new))
    workers = [Worker("10.0.0.1:9101"), Worker("10.0.0.2:9101")]
    for worker in workers:
        worker.expect(old)
        worker.scrape(hour.start - LAG)
    samples = dict(workers[0].samples)
    for position in range(1, hour.rounds + 1):
        # Scrapes are at no round time: Prometheus spreads them.
        at = hour.start + position * SCRAPE - LAG
        first, second = workers
        first.now = second.now = at - 5
        first.call(old, **STREAMED)
        second.call(old, **STREAMED)
        first.call(old, **PLAIN)
        if position > 120:
            first.call(new, **NEW)
            second.call(old, "RateLimitExceeded.EndpointRPMExceeded", 429)
        if position == 40:
            first.call(old, "InternalServiceError", 502)
        if position == 80:
            second.call(old, "ClientClosed", 499)
        for worker in workers:
            worker.scrape(at)
        if position == 120:
            samples |= second.samples
            workers[1] = Worker("10.0.0.3:9101")
            workers[1].expect(old)
            workers[1].scrape(at)
    for worker in workers:
        samples |= worker.samples
    times = [float(at) for at in range(hour.start, hour.end + 1, SCRAPE)]
    here = f'project="default",ark_endpoint="{hour.endpoint}",job="ark-console",instance="console"'
    samples |= {
        f"ark_endpoint_tpm_limit{{{here}}}": [(at, hour.tpm_limit) for at in times],
        f"ark_endpoint_rpm_limit{{{here}}}": [(at, hour.rpm_limit) for at in times],
    }
    for version, weight in ((hour.old, 0.75), (hour.new, 0.25)):
        samples[f'ark_endpoint_version_weight{{{here},base_model="fast",ark_model="{version}"}}'] = [
            (at, weight) for at in times[120:]
        ]
    prometheus.write(samples)
    return hour


@pytest.fixture
def asked(prometheus: PrometheusServer, settings: Settings) -> Iterator[PrometheusServer]:
    """The console asks this Prometheus, as if it were scraped every 15 seconds; nothing is remembered of before."""
    settings.PROMETHEUS_IS_EXTERNAL, settings.PROMETHEUS_URL = True, prometheus.url
    settings.SCRAPE_SECONDS = SCRAPE
    door.forget()
    yield prometheus
    door.forget()
