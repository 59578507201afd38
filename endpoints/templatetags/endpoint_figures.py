"""How endpoints are written: the dot of a status, reasons, prices and money, durations, the sparkline of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from catalog.models import PriceTier
from endpoints import lifecycle
from endpoints.models import Endpoint, EndpointEvent, Status

register = template.Library()

NOTHING = "–"
_SYMBOLS = {"CNY": "¥", "USD": "$", "EUR": "€"}
_DOTS = {
    Status.SCHEDULING: "ark-dot-busy",
    Status.RUNNING: "ark-dot-good",
    Status.STOPPED: "ark-dot-idle",
    Status.ABNORMAL: "ark-dot-bad",
}


@register.filter
def dot(status: str) -> str:
    """The class of the dot before a status."""
    return _DOTS[Status(status)]


@register.filter
def status_word(status: str) -> str:
    """The status in the reader's language."""
    return str(Status(status).label)


@register.filter
def reason(endpoint: Endpoint) -> str:
    """Why the endpoint has its status; "" where the status says it all."""
    return lifecycle.reason_sentence(endpoint)


@register.filter
def event_reason(event: EndpointEvent) -> str:
    """Why the status moved."""
    return lifecycle.event_sentence(event)


@register.filter
def price(value: Decimal | None) -> str:
    """A price without trailing zeros, with at least two decimals: 0.80, 0.00375."""
    if value is None:
        return NOTHING
    whole, _dot, decimals = f"{value:f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


@dataclass(frozen=True)
class Range:
    """A price and the input lengths that it is for: more than `over` tokens, at most `up_to` (None: no end)."""

    price: PriceTier
    over: int
    up_to: int | None


@register.filter
def ranges(tiers: Sequence[PriceTier]) -> list[Range]:
    """Prices in force, ascending by input length, each with the lengths that it is for."""
    ends = [tier.input_over_tokens for tier in tiers[1:]] + [None]
    return [Range(tier, tier.input_over_tokens, end) for tier, end in zip(tiers, ends, strict=True)]


@register.filter
def amounts(cost: Any) -> str:
    """What was spent in each currency: ¥12.40. Under a cent it says so, rather than that nothing was spent."""
    spent: Mapping[str, Decimal] = cost.amounts
    return " + ".join(_money(amount, currency) for currency, amount in sorted(spent.items())) or _money(
        Decimal(0), "CNY"
    )


@register.filter
def money(amount: Decimal, currency: str) -> str:
    """An amount in its currency: ¥12.40, -$0.35."""
    return f"-{_money(-amount, currency)}" if amount < 0 else _money(amount, currency)


def _money(amount: Decimal, currency: str) -> str:
    symbol = _SYMBOLS.get(currency, f"{currency} ")
    if 0 < amount < Decimal("0.01"):
        return f"< {symbol}0.01"
    return f"{symbol}{amount:,.2f}"


@register.filter
def milliseconds(value: int | str | None) -> str:
    """A duration: 84 ms, 1.24 s, 75 s."""
    if value is None or isinstance(value, str):
        return NOTHING
    if value < 1_000:
        return f"{value} ms"
    return f"{value / 1_000:.2f} s" if value < 60_000 else f"{value / 1_000:.0f} s"


@register.filter
def clock(at: datetime) -> str:
    """The time of day in the reader's zone, 18:00:49; the day stands below it."""
    return timezone.localtime(at).strftime("%H:%M:%S")


@register.filter
def day(at: datetime) -> str:
    """The day in the reader's zone, 2026-04-21."""
    return timezone.localtime(at).strftime("%Y-%m-%d")


@register.simple_tag
def sparkline(values: Sequence[int], *, label: str = "") -> SafeString:
    """Calls per hour, or what `label` says, as inline SVG drawn with attributes only (no inline style is allowed).

    The tallest bar is the largest value; whatever is not 0 is at least a pixel high, so that little is not nothing.
    """
    largest = max(values, default=0)
    step = 72 / max(len(values), 1)
    # One path, not a rectangle an hour: a page has fifty of these.
    bars = "".join(
        f"M{position * step:.1f} 19v-{max(value / largest * 18, 1.5):.1f}h{step - 1:.1f}V19z"
        for position, value in enumerate(values)
        if value
    )
    label = label or (
        _("Calls per hour in the last 24 hours, at most %(largest)s") % {"largest": f"{largest:,}"}
        if largest
        else _("No calls in the last 24 hours")
    )
    return format_html(
        '<svg class="ep-sparkline" viewBox="0 0 72 20" width="72" height="20" role="img" aria-label="{}">'
        '<path class="ep-sparkline-base" d="M0 19h72v1H0z"></path><path d="{}"></path></svg>',
        label,
        bars,
    )


@dataclass(frozen=True)
class Sorting:
    """One column head: where a press leads, and how the column is sorted now ("" when it is not)."""

    url: str
    direction: str


# What a press on a column head asks for first; a second press turns it round.
_FIRST = {"name": "name", "status": "status", "created": "-created"}


@register.simple_tag(takes_context=True)
def sort_link(context: template.Context, key: str) -> Sorting:
    """How the column `key` (of queries.SORTS) is sorted, and the list sorted by it, filters kept."""
    now = context["filters"].sort
    is_here = now.removeprefix("-") == key
    other = now.removeprefix("-") if now.startswith("-") else f"-{now}"
    query = context["request"].GET.copy()
    query.pop("cursor", None)
    query["sort"] = other if is_here else _FIRST[key]
    direction = ("descending" if now.startswith("-") else "ascending") if is_here else ""
    return Sorting(url=f"{reverse('endpoints:list')}?{query.urlencode()}", direction=direction)
