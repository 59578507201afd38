"""The whole project at a glance: exact sums of the ledger, and the endpoints by what they used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_vary_headers
from django.utils.http import urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_GET

from endpoints.models import Endpoint
from iam.actors import Actor, actor_of
from iam.models import Project
from iam.requests import ConsoleRequest
from metering import ledger
from metering.ledger import Cost, Spending, Trend
from monitoring import open_views, services

T = TypeVar("T")

PAGE_SIZE = 50
KEEP = timedelta(seconds=30)
"""How long sums of a whole project are good for; the page says of when they are."""


@dataclass(frozen=True, slots=True)
class Range:
    """A span that can be chosen: the running hour and those before it; trends have `steps` bars of `step_hours`."""

    key: str
    label: Any
    hours: int
    step_hours: int

    @property
    def steps(self) -> int:
        return self.hours // self.step_hours


RANGES = (
    Range("24h", gettext_lazy("24 hours"), 24, 1),
    Range("7d", gettext_lazy("7 days"), 7 * 24, 6),
    Range("15d", gettext_lazy("15 days"), 15 * 24, 12),
)


@dataclass(frozen=True, slots=True)
class Span:
    """What is summed up, and the same length of time before it: yesterday until this minute, last week until this minute."""

    since: datetime
    until: datetime
    before_since: datetime
    before_until: datetime

    @classmethod
    def of(cls, chosen: Range, *, now: datetime) -> Span:
        until = ledger.floor_hour(now) + ledger.HOUR
        length = timedelta(hours=chosen.hours)
        return cls(
            since=until - length,
            until=until,
            before_since=until - 2 * length,
            before_until=ledger.floor_minute(now) + ledger.MINUTE - length,
        )


@dataclass(frozen=True, slots=True)
class Tile:
    """One total. `change` is in percent of what was before, None where that says nothing."""

    key: str
    label: str
    value: Any
    before: Any
    change: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """An endpoint with its sums; `endpoint` is None when its row is not there any more."""

    endpoint_id: str
    endpoint: Endpoint | None
    spending: Spending
    trend: tuple[int, ...]
    trend_label: str

    @property
    def error_percent(self) -> float | None:
        return error_percent(self.spending)


def error_percent(spending: Spending) -> float | None:
    """The share of calls that were refused or failed; None without calls."""
    calls = spending.summary.calls
    return 100 * spending.summary.errors / calls if calls else None


def _money(cost: Cost) -> Decimal:
    """To sort by; amounts of several currencies count as they stand."""
    return sum(cost.amounts.values(), Decimal(0))


SORTS: Mapping[str, Callable[[Spending], Any]] = {
    "tokens": lambda each: each.summary.tokens,
    "calls": lambda each: each.summary.calls,
    "errors": lambda each: (each.summary.errors, each.summary.calls),
    "cost": lambda each: _money(each.cost),
}
COLUMNS = (
    ("calls", gettext_lazy("Calls")),
    ("tokens", gettext_lazy("Tokens")),
    ("errors", gettext_lazy("Errors")),
    ("cost", gettext_lazy("Cost")),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address asks for; whatever is not known is left at its default."""

    range: Range
    sort: str
    page: int

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Asked:
        chosen = next((each for each in RANGES if each.key == query.get("range")), RANGES[0])
        sort = query.get("sort", "-tokens")
        page = query.get("page", "1")
        return cls(
            range=chosen,
            sort=sort if sort.removeprefix("-") in SORTS else "-tokens",
            page=max(int(page), 1) if page.isascii() and page.isdigit() and len(page) < 7 else 1,
        )

    @property
    def column(self) -> str:
        return self.sort.removeprefix("-")

    def url(self, **changes: str | int) -> str:
        """This page with something else asked for; a new order begins on the first page."""
        query: dict[str, str | int] = {"range": self.range.key, "sort": self.sort, **changes}
        return f"{reverse('monitoring:overview')}?{urlencode(query)}"

    def order(self, column: str) -> tuple[str, str]:
        """Where a press on the column's head leads, and how the column is sorted now ("" when it is not)."""
        if column != self.column:
            return self.url(sort=f"-{column}"), ""
        if self.sort.startswith("-"):
            return self.url(sort=column), "descending"
        return self.url(sort=f"-{column}"), "ascending"


class _Kept:
    """What was made for one question; its lock is held by whoever makes it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.at: datetime | None = None
        self.value: Any = None


class Memo:
    """Sums for a while: whoever opens, sorts or turns pages among ten thousand endpoints has them summed up once."""

    def __init__(self, *, most: int = 16) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[Hashable, _Kept] = {}

    def get(self, question: Hashable, make: Callable[[], T], *, now: datetime) -> tuple[T, datetime]:
        """What `make` says, at most `KEEP` old, and of when it is. Who comes while it is made waits for it."""
        with self._lock:
            kept = self._known.pop(question, None) or _Kept()
            self._known[question] = kept
            while len(self._known) > self._most:
                del self._known[next(iter(self._known))]
        with kept.lock:
            # Far ahead lies what was made before the clock went back.
            if kept.at is None or abs(now - kept.at) >= KEEP:
                kept.value, kept.at = make(), now
            value: T = kept.value
            return value, kept.at


memo = Memo()


@require_GET
def overview(request: ConsoleRequest) -> HttpResponse:
    """Totals and endpoints of the current project; the table alone for htmx when it sorts or pages."""
    by, now, project = actor_of(request), timezone.now(), request.project
    by.require(services.GET, project)
    asked = Asked.of(request.GET.dict())
    span = Span.of(asked.range, now=now)
    is_part = request.htmx.target == "overview-list"
    used, at = memo.get(
        ("endpoints", project.pk, span.since, span.until),
        lambda: ledger.by_endpoint(project.pk, since=span.since, until=span.until),
        now=now,
    )
    shown, others = _seen(used, by=by, project=project)
    context: dict[str, Any] = {"asked": asked, "span": span, "others": others, **_list(asked, span, shown)}
    if is_part:
        return _part(render(request, "monitoring/_overview_list.html", context))
    # Until the same minute as the sums that it is compared with.
    span = Span.of(asked.range, now=at)
    before, _at = memo.get(
        ("before", project.pk, span.before_since, span.before_until),
        lambda: ledger.of_project(project.pk, since=span.before_since, until=span.before_until),
        now=now,
    )
    total = ledger.total(used.values())
    context |= {
        "summed_at": at,
        "tiles": _tiles(total, before),
        "total": total,
        "ranges": [(each, asked.url(range=each.key), each == asked.range) for each in RANGES],
        **open_views.opening_context(request, project, next_url=request.get_full_path()),
    }
    return _part(render(request, "monitoring/overview.html", context))


def _part(response: HttpResponse) -> HttpResponse:
    """Tell caches (the browser's on "back" first of all) that this address also answers with a part of the page."""
    patch_vary_headers(response, ["HX-Request", "HX-Target"])
    return response


@dataclass(frozen=True, slots=True)
class Others:
    """The endpoints that a person may not look at, as one sum."""

    count: int
    spending: Spending

    @property
    def error_percent(self) -> float | None:
        return error_percent(self.spending)


def _seen(used: Mapping[str, Spending], *, by: Actor, project: Project) -> tuple[Mapping[str, Spending], Others | None]:
    """What `by` may look at, and the rest; no query: what a person holds is asked for once."""
    shown: dict[str, Spending] = {}
    # One row in memory for all of them: what is judged is the name, and some are in no table any more.
    endpoint = Endpoint(project_id=project.pk)
    for endpoint_id, spending in used.items():
        endpoint.pk = endpoint_id
        if by.can(services.GET, endpoint):
            shown[endpoint_id] = spending
    if len(shown) == len(used):
        return used, None
    hidden = [spending for endpoint_id, spending in used.items() if endpoint_id not in shown]
    return shown, Others(len(hidden), ledger.total(hidden))


def _list(asked: Asked, span: Span, used: Mapping[str, Spending]) -> dict[str, Any]:
    key = SORTS[asked.column]
    # The id decides between equals, so that no endpoint is on two pages or on none.
    ids = sorted(used)
    ids.sort(key=lambda each: key(used[each]), reverse=asked.sort.startswith("-"))
    pages = max(-(-len(ids) // PAGE_SIZE), 1)
    page = min(asked.page, pages)
    shown = ids[(page - 1) * PAGE_SIZE : page * PAGE_SIZE]
    endpoints = Endpoint.objects.select_related("version__model").in_bulk(shown) if shown else {}
    step = timedelta(hours=asked.range.step_hours)
    trends = ledger.trends(shown, since=span.since, step=step, steps=asked.range.steps)
    return {
        "rows": [
            Row(each, endpoints.get(each), used[each], *_trend(trends[each], asked)) for each in shown
        ],
        "columns": [(column, label, *asked.order(column)) for column, label in COLUMNS],
        "trend_title": _TREND_TITLES[_trended(asked)],
        "count": len(ids),
        "page": page,
        "pages": pages,
        "previous_url": asked.url(page=page - 1) if page > 1 else "",
        "next_page_url": asked.url(page=page + 1) if page < pages else "",
    }  # fmt: skip


_TREND_TITLES = {
    "calls": gettext_lazy("Calls over time"),
    "tokens": gettext_lazy("Tokens over time"),
    "errors": gettext_lazy("Errors over time"),
}


def _trended(asked: Asked) -> str:
    """What the small charts show: the column that the table is sorted by; cost follows tokens."""
    return "tokens" if asked.column == "cost" else asked.column


def _trend(trend: Trend, asked: Asked) -> tuple[tuple[int, ...], str]:
    values: tuple[int, ...] = getattr(trend, _trended(asked))
    hours = asked.range.step_hours
    per = ngettext("per hour", "per %(n)d hours", hours) % {"n": hours}
    label = _("%(what)s, %(per)s, at most %(largest)s") % {
        "what": _TREND_TITLES[_trended(asked)],
        "per": per,
        "largest": f"{max(values, default=0):,}",
    }
    return values, label


def _tiles(total: Spending, before: Spending) -> list[Tile]:
    now_money, before_money = _money(total.cost), _money(before.cost)
    is_one_currency = len(set(total.cost.amounts) | set(before.cost.amounts)) <= 1
    return [
        Tile("calls", _("Calls"), total.summary.calls, before.summary.calls,
             _change(total.summary.calls, before.summary.calls)),
        Tile("tokens", _("Tokens"), total.summary.tokens, before.summary.tokens,
             _change(total.summary.tokens, before.summary.tokens)),
        Tile("errors", _("Error rate"), error_percent(total), error_percent(before), None),
        Tile("cost", _("Cost"), total.cost, before.cost,
             _change(now_money, before_money) if is_one_currency else None),
    ]  # fmt: skip


def _change(value: int | Decimal, before: int | Decimal) -> float | None:
    return float(100 * (value - before) / before) if before else None
