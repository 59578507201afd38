"""A gateway worker as Prometheus sees it: the product's own accumulators and text, scraped at times that a test chooses."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field

from gateway.exposition import render
from gateway.metrics import Labels, Metrics

Samples = dict[str, list[tuple[float, float]]]


@dataclass
class Worker:
    """Count calls with `call`, look at them with `scrape`; `samples` is what `PrometheusServer.write` takes."""

    instance: str = "10.0.0.1:9101"
    now: float = 0.0
    samples: Samples = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self._metrics = Metrics(clock=lambda: self.now)

    def call(
        self,
        labels: Labels,
        code: str = "Success",
        status: int = 200,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        reasoning_tokens: int = 0,
        seconds: float = 0.0,
        first_token: float | None = None,
    ) -> None:
        """One call; streamed where it has a time to the first token. As `gateway.forward` counts it."""
        series = self._metrics.series(labels)
        series.count(code, status)
        if not input_tokens:
            return
        series.answered += 1
        series.input_tokens += input_tokens
        series.output_tokens += output_tokens
        series.cached_tokens += cached_tokens
        series.reasoning_tokens += reasoning_tokens
        if code != "Success":
            return
        series.cache_hits += bool(cached_tokens)
        series.cache_misses += not cached_tokens
        series.duration[first_token is not None].observe(seconds)
        if first_token is not None:
            series.stream_times(first_token, (seconds - first_token) / (output_tokens - 1))

    def expect(self, labels: Labels) -> None:
        """An endpoint that may be called at any moment: its series are there at 0."""
        self._metrics.series(labels)

    def scrape(self, at: float) -> None:
        """What a scrape at `at` (epoch seconds) reads."""
        self.now = at
        for line in b"".join(asyncio.run(render(self._metrics))).decode().splitlines():
            if line.startswith("ark_") and "{" in line:
                selector, _space, value = line.rpartition(" ")
                self.samples[f'{selector.removesuffix("}")},job="ark-gateway",instance="{self.instance}"}}'].append(
                    (at, float(value))
                )
