"""Figures as people read them (1.2 M, in Chinese 120 万; 840 ms; 3.2 %), and to the last digit for who looks closer."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from django.utils.translation import get_language

from common.templatetags.ark import readable
from endpoints.templatetags.endpoint_figures import money
from monitoring.panels import Measure

NOTHING = "–"
Number = int | float


def text(value: Number | None, measure: Measure) -> str:
    """`value` as it stands on a tile or in a legend; a dash when there is none. Money is `amounts`."""
    if value is None:
        return NOTHING
    match measure:
        case Measure.SECONDS:
            return _seconds(float(value))
        case Measure.PERCENT:
            return f"{_short(float(value))} %"
        case _:
            if abs(value) < 100:
                return _short(float(value))
            return readable(round(value), language=get_language() or "en")


def exact(value: Number | None, measure: Measure) -> str:
    """`value` to the last digit that is known."""
    if value is None:
        return ""
    number = f"{value:,}" if isinstance(value, int) else f"{round(float(value), 6):,.6f}".rstrip("0").rstrip(".")
    return {Measure.SECONDS: f"{number} s", Measure.PERCENT: f"{number} %"}.get(measure, number)


def amounts(spent: Mapping[str, Decimal]) -> str:
    """Money in each currency: ¥12.40 + $3.00."""
    return " + ".join(money(amount, currency) for currency, amount in sorted(spent.items())) or money(Decimal(0), "CNY")


def exact_amounts(spent: Mapping[str, Decimal]) -> str:
    """Money to the last digit: 12.402318 CNY."""
    return " + ".join(f"{amount.normalize():,f} {currency}" for currency, amount in sorted(spent.items()))


def change_percent(value: Number | None, before: Number | None) -> float | None:
    """How much `value` is above `before`, in percent of it; None where that says nothing."""
    if value is None or not before:
        return None
    return round(100 * (float(value) - float(before)) / abs(float(before)), 1)


def _seconds(value: float) -> str:
    if value < 1:
        return f"{_short(value * 1_000)} ms"
    return f"{value:.2f} s" if value < 60 else f"{value:,.0f} s"


def _short(value: float) -> str:
    """Three figures of a number below a thousand or so, no trailing zeros; what is little is not nothing."""
    if value and abs(value) < 0.01:
        return "< 0.01" if value > 0 else f"{value:.4f}"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    shown = f"{value:,.{decimals}f}"
    return shown.rstrip("0").rstrip(".") if decimals else shown
