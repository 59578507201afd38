"""How Prometheus reads a worker: its accumulators as text, on a port of its own.

Written by hand, since 1,000 label sets are 76,000 lines: prometheus_client needs 0.6 s for them, one `%` over a whole
label set 20 µs (`docs/bench.md`). It runs in the event loop and gives way to calls after every `SLICE_SECONDS`: in a
thread it would hold the interpreter for 5 ms at each of their steps. What is not hot is prometheus_client's.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.metrics import (
    DURATION_BUCKETS,
    FIRST_TOKEN_BUCKETS,
    HOLD_SECONDS,
    LABEL_NAMES,
    PER_TOKEN_BUCKETS,
    Histogram,
    Labels,
    Metrics,
    Series,
    status_name,
)
from gateway.slots import Slot, listen

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLICE_SECONDS = 0.001
GZIP_BYTES = 64 * 1024
SECONDS = 10.0
"""How long a scrape may take, the reader's time included; Prometheus gives up as early."""
_SCRAPES_MAX = 4


# --- text -------------------------------------------------------------------------------------------------------------


# Metrics with lines for each label set. In a template `@` is where the label set goes; the rest is for `%`.


def _plain(name: str, *labels: str) -> bytes:
    return "".join(f"{name}{{@{label}}} %d\n" for label in labels or ("",)).encode()


def _summary(name: str) -> bytes:
    return f'{name}_count{{@,tier=""}} %d\n{name}_sum{{@,tier=""}} %d\n'.encode()


def _histogram(name: str, label: str, bounds: tuple[float, ...]) -> bytes:
    lines = [f'{name}_bucket{{@,{label},le="{bound}"}} %d\n' for bound in (*bounds, "+Inf")]
    return "".join([*lines, f"{name}_count{{@,{label}}} %d\n", f"{name}_sum{{@,{label}}} %a\n"]).encode()


_DURATION_NAME = "ark_api_proxy_request_duration_seconds"
_PER_TOKEN_NAME = "ark_api_proxy_stream_per_token_duration_seconds"  # noqa: S105 - no secret
FAMILIES = (
    ("ark_api_proxy_request_total", "counter", "Calls that resolved to an endpoint, by Ark's code."),
    ("ark_api_proxy_request_token_count", "summary", "Input tokens of calls that used any."),
    ("ark_api_proxy_response_token_count", "summary", "Output tokens of calls that used any."),
    ("ark_api_proxy_cached_token_count", "summary", "Input tokens that came from the prefix cache."),
    ("ark_api_proxy_reasoning_token_count", "summary", "Output tokens of reasoning."),
    (_DURATION_NAME, "histogram", "Duration of successful calls."),
    (_PER_TOKEN_NAME, "histogram", "Of successful streams: time to the first token, mean time of each further one."),
    ("ark_gateway_requests_in_flight", "gauge", "Calls being served."),
    ("ark_gateway_cache_requests_total", "counter", "Successful calls by prefix-cache result."),
    ("ark_gateway_limit_overrun_tokens_total", "counter", "Tokens used beyond their reservation."),
)
_REQUEST = b'ark_api_proxy_request_total{@,code="%b",http_status_code="%b"} %d\n'
_TOKENS = tuple(_summary(name) for name, _kind, _help in FAMILIES[1:5])
_DURATION = _histogram(_DURATION_NAME, 'stream="false"', DURATION_BUCKETS)
_STREAM_DURATION = _histogram(_DURATION_NAME, 'stream="true"', DURATION_BUCKETS)
_PER_TOKEN = _histogram(_PER_TOKEN_NAME, 'is_first="true"', FIRST_TOKEN_BUCKETS) + _histogram(
    _PER_TOKEN_NAME, 'is_first="false"', PER_TOKEN_BUCKETS
)
_IN_FLIGHT = _plain("ark_gateway_requests_in_flight")
_CACHE = _plain("ark_gateway_cache_requests_total", ',result="hit"', ',result="miss"')
_OVERRUN = _plain("ark_gateway_limit_overrun_tokens_total")


def escape(value: str) -> str:
    """A label value as the text format wants it between its quotes."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _prefix(labels: Labels) -> bytes:
    pairs = ",".join(f'{name}="{escape(value)}"' for name, value in zip(LABEL_NAMES, labels, strict=True))
    return pairs.replace("%", "%%").encode("utf-8", "replace")


def _values(histogram: Histogram) -> tuple[float, ...]:
    """Cumulative counts, the last of them again, and the sum: in the order of `_histogram`."""
    counts = (*accumulate(histogram.counts),)
    return *counts, counts[-1], histogram.sum


def lines_of(labels: Labels, series: Series, now: float) -> list[bytes]:
    """The lines of one label set for each of `FAMILIES`; from now on it counts as shown."""
    prefix = series.prefix
    if not prefix:
        prefix = series.prefix = _prefix(labels)
    is_held = not series.is_shown and now - series.born_at < HOLD_SECONDS
    shown = _ZERO if is_held else series
    answered = shown.answered
    tokens = shown.input_tokens, shown.output_tokens, shown.cached_tokens, shown.reasoning_tokens
    durations = _DURATION.replace(b"@", prefix) % _values(shown.duration[False])
    per_token = cached = b""
    if labels[2] == "chat":
        # Neither streams nor a prefix cache elsewhere.
        durations += _STREAM_DURATION.replace(b"@", prefix) % _values(shown.duration[True])
        per_token = _PER_TOKEN.replace(b"@", prefix) % (*_values(shown.first_token), *_values(shown.per_token))
        cached = _CACHE.replace(b"@", prefix) % (shown.cache_hits, shown.cache_misses)
    lines = [
        _requests(series, prefix, now, is_held=is_held),
        *[template.replace(b"@", prefix) % (answered, sum_) for template, sum_ in zip(_TOKENS, tokens, strict=True)],
        durations,
        per_token,
        _IN_FLIGHT.replace(b"@", prefix) % series.in_flight,
        cached,
        _OVERRUN.replace(b"@", prefix) % shown.overrun_tokens,
    ]
    series.is_shown = True
    return lines


def _requests(series: Series, prefix: bytes, now: float, *, is_held: bool) -> bytes:
    template = _REQUEST.replace(b"@", prefix)
    born_at = series.codes_born_at
    lines = b""
    for key, count in series.requests.items():
        is_new = is_held or (key in born_at and now - born_at[key] < HOLD_SECONDS)
        lines += template % (key[0].encode(), key[1].encode(), 0 if is_new else count)
    born_at.clear()
    return lines


_ZERO = Series(time.monotonic)


async def render(metrics: Metrics) -> list[bytes]:
    """All label sets as text in a few pieces, with the event loop let go every `SLICE_SECONDS`."""
    parts: list[list[bytes]] = [
        [f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode()] for name, kind, text in FAMILIES
    ]
    now = metrics.now()
    until = time.perf_counter() + SLICE_SECONDS
    for labels, series in metrics.snapshot():
        # A label set at once, so that its figures are of one moment.
        for part, text in zip(parts, lines_of(labels, series, now), strict=True):
            part.append(text)
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_SECONDS
    pieces: list[bytes] = []
    for part in parts:
        # In pieces of a hundred: a join of 6 MB is a stall of its own.
        for start in range(0, len(part), 100):
            pieces.append(b"".join(part[start : start + 100]))
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_SECONDS
        part.clear()
    return pieces


def compress(pieces: list[bytes]) -> bytes:
    """The pieces as one gzip stream, quickly rather than tightly; zlib lets go of the interpreter meanwhile."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = [packer.compress(piece) for piece in pieces]
    packed.append(packer.flush())
    return b"".join(packed)


class _Own(Collector):
    """What a worker says of itself as a whole."""

    def __init__(self, metrics: Metrics, worker: str) -> None:
        self._metrics = metrics
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("ark_gateway_worker", "A gateway worker that serves.", value={"worker": self._worker})
        unresolved = CounterMetricFamily(
            "ark_gateway_unresolved_requests",
            "Calls refused before their endpoint was known.",
            labels=["code", "http_status_code"],
        )
        for (code, status), count in self._metrics.unresolved.items():
            unresolved.add_metric([code, status_name(status)], count)
        yield unresolved
        upstream = CounterMetricFamily(
            "ark_gateway_upstream_errors", "Failures of model servers.", labels=["server", "kind"]
        )
        for (server, kind), count in self._metrics.upstream_errors.items():
            upstream.add_metric([server, kind], count)
        yield upstream
        for name, (text, read) in self._metrics.gauges.items():
            yield GaugeMetricFamily(name, text, value=read())
        for name, (text, read) in self._metrics.counters.items():
            yield CounterMetricFamily(name, text, value=read())


# --- the port ---------------------------------------------------------------------------------------------------------


def address(host: str, port: int) -> str:
    """`host:port`, with IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_near(peer: str) -> bool:
    """Whether the reader is on this machine, where packing costs more than sending."""
    try:
        found = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


class _Head:
    """The head of a scraper's request."""

    def __init__(self, data: bytes) -> None:
        first, *lines = data.split(b"\r\n")
        self.method, _, rest = first.partition(b" ")
        self.path = rest.partition(b" ")[0].partition(b"?")[0]
        self._fields = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)
        }

    def field(self, name: bytes) -> bytes:
        return self._fields.get(name, b"")


class Exposition:
    """`GET /metrics` on a port of `host`, which others reach at `advertise`; the port of `slot`, else a free one.

    With a `token` only for who bears it.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        worker: str = "",
        host: str = "127.0.0.1",
        advertise: str = "",
        token: str = "",
        slot: Slot | None = None,
        is_near: Callable[[str], bool] = is_near,
    ) -> None:
        self._is_near = is_near
        self._slot = slot
        self._metrics = metrics
        self._host = host
        self._advertise = advertise
        self._token = token.encode()
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Own(metrics, worker))
        ProcessCollector(registry=self._registry)
        self._scrapes = asyncio.Semaphore(_SCRAPES_MAX)
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; return the `host:port` by which Prometheus reaches it."""
        listener = self._slot.listen(self._host) if self._slot else listen(self._host, 0)
        port = listener.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=listener, limit=16 * 1024)
        return address(self._advertise or self._host, port)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._slot is not None:
            self._slot.release()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SECONDS):
                head = _Head(await reader.readuntil(b"\r\n\r\n"))
                if head.path != b"/metrics" or head.method != b"GET":
                    await self._answer(writer, "404 Not Found", [b"only GET /metrics\n"])
                elif not self._may_read(head):
                    await self._answer(
                        writer, "401 Unauthorized", [b"needs the bearer token\n"], "WWW-Authenticate: Bearer\r\n"
                    )
                else:
                    async with self._scrapes:
                        await self._scrape(head, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("a scrape was not finished")
        except asyncio.CancelledError:
            # The worker ends. Raised from here, the stream's own callback would print it as an error.
            log.debug("a scrape was left unfinished")
        finally:
            writer.close()

    def _may_read(self, head: _Head) -> bool:
        if not self._token:
            return True
        scheme, _, token = head.field(b"authorization").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    async def _scrape(self, head: _Head, writer: asyncio.StreamWriter) -> None:
        pieces = [*await render(self._metrics), generate_latest(self._registry)]
        more = ""
        peer = writer.get_extra_info("peername")
        is_far = not self._is_near(str(peer[0]) if peer else "")
        if is_far and b"gzip" in head.field(b"accept-encoding") and sum(map(len, pieces)) > GZIP_BYTES:
            pieces = [await asyncio.get_running_loop().run_in_executor(None, compress, pieces)]
            more = "Content-Encoding: gzip\r\n"
        await self._answer(writer, "200 OK", pieces, more)

    @staticmethod
    async def _answer(writer: asyncio.StreamWriter, status: str, pieces: list[bytes], more: str = "") -> None:
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {sum(map(len, pieces))}\r\n"
            f"{more}Connection: close\r\n\r\n".encode()
        )
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
