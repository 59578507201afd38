"""How Prometheus reads a worker: its accumulators as text, on a port of its own.

Written by hand, since 1,000 label sets are 76,000 lines: prometheus_client needs 0.6 s for them, one `%` over all lines of
a label set makes it 17 ms (`docs/bench.md`). It runs in the event loop and gives way to calls after every `SLICE_SECONDS`:
in a thread it would hold the interpreter for 5 ms at each of their steps. What is not hot is prometheus_client's.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import accumulate
from operator import attrgetter

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
GZIP_SETS = 50
"""Fewer label sets are not worth packing."""
SECONDS = 10.0
"""How long a scrape may take, the reader's time included; Prometheus gives up as early."""
_SCRAPES_MAX = 4


# --- text -------------------------------------------------------------------------------------------------------------


# Templates: `@` is where the label set goes, the rest is for `%`.


def _plain(name: str, *labels: str) -> bytes:
    return "".join(f"{name}{{@{label}}} %d\n" for label in labels or ("",)).encode()


def _histogram(name: str, label: str, bounds: tuple[float, ...]) -> bytes:
    lines = [f'{name}_bucket{{@,{label},le="{bound}"}} %d\n' for bound in (*bounds, "+Inf")]
    return "".join([*lines, f"{name}_count{{@,{label}}} %d\n", f"{name}_sum{{@,{label}}} %a\n"]).encode()


_REQUESTS_NAME = "ark_api_proxy_request_total"
_DURATION_NAME = "ark_api_proxy_request_duration_seconds"
_PER_TOKEN_NAME = "ark_api_proxy_stream_per_token_duration_seconds"  # noqa: S105 - no secret
_IN_FLIGHT_NAME = "ark_gateway_requests_in_flight"
_CACHE_NAME = "ark_gateway_cache_requests_total"
_OVERRUN_NAME = "ark_gateway_limit_overrun_tokens_total"
_REQUEST = f'{_REQUESTS_NAME}{{@,code="%b",http_status_code="%b"}} %d\n'.encode()
_DURATION = _histogram(_DURATION_NAME, 'stream="false"', DURATION_BUCKETS)
_STREAM_DURATION = _histogram(_DURATION_NAME, 'stream="true"', DURATION_BUCKETS)
_PER_TOKEN = _histogram(_PER_TOKEN_NAME, 'is_first="true"', FIRST_TOKEN_BUCKETS) + _histogram(
    _PER_TOKEN_NAME, 'is_first="false"', PER_TOKEN_BUCKETS
)
_IN_FLIGHT = _plain(_IN_FLIGHT_NAME)
_CACHE = _plain(_CACHE_NAME, ',result="hit"', ',result="miss"')
_OVERRUN = _plain(_OVERRUN_NAME)


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


class _Row:
    """A label set in one scrape. `shown` is all zeros in the first that shows it, see `HOLD_SECONDS`."""

    __slots__ = ("is_chat", "is_held", "now", "prefix", "series", "shown")

    def __init__(self, labels: Labels, series: Series, now: float) -> None:
        if not series.prefix:
            series.prefix = _prefix(labels)
        self.prefix = series.prefix
        self.series = series
        self.now = now
        self.is_chat = labels[2] == "chat"
        self.is_held = not series.is_shown and now - series.born_at < HOLD_SECONDS
        self.shown = _ZERO if self.is_held else series
        series.is_shown = True


_ZERO = Series(time.monotonic)
_Lines = Callable[[_Row], bytes]


def _requests(row: _Row) -> bytes:
    template = _REQUEST.replace(b"@", row.prefix)
    born_at = row.series.codes_born_at
    lines = b""
    for key, count in row.series.requests.items():
        is_new = row.is_held or (key in born_at and row.now - born_at[key] < HOLD_SECONDS)
        lines += template % (key[0].encode(), key[1].encode(), 0 if is_new else count)
    born_at.clear()
    return lines


def _durations(row: _Row) -> bytes:
    lines = _DURATION.replace(b"@", row.prefix) % _values(row.shown.duration[False])
    if row.is_chat:
        lines += _STREAM_DURATION.replace(b"@", row.prefix) % _values(row.shown.duration[True])
    return lines


def _per_token(row: _Row) -> bytes:
    if not row.is_chat:
        return b""
    values = *_values(row.shown.first_token), *_values(row.shown.per_token)
    return _PER_TOKEN.replace(b"@", row.prefix) % values


def _in_flight(row: _Row) -> bytes:
    return _IN_FLIGHT.replace(b"@", row.prefix) % row.series.in_flight


def _cache(row: _Row) -> bytes:
    if not row.is_chat:
        return b""
    return _CACHE.replace(b"@", row.prefix) % (row.shown.cache_hits, row.shown.cache_misses)


def _overrun(row: _Row) -> bytes:
    return _OVERRUN.replace(b"@", row.prefix) % row.shown.overrun_tokens


def _tokens(kind: str, text: str, read: Callable[[Series], int]) -> tuple[str, str, str, _Lines]:
    name = f"ark_api_proxy_{kind}_token_count"
    template = f'{name}_count{{@,tier=""}} %d\n{name}_sum{{@,tier=""}} %d\n'.encode()

    def lines(row: _Row) -> bytes:
        return template.replace(b"@", row.prefix) % (row.shown.answered, read(row.shown))

    return name, "summary", text, lines


FAMILIES: tuple[tuple[str, str, str, _Lines], ...] = (
    (_REQUESTS_NAME, "counter", "Calls that resolved to an endpoint, by Ark's code.", _requests),
    _tokens("request", "Input tokens of calls that used any.", attrgetter("input_tokens")),
    _tokens("response", "Output tokens of calls that used any.", attrgetter("output_tokens")),
    _tokens("cached", "Input tokens that came from the prefix cache.", attrgetter("cached_tokens")),
    _tokens("reasoning", "Output tokens of reasoning.", attrgetter("reasoning_tokens")),
    (_DURATION_NAME, "histogram", "Duration of successful calls.", _durations),
    (
        _PER_TOKEN_NAME,
        "histogram",
        "Of successful streams: time to the first token, mean time of each further one.",
        _per_token,
    ),
    (_IN_FLIGHT_NAME, "gauge", "Calls being served.", _in_flight),
    (_CACHE_NAME, "counter", "Successful calls by prefix-cache result.", _cache),
    (_OVERRUN_NAME, "counter", "Tokens used beyond their reservation.", _overrun),
)
"""Name, kind and help of each metric with lines for each label set, and what writes them."""


async def render(metrics: Metrics) -> AsyncIterator[bytes]:
    """All label sets as text, piece by piece, with the event loop let go every `SLICE_SECONDS`.

    Metric by metric, as the format wants it: so a piece can leave before the next is made, and 2,000 label sets, which
    are 31 MB of text, need no room for that.
    """
    now = metrics.now()
    rows: list[_Row] = []
    until = time.perf_counter() + SLICE_SECONDS
    for labels, series in metrics.snapshot():
        rows.append(_Row(labels, series, now))
        if time.perf_counter() > until:
            await asyncio.sleep(0)
            until = time.perf_counter() + SLICE_SECONDS
    part: list[bytes] = []
    for name, kind, text, lines in FAMILIES:
        part.append(f"# HELP {name} {text}\n# TYPE {name} {kind}\n".encode())
        for row in rows:
            part.append(lines(row))
            if time.perf_counter() > until:
                yield b"".join(part)
                part.clear()
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_SECONDS
    yield b"".join(part)


async def packed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces as one gzip stream, quickly rather than tightly; in a thread, since zlib lets go of the interpreter."""
    loop = asyncio.get_running_loop()
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    async for piece in pieces:
        yield await loop.run_in_executor(None, packer.compress, piece)
    yield packer.flush()


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

    With a `token` only for who bears it; with an empty one for nobody.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        worker: str = "",
        host: str = "127.0.0.1",
        advertise: str = "",
        token: str | None = None,
        slot: Slot | None = None,
        is_near: Callable[[str], bool] = is_near,
    ) -> None:
        self._is_near = is_near
        self._slot = slot
        self._metrics = metrics
        self._host = host
        self._advertise = advertise
        self._token = None if token is None else token.encode()
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
                    await self._answer(writer, "404 Not Found", b"only GET /metrics\n")
                elif not self._may_read(head):
                    await self._answer(
                        writer, "401 Unauthorized", b"needs the bearer token\n", "WWW-Authenticate: Bearer\r\n"
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
        if self._token is None:
            return True
        scheme, _, token = head.field(b"authorization").partition(b" ")
        is_same = hmac.compare_digest(token.strip(), self._token)
        return is_same and bool(self._token) and scheme.lower() == b"bearer"

    async def _scrape(self, head: _Head, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        is_far = not self._is_near(str(peer[0]) if peer else "")
        pieces, encoding = self._pieces(), ""
        if is_far and len(self._metrics) > GZIP_SETS and b"gzip" in head.field(b"accept-encoding"):
            pieces, encoding = packed(pieces), "Content-Encoding: gzip\r\n"
        # In chunks, so that the reader knows a broken answer from a whole one.
        writer.write(_start("200 OK", f"{encoding}Transfer-Encoding: chunked\r\n"))
        async for piece in pieces:
            if piece:
                writer.writelines((b"%x\r\n" % len(piece), piece, b"\r\n"))
                await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _pieces(self) -> AsyncIterator[bytes]:
        async for piece in render(self._metrics):
            yield piece
        yield generate_latest(self._registry)

    @staticmethod
    async def _answer(writer: asyncio.StreamWriter, status: str, body: bytes, more: str = "") -> None:
        writer.write(_start(status, f"{more}Content-Length: {len(body)}\r\n") + body)
        await writer.drain()


def _start(status: str, more: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\n{more}Connection: close\r\n\r\n".encode()
