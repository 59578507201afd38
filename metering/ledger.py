"""Every query on the ledger. Sums are exact: they come from the rows that the drain wrote, never from samples.

Hours answer for long spans; minutes answer where a boundary lies inside an hour (a zone such as Asia/Kolkata, a
moment that somebody picked). Boundaries finer than a minute are rounded down to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from operator import attrgetter, itemgetter
from typing import Any

from django.db.models import BigIntegerField, Case, F, Max, Q, QuerySet, Sum, Value, When

from catalog.models import PriceTier
from metering.models import CallRecord, ParameterHour, UsageHour, UsageMinute

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
MILLION = Decimal(1_000_000)
HIGH_PRESSURE_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Usage24:
    """The running hour and the 23 before it; `hourly` are calls per hour, oldest first."""

    calls: int = 0
    tokens: int = 0
    failed: int = 0
    hourly: tuple[int, ...] = (0,) * 24


@dataclass(frozen=True, slots=True)
class Cost:
    """What a span cost, per currency; `unpriced_tokens` of `tokens` had no price and are in no amount."""

    amounts: Mapping[str, Decimal] = field(default_factory=dict)
    calls: int = 0
    tokens: int = 0
    unpriced_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Costs:
    """Days and months of the reader's zone."""

    today: Cost
    yesterday: Cost
    this_month: Cost
    last_month: Cost


@dataclass(frozen=True, slots=True)
class Caller:
    """A key (0: unknown) that called, how often, and the minute of its last call."""

    key_id: int
    calls: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Volume:
    """The calls of a span that one price was asked for; with what they used."""

    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def mean_input_tokens(self) -> int:
        return self.input_tokens // max(self.calls, 1)


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much of the limits the last 60 seconds used; `limited` calls were refused by them."""

    rpm_percent: int = 0
    tpm_percent: int = 0
    limited: int = 0

    @property
    def percent(self) -> int:
        return max(self.rpm_percent, self.tpm_percent)

    @property
    def is_high(self) -> bool:
        """Whether a page should warn: callers are refused, or will be soon."""
        return self.limited > 0 or self.percent >= HIGH_PRESSURE_PERCENT


@dataclass(frozen=True, slots=True)
class Summary:
    """Sums over a span. `input_tokens` includes the cached ones, `output_tokens` the reasoning ones."""

    calls: int = 0
    succeeded: int = 0
    limited: int = 0
    rejected: int = 0
    failed: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    @property
    def errors(self) -> int:
        """Calls that were refused or failed; not those that the caller gave up."""
        return self.limited + self.rejected + self.failed


@dataclass(frozen=True, slots=True)
class Spending:
    """What a span used, and what that cost."""

    summary: Summary = field(default_factory=Summary)
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True)
class Trend:
    """Sums per step of a span, oldest first."""

    calls: tuple[int, ...]
    tokens: tuple[int, ...]
    errors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice:
    """What a span used and cost, and what the prefix cache saved of that, per currency."""

    summary: Summary = field(default_factory=Summary)
    cost: Cost = field(default_factory=Cost)
    saved: Mapping[str, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallFilters:
    """What the page of calls may ask for; an empty value asks for all. `since` counts, `until` does not."""

    status_class: str = ""
    outcome: str = ""
    code: str = ""
    version_id: int | None = None
    key_id: int | None = None
    api: str = ""
    is_stream: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


STATUS_CLASSES = ("2xx", "4xx", "5xx")
CALLS_ORDER = ("-at", "-id")


def floor_minute(at: datetime) -> datetime:
    """The minute that `at` is in, UTC."""
    return at.astimezone(UTC).replace(second=0, microsecond=0)


def floor_hour(at: datetime) -> datetime:
    """The UTC hour that `at` is in."""
    return at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def usage_24h(endpoint_ids: Iterable[str], *, now: datetime) -> dict[str, Usage24]:
    """The last 24 hours of each endpoint, for a list; one query, and a value for every id asked for."""
    ids = list(endpoint_ids)
    if not ids:
        return {}
    last = floor_hour(now)
    first = last - 23 * HOUR
    rows = (
        UsageHour.objects.filter(endpoint_id__in=ids, at__gte=first, at__lte=last)
        .values_list("endpoint_id", "at")
        .annotate(count=Sum("calls"), tokens=Sum(F("input_tokens") + F("output_tokens")), failures=Sum("failed"))
        .order_by()
    )
    calls: dict[str, list[int]] = {}
    tokens = dict.fromkeys(ids, 0)
    failures = dict.fromkeys(ids, 0)
    for endpoint_id, at, call_count, token_count, failed in rows:
        calls.setdefault(endpoint_id, [0] * 24)[int((at - first) / HOUR)] += call_count
        tokens[endpoint_id] += token_count
        failures[endpoint_id] += failed
    return {
        each: Usage24(calls=sum(calls[each]), tokens=tokens[each], failed=failures[each], hourly=tuple(calls[each]))
        if each in calls
        else Usage24()
        for each in ids
    }


def costs(endpoint_id: str, *, now: datetime, tz: tzinfo) -> Costs:
    """What the endpoint cost today, yesterday, this month and last month in the zone `tz`; two queries.

    Amounts are exact: sums of tokens × price per million. A day begins at its first moment in the zone, also where
    the clocks change at midnight.
    """
    day = now.astimezone(tz).date()
    today = _start_of(day, tz)
    yesterday = _start_of(day - timedelta(days=1), tz)
    month = _start_of(day.replace(day=1), tz)
    last_month = _start_of((day.replace(day=1) - timedelta(days=1)).replace(day=1), tz)
    end = floor_minute(now) + MINUTE
    bounds = sorted({last_month, month, yesterday, today, end})
    rows = _between(
        bounds,
        {"endpoint_id": endpoint_id},
        group=["price_id"],
        sums=["calls", "input_tokens", "cached_tokens", "output_tokens"],
    )
    prices = PriceTier.objects.in_bulk({row["price_id"] for row in rows if row["price_id"]}) if rows else {}

    def cost(since: datetime, until: datetime) -> Cost:
        wanted = [row for row in rows if since <= bounds[row["span"]] < until]
        return _cost(wanted, prices)

    return Costs(
        today=cost(today, end),
        yesterday=cost(yesterday, today),
        this_month=cost(month, end),
        last_month=cost(last_month, month),
    )


def callers(endpoint_id: str, *, since: datetime, now: datetime) -> list[Caller]:
    """Which keys called the endpoint since, most calls first: who breaks when it is deleted. One query."""
    rows = (
        UsageMinute.objects.filter(endpoint_id=endpoint_id, at__gte=floor_minute(since), at__lte=now)
        .values_list("key_id")
        .annotate(count=Sum("calls"), last_at=Max("at"))
        .order_by("-count", "key_id")
    )
    return [Caller(key_id=key_id, calls=count, last_at=last_at) for key_id, count, last_at in rows]


def parameters_used(endpoint_id: str, *, since: datetime, now: datetime) -> dict[str, int]:
    """{parameter: calls that named it} from the hour of `since` on, the most used first; one query."""
    rows = (
        ParameterHour.objects.filter(endpoint_id=endpoint_id, at__gte=floor_hour(since), at__lte=now)
        .values_list("parameter")
        .annotate(count=Sum("calls"))
        .order_by("-count", "parameter")
    )
    return dict(rows)


def versions(endpoint_id: str, *, since: datetime, now: datetime) -> list[int]:
    """The versions that answered the endpoint's calls since, by id; one query."""
    rows = UsageHour.objects.filter(
        endpoint_id=endpoint_id, at__gte=since.replace(minute=0, second=0, microsecond=0), at__lte=now
    )
    return sorted(rows.order_by().values_list("version_id", flat=True).distinct())


def used(endpoint_id: str, *, since: datetime, now: datetime) -> set[tuple[str, int]]:
    """The (api, version) pairs that the endpoint had calls of, from the hour of `since` on; one query."""
    rows = UsageHour.objects.filter(endpoint_id=endpoint_id, at__gte=floor_hour(since), at__lte=now)
    return set(rows.order_by().values_list("api", "version_id").distinct())


def pressure(limits: Mapping[str, tuple[int, int]], *, now: datetime) -> dict[str, Pressure]:
    """How much of (rpm, tpm) the last 60 seconds used, for the endpoints that had calls in them; one query.

    The ledger knows minutes: the share of the minute before that still lies in the window is taken as even.
    """
    if not limits:
        return {}
    current = floor_minute(now)
    remaining = 1 - (now - current) / MINUTE
    rows = (
        UsageMinute.objects.filter(endpoint_id__in=list(limits), at__in=(current - MINUTE, current))
        .values_list("endpoint_id", "at")
        .annotate(
            admitted=Sum(F("calls") - F("limited")),
            tokens=Sum(F("input_tokens") + F("output_tokens")),
            refused=Sum("limited"),
        )
        .order_by()
    )
    used: dict[str, list[float]] = {}
    for endpoint_id, at, admitted, tokens, limited in rows:
        share = 1.0 if at == current else remaining
        sums = used.setdefault(endpoint_id, [0.0, 0.0, 0.0])
        sums[0] += admitted * share
        sums[1] += tokens * share
        sums[2] += limited * share
    return {
        endpoint_id: Pressure(
            rpm_percent=round(100 * sums[0] / max(limits[endpoint_id][0], 1)),
            tpm_percent=round(100 * sums[1] / max(limits[endpoint_id][1], 1)),
            limited=round(sums[2]),
        )
        for endpoint_id, sums in used.items()
    }


def calls(endpoint_id: str, filters: CallFilters) -> QuerySet[CallRecord]:
    """The endpoint's calls that match, for keyset paging by `CALLS_ORDER`."""
    found = CallRecord.objects.filter(endpoint_id=endpoint_id)
    if filters.status_class in STATUS_CLASSES:
        first = int(filters.status_class[0]) * 100
        found = found.filter(status__gte=first, status__lt=first + 100)
    if _is_trouble(filters):
        # Said once more for the index of calls that did not succeed.
        found = found.exclude(outcome=CallRecord.Outcome.SUCCESS)
    for name in ("outcome", "code", "api"):
        if value := getattr(filters, name):
            found = found.filter(**{name: value})
    for name in ("version_id", "key_id", "is_stream"):
        if (value := getattr(filters, name)) is not None:
            found = found.filter(**{name: value})
    if filters.since is not None:
        found = found.filter(at__gte=filters.since)
    if filters.until is not None:
        found = found.filter(at__lt=filters.until)
    return found.order_by(*CALLS_ORDER)


def _is_trouble(filters: CallFilters) -> bool:
    """Whether no call that succeeded can match."""
    return (
        filters.status_class in ("4xx", "5xx")
        or filters.outcome not in ("", CallRecord.Outcome.SUCCESS)
        or filters.code not in ("", "Success")
    )


def summary(endpoint_id: str, *, since: datetime, now: datetime) -> Summary:
    """Sums of the endpoint's calls from the minute of `since` to now; one query."""
    names = list(Summary.__dataclass_fields__)
    bounds = [floor_minute(since), floor_minute(now) + MINUTE]
    totals = dict.fromkeys(names, 0)
    for row in _between(bounds, {"endpoint_id": endpoint_id}, group=[], sums=names):
        for name in names:
            totals[name] += row[name] or 0
    return Summary(**totals)


def by_endpoint(project_id: str, *, since: datetime, until: datetime) -> dict[str, Spending]:
    """Each endpoint of the project that had calls in the span, to the minute; two queries, however many endpoints."""
    found = _spendings({"project_id": project_id}, since=since, until=until, group=["endpoint_id"])
    return {endpoint_id: spending for (endpoint_id,), spending in found.items() if spending.summary.calls}


def of_project(project_id: str, *, since: datetime, until: datetime) -> Spending:
    """The whole project in the span, to the minute; two queries."""
    return _spendings({"project_id": project_id}, since=since, until=until, group=[]).get((), Spending())


def total(spendings: Iterable[Spending]) -> Spending:
    """All of them together."""
    together = list(spendings)
    sums = [sum(column) for column in zip(*(_SUMS(each.summary) for each in together), strict=True)]
    amounts: dict[str, Decimal] = {}
    for each in together:
        for currency, amount in each.cost.amounts.items():
            amounts[currency] = amounts.get(currency, Decimal(0)) + amount
    cost = Cost(
        amounts=amounts,
        calls=sum(each.cost.calls for each in together),
        tokens=sum(each.cost.tokens for each in together),
        unpriced_tokens=sum(each.cost.unpriced_tokens for each in together),
    )
    return Spending(Summary(*sums), cost)


_SUMS = attrgetter(*Summary.__dataclass_fields__)


def trends(endpoint_ids: Iterable[str], *, since: datetime, step: timedelta, steps: int) -> dict[str, Trend]:
    """Sums per step of whole hours from the hour of `since` on, for a list; one query, and a value for every id."""
    first, ids = floor_hour(since), list(endpoint_ids)
    rows = (
        UsageHour.objects.filter(endpoint_id__in=ids, at__gte=first, at__lt=first + steps * step)
        .values_list("endpoint_id", "at")
        .annotate(
            count=Sum("calls"),
            tokens=Sum(F("input_tokens") + F("output_tokens")),
            errors=Sum(F("limited") + F("rejected") + F("failed")),
        )
        .order_by()
    )
    found = {each: ([0] * steps, [0] * steps, [0] * steps) for each in ids}
    for endpoint_id, at, *sums in rows if ids else ():
        position = int((at - first) / step)
        for values, value in zip(found[endpoint_id], sums, strict=True):
            values[position] += value
    return {each: Trend(*(tuple(values) for values in lists)) for each, lists in found.items()}


def _spendings(
    where: Mapping[str, Any], *, since: datetime, until: datetime, group: list[str]
) -> dict[tuple[Any, ...], Spending]:
    names = list(Summary.__dataclass_fields__)
    columns = itemgetter(*names)
    bounds = [floor_minute(since), floor_minute(until)]
    parts: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in _between(bounds, where, group=[*group, "price_id"], sums=names):
        parts.setdefault(tuple(row[name] for name in group), []).append(row)
    price_ids = {row["price_id"] for rows in parts.values() for row in rows if row["price_id"]}
    prices = PriceTier.objects.in_bulk(price_ids) if price_ids else {}
    return {
        key: Spending(Summary(*map(sum, zip(*map(columns, rows), strict=True))), _cost(rows, prices))
        for key, rows in parts.items()
    }


def slices(
    endpoint_id: str, bounds: Sequence[datetime], *, api: str = "", version_ids: Collection[int] | None = None
) -> list[Slice]:
    """What the endpoint's calls used between each bound and the next, to the minute; two queries.

    With `api`, of that API only; with `version_ids`, of those versions only.
    """
    minutes = [floor_minute(bound) for bound in bounds]
    where: dict[str, Any] = {"endpoint_id": endpoint_id}
    if api:
        where["api"] = api
    if version_ids is not None:
        where["version_id__in"] = version_ids
    names = list(Summary.__dataclass_fields__)
    rows = (
        [] if version_ids is not None and not version_ids else _between(minutes, where, group=["price_id"], sums=names)
    )
    prices = PriceTier.objects.in_bulk({row["price_id"] for row in rows if row["price_id"]}) if rows else {}
    found = []
    for span in range(len(minutes) - 1):
        mine = [row for row in rows if row["span"] == span]
        summed = Summary(**{name: sum(row[name] or 0 for row in mine) for name in names})
        found.append(Slice(summed, _cost(mine, prices), _saved(mine, prices)))
    return found


def joined(found: Iterable[Slice]) -> Slice:
    """Neighbouring spans as one."""
    parts = list(found)
    names = list(Summary.__dataclass_fields__)
    return Slice(
        Summary(**{name: sum(getattr(part.summary, name) for part in parts) for name in names}),
        Cost(
            _added(part.cost.amounts for part in parts),
            sum(part.cost.calls for part in parts),
            sum(part.cost.tokens for part in parts),
            sum(part.cost.unpriced_tokens for part in parts),
        ),
        _added(part.saved for part in parts),
    )


def _added(amounts: Iterable[Mapping[str, Decimal]]) -> dict[str, Decimal]:
    found: dict[str, Decimal] = {}
    for each in amounts:
        for currency, amount in each.items():
            found[currency] = found.get(currency, Decimal(0)) + amount
    return found


def _saved(rows: Iterable[Mapping[str, Any]], prices: Mapping[int, PriceTier]) -> dict[str, Decimal]:
    """What cached tokens would have cost at the full input price, less what they did cost; per currency."""
    amounts: dict[str, Decimal] = {}
    for row in rows:
        if row["cached_tokens"] and (price := prices.get(row["price_id"])):
            amount = row["cached_tokens"] * (price.input_price - price.cached_price) / MILLION
            amounts[price.currency] = amounts.get(price.currency, Decimal(0)) + amount
    return amounts


def volume(endpoint_id: str, *, since: datetime, now: datetime) -> list[Volume]:
    """What the endpoint's calls used from the minute of `since` to now, one row per price they had; one query."""
    bounds = [floor_minute(since), floor_minute(now) + MINUTE]
    names = ["succeeded", "cancelled", "input_tokens", "cached_tokens", "output_tokens"]
    return [
        Volume(
            calls=row["succeeded"] + row["cancelled"],
            input_tokens=row["input_tokens"],
            cached_tokens=row["cached_tokens"],
            output_tokens=row["output_tokens"],
        )
        for row in _summed_again(_between(bounds, {"endpoint_id": endpoint_id}, group=["price_id"], sums=names), names)
        if row["input_tokens"] or row["output_tokens"]
    ]


def _summed_again(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, int]]:
    """Hours and minutes come apart: one row per price again."""
    found: dict[int, dict[str, int]] = {}
    for row in rows:
        total = found.setdefault(row["price_id"], dict.fromkeys(names, 0))
        for name in names:
            total[name] += row[name] or 0
    return list(found.values())


def _start_of(day: date, tz: tzinfo) -> datetime:
    """The first moment of a day in a zone. Where the clocks jump over midnight it is the moment of the jump."""
    return datetime(day.year, day.month, day.day, tzinfo=tz).astimezone(UTC)


def _between(
    bounds: Sequence[datetime], where: Mapping[str, Any], *, group: list[str], sums: list[str]
) -> list[dict[str, Any]]:
    """Sums per `group` and `span`, the index of the bound that a span begins with: one statement over both tables.

    `where` are columns and their values: {"endpoint_id": …} or {"project_id": …}, and what else must match.

    An hour that a bound lies within is left out of the hours and read from the minutes instead.
    """
    first, end = bounds[0], bounds[-1]
    split = sorted({floor_hour(bound) for bound in bounds if floor_hour(bound) != bound})
    hours = UsageHour.objects.filter(at__gte=first, at__lt=floor_hour(end), **where)
    inside = Q(pk__in=[])
    for hour in split:
        inside |= Q(at__gte=max(hour, first), at__lt=min(hour + HOUR, end))
    minutes = UsageMinute.objects.filter(inside, **where)
    if split:
        hours = hours.exclude(at__in=split)

    def summed(rows: QuerySet[Any]) -> Any:
        spans = [When(at__lt=bound, then=Value(span)) for span, bound in enumerate(bounds[1:])]
        return (
            rows.annotate(span=Case(*spans, output_field=BigIntegerField()))
            .values("span", *group)
            .annotate(**{f"sum_{name}": Sum(name) for name in sums})
            .order_by()
        )

    parts = summed(hours).union(summed(minutes), all=True) if split else summed(hours)
    return [
        {"span": row["span"], **{name: row[name] for name in group}, **{name: row[f"sum_{name}"] for name in sums}}
        for row in parts
    ]


def _cost(rows: Iterable[Mapping[str, Any]], prices: Mapping[int, PriceTier]) -> Cost:
    amounts: dict[str, Decimal] = {}
    call_count = tokens = unpriced = 0
    for row in rows:
        used = row["input_tokens"] + row["output_tokens"]
        call_count += row["calls"]
        tokens += used
        price = prices.get(row["price_id"])
        if price is None:
            unpriced += used
            continue
        amount = (
            (row["input_tokens"] - row["cached_tokens"]) * price.input_price
            + row["cached_tokens"] * price.cached_price
            + row["output_tokens"] * price.output_price
        ) / MILLION
        amounts[price.currency] = amounts.get(price.currency, Decimal(0)) + amount
    return Cost(amounts=amounts, calls=call_count, tokens=tokens, unpriced_tokens=unpriced)
