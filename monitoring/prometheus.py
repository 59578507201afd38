"""The door to Prometheus (or Thanos, Mimir, VictoriaMetrics): range queries for charts, instant queries for ticks.

Through `prometheus-api-client`, with what a web request needs around it: a deadline over everything, no retries, at most
`SLOTS` requests of a process waiting at a time, a breaker that remembers trouble for some seconds, caps on what is read,
and a cache of answers. Whatever goes wrong comes out as one error:

Trouble         with `kind`, a word of `Kind`, and `detail`, what the other side said, untranslated
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

import requests
from django.conf import settings
from django.core.cache.backends.locmem import LocMemCache
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3 import Retry
from urllib3.exceptions import HTTPError, ReadTimeoutError

from common import redis
from monitoring import installation
from monitoring.filters import Grid

TIMEOUT_SECONDS = 5.0
"""The most that a page waits for Prometheus, all its queries together."""

CONNECT_SECONDS = 2.0
SLOTS = 4
"""Requests of one process that may wait for Prometheus at a time: half of its threads stay free for all else."""

SLOT_SECONDS = 0.25
THREADS = 8
BREAKER_SECONDS = 5.0
MAX_SERIES = 100
"""Series of one query. What people can tell apart on a chart is far less; ours are all aggregated."""

ANSWERED_KEY = "ark:monitoring:answered"
"""Epoch seconds at which Prometheus last answered the tick that asks it every `WATCH_SECONDS`, for all processes."""
WATCH_SECONDS = 15
MAX_BYTES = 16 * 1024 * 1024
CACHED_ANSWERS = 200
PARTIAL_SECONDS = 5.0
"""How long an answer is good for of which the other side says that a part is missing."""


class Kind(StrEnum):
    """What is wrong."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    BUSY = "busy"
    UNAUTHORIZED = "unauthorized"
    ERROR = "error"
    GARBAGE = "garbage"
    TOO_MUCH = "too_much"


class Trouble(Exception):
    """Prometheus did not answer what was asked; `detail` is for people who look after it, and holds no secret."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else str(kind))
        self.kind = kind
        self.detail = detail[:300]


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a range query, a value for each time of the grid; None where there is none (also NaN, Inf)."""

    labels: Mapping[str, str]
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant query."""

    labels: Mapping[str, str]
    at: float
    value: float


Ask = tuple[str, Grid]


class _Found(NamedTuple):
    """An answer, and what the other side says is missing in it; "" when it is whole."""

    series: list[Series]
    gap: str


def deadline() -> float:
    """Until when what is asked from now on may be waited for, as `fetch` takes it."""
    return time.monotonic() + TIMEOUT_SECONDS


def fetch(asks: Sequence[Ask], *, until: float | None = None, gaps: set[str] | None = None) -> dict[Ask, list[Series]]:
    """The series of each query over its grid; side by side, each asked once, from the cache where it can be.

    Raises `Trouble` after `TIMEOUT_SECONDS` at the latest (at `until`, a `deadline()`, for who asks more than once), at
    once while the breaker is open. What the other side says of answers that are not whole (Thanos without one of its
    stores, a cluster of VictoriaMetrics without a node) is added to `gaps`.
    """
    where = installation.look().url
    keys = {ask: _key(where, *ask) for ask in asks}
    found: dict[Ask, _Found] = {}
    for ask, key in keys.items():
        if (known := _answers.get(key)) is not None:
            found[ask] = known
    missing = [ask for ask in keys if ask not in found]
    if missing:
        _breaker.check()
        with _slot():
            found |= _side_by_side(missing, deadline() if until is None else until)
        for ask in missing:
            seconds = min(max(ask[1].step / 2, 1), PARTIAL_SECONDS if found[ask].gap else 30)
            _answers.set(keys[ask], found[ask], timeout=seconds)
    if gaps is not None:
        gaps.update(each.gap for each in found.values() if each.gap)
    return {ask: each.series for ask, each in found.items()}


def instant(query: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> list[Sample]:
    """The answer to `query` now, not from the cache. Raises `Trouble`, at once while the breaker is open."""
    _breaker.check()
    with _slot():
        try:
            result, _ = _ask(time.monotonic() + timeout_seconds, query)
        except Trouble as trouble:
            _breaker.note(trouble)
            raise
    _breaker.answered()
    try:
        return [
            Sample(labels=each["metric"], at=float(each["value"][0]), value=float(each["value"][1])) for each in result
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise Trouble(Kind.GARBAGE) from None


def last_answer_at() -> float | None:
    """When Prometheus last answered anybody, epoch seconds, at most some `WATCH_SECONDS` too early; None: not known."""
    own = _breaker.answered_at
    try:
        noted: Any = redis.client().get(ANSWERED_KEY)
    except redis.Error:
        noted = None
    if noted is not None:
        return max(float(noted), own or 0.0)
    # Others may have heard it later than this process did.
    return own if own is not None and time.time() - own < 2 * WATCH_SECONDS else None


def watch() -> None:
    """Ask whether Prometheus answers and note it for all processes; quiet when it does not, or Redis is away."""
    with contextlib.suppress(Trouble, redis.Error):
        instant("vector(1)")
        redis.client().set(ANSWERED_KEY, time.time())


def forget() -> None:
    """Begin anew: no answers remembered, no trouble either."""
    _answers.clear()
    _breaker.close()


# --- what is remembered ----------------------------------------------------------------------------------------------

_answers = LocMemCache("monitoring.prometheus", {"max_entries": CACHED_ANSWERS})


def _key(where: str, query: str, grid: Grid) -> str:
    return hashlib.sha256(f"{where} {grid.start} {grid.end} {grid.step} {query}".encode()).hexdigest()


class _Breaker:
    """After trouble nobody asks for some seconds: they hear the same trouble at once."""

    def __init__(self) -> None:
        self._until = 0.0
        self._trouble = Trouble(Kind.UNREACHABLE)
        self.answered_at: float | None = None

    def check(self) -> None:
        if time.monotonic() < self._until:
            raise Trouble(self._trouble.kind, self._trouble.detail)

    def note(self, trouble: Trouble) -> None:
        if trouble.kind in (Kind.UNREACHABLE, Kind.SLOW):
            self._trouble, self._until = trouble, time.monotonic() + BREAKER_SECONDS

    def answered(self) -> None:
        self._until, self.answered_at = 0.0, time.time()

    def close(self) -> None:
        self._until, self.answered_at = 0.0, None


_breaker = _Breaker()
_slots = threading.BoundedSemaphore(SLOTS)


@contextmanager
def _slot() -> Iterator[None]:
    """One of the places in which a request may wait for Prometheus; `Trouble` when none becomes free at once."""
    if not _slots.acquire(timeout=SLOT_SECONDS):
        raise Trouble(Kind.BUSY)
    try:
        # Who waited for a place may find that those before learnt what is wrong.
        _breaker.check()
        yield
    finally:
        _slots.release()


# --- asking ----------------------------------------------------------------------------------------------------------

_pool_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


def _threads() -> ThreadPoolExecutor:
    """The process's own pool; made when first asked for, since threads do not live through a fork."""
    global _pool
    with _pool_lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = os.getpid(), ThreadPoolExecutor(THREADS, thread_name_prefix="prometheus")
        return _pool[1]


def _side_by_side(asks: Sequence[Ask], deadline: float) -> dict[Ask, _Found]:
    pool = _threads()
    asked: dict[Ask, Future[_Found]] = {ask: pool.submit(_range, *ask, deadline) for ask in asks}
    done, waiting = wait(asked.values(), timeout=max(deadline - time.monotonic(), 0), return_when=FIRST_EXCEPTION)
    for future in waiting:
        future.cancel()
    errors = [error for future in done if (error := future.exception()) is not None]
    troubles = [error for error in errors if isinstance(error, Trouble)]
    if len(errors) > len(troubles):
        raise next(error for error in errors if not isinstance(error, Trouble))
    if waiting and not troubles:
        troubles = [Trouble(Kind.SLOW)]
    if troubles:
        _breaker.note(troubles[0])
        raise troubles[0]
    _breaker.answered()
    return {ask: future.result() for ask, future in asked.items()}


def _range(query: str, grid: Grid, deadline: float) -> _Found:
    result, gap = _ask(deadline, query, grid)
    if not isinstance(result, list):
        raise Trouble(Kind.GARBAGE)
    if len(result) > MAX_SERIES:
        raise Trouble(Kind.TOO_MUCH, f"{len(result)} series")
    try:
        series = [Series(labels=dict(each["metric"]), values=_aligned(each["values"], grid)) for each in result]
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        raise Trouble(Kind.GARBAGE) from None
    return _Found(series, gap)


def _aligned(pairs: Sequence[tuple[float, str]], grid: Grid) -> list[float | None]:
    values: list[float | None] = [None] * len(grid.times)
    start, step, count = grid.start, grid.step, len(values)
    for at, text in pairs:
        value = float(text)
        index = round((at - start) / step)
        if math.isfinite(value) and 0 <= index < count:
            values[index] = value
    return values


def _ask(deadline: float, query: str, grid: Grid | None = None) -> tuple[Any, str]:
    """`data.result` of the answer to a range query, or to an instant one, and what is missing in it.

    `Trouble` for everything else.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise Trouble(Kind.SLOW)
    client, door = _client()
    door.deadline = deadline
    # Prometheus itself stops, too, when nobody waits any more.
    params = {"timeout": f"{math.ceil(seconds * 1000)}ms"}
    try:
        if grid is None:
            return client.custom_query(query, params=params), door.gap()
        start, end = datetime.fromtimestamp(grid.start, UTC), datetime.fromtimestamp(grid.end, UTC)
        result = client.custom_query_range(query, start_time=start, end_time=end, step=str(grid.step), params=params)
        return result, door.gap()
    except (requests.ReadTimeout, ReadTimeoutError):
        raise Trouble(Kind.SLOW) from None
    except requests.ConnectionError as error:
        # So does urllib3 say it when it may not try again.
        if isinstance(getattr(next(iter(error.args), None), "reason", None), ReadTimeoutError):
            raise Trouble(Kind.SLOW) from None
        raise Trouble(Kind.UNREACHABLE, _said(error)) from None
    except (requests.TooManyRedirects, PrometheusApiClientException) as error:
        raise Trouble(Kind.ERROR, _said(error)) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema) as error:
        raise Trouble(Kind.UNREACHABLE, _said(error)) from None
    except (requests.RequestException, HTTPError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Trouble(Kind.GARBAGE, _said(error)) from None


def _said(error: Exception) -> str:
    """What went wrong, without the address that was asked (it holds the query)."""
    cause = error.args[0] if error.args else ""
    reason = getattr(cause, "reason", cause)
    return type(reason).__name__ if isinstance(reason, Exception) else type(error).__name__


# --- the client of a thread ------------------------------------------------------------------------------------------

_local = threading.local()


def _client() -> tuple[PrometheusConnect, _Door]:
    """This thread's client and the door that it goes through; made anew when Prometheus moved."""
    found = installation.look()
    if not found.url:
        raise Trouble(Kind.UNREACHABLE, "no address")
    key = (
        found.url, found.is_external, settings.PROMETHEUS_USERNAME, settings.PROMETHEUS_PASSWORD,
        settings.PROMETHEUS_TOKEN, tuple(settings.PROMETHEUS_HEADERS.items()), os.getpid(),
    )  # fmt: skip
    if getattr(_local, "key", None) != key:
        if old := getattr(_local, "door", None):
            old.close()
        headers = dict(settings.PROMETHEUS_HEADERS)
        auth = None
        if settings.PROMETHEUS_TOKEN:
            headers["Authorization"] = f"Bearer {settings.PROMETHEUS_TOKEN}"
        elif settings.PROMETHEUS_USERNAME:
            auth = (settings.PROMETHEUS_USERNAME, settings.PROMETHEUS_PASSWORD)
        door = _Door(is_external=found.is_external)
        client = PrometheusConnect(
            url=found.url, headers=headers, auth=auth, session=door, retry=Retry(total=0, redirect=False)
        )
        _local.key, _local.door, _local.client = key, door, client
    return _local.client, _local.door


class _Door:
    """What the client uses of a `requests.Session`, with a deadline over the whole answer and a cap on its size.

    `requests` knows a timeout for each read only: who sends a byte now and then is waited for without end.
    """

    def __init__(self, *, is_external: bool) -> None:
        self._session = requests.Session()
        self._session.max_redirects = 0
        # Proxies and passwords of this machine's environment are for the world outside.
        self._session.trust_env = is_external
        if not is_external:
            self._session.headers["Accept-Encoding"] = "identity"
        self.deadline = 0.0
        self._answer: _Answer | None = None
        self.verify = self._session.verify
        self.cert = self._session.cert

    def mount(self, prefix: str, adapter: Any) -> None:
        self._session.mount(prefix, adapter)

    def close(self) -> None:
        self._session.close()

    def request(self, **kwargs: Any) -> _Answer:
        left = max(self.deadline - time.monotonic(), 0.05)
        kwargs["timeout"] = (min(CONNECT_SECONDS, left), left)
        with self._session.request(**kwargs, stream=True) as response:
            body = self._read(response)
        answer = _Answer(response.status_code, body)
        answer.refuse()
        self._answer = answer
        return answer

    def gap(self) -> str:
        """What the last answer says is missing in it."""
        return _gap(self._answer.body) if self._answer else ""

    def _read(self, response: requests.Response) -> bytes:
        parts, size = [], 0
        # As it comes: to wait for a whole piece is to wait as long as a trickle likes.
        while part := response.raw.read1(256 * 1024, decode_content=True):
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise Trouble(Kind.TOO_MUCH, f"more than {MAX_BYTES // 1024 // 1024} MB")
            if time.monotonic() > self.deadline:
                raise Trouble(Kind.SLOW)
        return b"".join(parts)


@dataclass(slots=True)
class _Answer:
    """An answer that was read to its end; `body` is what `json()` made of it."""

    status_code: int
    content: bytes
    body: Any = None

    def json(self) -> Any:
        self.body = json.loads(self.content)
        return self.body

    def refuse(self) -> None:
        """Raise what an answer other than 200 means."""
        if self.status_code == 200:
            return
        if self.status_code in (401, 403):
            raise Trouble(Kind.UNAUTHORIZED, str(self.status_code))
        kind, text = "", ""
        try:
            body = self.json()
            kind, text = str(body.get("errorType", "")), str(body.get("error", ""))
        except (ValueError, AttributeError):
            text = f"HTTP {self.status_code}"
        if kind in ("timeout", "canceled"):
            raise Trouble(Kind.SLOW, text)
        if "query processing would load too many samples" in text or "exceeded maximum resolution" in text:
            raise Trouble(Kind.TOO_MUCH, text)
        raise Trouble(Kind.ERROR, text or f"HTTP {self.status_code}")


def _gap(body: Any) -> str:
    """What an answer says is missing in it; "" when it is whole, or only its query is remarked on."""
    if not isinstance(body, Mapping):
        return ""
    said = body.get("warnings")
    # Prometheus's own remarks begin so, and are no gaps: "PromQL warning: …", "PromQL info: …".
    texts = [str(text) for text in said if not str(text).startswith("PromQL ")] if isinstance(said, list) else []
    return "; ".join(texts[:3])[:300] or ("isPartial" if body.get("isPartial") is True else "")
