"""What a scrape costs a gateway worker: `python -m bench.exposition`, a part of `make bench`.

Rendering alone (CPU, best of a few), its size, and what calls feel: how long a task of the same event loop waits for its
next turn, without and with somebody who scrapes over and over.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from gateway.exposition import Exposition, packed, render
from gateway.metrics import SETS_MAX, Metrics

SIZES = (100, 1_000, SETS_MAX)
GOAL_MS = 50.0
"""At 1,000 label sets."""
READER = """
import sys, urllib.request
for count in range(10**9):
    urllib.request.urlopen(sys.argv[1]).read()
    print(count, flush=True) if not count else None
"""
PAGE = Path(__file__).resolve().parent.parent / "docs" / "bench.md"


def filled(sets: int) -> Metrics:
    """A worker that has served every kind of call on so many endpoints."""
    dice = random.Random(1)
    metrics = Metrics()
    for number in range(sets):
        labels = ("default", f"ep-20261122{number:06d}-ngwkm", "chat", "doubao-seed-1-6", "doubao-seed-1-6-251015")
        series = metrics.series(labels)
        for code, status in (
            ("Success", 200),
            ("InvalidParameter", 400),
            ("RateLimitExceeded.EndpointTPMExceeded", 429),
        ):
            series.count(code, status)
        for is_stream in (False, True):
            series.duration[is_stream].observe(dice.expovariate(0.5))
        series.stream_times(dice.expovariate(2), dice.expovariate(20))
        series.answered, series.input_tokens, series.output_tokens = 2, dice.randrange(10**6), dice.randrange(10**6)
    return metrics


async def size(pieces: AsyncIterator[bytes]) -> int:
    return sum([len(piece) async for piece in pieces])


async def cpu_ms(metrics: Metrics) -> float:
    """CPU of one rendering, milliseconds."""
    times = []
    for _round in range(7):
        began = time.process_time()
        await size(render(metrics))
        times.append(time.process_time() - began)
    return min(times) * 1000


async def waits_ms(seconds: float) -> tuple[float, float]:
    """p99 and most of what a call waits for its turn in this event loop, whenever it arrives; milliseconds."""
    gaps = []
    end = time.perf_counter() + seconds
    last = time.thread_time()  # this thread's own CPU: other work on the machine says nothing of us
    while time.perf_counter() < end:
        await asyncio.sleep(0)
        now = time.thread_time()
        gaps.append((now - last) * 1000)
        last = now
    # Who arrives in a gap waits for the rest of it, and long gaps are met more often: find what 1 % wait longer than.
    low, high = 0.0, max(gaps)
    while high - low > 0.001:
        middle = (low + high) / 2
        longer = sum(gap - middle for gap in gaps if gap > middle)
        low, high = (middle, high) if longer > 0.01 * sum(gaps) else (low, middle)
    return high, max(gaps)


async def waits_while_scraped_ms(metrics: Metrics, seconds: float) -> tuple[float, float]:
    """The same while another process reads `/metrics` over and over."""
    exposition = Exposition(metrics)
    address = await exposition.start()
    reader = await asyncio.create_subprocess_exec(
        sys.executable, "-c", READER, f"http://{address}/metrics", stdout=asyncio.subprocess.PIPE
    )
    assert reader.stdout is not None
    await reader.stdout.readline()
    try:
        return await waits_ms(seconds)
    finally:
        reader.kill()
        await reader.wait()
        await exposition.stop()


async def measure(seconds: float) -> list[str]:
    gc.set_threshold(20_000, 20, 20)  # as `gateway.service` sets it
    alone = await waits_ms(seconds)
    lines = [
        "| label sets | series | text | gzip | render, CPU | a call waits p99 / at most, while scraped over and over |",
        "|---|---|---|---|---|---|",
    ]
    found: dict[int, float] = {}
    for sets in SIZES:
        metrics = filled(sets)
        plain, small = await size(render(metrics)), await size(packed(render(metrics)))
        text = b"".join([piece async for piece in render(metrics)]).decode()
        series = text.count("\n") - text.count("\n#") - 1
        if sets == SIZES[0]:
            parsed = sum(len(family.samples) for family in text_string_to_metric_families(text))
            assert parsed == series, (parsed, series)
        found[sets] = await cpu_ms(metrics)

        waits = await waits_while_scraped_ms(metrics, seconds)
        lines.append(
            f"| {sets:,} | {series:,} | {plain / 1e6:.1f} MB | {small / 1e6:.2f} MB | {found[sets]:.1f} ms "
            f"| {waits[0]:.2f} / {waits[1]:.2f} ms |"
        )
    state = "met" if found[1_000] <= GOAL_MS else "**missed**"
    lines += [
        "",
        (
            f"Without scrapes a call waits {alone[0]:.2f} / {alone[1]:.2f} ms. "
            f"Goal: 1,000 label sets in at most {GOAL_MS:g} ms: {state}."
        ),
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--write", action="store_true", help="put the result into docs/bench.md")
    options = parser.parse_args()
    result = "\n".join([f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.", "", *uvloop.run(measure(options.seconds))])
    print(result)
    if options.write:
        before, marker, rest = PAGE.read_text(encoding="utf-8").partition("<!-- exposition -->\n")
        _old, end, after = rest.partition("<!-- end of exposition -->")
        assert marker, "docs/bench.md has no place for it"
        assert end, "docs/bench.md has no place for it"
        PAGE.write_text(f"{before}{marker}{result}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
