"""How things are written on every page: icons, times, figures, ids, form fields, pagers."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import lru_cache
from importlib import resources
from io import BytesIO
from typing import Any
from zipfile import ZipFile

from django import forms, template
from django.forms import BoundField
from django.http import HttpRequest
from django.template import Context, TemplateSyntaxError
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language, gettext, ngettext

from common.paging import Page

register = template.Library()
NOTHING = "–"


@register.simple_tag
def icon(name: str, size: int = 16) -> SafeString:
    """A Lucide icon, hidden from screen readers: the words beside it (or an aria-label) say it."""
    return _icon(str(name), int(size))


@lru_cache(maxsize=512)
def _icon(name: str, size: int) -> SafeString:
    try:
        svg = _drawings().read(f"{name}.svg").decode()
    except KeyError:
        raise TemplateSyntaxError(f"Lucide has no icon {name!r}") from None
    svg = svg.replace('width="24"', f'width="{size}"', 1).replace('height="24"', f'height="{size}"', 1)
    svg = svg.replace('stroke-width="2"', 'stroke-width="1.75"', 1).replace("<svg", '<svg aria-hidden="true"', 1)
    return mark_safe(svg)  # noqa: S308 - a file of the package, and a number


@lru_cache(maxsize=1)
def _drawings() -> ZipFile:
    # Kept open: lucide's own tag reads the list of its 1,745 drawings anew for each, 13 ms.
    return ZipFile(BytesIO((resources.files("lucide") / "lucide.zip").read_bytes()))


# --- times --------------------------------------------------------------------------------------------------------------


@register.filter
def exact(value: datetime | None) -> str:
    """`2026-04-21 18:00:49` in the person's zone."""
    return timezone.localtime(value).strftime("%Y-%m-%d %H:%M:%S") if value else NOTHING


@register.filter
def ago(value: datetime | None) -> str:
    """A `<time>` such as "3 days ago" or "in 2 hours", with the exact one on hover."""
    if not value:
        return NOTHING
    local = timezone.localtime(value)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        local.isoformat(timespec="seconds"),
        local.strftime("%Y-%m-%d %H:%M:%S %Z"),
        relative(value, now=timezone.now()),
    )


def relative(value: datetime, *, now: datetime) -> str:
    """The distance from `now` in one unit; over 30 days the date itself says more."""
    distance = abs(now - value)
    seconds = int(distance.total_seconds())
    if distance > timedelta(days=30):
        return timezone.localtime(value).strftime("%Y-%m-%d")
    if seconds < 10:
        return gettext("just now")
    if seconds < 60:
        text = ngettext("%(n)d second", "%(n)d seconds", seconds) % {"n": seconds}
    elif seconds < 3600:
        text = ngettext("%(n)d minute", "%(n)d minutes", seconds // 60) % {"n": seconds // 60}
    elif seconds < 86_400:
        text = ngettext("%(n)d hour", "%(n)d hours", seconds // 3600) % {"n": seconds // 3600}
    else:
        text = ngettext("%(n)d day", "%(n)d days", seconds // 86_400) % {"n": seconds // 86_400}
    return (gettext("%(time)s ago") if value <= now else gettext("in %(time)s")) % {"time": text}


# --- figures ------------------------------------------------------------------------------------------------------------


@register.filter
def count(value: Any) -> str:
    """A whole number with grouped digits: 12,408."""
    return NOTHING if value in (None, "") else f"{int(value):,}"


@register.filter
def big(value: Any) -> str:
    """A large number as people read it (1.2 M; in Chinese 120 万), the exact one on hover."""
    if value in (None, ""):
        return NOTHING
    text = readable(int(value), language=get_language() or "en")
    if text == f"{int(value):,}":
        return text
    return format_html('<span class="ark-figure" title="{}">{}</span>', f"{int(value):,}", text)


_UNITS = {
    "en": ((10**3, "K"), (10**6, "M"), (10**9, "B"), (10**12, "T")),
    "zh": ((10**4, "万"), (10**8, "亿"), (10**12, "万亿")),
}


def readable(number: int, *, language: str) -> str:
    """Exact below ten thousand, then two or three figures and the language's own unit (1.2 M, 1,234 万)."""
    if abs(number) < 10_000:
        return f"{number:,}"
    units = units_of(language)
    for (size, unit), (next_size, _next) in zip(units, (*units[1:], (10**30, "")), strict=True):
        scaled = Decimal(number) / size
        rounded = scaled.quantize(Decimal(1) if abs(scaled) >= 100 else Decimal("0.1"), ROUND_HALF_UP)
        if abs(rounded) * size < next_size:  # 999,950 would read 1,000 K
            return f"{rounded:,f}".removesuffix(".0") + f" {unit}"
    return f"{number:,}"


def units_of(language: str) -> tuple[tuple[int, str], ...]:
    """What large numbers are counted in, ascending; pages' scripts write numbers by the same rule."""
    return _UNITS["zh" if language.startswith("zh") else "en"]


# --- ids ----------------------------------------------------------------------------------------------------------------


@register.simple_tag
def copyable(value: Any, *, short: bool = False) -> SafeString:
    """An id in monospaced figures with its copy button; `short` keeps both ends of a long one."""
    text = str(value)
    shown = f"{text[:11]}…{text[-6:]}" if short and len(text) > 20 else text
    return format_html('<span class="ark-copyable"><span title="{}">{}</span>{}</span>', text, shown, copy_button(text))


@register.simple_tag
def copy_button(text: Any, *, label: str = "") -> SafeString:
    """A button that copies `text`; `label` says what for (default: Copy)."""
    return format_html(
        '<button type="button" class="ark-copy" data-copy="{}" aria-label="{}" title="{}">'
        '<span class="ark-copy-idle">{}</span><span class="ark-copy-done">{}</span></button>',
        str(text), label or gettext("Copy"), label or gettext("Copy"), icon("copy", 14), icon("check", 14),
    )  # fmt: skip


# --- forms --------------------------------------------------------------------------------------------------------------


@register.inclusion_tag("_field.html")
def field(bound: BoundField, *, suffix: str = "", **attributes: Any) -> dict[str, Any]:
    """One form field with label, help and errors beside it; keyword arguments become attributes of the widget."""
    widget = bound.field.widget
    kind = "text"
    if isinstance(widget, forms.RadioSelect | forms.CheckboxSelectMultiple):
        kind, css = "group", "form-check-input"
    elif isinstance(widget, forms.CheckboxInput):
        kind, css = "check", "form-check-input"
    elif isinstance(widget, forms.Select):
        css = "form-select"
    else:
        css = "form-control"
    attrs: dict[str, str | bool] = {name.replace("_", "-"): str(value) for name, value in attributes.items()}
    attrs["class"] = " ".join(
        part for part in (widget.attrs.get("class", ""), css, "is-invalid" if bound.errors else "") if part
    )
    if kind == "group":
        for option in bound.subwidgets:
            option.data["attrs"]["class"] = css
    return {
        "field": bound,
        "widget": bound.as_widget(attrs=attrs) if kind != "group" else "",
        "kind": kind,
        "suffix": suffix,
        "optional": not bound.field.required and kind == "text" and not isinstance(widget, forms.Select),
    }


@register.inclusion_tag("_form_errors.html")
def form_errors(form: forms.BaseForm) -> dict[str, Any]:
    """What is wrong with the form as a whole."""
    return {"form": form}


@register.inclusion_tag("_pager.html", takes_context=True)
def pager(context: Context, page: Page[Any], *, target: str = "", param: str = "cursor") -> dict[str, Any]:
    """Previous and next of `page`, keeping the rest of the query string; with `target` they are fetched by htmx."""
    request: HttpRequest = context["request"]

    def url(cursor: str) -> str:
        if not cursor:
            return ""
        query = request.GET.copy()
        query[param] = cursor
        return f"{request.path}?{query.urlencode()}"

    return {"previous_url": url(page.previous_cursor), "next_url": url(page.next_cursor), "target": target}
