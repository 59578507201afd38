"""How the two sides of a version switch fare: exact sums of our own calls, so that gates work with monitoring off.

The gateway stamps a call with its switch and soak when it chooses a side; the drain adds the call here. A soak never
reads the one before it, however late a call ends.
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import redis as redis_client
from django.db.models import Q, Sum
from django.db.models.functions import TruncHour, TruncMinute

from common import redis
from common.models import TickHeartbeat
from metering import events
from metering.models import HealthSlice, HealthSum

WHOLE = -1
"""The soak under which the sums of a whole switch are kept."""

SLICE_SECONDS = 10
FRESH = timedelta(seconds=15)
"""Figures older than this are no ground to move traffic on."""

BOUNDS_MS: tuple[float, ...] = tuple(round(5 * (600_000 / 5) ** (step / 39), 1) for step in range(40))
"""Upper bounds of the buckets in milliseconds: 40 steps of a third each, from 5 ms to 10 minutes. One more holds the rest."""

Buckets = Mapping[int, int]


def bucket(milliseconds: float) -> int:
    """The index of the bucket for a time: the first bound that is not below it."""
    return bisect.bisect_left(BOUNDS_MS, milliseconds)


def p95(buckets: Buckets) -> float | None:
    """The 95th percentile in milliseconds, interpolated within its bucket; None when nothing was counted.

    Off by at most the width of a bucket (a third of the value). Past the last bound it is the last bound.
    """
    total = sum(buckets.values())
    if total <= 0:
        return None
    rank = 0.95 * total
    seen = 0
    for index in sorted(buckets):
        count = buckets[index]
        if seen + count < rank:
            seen += count
            continue
        if index >= len(BOUNDS_MS):
            break
        low = BOUNDS_MS[index - 1] if index else 0.0
        return low + (BOUNDS_MS[index] - low) * (rank - seen) / count
    return BOUNDS_MS[-1]


@dataclass(frozen=True, slots=True)
class Sums:
    """One side over some time. `calls` = succeeded + errors + rejections; buckets are of calls that succeeded."""

    calls: int = 0
    errors: int = 0
    rejections: int = 0
    first_token: Buckets = field(default_factory=dict)
    duration: Buckets = field(default_factory=dict)

    @property
    def succeeded(self) -> int:
        return self.calls - self.errors - self.rejections

    @property
    def error_percent(self) -> float | None:
        return 100 * self.errors / self.calls if self.calls else None

    @property
    def rejection_percent(self) -> float | None:
        return 100 * self.rejections / self.calls if self.calls else None

    @property
    def streamed(self) -> int:
        """How many calls have a time to the first token."""
        return sum(self.first_token.values())

    @property
    def first_token_p95(self) -> float | None:
        return p95(self.first_token)

    @property
    def duration_p95(self) -> float | None:
        return p95(self.duration)

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            calls=self.calls + other.calls,
            errors=self.errors + other.errors,
            rejections=self.rejections + other.rejections,
            first_token=merged(self.first_token, other.first_token),
            duration=merged(self.duration, other.duration),
        )


@dataclass(frozen=True, slots=True)
class Share:
    """What one side had in one step of a chart."""

    at: datetime
    version_id: int
    calls: int
    errors: int
    rejections: int


def merged(one: Buckets, other: Buckets) -> dict[int, int]:
    """The sum of two histograms."""
    both = dict(one)
    for index, count in other.items():
        both[index] = both.get(index, 0) + count
    return both


def sums(wanted: Iterable[tuple[int, int, int]]) -> dict[tuple[int, int, int], Sums]:
    """{(switch, soak, version): sums} for those asked for; what had no call is left out. One query."""
    keys = set(wanted)
    if not keys:
        return {}
    # The soaks apart from the whole switches, and lists instead of a thousand ORs: the index answers, and of what it
    # answers little is thrown away.
    whole = {key for key in keys if key[1] == WHOLE}
    found = HealthSum.objects.filter(_any_of(whole) | _any_of(keys - whole)).values_list(*_SUMS)
    return {key: values for key, values in map(_read, found) if key in keys}


def _any_of(keys: Collection[tuple[int, int, int]]) -> Q:
    return Q(
        switch_id__in={key[0] for key in keys},
        rung__in={key[1] for key in keys},
        version_id__in={key[2] for key in keys},
    )


def by_soak(switch_id: int) -> dict[tuple[int, int], Sums]:
    """{(soak, version): sums} of one switch, with `WHOLE` for all soaks together; one query."""
    rows = HealthSum.objects.filter(switch_id=switch_id).values_list(*_SUMS)
    return {(rung, version_id): values for (_switch, rung, version_id), values in map(_read, rows)}


def shares(switch_id: int, *, since: datetime, now: datetime) -> list[Share]:
    """Both sides over time, oldest first; one query.

    A step is ten seconds up to five hours, a minute up to two days and an hour beyond; slices are kept eight days.
    """
    rows = HealthSlice.objects.filter(
        switch_id=switch_id, at__gte=since - timedelta(seconds=SLICE_SECONDS), at__lte=now
    )
    figures = {"calls": Sum("calls"), "errors": Sum("errors"), "rejections": Sum("rejections")}
    totals = {f"sum_{name}": total for name, total in figures.items()}
    if now - since <= timedelta(hours=5):
        found = rows.values_list("at", "version_id")
    elif now - since <= timedelta(days=2):
        found = rows.annotate(step=TruncMinute("at")).values_list("step", "version_id")
    else:
        found = rows.annotate(step=TruncHour("at")).values_list("step", "version_id")
    return [Share(*row) for row in sorted(found.annotate(**totals).order_by())]


def is_late(now: datetime) -> bool:
    """Whether the figures may lack the last seconds: the drain has not run, is behind, or Redis is away.

    One query, one question to Redis.
    """
    beat = TickHeartbeat.objects.filter(name="metering.drain").values_list("at", flat=True).first()
    # A heartbeat that lies ahead was written before the clock went back, and says nothing.
    if beat is None or abs(now - beat) > FRESH:
        return True
    try:
        client = redis.client()
        generation: Any = client.get(events.GENERATION_KEY)
        if not generation:
            return False  # no gateway has said anything yet
        return _is_behind(client, events.STREAM_PREFIX + generation.decode(errors="replace"))
    except redis.Error:
        return True


def _is_behind(client: redis_client.Redis, stream: str) -> bool:
    """Whether the oldest entry has been waiting for longer than `FRESH`, by Redis's own clock."""
    oldest: Any = client.xrange(stream, count=1)
    if not oldest:
        return False
    clock: Any = client.time()
    written_at = int(oldest[0][0].split(b"-")[0]) / 1000
    return bool(clock[0] - written_at > FRESH.total_seconds())


_SUMS = ("switch_id", "rung", "version_id", "calls", "errors", "rejections", "first_token", "duration")


def _read(row: Any) -> tuple[tuple[int, int, int], Sums]:
    switch_id, rung, version_id, calls, errors, rejections, first_token, duration = row
    return (switch_id, rung, version_id), Sums(
        calls=calls,
        errors=errors,
        rejections=rejections,
        first_token={int(index): count for index, count in first_token.items()},
        duration={int(index): count for index, count in duration.items()},
    )
