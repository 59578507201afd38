"""How monitoring writes what changed."""

from __future__ import annotations

from django import template

register = template.Library()


@register.filter
def change(percent: float) -> str:
    """A change in percent with its sign: +12.3 %, −4 %; what became ten times as much and more says how many times."""
    if percent >= 900:
        return f"× {percent / 100 + 1:,.0f}"
    sign = "+" if percent > 0 else "−" if percent < 0 else "±"
    return f"{sign}{abs(percent):.1f}".removesuffix(".0") + " %"
