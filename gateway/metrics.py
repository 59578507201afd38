"""What a worker counts: plain accumulators, touched from the event loop only. `gateway.exposition` lets Prometheus read them.

A label set is (project, endpoint, api, model, version): ids from our own tables, never a key, a user or anything that a
caller wrote. There are at most `SETS_MAX`; what comes then is counted under "other" of its project, so sums stay right.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from gateway.routes import EndpointRoute, RouteTable, VersionRoute

DURATION_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
FIRST_TOKEN_BUCKETS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0)
PER_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)
IDLE_SECONDS = 3600.0
SETS_MAX = 2_000
"""Label sets of a worker. Each is some 80 series; more workers and more endpoints are paid for in Prometheus's memory."""
OTHERS_MAX = 100
"""Projects that have an "other" of their own once `SETS_MAX` is reached; further ones share one."""
EXPECTED_MAX = 500
"""Label sets that exist before anybody calls: the newest healthy endpoints'."""
HOLD_SECONDS = 120.0
"""What appeared so long ago at most is 0 in the first scrape that shows it, so that the second shows an increase.

`increase` and `rate` miss whatever a series has when they first see it: each endpoint's first calls, each code's first
error, and all that a restarted worker did before its first scrape. Older than that nobody was looking, and a sudden
increase would be a false peak. At least two scrape intervals.
"""
OTHER = "other"

Labels = tuple[str, str, str, str, str]
LABEL_NAMES = ("project", "ark_endpoint", "api", "base_model", "ark_model")

COMMON_CODES = (
    ("Success", "200"),
    ("InvalidParameter", "400"),
    ("RateLimitExceeded.EndpointRPMExceeded", "429"),
    ("RateLimitExceeded.EndpointTPMExceeded", "429"),
    ("ServerOverloaded", "429"),
    ("ClientClosed", "499"),
    ("InternalServiceError", "500"),
    ("InternalServiceError", "502"),
    ("ServiceUnavailable", "503"),
)
"""Counted from 0 in every label set: Prometheus draws the first count of a series that has just appeared too large."""

_STATUS_NAMES = {
    status: str(status)
    for status in (200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 424, 429, 499, 500, 501, 502, 503, 504, 529)
}


def status_name(status: int) -> str:
    """An HTTP status as a label: unusual ones, which only a model server can invent, by their class ("4xx")."""
    return _STATUS_NAMES.get(status) or f"{status // 100}xx"


def labels_of(route: EndpointRoute, version: VersionRoute | None, api: str) -> Labels:
    """The label set of an endpoint's calls to a version, by an api of our route table."""
    if version is None:
        return route.project_id, route.id, api, "", ""
    return route.project_id, route.id, api, version.base_model, version.model_id


def expected(routes: RouteTable) -> Iterator[Labels]:
    """Label sets that calls may be counted under at any moment, newest endpoints first; both sides of an open switch."""
    for route in routes.newest():
        if not route.is_open:
            continue
        switch = route.switch
        for version_id in (route.version_id,) if switch is None else (route.version_id, switch.target_version_id):
            version = routes.version(version_id)
            if version is not None:
                yield labels_of(route, version, version.api)


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


class Series:
    """Everything that is counted for one label set. `touched_at` and `born_at` are monotonic seconds."""

    __slots__ = (
        "_clock",
        "answered",
        "born_at",
        "cache_hits",
        "cache_misses",
        "cached_tokens",
        "codes_born_at",
        "duration",
        "first_token",
        "in_flight",
        "input_tokens",
        "is_called",
        "is_shown",
        "output_tokens",
        "overrun_tokens",
        "per_token",
        "prefix",
        "reasoning_tokens",
        "requests",
        "touched_at",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.born_at = self.touched_at = clock()
        self.requests: dict[tuple[str, str], int] = dict.fromkeys(COMMON_CODES, 0)
        self.codes_born_at: dict[tuple[str, str], float] = {}
        """Codes that no scrape has shown yet."""
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
        self.first_token = Histogram(FIRST_TOKEN_BUCKETS)
        self.per_token = Histogram(PER_TOKEN_BUCKETS)
        self.is_called = False
        self.is_shown = False
        self.prefix = b""

    def count(self, code: str, status: int) -> None:
        """One finished call."""
        key = (code, _STATUS_NAMES.get(status) or status_name(status))
        count = self.requests.get(key)
        if count is None:
            count = 0
            self.codes_born_at[key] = self._clock()
        self.requests[key] = count + 1

    def stream_times(self, first_token_seconds: float, per_token_seconds: float | None) -> None:
        """Time to the first token, and the mean time of each further one when there was more than one."""
        self.first_token.observe(first_token_seconds)
        if per_token_seconds is not None:
            self.per_token.observe(per_token_seconds)


class Metrics:
    """The accumulators of a worker. `expected` gives label sets that shall exist before any call."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, expected: Callable[[], Iterable[Labels]] = tuple
    ) -> None:
        self._clock = clock
        self._expected = expected
        self._series: dict[Labels, Series] = {}
        self._uncalled: dict[Labels, None] = {}
        self.overflowed = 0
        """Calls that were counted under "other"."""
        self.unresolved: dict[tuple[str, int], int] = defaultdict(int)
        self.upstream_errors: dict[tuple[str, str], int] = defaultdict(int)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "ark_gateway_label_sets": (f"Label sets in memory, {SETS_MAX} at most.", lambda: float(len(self._series)))
        }
        self.counters: dict[str, tuple[str, Callable[[], float]]] = {
            "ark_gateway_label_sets_overflow": (
                'Calls counted under "other", because there were too many label sets.',
                lambda: float(self.overflowed),
            )
        }

    def now(self) -> float:
        """The clock of `born_at`."""
        return self._clock()

    def series(self, labels: Labels) -> Series:
        """Where a call is counted; made when first asked for."""
        found = self._series.get(labels)
        if found is None:
            found = self._make(labels)
        if not found.is_called:
            found.is_called = True
            self._uncalled.pop(labels, None)
        found.touched_at = self._clock()
        return found

    def snapshot(self) -> list[tuple[Labels, Series]]:
        """All label sets, those expected included and kept alive."""
        now = self._clock()
        left = EXPECTED_MAX
        for labels in self._expected():
            found = self._series.get(labels)
            if found is None:
                if len(self._series) >= SETS_MAX:
                    break
                found = self._series[labels] = Series(self._clock)
                self._uncalled[labels] = None
            found.touched_at = now
            left -= 1
            if not left:
                break
        return list(self._series.items())

    def evict(self) -> None:
        """Forget label sets that were idle for an hour; they come back from 0, which `rate` understands."""
        limit = self._clock() - IDLE_SECONDS
        for labels in [k for k, s in self._series.items() if s.touched_at < limit and not s.in_flight]:
            del self._series[labels]
            self._uncalled.pop(labels, None)

    def _make(self, labels: Labels) -> Series:
        if len(self._series) >= SETS_MAX:
            if self._uncalled:
                # Nothing is lost with a set that nobody has called, and the first that came is the least likely to be.
                victim = next(iter(self._uncalled))
                del self._uncalled[victim], self._series[victim]
            else:
                self.overflowed += 1
                return self._other(labels)
        made = self._series[labels] = Series(self._clock)
        return made

    def _other(self, labels: Labels) -> Series:
        project, _endpoint, api, _model, _version = labels
        for name in (project, OTHER):
            key = (name, OTHER, api, OTHER, OTHER)
            found = self._series.get(key)
            if found is not None:
                return found
            if len(self._series) < SETS_MAX + OTHERS_MAX:
                break
        made = self._series[key] = Series(self._clock)
        return made
