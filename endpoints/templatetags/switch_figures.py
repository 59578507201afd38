"""How a version switch is written: the dot of its state, shares, times, and what differs in the preview."""

from __future__ import annotations

from django import template

from endpoints.models import VersionSwitch
from endpoints.switch_preview import Preview

register = template.Library()

State = VersionSwitch.State
_DOTS = {
    State.PREPARING: "ark-dot-busy",
    State.CLIMBING: "ark-dot-busy",
    State.PAUSED: "ark-dot-warn",
    State.RETURNING: "ark-dot-warn",
    State.COMPLETED: "ark-dot-good",
    State.ROLLED_BACK: "ark-dot-warn",
    State.CANCELLED: "ark-dot-idle",
}


@register.filter
def switch_dot(state: str) -> str:
    """The class of the dot before a state."""
    return _DOTS[State(state)]


@register.filter
def percent(value: float | None) -> str:
    """A share with one decimal; a dash where there was nothing to share."""
    if value is None:
        return "–"
    return f"{value:.1f} %".replace(".0 %", " %")


@register.filter
def spent_ms(value: float | None) -> str:
    """Milliseconds as people read them; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


@register.filter
def differs(preview: Preview, name: str) -> bool:
    """Whether the two sides have another value there."""
    if name == "tiers":
        return _tiers(preview.source.tiers) != _tiers(preview.target.tiers)
    return bool(getattr(preview.source, name) != getattr(preview.target, name))


def _tiers(tiers: object) -> list[tuple[object, ...]]:
    return [
        (tier.input_over_tokens, tier.input_price, tier.cached_price, tier.output_price, tier.currency)
        for tier in tiers  # type: ignore[attr-defined]
    ]
